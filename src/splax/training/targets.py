"""What training compares with: the photos of a scene as arrays of one size, on the device."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from splax.cameras import Camera
from splax.data.scene import View


class Targets(NamedTuple):
    """Photos of all views, or of one without the leading axis; a pytree.

    Attributes:
        images: uint8 RGB, [V, H, W, 3].
        masks: true where a pixel counts, [V, H, W]; None if all do.
        alphas: how opaque the photos are, uint8 [V, H, W]; None if all are opaque.
    """

    images: UInt8[Array, "*views h w 3"]
    masks: Bool[Array, "*views h w"] | None
    alphas: UInt8[Array, "*views h w"] | None


def canvas_cameras(views: Sequence[View]) -> Camera:
    """The cameras of views as one batch, [V].

    Where sizes differ, every camera gets a canvas as wide as the widest photo and as high as the highest; its
    photo fills the top left of it, so ``K`` stays what it is. One size means one compiled function. (Projection
    bounds the slant of Gaussians far outside of the image by its size: for those the canvas differs a little.)
    """
    width = max(view.camera.width for view in views)
    height = max(view.camera.height for view in views)
    return Camera.stack([dataclasses.replace(view.camera, width=width, height=height) for view in views])


def make_targets(views: Sequence[View]) -> Targets:
    """The photos of views on the canvases of :func:`canvas_cameras`, whose rest is masked."""
    width = max(view.camera.width for view in views)
    height = max(view.camera.height for view in views)
    images = np.zeros((len(views), height, width, 3), np.uint8)
    masks = np.zeros((len(views), height, width), bool)
    alphas = np.full((len(views), height, width), 255, np.uint8)
    for view, image, mask, alpha in zip(views, images, masks, alphas, strict=True):
        part = np.s_[: view.camera.height, : view.camera.width]
        image[part] = view.image
        mask[part] = True if view.mask is None else view.mask
        alpha[part] = 255 if view.alpha is None else view.alpha
    return Targets(
        jnp.asarray(images),
        None if masks.all() else jnp.asarray(masks),
        None if (alphas == 255).all() else jnp.asarray(alphas),
    )


def on_background(
    image: Float[Array, "h w 3"],
    alpha: UInt8[Array, "h w"] | None,
    old: Float[Array, " 3"],
    new: Float[Array, " 3"],
) -> Float[Array, "h w 3"]:
    """A photo in [0, 1] that was composited on one background, on another: what shines through changes."""
    if alpha is None:
        return image
    return image + (1 - alpha[..., None].astype(image.dtype) / 255) * (new - old)
