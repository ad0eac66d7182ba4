"""Renderings of views beside their photos, and how well they agree."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from splax.cameras import Camera
from splax.color_correction import color_correct as correct_colors
from splax.data.scene import View
from splax.metrics import psnr, ssim
from splax.model import SplatModel
from splax.perceptual import Network, lpips
from splax.rasterizer import RenderOutput
from splax.training.targets import on_background

_NETWORKS = {"alex": "AlexNet", "vgg": "VGG16"}


class ViewScores(NamedTuple):
    """How well a rendering agrees with its photo.

    Attributes:
        view: which.
        psnr: in dB.
        ssim: in [-1, 1].
        image: the rendering, [H, W, 3] in [0, 1].
        lpips: by network; those that were asked for.
        cc: ``psnr`` and ``ssim`` after :func:`splax.color_correct`, if that was asked for.
    """

    view: View
    psnr: float
    ssim: float
    image: Float[np.ndarray, "h w 3"]
    lpips: dict[str, float]
    cc: dict[str, float]

    def numbers(self) -> dict[str, float]:
        """The scores by name: ``psnr``, ``ssim``, ``lpips_alex``, ``lpips_vgg``, ``cc_psnr``, ``cc_ssim``."""
        return {
            "psnr": self.psnr,
            "ssim": self.ssim,
            **{f"lpips_{network}": value for network, value in self.lpips.items()},
            **{f"cc_{name}": value for name, value in self.cc.items()},
        }


def mean_scores(
    scores: Sequence[dict[str, Any]], networks: Sequence[Network] = (), *, color_correct: bool = False
) -> dict[str, Any]:
    """Means over views of :meth:`ViewScores.numbers`, and ``views``, how many; None where there is no view."""
    names = ["psnr", "ssim", *(f"lpips_{network}" for network in networks)]
    names += ["cc_psnr", "cc_ssim"] if color_correct else []
    means = {name: float(np.mean([one[name] for one in scores])) if scores else None for name in names}
    return {**means, "views": len(scores)}


def scores_line(scores: dict[str, Any]) -> str:
    """Mean scores for people."""
    if not scores["views"]:
        return "No view was held out, so there is no score."
    parts = [f"PSNR {scores['psnr']:.2f} dB", f"SSIM {scores['ssim']:.4f}"]
    parts += [
        f"LPIPS ({name}) {scores[key]:.4f}"
        for key, name in ((f"lpips_{network}", name) for network, name in _NETWORKS.items())
        if key in scores
    ]
    if "cc_psnr" in scores:
        parts.append(f"with colours corrected PSNR {scores['cc_psnr']:.2f} dB, SSIM {scores['cc_ssim']:.4f}")
    return f"Mean of {scores['views']} held-out views: " + ", ".join(parts)


def protocol(networks: Sequence[Network] = (), *, color_correct: bool = False) -> dict[str, str]:
    """How scores are computed, for people: what belongs beside a number."""
    corrected = (
        "an affine map of the rendering's colours, fitted to the photo it is compared with by least squares over "
        "the pixels where neither saturates, then clamped to [0, 1]; apart from that as psnr and ssim"
    )
    return {
        "images": "rendering clamped to [0, 1], not rounded, against the 8-bit photo / 255",
        "color_space": "as stored in the photo (sRGB)",
        "crop": "none",
        "mask": "masked pixels are left out of PSNR, windows that hold one out of SSIM; LPIPS sees black there",
        "mean": "of the scores of the views",
        "ssim": "Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03, no padding, mean over RGB",
        **{f"lpips_{network}": f"version 0.1, {_NETWORKS[network]}" for network in networks},
        **({"cc": corrected} if color_correct else {}),
    }


def evaluate_views(
    model: SplatModel,
    views: Sequence[View],
    *,
    old: Float[Array, " 3"],
    background: Float[Array, " 3"],
    correct: Callable[[Camera], Camera] = lambda camera: camera,
    networks: Sequence[Network] = (),
    color_correct: bool = False,
) -> Iterator[ViewScores]:
    """Renders views and compares them with their photos; the protocol is that of ``Trainer.evaluate_views``.

    Args:
        model: what to render.
        views: of which cameras.
        old: what the photos were composited on, RGB.
        background: what they are compared on, RGB.
        correct: what to do to each camera first.
        networks: of LPIPS.
        color_correct: whether to score once more after the colours were fitted to the photo's.

    Yields:
        The scores of each view. A photo that cannot be decoded is left out, with a warning.
    """
    for view in views:
        try:
            photo = view.image
        except ValueError as error:
            warnings.warn(f"view {view.name!r} is left out of the scores: {error}", stacklevel=2)
            continue
        image = jnp.clip(_draw_whole(model, correct(view.camera), background).image, 0, 1)
        target = jnp.asarray(photo, image.dtype) / 255
        alpha = jnp.asarray(view.alpha) if view.has_alpha and view.alpha is not None else None
        target = on_background(target, alpha, old, background)
        mask = jnp.asarray(view.mask) if view.has_mask else None
        shown = (image, target) if mask is None else (image * mask[..., None], target * mask[..., None])
        yield ViewScores(
            view,
            **_score(image, target, mask),
            image=np.asarray(image),
            lpips={network: float(lpips(*shown, network=network)) for network in networks},
            cc=_score(correct_colors(image, target, mask), target, mask) if color_correct else {},
        )


def _draw_whole(model: SplatModel, camera: Camera, background: Float[Array, " 3"]) -> RenderOutput:
    """A view, for which the rasterizer sizes its buffer itself where the given size is too small."""
    output, rasterizer = model(camera, background=background), model.rasterizer
    if rasterizer.isect_capacity is None or not bool(output.overflow):
        return output
    given, rasterizer.isect_capacity = rasterizer.isect_capacity, None
    try:
        return model(camera, background=background)
    finally:
        rasterizer.isect_capacity = given


def _score(
    image: Float[Array, "h w 3"], target: Float[Array, "h w 3"], mask: Bool[Array, "h w"] | None
) -> dict[str, float]:
    """PSNR and SSIM."""
    return {"psnr": float(psnr(image, target, mask)), "ssim": float(ssim(image, target, mask))}
