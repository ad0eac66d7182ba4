"""What training compares with: the photos of a scene as arrays of one size, on the device."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt8

from splax.cameras import Camera
from splax.data.scene import View


class Targets(NamedTuple):
    """Photos and masks of all views; a pytree.

    Attributes:
        images: uint8 RGB, [V, H, W, 3].
        masks: true where a pixel counts, [V, H, W]; None if all do.
    """

    images: UInt8[Array, "views h w 3"]
    masks: Bool[Array, "views h w"] | None


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
    for view, image, mask in zip(views, images, masks, strict=True):
        part = np.s_[: view.camera.height, : view.camera.width]
        image[part] = view.image
        mask[part] = True if view.mask is None else view.mask
    return Targets(jnp.asarray(images), None if masks.all() else jnp.asarray(masks))
