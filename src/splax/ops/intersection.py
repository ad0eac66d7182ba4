"""Which Gaussians touch which tile, front to back.

Two stable sorts, as the fastest renderers do: the Gaussians by depth, then the (tile, Gaussian) pairs by
tile. Shapes are static: pairs live in a buffer of ``isect_capacity`` rows, and the true count comes back
beside it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from splax.ops.projection import Projection


class Intersections(NamedTuple):
    """(tile, Gaussian) pairs, sorted by tile and within a tile by depth.

    Attributes:
        flatten_ids: Gaussian of each pair, [isect_capacity].
        tile_offsets: first pair of each tile, and the end of the last one, [tiles + 1].
        num_isects: pairs there are; above ``isect_capacity`` the lists are incomplete.
    """

    flatten_ids: Int[Array, " m"]
    tile_offsets: Int[Array, " t"]
    num_isects: Int[Array, ""]


class TileBounds(NamedTuple):
    """Box of tiles that each Gaussian touches, [N] each; ``counts`` is 0 where culled."""

    left: Int[Array, " n"]
    top: Int[Array, " n"]
    columns: Int[Array, " n"]
    counts: Int[Array, " n"]


def tile_grid(width: int, height: int, tile_size: int) -> tuple[int, int]:
    """Tiles per row and per column that cover the image."""
    return -(-width // tile_size), -(-height // tile_size)


def tile_bounds(projection: Projection, *, width: int, height: int, tile_size: int) -> TileBounds:
    """The tiles whose pixel centres may lie in each Gaussian's box."""
    grid = jnp.array(tile_grid(width, height, tile_size))
    means2d, radii = jax.lax.stop_gradient((projection.means2d, projection.radii))
    # A pixel centre x lies in the box if mean - radius <= x <= mean + radius.
    first = jnp.clip(jnp.floor((means2d - radii) / tile_size), 0, grid).astype(jnp.int32)
    last = jnp.clip(jnp.floor((means2d + radii) / tile_size) + 1, 0, grid).astype(jnp.int32)
    visible = (radii > 0).all(axis=1)
    span = jnp.where(visible[:, None], jnp.maximum(last - first, 0), 0)
    return TileBounds(first[:, 0], first[:, 1], span[:, 0], span[:, 0] * span[:, 1])


def count_isects(projection: Projection, *, width: int, height: int, tile_size: int) -> Int[Array, ""]:
    """Pairs that :func:`intersect_tiles` will need room for."""
    return saturating_sum(tile_bounds(projection, width=width, height=height, tile_size=tile_size).counts)


def saturating_sum(counts: Int[Array, " n"]) -> Int[Array, ""]:
    """Sum that saturates at the largest int32 instead of wrapping."""
    largest = jnp.iinfo(jnp.int32).max
    wraps = counts.astype(jnp.float32).sum() > 0.999 * largest
    return jnp.where(wraps, largest, counts.sum()).astype(jnp.int32)


def intersect_tiles(
    projection: Projection, *, width: int, height: int, tile_size: int, isect_capacity: int
) -> Intersections:
    """Lists the Gaussians of every tile, front to back; equal depths in the order of the rows.

    Args:
        projection: projected Gaussians; rows of radius 0 are left out.
        width: image width in pixels.
        height: image height in pixels.
        tile_size: pixels per tile side.
        isect_capacity: rows of the buffer; see :func:`count_isects`.
    """
    bounds = tile_bounds(projection, width=width, height=height, tile_size=tile_size)
    tile_width, tile_height = tile_grid(width, height, tile_size)
    num_tiles, num_gaussians = tile_width * tile_height, projection.depths.shape[0]

    order = jnp.argsort(jnp.where(bounds.counts > 0, jax.lax.stop_gradient(projection.depths), jnp.inf))
    left, top, columns, counts = (a[order] for a in bounds)
    ends = jnp.cumsum(counts)
    pairs = jnp.arange(isect_capacity, dtype=jnp.int32)
    rank = jnp.repeat(jnp.arange(num_gaussians, dtype=jnp.int32), counts, total_repeat_length=isect_capacity)
    nth = pairs - (ends - counts)[rank]
    row, column = jnp.divmod(nth, jnp.maximum(columns[rank], 1))
    tile = (top[rank] + row) * tile_width + left[rank] + column
    tile = jnp.where(pairs < ends[-1], tile, num_tiles)  # the unused end of the buffer sorts last
    tile, rank = _sort_by_tile(tile, rank, num_tiles, num_gaussians)
    offsets = jnp.searchsorted(tile, jnp.arange(num_tiles + 1)).astype(jnp.int32)
    return Intersections(order[rank].astype(jnp.int32), offsets, saturating_sum(counts))


def _sort_by_tile(tile, rank, num_tiles, num_gaussians):
    """Sorts pairs by tile, then by rank; they come sorted by rank."""
    if (num_tiles + 1) * num_gaussians < 2**32:
        # One key of 32 bits holds both: on a CPU, XLA sorts a single array five times faster than two.
        keys = jax.lax.sort(
            tile.astype(jnp.uint32) * num_gaussians + rank.astype(jnp.uint32), is_stable=False
        )
        tile, rank = jnp.divmod(keys, jnp.uint32(num_gaussians))
        return tile.astype(jnp.int32), rank.astype(jnp.int32)
    return jax.lax.sort((tile, rank), num_keys=1, is_stable=True)
