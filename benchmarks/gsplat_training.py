"""Trains gsplat 1.5.3 from given arrays by its public API, for benchmarks/train.py; needs torch and gsplat.

The recipe is that of gsplat's examples, which splax's defaults follow. One difference remains: gsplat 1.5.3 never
lowers opacities, since ``step % reset_every == 0 & step > 0`` is never true in Python.
"""

import gc
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import gsplat  # pyright: ignore[reportMissingImports]: a peer, not a dependency
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from training_result import Mark, Peak, Strategy, TrainingResult
from training_start import Start

from splax.ops.ssim import SSIM_C1, SSIM_C2, SSIM_WINDOW
from splax.scene import Scene, View

SH_DEGREE = 3
SH_DEGREE_EVERY = 1000
SSIM_WEIGHT = 0.2
SSIM_SIGMA = 1.5
# Rate of the means per unit of scene extent, and what is left of it at the end.
MEANS_RATE, MEANS_RATE_LEFT = 1.6e-4, 0.01
RATES = {"scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2.5e-3, "shN": 2.5e-3 / 20}
MCMC_OPACITY_WEIGHT = MCMC_SCALE_WEIGHT = 0.01
STEPS_PER_MARK = 100


def train_gsplat(
    scene: Scene,
    start: Start,
    steps: int,
    strategy: Strategy,
    seed: int = 0,
    cap: int = 300_000,
    device: str = "cuda",
) -> TrainingResult:
    """Trains; all photos lie on the device as 8-bit integers.

    Args:
        scene: photos to train on and to render.
        start: the Gaussians, for any strategy.
        steps: length of the run.
        strategy: "default", "mcmc" or "none".
        seed: of the order of photos and of densification.
        cap: most Gaussians of "mcmc".
        device: where to run.
    """
    torch.manual_seed(seed)
    memory = _Memory(device)
    called = time.perf_counter()
    photos = [_Photo.of(view, device) for view in scene.train]
    run = _Run(scene, start.prepared_for(strategy), steps, strategy, cap, device)
    run.warm_up(photos[0])
    marks = []
    order = _endless_order(len(photos), seed)
    _synchronize(device)
    started = time.perf_counter()
    for step in range(steps):
        run.step(step, photos[next(order)])
        if (step + 1) % STEPS_PER_MARK == 0 or step + 1 == steps:
            _synchronize(device)
            marks.append(Mark(step + 1, time.perf_counter() - started))
    total = time.perf_counter() - called
    return TrainingResult(
        marks=tuple(marks),
        total_seconds=total,
        num_gaussians=len(run.params["means"]),
        peak=memory.peak(),
        images=[run.draw(_Photo.of(view, device)) for view in scene.test],
    )


class _Photo(NamedTuple):
    """A view on the device."""

    pixels: Any
    mask: Any
    viewmat: Any
    K: Any

    @classmethod
    def of(cls, view: View, device: str) -> "_Photo":
        mask = torch.tensor(np.asarray(view.mask)[None, ..., None]) if view.has_mask else None
        return cls(
            pixels=torch.tensor(np.asarray(view.image)[None], device=device),
            mask=None if mask is None else mask.to(device),
            viewmat=torch.tensor(np.asarray(view.camera.viewmat, np.float32)[None], device=device),
            K=torch.tensor(np.asarray(view.camera.K, np.float32)[None], device=device),
        )


class _Run:
    """Gaussians and what trains them."""

    def __init__(
        self, scene: Scene, start: Start, steps: int, strategy: Strategy, cap: int, device: str
    ) -> None:
        self._first_sh_degree, self._steps, self._strategy = start.sh_degree, steps, strategy
        self._means_rate = MEANS_RATE * scene.extent
        black = not any(scene.background)
        self._background = None if black else torch.tensor([scene.background], device=device)
        self._taps = _gaussian_taps(device)
        arrays = {
            "means": start.means,
            "scales": np.log(start.scales),
            "quats": start.quats,
            "opacities": start.logit_opacities,
            "sh0": start.sh[:, :1],
            "shN": start.sh[:, 1:],
        }
        self.params = torch.nn.ParameterDict(
            {
                name: torch.nn.Parameter(torch.tensor(array, dtype=torch.float32, device=device))
                for name, array in arrays.items()
            }
        )
        rates = {"means": self._means_rate, **RATES}
        self._optimizers = {
            name: torch.optim.Adam([param], lr=rates[name], eps=1e-15, fused=True)
            for name, param in self.params.items()
        }
        self._densifier: Any = None
        self._memory: Any = None
        if strategy == "mcmc":
            self._densifier = gsplat.MCMCStrategy(cap_max=cap)
            self._memory = self._densifier.initialize_state()
        elif strategy == "default":
            self._densifier = gsplat.DefaultStrategy()
            self._memory = self._densifier.initialize_state(scene_scale=scene.extent)
        if self._densifier is not None:
            self._densifier.check_sanity(self.params, self._optimizers)

    def warm_up(self, photo: _Photo) -> None:
        """Lets CUDA load what a step needs, without one."""
        image, _ = self._render(photo, SH_DEGREE)
        self._loss(image, photo).backward()
        self._forget_gradients()

    def step(self, step: int, photo: _Photo) -> None:
        """One step of training."""
        image, info = self._render(photo, min(self._first_sh_degree + step // SH_DEGREE_EVERY, SH_DEGREE))
        if self._strategy == "default":
            self._densifier.step_pre_backward(self.params, self._optimizers, self._memory, step, info)
        self._loss(image, photo).backward()
        for optimizer in self._optimizers.values():
            optimizer.step()
        self._forget_gradients()
        rate = self._means_rate * MEANS_RATE_LEFT ** ((step + 1) / self._steps)
        self._optimizers["means"].param_groups[0]["lr"] = rate
        if self._densifier is not None:
            own = {"lr": rate} if self._strategy == "mcmc" else {"packed": False}
            self._densifier.step_post_backward(self.params, self._optimizers, self._memory, step, info, **own)

    def draw(self, photo: _Photo) -> np.ndarray:
        """The view as it is rendered, [H, W, 3] in [0, 1]."""
        with torch.no_grad():
            image, _ = self._render(photo, SH_DEGREE)
        return image[0].clamp(0, 1).cpu().numpy()

    def _render(self, photo: _Photo, sh_degree: int) -> tuple[Any, dict[str, Any]]:
        height, width = photo.pixels.shape[1:3]
        image, _, info = gsplat.rasterization(
            self.params["means"],
            self.params["quats"],
            torch.exp(self.params["scales"]),
            torch.sigmoid(self.params["opacities"]),
            torch.cat([self.params["sh0"], self.params["shN"]], dim=1),
            photo.viewmat,
            photo.K,
            width,
            height,
            sh_degree=sh_degree,
            packed=False,
            backgrounds=self._background,
        )
        return image, info

    def _loss(self, image: Any, photo: _Photo) -> Any:
        target = photo.pixels.float() / 255
        if photo.mask is not None:
            image, target = image * photo.mask, target * photo.mask
        difference = torch.nn.functional.l1_loss(image, target)
        loss = (1 - SSIM_WEIGHT) * difference + SSIM_WEIGHT * (1 - _ssim(image, target, self._taps))
        if self._strategy == "mcmc":
            loss = loss + MCMC_OPACITY_WEIGHT * torch.sigmoid(self.params["opacities"]).mean()
            loss = loss + MCMC_SCALE_WEIGHT * torch.exp(self.params["scales"]).mean()
        return loss

    def _forget_gradients(self) -> None:
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=True)


class _Memory:
    """Counts device memory from when it is made."""

    def __init__(self, device: str) -> None:
        self._known = device.startswith("cuda")
        gc.collect()
        if self._known:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()

    def peak(self) -> Peak | None:
        """None on a device that does not count."""
        if not self._known:
            return None
        return Peak((torch.cuda.max_memory_allocated() - self._before) / 2**20)


def _endless_order(num_photos: int, seed: int) -> Iterator[int]:
    """All photos in random order, again and again."""
    rng = np.random.default_rng(seed)
    while True:
        yield from rng.permutation(num_photos).tolist()


def _gaussian_taps(device: str) -> Any:
    """Window of SSIM along one axis, for each of the 15 maps that are filtered, [15, 1, 11, 1]."""
    offsets = torch.arange(SSIM_WINDOW, device=device) - SSIM_WINDOW // 2
    taps = torch.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    return (taps / taps.sum()).view(1, 1, -1, 1).repeat(15, 1, 1, 1)


def _ssim(image: Any, target: Any, taps: Any) -> Any:
    """Mean structural similarity (Wang et al. 2004, eq. 13) over windows within the image, [1, H, W, 3]."""
    # Contiguous, or cuDNN would filter channels-last, in TensorFloat-32.
    x, y = (pixels.permute(0, 3, 1, 2).contiguous() for pixels in (image, target))
    maps = torch.cat([x, y, x * x, y * y, x * y], dim=1)
    maps = torch.nn.functional.conv2d(maps, taps, groups=15)
    maps = torch.nn.functional.conv2d(maps, taps.transpose(2, 3), groups=15)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = maps.split(3, dim=1)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance, variances = mean_xy - product, mean_xx + mean_yy - squares
    numerator = (2 * product + SSIM_C1) * (2 * covariance + SSIM_C2)
    return (numerator / ((squares + SSIM_C1) * (variances + SSIM_C2))).mean()


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
