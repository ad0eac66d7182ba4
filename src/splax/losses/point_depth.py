"""Depth that is known at a few points of a photo, as a term of the loss."""

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

    Inverse depth is interpolated between pixels: that of a plane is linear over the image. Where nothing is drawn
    it is 0. Points beside the image or behind the camera count nowhere.

    Args:
        output: a rendering, with depth.
        points: that the photo shows, world coordinates; NaN where there are fewer than rows.
        camera: that the view was rendered with.
        extent: of the scene, world units.
        mask: true where pixels count; everywhere if None.
    """
    real = jnp.isfinite(points).all(axis=-1)
    local = jnp.asarray(camera.to_camera_space(jnp.where(real[:, None], points, 0)))
    counts = real & (local[:, 2] > 0)
    # Neutral numbers where they are not used, or NaN would spread.
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
