"""A term of the loss that holds cameras by their tracks: points that structure from motion found in photos."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from splax.cameras import Camera

# Error above which it counts by its size instead of its square, as a share of the image's longer side: one pixel
# of an image that is 1,000 pixels wide. Structure from motion finds points about that exactly, and some pixels
# that it gives to a point show another one.
ROBUST = 1e-3


def reprojection_error(
    camera: Camera, points: Float[Array, "points 3"], pixels: Float[Array, "points 2"]
) -> Float[Array, ""]:
    """Mean distance between the pixels to which a camera projects points and those at which its photo shows them.

    The mean is robust (Huber 1964): a distance d above r = :data:`ROBUST` counts as d - r / 2, a smaller one as
    d^2 / (2 r). Distances are shares of the image's longer side, so that they do not depend on its resolution.
    Points behind the camera, and points whose pixels in the photo are not known, do not count.

    Args:
        camera: camera of the photo; a single one.
        points: surface points that the photo shows, world coordinates, [P, 3]; NaN in rows without a point.
        pixels: pixels at which the photo shows the points, pixel centres at +0.5, [P, 2]; NaN where not known.
    """
    known = jnp.isfinite(points).all(axis=-1) & jnp.isfinite(pixels).all(axis=-1)
    # Neutral numbers in rows that do not count: NaN would spread to the gradient.
    local = camera.to_camera_space(jnp.where(known[:, None], points, 0))
    known &= local[:, 2] > 0
    local = jnp.where(known[:, None], local, 1)
    shown = camera.lens.project(local)
    offset = jnp.where(known[:, None], shown - pixels, 0) / max(camera.width, camera.height)
    squared = (offset * offset).sum(axis=-1)
    small = squared < ROBUST**2
    distance = jnp.sqrt(jnp.where(small, 1.0, squared))
    errors = jnp.where(small, squared / (2 * ROBUST), distance - ROBUST / 2)
    return errors.sum() / jnp.maximum(known.sum(), 1)
