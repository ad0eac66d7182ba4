"""The photos of a scene as a plane sweep uses them: small, grey, and of one size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from splax.data.decode import downscale_image, downscale_mask
from splax.scene import View

# Least alpha, of 255, of pixels that belong to a surface: at soft edges two colours are mixed.
_OPAQUE = 250
# Luma of ITU-R BT.601.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class SmallPhotos(NamedTuple):
    """Photos of one or several sizes, each at the top left of a canvas; all canvases have one size.

    Attributes:
        grey: grey values in [0, 1], [V, H, W]; the values at a photo's edge are repeated beyond it.
        valid: whether there is a pixel that is opaque and not masked, [V, H, W].
        viewmats: world to camera, [V, 4, 4].
        Ks: intrinsics of the small photos, [V, 3, 3].
        sizes: width and height of each small photo in pixels, [V, 2].
    """

    grey: Float[Array, "v h w"]
    valid: Bool[Array, "v h w"]
    viewmats: Float[np.ndarray, "v 4 4"]
    Ks: Float[np.ndarray, "v 3 3"]
    sizes: Int[np.ndarray, "v 2"]


class Warps(NamedTuple):
    """Maps from the pixels of one photo to those of other photos.

    The pixel (x, y) at depth z has the homogeneous pixel A (x, y, 1) + b / z in the other photo. The third
    component of it is the depth in the other photo divided by that in this photo.

    Attributes:
        A: matrix for each other photo, [S, 3, 3].
        b: vector for each other photo, [S, 3].
    """

    A: Float[Array, "s 3 3"]
    b: Float[Array, "s 3"]


def warps_between(photos: SmallPhotos, index: int, others: Int[np.ndarray, " s"]) -> Warps:
    """The maps from one photo to others.

    Args:
        photos: photos with their cameras.
        index: index of the one photo.
        others: indices of the other photos, [S].
    """
    relative = photos.viewmats[others] @ np.linalg.inv(photos.viewmats[index])
    A = photos.Ks[others] @ relative[:, :3, :3] @ np.linalg.inv(photos.Ks[index])
    b = np.einsum("src,sc->sr", photos.Ks[others], relative[:, :3, 3])
    return Warps(jnp.asarray(A, jnp.float32), jnp.asarray(b, jnp.float32))


def homogeneous_pixels(height: int, width: int) -> Float[Array, "3 height width"]:
    """Homogeneous coordinates (x, y, 1) of the centres of all pixels."""
    rows, columns = jnp.mgrid[:height, :width] + 0.5
    return jnp.stack([columns, rows, jnp.ones_like(rows)])


def shrink_photos(views: Sequence[View], max_pixels: int) -> SmallPhotos:
    """Makes photos grey, and small enough that each has at most about ``max_pixels`` pixels."""
    sizes = [small_size(view, max_pixels) for view in views]
    width, height = np.max(sizes, axis=0)

    def on_canvas(values: np.ndarray, mode: Literal["edge", "constant"]) -> np.ndarray:
        rows, columns = height - values.shape[0], width - values.shape[1]
        return np.pad(values, ((0, rows), (0, columns)), mode=mode)

    pairs = list(zip(views, sizes, strict=True))
    return SmallPhotos(
        grey=jnp.asarray(np.stack([on_canvas(_grey(view, *size), "edge") for view, size in pairs])),
        valid=jnp.asarray(
            np.stack([on_canvas(usable_pixels(view, *size), "constant") for view, size in pairs])
        ),
        viewmats=np.stack([np.asarray(view.camera.viewmat, np.float64) for view in views]),
        Ks=np.stack([resized_K(view, *size) for view, size in pairs]),
        sizes=np.array(sizes),
    )


def usable_pixels(view: View, width: int, height: int) -> Bool[np.ndarray, "height width"]:
    """Whether each pixel of the view, resized to another size, is neither masked nor transparent."""
    usable = np.ones((height, width), bool)
    if view.mask is not None:
        usable &= downscale_mask(view.mask, width, height)
    if view.alpha is not None:
        usable &= downscale_image(view.alpha, width, height) >= _OPAQUE
    return usable


def resized_K(view: View, width: int, height: int) -> Float[np.ndarray, "3 3"]:
    """Intrinsics of the view at another size, float64 [3, 3]."""
    scale = np.array([width / view.camera.width, height / view.camera.height, 1])
    return scale[:, None] * np.asarray(view.camera.K, np.float64)


def small_size(view: View, max_pixels: int) -> tuple[int, int]:
    """Width and height of the view, reduced so that it has at most about ``max_pixels`` pixels."""
    width, height = view.camera.width, view.camera.height
    factor = min(1.0, math.sqrt(max_pixels / (width * height)))
    return max(2, round(width * factor)), max(2, round(height * factor))


def _grey(view: View, width: int, height: int) -> Float32[np.ndarray, "height width"]:
    return downscale_image(view.image, width, height).astype(np.float32) @ _LUMA / 255
