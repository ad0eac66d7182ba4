"""The oracle: a slow renderer that shares no code with splax.

Projection and spherical harmonics are gsplat 1.5.3's torch functions, which run on any CPU. Compositing is
a dense loop of our own over pixels and Gaussians, without tiles: exact, because the alpha cut of 1/255
lies inside the 3.33 sigma extent. Gradients come from torch's autograd. Runs in float64 by default.

Conventions are splax's: OpenCV axes, world-to-camera ``viewmat``, pixel centres at +0.5, quaternions wxyz.
The camera centre, from which SH are seen, is ``-R^T t``. Rows with a NaN, an infinity or a zero quaternion
are culled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci, _spherical_harmonics
from torch import Tensor

EPS2D = 0.3  # px^2, added to the diagonal of the projected covariance
NEAR_PLANE = 0.01
ALPHA_THRESHOLD = 1 / 255  # smaller alphas are skipped
ALPHA_MAX = 0.999
TRANSMITTANCE_MIN = 1e-4  # the Gaussian that would reach it is left out, and so are those behind
# Relative distance to a threshold within which a float32 renderer may take the other side. The clamp's is
# narrow, because every alpha that is clamped lies within 1e-3 of it.
BAND = 1e-3
CLAMP_BAND = 1e-5
PAIRS_PER_CHUNK = 1 << 20  # pixels x Gaussians composited at once

GAUSSIAN_PARAMS = ("means", "quats", "log_scales", "logit_opacities", "sh0", "shN", "colors")
COTANGENTS = ("v_image", "v_alpha", "v_depth")
INPUTS = (*GAUSSIAN_PARAMS, "background", "viewmats", "Ks")


@dataclasses.dataclass(frozen=True)
class Splats:
    """Projected Gaussians of one camera that may be seen, nearest first. Shapes [n, ...]."""

    means2d: Tensor
    conics: Tensor
    depths: Tensor
    opacities: Tensor
    colors: Tensor

    def leaves(self) -> Splats:
        """The same values, cut from the graph; gradients are collected in them."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Splats(**{name: value.detach().requires_grad_() for name, value in values.items()})


@dataclasses.dataclass(frozen=True)
class Pixels:
    """A rendered picture: image [..., channels], alpha [...], accumulated depth [...], band [...] bool."""

    image: Tensor
    alpha: Tensor
    depth: Tensor
    band: Tensor


def usable_rows(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Rows without NaN or infinity and with a quaternion that is not zero, [N] bool."""
    usable = np.any(arrays["quats"] != 0, axis=1)
    for name in GAUSSIAN_PARAMS:
        if name in arrays:
            usable &= np.isfinite(arrays[name].reshape(len(usable), -1)).all(axis=1)
    return usable


def to_tensors(arrays: Mapping[str, np.ndarray], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The inputs of a case as leaf tensors, without the rows that are culled outright."""
    usable = usable_rows(arrays)
    tensors = {}
    for name in INPUTS:
        if name in arrays:
            value = arrays[name][usable] if name in GAUSSIAN_PARAMS else arrays[name]
            tensors[name] = torch.tensor(value, dtype=dtype, requires_grad=True)
    return tensors


def view_colors(inputs: Mapping[str, Tensor], viewmat: Tensor) -> Tensor:
    """Colours before the cut at zero: SH + 0.5 as seen by the camera, or ``colors`` as given. [N, C]."""
    if "colors" in inputs:
        return inputs["colors"]
    coefficients = torch.cat([inputs["sh0"], inputs["shN"]], dim=1)
    degree = round(coefficients.shape[1] ** 0.5) - 1
    position = -viewmat[:3, :3].T @ viewmat[:3, 3]
    return _spherical_harmonics(degree, inputs["means"] - position, coefficients) + 0.5


def project(inputs: Mapping[str, Tensor], camera: int, width: int, height: int) -> Splats:
    """Projects all Gaussians to one camera, culls, and sorts by depth; equal depths keep their order."""
    viewmat, K = inputs["viewmats"][camera], inputs["Ks"][camera]
    covars, _ = _quat_scale_to_covar_preci(
        inputs["quats"], inputs["log_scales"].exp(), compute_covar=True, compute_preci=False
    )
    # The radii are ignored: all they can remove has no alpha above the threshold in any pixel.
    _, means2d, depths, conics, _ = _fully_fused_projection(
        inputs["means"], covars, viewmat[None], K[None], width, height, eps2d=EPS2D, near_plane=NEAR_PLANE
    )
    colors = view_colors(inputs, viewmat)
    if "colors" not in inputs:
        colors = colors.clamp_min(0)
    opacities = inputs["logit_opacities"].sigmoid()
    seen = torch.where((depths[0] > NEAR_PLANE) & (opacities >= ALPHA_THRESHOLD))[0]
    order = seen[torch.argsort(depths[0, seen], stable=True)]
    return Splats(means2d[0, order], conics[0, order], depths[0, order], opacities[order], colors[order])


def composite(splats: Splats, pixels: Tensor, background: Tensor) -> Pixels:
    """Blends sorted splats front to back at pixel centres [P, 2]."""
    x, y = (pixels[:, None] - splats.means2d).unbind(-1)
    a, b, c = splats.conics.unbind(-1)
    exponent = 0.5 * (a * x**2 + c * y**2) + b * x * y
    raw = splats.opacities * torch.exp(-exponent)
    alphas = torch.where((exponent >= 0) & (raw >= ALPHA_THRESHOLD), raw.clamp_max(ALPHA_MAX), 0)
    after = torch.cumprod(1 - alphas, dim=1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
    weights = torch.where(after > TRANSMITTANCE_MIN, alphas * before, 0)
    alpha = weights.sum(1)
    image = weights @ splats.colors + (1 - alpha)[:, None] * background
    return Pixels(image, alpha, weights @ splats.depths, _in_band(raw, alphas, before, after))


def _in_band(raw: Tensor, alphas: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Pixels [P] at which some Gaussian that is still reached sits at a threshold."""

    def near(value: Tensor, threshold: float, band: float = BAND) -> Tensor:
        return (value / threshold - 1).abs() < band

    at_alpha = near(raw, ALPHA_THRESHOLD) | near(raw, ALPHA_MAX, CLAMP_BAND)
    at_stop = near(after, TRANSMITTANCE_MIN) & (alphas > 0)
    reached = before > TRANSMITTANCE_MIN * (1 - BAND)
    return ((at_alpha | at_stop) & reached).any(dim=1)


def pixel_chunks(width: int, height: int, num_splats: int, like: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the flattened image and the centres of their pixels."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centres = torch.stack([columns, rows], dim=-1).reshape(-1, 2).to(like) + 0.5
    size = max(1, PAIRS_PER_CHUNK // max(1, num_splats))
    for start in range(0, len(centres), size):
        yield slice(start, start + size), centres[start : start + size]


def render(inputs: Mapping[str, Tensor], camera: int, width: int, height: int) -> Pixels:
    """Renders one camera; differentiable, so for pictures small enough to keep the graph of."""
    splats = project(inputs, camera, width, height)
    chunks = pixel_chunks(width, height, len(splats.depths), splats.depths)
    parts = [composite(splats, centres, inputs["background"]) for _, centres in chunks]

    def image_of(name: str) -> Tensor:
        flat = torch.cat([getattr(part, name) for part in parts])
        return flat.reshape(height, width, *flat.shape[1:])

    return Pixels(**{field.name: image_of(field.name) for field in dataclasses.fields(Pixels)})


def loss(pixels: Pixels, cotangents: Mapping[str, Tensor]) -> Tensor:
    """``sum(v_image * image) + sum(v_alpha * alpha) + sum(v_depth * depth)``."""
    return sum((getattr(pixels, name.removeprefix("v_")) * cotangents[name]).sum() for name in COTANGENTS)


def add_gradients(
    inputs: Mapping[str, Tensor], camera: int, width: int, height: int, cotangents: Mapping[str, Tensor]
) -> None:
    """Adds the gradient of :func:`loss` at one camera to every input's ``grad``, chunk by chunk."""
    splats = project(inputs, camera, width, height)
    leaves = splats.leaves()
    flat = {name: value.reshape(height * width, *value.shape[2:]) for name, value in cotangents.items()}
    for part, centres in pixel_chunks(width, height, len(splats.depths), splats.depths):
        pixels = composite(leaves, centres, inputs["background"])
        loss(pixels, {name: value[part] for name, value in flat.items()}).backward()
    names = [field.name for field in dataclasses.fields(Splats)]
    torch.autograd.backward(
        [getattr(splats, name) for name in names], [getattr(leaves, name).grad for name in names]
    )


def render_case(case: Mapping[str, np.ndarray], dtype: torch.dtype = torch.float64) -> dict[str, np.ndarray]:
    """Renders every camera of a case: image [C, H, W, channels], alpha, depth, band [C, H, W]."""
    inputs = to_tensors(case, dtype)
    width, height = int(case["width"]), int(case["height"])
    with torch.no_grad():
        views = [render(inputs, camera, width, height) for camera in range(len(case["viewmats"]))]
    names = [field.name for field in dataclasses.fields(Pixels)]
    return {name: np.stack([getattr(view, name).numpy() for view in views]) for name in names}


def differentiate_case(
    case: Mapping[str, np.ndarray], dtype: torch.dtype = torch.float64
) -> dict[str, np.ndarray]:
    """Gradients ``grad_<input>`` of the loss summed over a case's cameras; zero in rows that are culled."""
    inputs = to_tensors(case, dtype)
    width, height = int(case["width"]), int(case["height"])
    for camera in range(len(case["viewmats"])):
        cotangents = {n: torch.tensor(case[n][camera], dtype=dtype) for n in COTANGENTS}
        add_gradients(inputs, camera, width, height, cotangents)
    usable = usable_rows(case)
    gradients = {}
    for name, value in inputs.items():
        grad = np.zeros(value.shape) if value.grad is None else value.grad.numpy()
        if name in GAUSSIAN_PARAMS:
            full = np.zeros((len(usable), *grad.shape[1:]), grad.dtype)
            full[usable] = grad
            grad = full
        gradients[f"grad_{name}"] = grad
    return gradients
