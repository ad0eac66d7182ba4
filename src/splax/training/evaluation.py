"""Renderings of views beside their photos, and how well they agree."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from splax.cameras import Camera
from splax.data.scene import View
from splax.metrics import psnr, ssim
from splax.model import SplatModel
from splax.training.targets import on_background


def evaluate_views(
    model: SplatModel,
    views: Sequence[View],
    *,
    old: Float[Array, " 3"],
    background: Float[Array, " 3"],
    correct: Callable[[Camera], Camera] = lambda camera: camera,
) -> Iterator[tuple[View, float, float, Float[np.ndarray, "h w 3"]]]:
    """Renders views and compares them with their photos; the protocol is that of ``Trainer.evaluate_views``.

    Args:
        model: what to render.
        views: of which cameras.
        old: what the photos were composited on, RGB.
        background: what they are compared on, RGB.
        correct: what to do to each camera first.

    Yields:
        The view, its PSNR in dB, its SSIM, and the rendering, [H, W, 3] in [0, 1]. A photo that cannot be
        decoded is left out, with a warning.
    """
    for view in views:
        try:
            photo = view.image
        except ValueError as error:
            warnings.warn(f"view {view.name!r} is left out of the scores: {error}", stacklevel=2)
            continue
        image = jnp.clip(model(correct(view.camera), background=background).image, 0, 1)
        target = jnp.asarray(photo, image.dtype) / 255
        alpha = jnp.asarray(view.alpha) if view.has_alpha and view.alpha is not None else None
        target = on_background(target, alpha, old, background)
        mask = jnp.asarray(view.mask) if view.has_mask else None
        yield view, float(psnr(image, target, mask)), float(ssim(image, target, mask)), np.asarray(image)
