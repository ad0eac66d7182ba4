"""The photos of a scene as stereo sees them: small, grey, on one canvas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from splax.data.decode import downscale_image, downscale_mask
from splax.scene import View

# Alpha, of 255, from which a pixel belongs to a surface: at soft edges two colours are mixed.
_OPAQUE = 250
# Luma of ITU-R BT.601.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class SmallPhotos(NamedTuple):
    """Photos of one or several sizes, each at the top left of a canvas.

    Attributes:
        grey: values in [0, 1], [V, H, W]; beyond a photo's edge they go on as at the edge.
        valid: true where there is a pixel, not masked and opaque, [V, H, W].
        viewmats: world to camera, [V, 4, 4].
        Ks: intrinsics of the small photos, [V, 3, 3].
        sizes: width and height of each, [V, 2].
    """

    grey: Float[Array, "v h w"]
    valid: Bool[Array, "v h w"]
    viewmats: Float[np.ndarray, "v 4 4"]
    Ks: Float[np.ndarray, "v 3 3"]
    sizes: Int[np.ndarray, "v 2"]


class Warps(NamedTuple):
    """Where pixels of one photo lie in others: A (x, y, 1) + b / z is the homogeneous pixel of (x, y) at depth z.

    Its third component is the depth in the other photo over that in this one.

    Attributes:
        A: [S, 3, 3].
        b: [S, 3].
    """

    A: Float[Array, "s 3 3"]
    b: Float[Array, "s 3"]


def warps_between(photos: SmallPhotos, index: int, others: Int[np.ndarray, " s"]) -> Warps:
    """From photo ``index`` to the ``others``."""
    relative = photos.viewmats[others] @ np.linalg.inv(photos.viewmats[index])
    A = photos.Ks[others] @ relative[:, :3, :3] @ np.linalg.inv(photos.Ks[index])
    b = np.einsum("src,sc->sr", photos.Ks[others], relative[:, :3, 3])
    return Warps(jnp.asarray(A, jnp.float32), jnp.asarray(b, jnp.float32))


def homogeneous_pixels(height: int, width: int) -> Float[Array, "3 height width"]:
    """Homogeneous coordinates (x, y, 1) of all pixels."""
    rows, columns = jnp.mgrid[:height, :width] + 0.5
    return jnp.stack([columns, rows, jnp.ones_like(rows)])


def shrink_photos(views: Sequence[View], max_pixels: int) -> SmallPhotos:
    """Makes photos grey, and small enough to have at most about ``max_pixels`` pixels."""
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
    """Where the view, at another size, is neither masked nor transparent."""
    usable = np.ones((height, width), bool)
    if view.mask is not None:
        usable &= downscale_mask(view.mask, width, height)
    if view.alpha is not None:
        usable &= downscale_image(view.alpha, width, height) >= _OPAQUE
    return usable


def resized_K(view: View, width: int, height: int) -> Float[np.ndarray, "3 3"]:
    """Intrinsics of the view at another size, float64."""
    scale = np.array([width / view.camera.width, height / view.camera.height, 1])
    return scale[:, None] * np.asarray(view.camera.K, np.float64)


def small_size(view: View, max_pixels: int) -> tuple[int, int]:
    """Width and height of the view made small enough."""
    width, height = view.camera.width, view.camera.height
    factor = min(1.0, math.sqrt(max_pixels / (width * height)))
    return max(2, round(width * factor)), max(2, round(height * factor))


def _grey(view: View, width: int, height: int) -> Float32[np.ndarray, "height width"]:
    return downscale_image(view.image, width, height).astype(np.float32) @ _LUMA / 255
