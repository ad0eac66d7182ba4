"""Lists of the Gaussians that touch each tile, front to back.

There are two stable sorts, as in the fastest renderers: of the Gaussians by depth, then of the (tile, Gaussian)
pairs by tile. Shapes are static: pairs are stored in a buffer of ``isect_capacity`` rows, and the true number of
pairs is returned with it.

A Gaussian touches the pixels inside an ellipse, whose bounding box has the half sizes ``radii``. Each row of
tiles cuts a band out of it, and the tiles of that band are the Gaussian's, not those of the whole box: in a
trained scene a fifth fewer (as in Hanson et al. 2025, Speedy-Splat).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from splax.ops.projection import ProjectedGaussians
from splax.ops.tile_grid import TileGrid

# Tile spans of one step, if there are no more Gaussians than that. The number of spans depends on the data, so
# there is a loop over steps.
_SPANS_PER_STEP = 2**16
# Half extents are enlarged by this share and by these pixels, far more than rounding can move a pixel centre.
_SLACK, _SLACK_PIXELS = 1e-4, 1e-3
# Enlargement of the squared thickness of an ellipse, in units of the floating point precision: rounding of the
# conic and of sigma may add that much where an ellipse is long and thin.
_SLACK_THICKNESS = 32
_MAX_INT32 = 2**31 - 1
_KEYS = 2**32


class Intersections(NamedTuple):
    """(tile, Gaussian) pairs, sorted by tile and within a tile by depth.

    Attributes:
        flatten_ids: row of each pair's Gaussian, [isect_capacity].
        tile_offsets: index of the first pair of each tile, and of the end of the last tile, [tiles + 1].
        num_isects: number of pairs; if it is above ``isect_capacity``, the lists are incomplete.
    """

    flatten_ids: Int[Array, " m"]
    tile_offsets: Int[Array, " t"]
    num_isects: Int[Array, ""]


class Footprints(NamedTuple):
    """The ellipses of pixels that the Gaussians touch, and the rows of tiles that these reach.

    With u = dx / rx and v = dy / ry an ellipse holds the points where u^2 - 2 correlation u v + v^2 is at most
    1 - correlation^2.

    Attributes:
        x: centre in pixels, [N].
        y: centre in pixels, [N].
        rx: half width in pixels, [N].
        ry: half height in pixels, [N].
        correlation: correlation of x and y in the 2D covariance, [N].
        top: first row of tiles, [N].
        rows: number of rows of tiles, [N]; 0 where culled.
    """

    x: Float[Array, " n"]
    y: Float[Array, " n"]
    rx: Float[Array, " n"]
    ry: Float[Array, " n"]
    correlation: Float[Array, " n"]
    top: Int[Array, " n"]
    rows: Int[Array, " n"]


class TileSpans(NamedTuple):
    """Neighbouring tiles of one row that one Gaussian touches.

    Attributes:
        gaussian: row of the Gaussian, [S].
        tile: number of the leftmost tile, [S].
        length: number of tiles, [S]; 0 behind the last span.
    """

    gaussian: Int[Array, " s"]
    tile: Int[Array, " s"]
    length: Int[Array, " s"]


def count_isects(projected: ProjectedGaussians, *, width: int, height: int, tile_size: int) -> Int[Array, ""]:
    """Counts the pairs that :func:`intersect_tiles` needs room for.

    Args:
        projected: projected Gaussians, N rows; rows of radius 0 count nothing.
        width: image width in pixels.
        height: image height in pixels.
        tile_size: pixels per tile side.
    """
    tile_grid = TileGrid(width, height, tile_size)
    return _fold_spans(_footprints(projected, tile_grid), tile_grid, lambda state, *_: state, ())[0]


def saturating_sum(counts: Int[Array, " n"]) -> Int[Array, ""]:
    """Returns a sum that stays at the largest int32 instead of wrapping around."""
    return saturate(counts.sum(dtype=jnp.int32), counts.astype(jnp.float32).sum())


def saturate(total: Int[Array, ""], about: Float[Array, ""]) -> Int[Array, ""]:
    """Returns a sum of int32, or the largest int32 if the sum has wrapped around.

    Args:
        total: the sum as int32, which may have wrapped around.
        about: sum of the same numbers in floats, which is not exact.
    """
    return jnp.where(about > 0.999 * _MAX_INT32, _MAX_INT32, total)


def intersect_tiles(
    projected: ProjectedGaussians, *, width: int, height: int, tile_size: int, isect_capacity: int
) -> Intersections:
    """Lists the Gaussians of every tile, front to back; equal depths in the order of the rows.

    Args:
        projected: projected Gaussians, N rows; rows of radius 0 are left out.
        width: image width in pixels.
        height: image height in pixels.
        tile_size: pixels per tile side.
        isect_capacity: number of pairs that the buffer has room for; see :func:`count_isects`.
    """
    tile_grid = TileGrid(width, height, tile_size)
    num_tiles, num_gaussians = tile_grid.num_tiles, projected.depths.shape[0]
    if num_gaussians == 0:
        empty = jnp.zeros(isect_capacity + num_tiles + 2, jnp.int32)
        return Intersections(empty[:isect_capacity], empty[isect_capacity:-1], empty[-1])
    order = _argsort_positive(jax.lax.stop_gradient(projected.depths))
    footprints = Footprints(*(field[order] for field in _footprints(projected, tile_grid)))
    # One key holds tile and rank where 32 bits suffice: XLA for CPU sorts one array five times faster than two.
    # The sort is stable although it need not be: 1.3 million keys, half of them in order, take 54 ms, not 65.
    if (num_tiles + 1) * num_gaussians < _KEYS:
        total, (keys,) = _emit_pairs(footprints, tile_grid, isect_capacity, tile_step=num_gaussians)
        keys = jax.lax.sort(keys, is_stable=True)
        tile, rank = keys // jnp.uint32(num_gaussians), keys % jnp.uint32(num_gaussians)
    else:
        total, pairs = _emit_pairs(footprints, tile_grid, isect_capacity, tile_step=None)
        tile, rank = jax.lax.sort(pairs, num_keys=1, is_stable=True)
    offsets = jnp.searchsorted(tile, jnp.arange(num_tiles + 1, dtype=jnp.uint32)).astype(jnp.int32)
    return Intersections(order[rank], offsets, total)


def _emit_pairs(
    footprints: Footprints, tile_grid: TileGrid, isect_capacity: int, *, tile_step: int | None
) -> tuple[Int[Array, ""], tuple[Array, ...]]:
    """Returns the number of pairs, and their tiles and rows in the order of the rows, [isect_capacity] each.

    If ``tile_step`` is given, one array holds both: tile * tile_step + row. Behind the last pair, the tile is
    the number of tiles.
    """
    # Along a span the tile grows by one and the row stays the same.
    slopes = (1, 0) if tile_step is None else (tile_step,)

    def write(ramps, spans, begin):
        tile, row = spans.tile.astype(jnp.uint32), spans.gaussian.astype(jnp.uint32)
        firsts = (tile, row) if tile_step is None else (tile * tile_step + row,)
        return tuple(
            _add_ramp(ramp, first, slope, begin, spans.length)
            for ramp, first, slope in zip(ramps, firsts, slopes, strict=True)
        )

    ramps = (jnp.zeros(isect_capacity, jnp.uint32),) * len(slopes)
    total, ramps = _fold_spans(footprints, tile_grid, write, ramps)
    pair = jnp.arange(isect_capacity, dtype=jnp.uint32)
    tiles, *rows = (
        jnp.cumsum(ramp, dtype=jnp.uint32) + jnp.uint32(slope) * pair
        for ramp, slope in zip(ramps, slopes, strict=True)
    )
    unused = pair >= total.astype(jnp.uint32)
    return total, (jnp.where(unused, jnp.uint32(tile_grid.num_tiles * slopes[0]), tiles), *rows)


def _footprints(projected: ProjectedGaussians, tile_grid: TileGrid) -> Footprints:
    """Returns the ellipses that hold every touched pixel centre, and the rows of tiles that they reach."""
    (x, y), (rx, ry), (a, b, c) = jax.lax.stop_gradient(
        (projected.means2d.T, projected.radii.T, projected.conics.T)
    )
    visible = (rx > 0) & (ry > 0)
    rx, ry = (r * (1 + _SLACK) + _SLACK_PIXELS for r in (rx, ry))
    top, bottom = _tiles_between(y - ry, y + ry, tile_grid.height, tile_grid.tile_size)
    return Footprints(
        x=x,
        y=y,
        rx=rx,
        ry=ry,
        correlation=jnp.where(visible, -b / (jnp.sqrt(a) * jnp.sqrt(c)), 0),
        top=top,
        rows=jnp.where(visible, bottom - top, 0),
    )


def _tiles_between(low, high, size, tile_size):
    """Returns the first tile with a pixel centre in [low, high], and the tile after the last one.

    Args:
        low: smallest coordinate in pixels.
        high: largest coordinate in pixels.
        size: width or height of the image in pixels.
        tile_size: pixels per tile side.
    """
    first = jnp.ceil((low + 0.5) / tile_size) - 1
    end = jnp.floor((jnp.minimum(high, size) - 0.5) / tile_size) + 1
    end = jnp.where(low > size - 0.5, 0, end)
    first, end = (jnp.maximum(tile, 0).astype(jnp.int32) for tile in (jnp.minimum(first, size), end))
    return first, jnp.maximum(end, first)


def _fold_spans(
    footprints: Footprints, tile_grid: TileGrid, visit: Callable[[Any, TileSpans, Array], Any], state: Any
) -> tuple[Int[Array, ""], Any]:
    """Calls ``visit(state, spans, number of pairs before each span)`` for all tile spans, row by row.

    Returns:
        The number of pairs, at most the largest int32, and the last state.
    """
    if footprints.rows.shape[0] == 0:
        return jnp.zeros((), jnp.int32), state
    ends = jnp.cumsum(footprints.rows, dtype=jnp.int32)
    num_spans = min(max(_SPANS_PER_STEP, ends.shape[0]), _MAX_INT32 // 2 // tile_grid.columns)

    def step(carry):
        start, total, state = carry
        # The Gaussian of each span: counts of the Gaussians that end before it. A binary search takes twice as
        # long.
        counts = jnp.zeros(num_spans, jnp.int32).at[jnp.maximum(ends - start, 0)].add(1, mode="drop")
        nth = start + jnp.arange(num_spans, dtype=jnp.int32)
        spans = _nth_spans(footprints, ends, jnp.cumsum(counts, dtype=jnp.int32), nth, tile_grid)
        before = jnp.cumsum(spans.length, dtype=jnp.int32) - spans.length
        state = visit(state, spans, jnp.minimum(total, _MAX_INT32 // 2) + before)
        total = total + jnp.minimum(spans.length.sum(dtype=jnp.int32), _MAX_INT32 - total)
        return start + num_spans, total, state

    zero = jnp.zeros((), jnp.int32)
    _, total, state = jax.lax.while_loop(lambda carry: carry[0] < ends[-1], step, (zero, zero, state))
    # Where there are more spans than integers, there are more pairs too.
    return jnp.where(saturating_sum(footprints.rows) == _MAX_INT32, _MAX_INT32, total), state


def _nth_spans(footprints, ends, index, nth, tile_grid) -> TileSpans:
    """Returns tile spans by their numbers, counted over all Gaussians; those behind the last span are empty.

    Args:
        footprints: footprints of the Gaussians, N rows.
        ends: number of spans up to each Gaussian and with it, [N].
        index: row of the Gaussian of each span, [S].
        nth: number of each span, [S].
        tile_grid: the tiles of the image.
    """
    index = jnp.minimum(index, ends.shape[0] - 1)
    x, y, rx, ry, correlation, top, rows = (field[index] for field in footprints)
    row = top + nth - (ends[index] - rows)
    # The rightmost point of a band is as near to that of the ellipse, at v = correlation, as the band allows.
    centers = (row * tile_grid.tile_size, jnp.minimum((row + 1) * tile_grid.tile_size, tile_grid.height) - 1)
    low, high = (jnp.clip((center + 0.5 - y) / ry, -1, 1) for center in centers)
    squared = 1 - correlation**2
    slack = _SLACK_THICKNESS * jnp.finfo(x.dtype).eps

    def edge(side):
        v = jnp.clip(side * correlation, low, high)
        return x + rx * (correlation * v + side * jnp.sqrt(jnp.maximum(squared * (1 - v * v), 0) + slack))

    first, end = _tiles_between(edge(-1), edge(1), tile_grid.width, tile_grid.tile_size)
    return TileSpans(index, row * tile_grid.columns + first, jnp.where(nth < ends[-1], end - first, 0))


def _add_ramp(ramp, first, slope, begin, length):
    """Changes ``ramp`` so that its running sum plus slope * index is first, first + slope, ... from ``begin`` on.

    Sums of unsigned integers wrap around, so negative differences come out right.
    """
    offset = first - begin.astype(jnp.uint32) * jnp.uint32(slope)
    ramp = ramp.at[begin].add(offset, mode="drop", indices_are_sorted=True)
    return ramp.at[begin + length].add(-offset, mode="drop", indices_are_sorted=True)


def _argsort_positive(values: Float[Array, " n"]) -> Int[Array, " n"]:
    """Returns the stable argsort of floats that are not negative.

    It sorts digit by digit, with the digit and the index in one integer. On a CPU, XLA sorts a single array of
    integers many times faster than floats with their indices: 50,000 in 4 ms instead of 15.
    """
    num = values.shape[0]
    unsigned = jnp.uint64 if values.dtype == jnp.float64 else jnp.uint32
    bits = jnp.iinfo(unsigned).bits
    keys = jax.lax.bitcast_convert_type(values, unsigned)  # bits of such floats sort as they do
    index_bits = max(1, (num - 1).bit_length())
    digit_bits = bits - index_bits
    index = jnp.arange(num, dtype=unsigned)
    order = index
    for shift in range(0, bits, digit_bits):
        digits = (keys[order] >> shift) << index_bits
        order = order[jax.lax.sort(digits | index, is_stable=False) & (2**index_bits - 1)]
    return order.astype(jnp.int32)
