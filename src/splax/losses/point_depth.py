"""A term of the loss that compares rendered depth with the depth of a few known points of a photo."""

from __future__ import annotations

import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Bool, Float

from splax.cameras import Camera
from splax.losses.depth import rendered_disparity
from splax.rasterizer import RenderOutput


def point_disparity_loss(
    output: RenderOutput,
    points: Float[Array, "points 3"],
    camera: Camera,
    extent: float,
    mask: Bool[Array, "h w"] | None = None,
) -> Float[Array, ""]:
    """Mean absolute error of inverse depth where known surface points appear, in 1 / scene extents (gsplat).

    Inverse depth is interpolated between pixels, because that of a plane is linear over the image. The rendered
    inverse depth is 0 where nothing is drawn. Points outside the image or behind the camera do not count.

    Args:
        output: rendering of the view, with depth.
        points: surface points that the photo shows, world coordinates, [P, 3]; NaN in rows without a point.
        camera: camera with which the view was rendered.
        extent: extent of the scene, world units.
        mask: true where pixels count, [H, W]; None for all pixels.
    """
    real = jnp.isfinite(points).all(axis=-1)
    local = jnp.asarray(camera.to_camera_space(jnp.where(real[:, None], points, 0)))
    counts = real & (local[:, 2] > 0)
    # Neutral numbers in rows that do not count: NaN would spread to the gradient.
    local = jnp.where(counts[:, None], local, 1)
    x, y = jnp.asarray(camera.lens.project(local)).T
    counts &= (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
    x, y = jnp.where(counts, x, 0), jnp.where(counts, y, 0)
    if mask is not None:
        counts &= mask[y.astype(jnp.int32), x.astype(jnp.int32)]
    # Pixel centres are at +0.5.
    disparity = map_coordinates(rendered_disparity(output), [y - 0.5, x - 0.5], order=1, mode="nearest")
    error = jnp.where(counts, jnp.abs(disparity - 1 / local[:, 2]), 0)
    return extent * error.sum() / jnp.maximum(counts.sum(), 1)
