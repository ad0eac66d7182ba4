"""Checks the depth of each photo against the depth of other photos."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from splax.initialization.small_photos import SmallPhotos, Warps, homogeneous_pixels, warps_between

# A point that is more than this many tolerances in front of what another photo shows would hide it.
_IN_THE_WAY = 2.0


def count_support(
    photos: SmallPhotos,
    inverse_depths: Float[np.ndarray, "v h w"],
    known: Bool[np.ndarray, "v h w"],
    neighbors: Int[np.ndarray, "v n"],
    weights: Float[np.ndarray, "v n"],
    tolerance: float,
) -> tuple[Int[np.ndarray, "v h w"], Int[np.ndarray, "v h w"]]:
    """Counts, for each pixel, the other photos that confirm its depth and those that contradict it.

    A photo confirms a point if its own depth there is the same. It contradicts the point if it shows something
    behind it.

    Args:
        photos: photos with their cameras.
        inverse_depths: 1 / z of each pixel, [V, H, W].
        known: whether the depth of a pixel is known, [V, H, W].
        neighbors: indices of the photos to compare each photo with, [V, N].
        weights: weights of these photos, [V, N]; photos of weight 0 are not compared.
        tolerance: relative difference up to which two depths count as the same.

    Returns:
        The number of photos that confirm each pixel, and of those that contradict it, [V, H, W]; 0 where the depth
        is unknown.
    """
    depths, mask = jnp.asarray(inverse_depths), jnp.asarray(known)
    counts = []
    for index, (others, weight) in enumerate(zip(neighbors, weights, strict=True)):
        asked = mask[others] & (weight > 0)[:, None, None]
        warps = warps_between(photos, index, others)
        counts.append(_count(depths[index], depths[others], asked, warps, tolerance))
    support, conflicts = (np.stack([np.asarray(c) for c in part]) for part in zip(*counts, strict=True))
    return np.where(known, support, 0), np.where(known, conflicts, 0)


@jax.jit
def _count(
    inverse_depth: Float[Array, "h w"],
    others: Float[Array, "n h w"],
    asked: Bool[Array, "n h w"],
    warps: Warps,
    tolerance: float | Float[Array, ""],
) -> tuple[Int[Array, "h w"], Int[Array, "h w"]]:
    height, width = inverse_depth.shape
    pixels = homogeneous_pixels(height, width)

    def ask(other, asked, warp):
        rays = jnp.einsum("rc,chw->rhw", warp.A, pixels, precision="highest")
        x, y, z = rays + warp.b[:, None, None] * inverse_depth
        in_front = z > 1e-6
        column = jnp.floor(x / jnp.where(in_front, z, 1)).astype(jnp.int32)
        row = jnp.floor(y / jnp.where(in_front, z, 1)).astype(jnp.int32)
        inside = in_front & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        column, row = column.clip(0, width - 1), row.clip(0, height - 1)
        seen = inside & asked[row, column]
        excess = z / jnp.where(inverse_depth > 0, inverse_depth, 1) * other[row, column] - 1
        return seen & (jnp.abs(excess) < tolerance), seen & (excess < -_IN_THE_WAY * tolerance)

    support, conflicts = jax.vmap(ask)(others, asked, warps)
    return support.sum(axis=0), conflicts.sum(axis=0)
