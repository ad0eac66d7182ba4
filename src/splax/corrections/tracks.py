"""Points that structure from motion found in photos, as a term of the loss that holds cameras."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from splax.cameras import Camera

# Where errors begin to count by their size instead of its square, as a share of the longer side: a pixel of an
# image of 1,000. Points are found about so exactly, and some belong to no point at all.
ROBUST = 1e-3


def reprojection_error(
    camera: Camera, points: Float[Array, "points 3"], pixels: Float[Array, "points 2"]
) -> Float[Array, ""]:
    """Mean distance from where the camera shows points to where its photo does, robust (Huber 1964).

    In shares of the image's longer side, whatever its resolution: a distance d beyond :data:`ROBUST`, r, counts as
    d - r / 2, a smaller one as d^2 / 2 r. Points behind the camera, and those of which it is not known where the
    photo shows them, do not count.

    Args:
        camera: one camera.
        points: world coordinates; NaN where there are fewer than rows.
        pixels: of the same, centres at +0.5; NaN where it is not known.
    """
    known = jnp.isfinite(points).all(axis=-1) & jnp.isfinite(pixels).all(axis=-1)
    # Neutral numbers where they are not used, or NaN would spread.
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
