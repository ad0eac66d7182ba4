"""Tile lists: the two sorts of :mod:`splax.ops.intersection`; kernels do the first one and the work in between.

Only tiles that the ellipse of a Gaussian reaches are listed, not the whole box around it. A pair carries, above
the number of its Gaussian, one bit for each subtile that the ellipse reaches.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.intersection import saturating_sum
from splax.ops.jax_internals.traced_once import traced_once
from splax.ops.tile_grid import TileGrid
from splax.ops.triton.binning.depth_sort import sort_by_depth, sort_by_depth_in_jax
from splax.ops.triton.binning.pack import MOST_TILES_A_SIDE, PackedGaussians, unpack_box
from splax.ops.triton.binning.pair_offsets import assign_pair_offsets
from splax.ops.triton.binning.stable_sort import stable_sort
from splax.ops.triton.binning.tile_ranges import tile_ranges
from splax.ops.triton.binning.tile_tests import reaches_box, tile_spans
from splax.ops.triton.lanes.search import shared_lower_bound
from splax.ops.triton.lanes.warp import LANES, Warp, full, lanes, load, store
from splax.ops.triton.pixel_regions import FORM_SIZE, ID_BITS, QuadraticForm, num_subtiles, subtile_size

_PAIRS_PER_LANE = 4


class TileLists(NamedTuple):
    """(tile, Gaussian) pairs, sorted by tile and within a tile by depth.

    The offset of a pair is its place before the sort by tile, where the pairs of one Gaussian lie side by side.

    Attributes:
        ids: row of the pair's Gaussian, and subtile bits above it, [M] int32.
        pair_offsets: offset of each pair, [M]; None if no offsets are kept.
        offsets: index of the first pair of each tile; see :class:`TileRanges`.
        order: tiles in the order of drawing; see :class:`TileRanges`.
        bucket_state_starts: index of the first bucket state of each tile; see :class:`TileRanges`.
        num_long: number of tiles with long lists; see :class:`TileRanges`.
        first: first pair offset of each Gaussian, [N], 0 if it has no pair; None if no offsets are kept.
        counts: number of pairs of each Gaussian, [N].
        num_isects: number of pairs; if it is above M, the lists are incomplete.
    """

    ids: jax.Array
    pair_offsets: jax.Array | None
    offsets: jax.Array
    order: jax.Array
    bucket_state_starts: jax.Array
    num_long: jax.Array
    first: jax.Array | None
    counts: jax.Array
    num_isects: jax.Array


@traced_once("tile_grid", "capacity", "warp", "with_pair_offsets")
def make_tile_lists(
    packed: PackedGaussians,
    depths: jax.Array,
    tile_grid: TileGrid,
    capacity: int,
    warp: Warp,
    *,
    with_pair_offsets: bool,
) -> TileLists:
    """Makes the lists of all tiles, front to back; equal depths are in the order of the rows.

    Args:
        packed: the packed Gaussians, N rows.
        depths: camera-space z, [N]; positive where a Gaussian is drawn.
        tile_grid: the tiles of the image.
        capacity: number of pairs that the buffer has room for, M.
        warp: warp that runs the kernels.
        with_pair_offsets: whether to keep the offset of each pair.

    Raises:
        ValueError: if the image has more tiles along a side than a box can hold.
    """
    if max(tile_grid.columns, tile_grid.rows) > MOST_TILES_A_SIDE:
        raise ValueError(
            f"an image of {tile_grid.width} x {tile_grid.height} pixels has more than {MOST_TILES_A_SIDE:,} "
            f"tiles of {tile_grid.tile_size} pixels along a side; use a larger tile_size, a smaller image or "
            "implementation='xla_vjp'."
        )
    counts = packed.counts
    # Each drawn Gaussian has at least one pair, so no more than ``capacity`` of them need to be sorted.
    if warp.interpret:
        ranks = sort_by_depth_in_jax(counts, depths, capacity)
    else:
        ranks = sort_by_depth(counts, depths, capacity, warp)
    ends, total, first = assign_pair_offsets(counts, ranks, warp, with_first=with_pair_offsets)
    tiles, ids, *numbers = _emit(ends, ranks, packed, tile_grid, capacity, warp, with_pair_offsets)
    pair_offsets = None
    bound = tile_grid.num_tiles + 1
    if with_pair_offsets:
        tiles, pair_offsets = stable_sort(tiles, numbers[0], bound)
        ids = ids[pair_offsets]
    else:
        tiles, ids = stable_sort(tiles, ids, bound)
    ranges = tile_ranges(tiles, tile_grid.num_tiles, warp)
    # If there are fewer ranks than Gaussians, a Gaussian without a rank may have pairs.
    num_isects = total if ranks.rows.shape == counts.shape else saturating_sum(counts)
    return TileLists(ids, pair_offsets, *ranges, first, counts, num_isects)


class _InputRefs(NamedTuple):
    """References to the flat arrays that the kernel reads.

    Attributes:
        ends: pair offset behind the last pair of each rank.
        order: Gaussian of each rank.
        num_ranks: number of ranks, [1].
        attributes: rows of the Gaussians; see :class:`PackedGaussians`.
        boxes: boxes of tiles; see :class:`PackedGaussians`.
    """

    ends: Any
    order: Any
    num_ranks: Any
    attributes: Any
    boxes: Any


_NUM_INPUTS = len(_InputRefs._fields)


class _OutputRefs(NamedTuple):
    """References to what the kernel writes for each pair offset: its tile, its pair and, if wanted, its number."""

    tiles: Any
    ids: Any
    numbers: Any = None


def _emit(ends, ranks, packed, tile_grid, capacity, warp, numbered):
    """Writes the pairs in the order of their offsets: the tile, the id and, if wanted, the offset of each.

    Behind the last pair the tile is ``num_tiles``.
    """
    most_ranks, stride = ranks.rows.shape[0], packed.attributes.shape[1]
    # 16-bit keys sort twice as fast.
    key = jnp.uint16 if tile_grid.num_tiles < 2**16 else jnp.uint32
    pairs_per_program = LANES * _PAIRS_PER_LANE

    def kernel(*refs):
        inputs, out = _InputRefs(*refs[:_NUM_INPUTS]), _OutputRefs(*refs[_NUM_INPUTS:])
        ends = inputs.ends
        last_rank = inputs.num_ranks[0] - 1
        total = jnp.where(last_rank >= 0, ends[jnp.maximum(last_rank, 0)], 0)
        base = pl.program_id(0) * pairs_per_program

        def write_none(step, _):
            pair_offset = base + step * LANES + lanes()
            store(out.tiles, pair_offset, full(tile_grid.num_tiles).astype(key), pair_offset < capacity)
            return 0

        def write(step, at):
            first_pair_offset = base + step * LANES
            pair_offset = first_pair_offset + lanes()
            exists = pair_offset < total
            (rank, first), at = ranks_of_pairs(ends, first_pair_offset, last_rank, warp, *at)
            gaussian = load(inputs.order, rank)
            form = QuadraticForm(*(load(inputs.attributes, gaussian * stride + q) for q in range(FORM_SIZE)))
            left, top, columns, rows = unpack_box(*(load(inputs.boxes, gaussian * 2 + q) for q in range(2)))
            bottom, span_of = top + rows, tile_spans(form, left, columns, tile_grid, warp)

            def down(carry):
                row, nth, _, span = carry
                passed = (nth >= span) & (row < bottom)
                nth, row = jnp.where(passed, nth - span, nth), jnp.where(passed, row + 1, row)
                return (row, nth, *span_of(row))

            nth = pair_offset - first
            start = (top, nth, *span_of(top))
            row, nth, column, span = lax.while_loop(
                lambda carry: (
                    jnp.max((exists & (carry[1] >= carry[3]) & (carry[0] < bottom)).astype(jnp.int32)) > 0
                ),
                down,
                start,
            )
            found = (nth < span) & (row < bottom)
            column, row = (
                jnp.minimum(column + nth, tile_grid.columns - 1),
                jnp.minimum(row, tile_grid.rows - 1),
            )
            # A pair that reaches no subtile stays in the list, so that the backward pass writes its row too.
            bits = jnp.where(found, _subtile_bits(form, column, row, tile_grid, warp), 0)
            tile = jnp.where(exists, row * tile_grid.columns + column, tile_grid.num_tiles)
            store(out.tiles, pair_offset, tile.astype(key), pair_offset < capacity)
            store(out.ids, pair_offset, gaussian | (bits << ID_BITS), pair_offset < capacity)
            return at

        @pl.when(base < total)
        def _():
            first_rank = shared_lower_bound(ends, most_ranks, base + 1, warp, inputs.num_ranks[0])
            # If ends wrapped around, there may be no such rank: then the last one is taken, so that reads stay
            # inside.
            first_rank = jnp.minimum(first_rank, last_rank)
            begin = load(ends, jnp.maximum(first_rank - 1, 0), first_rank > 0)
            lax.fori_loop(0, _PAIRS_PER_LANE, write, (first_rank, begin))

        @pl.when(base >= total)
        def _():
            lax.fori_loop(0, _PAIRS_PER_LANE, write_none, 0)

        # These programs write the numbers too: XLA would start another, slow kernel for them.
        for step in range(_PAIRS_PER_LANE if numbered else 0):
            pair_offset = base + step * LANES + lanes()
            store(out.numbers, pair_offset, pair_offset, pair_offset < capacity)

    shapes = [jax.ShapeDtypeStruct((capacity,), dtype) for dtype in [key, jnp.int32] + [jnp.int32] * numbered]
    args = _InputRefs(ends, ranks.rows, ranks.num, packed.attributes.reshape(-1), packed.boxes.reshape(-1))
    return warp.launch("emit", kernel, (-(-capacity // pairs_per_program),), shapes, *args)


def ranks_of_pairs(ends, first_pair_offset, last_rank, warp: Warp, first_rank, begin):
    """Returns the ranks of the next 32 pair offsets, and the rank of the offset behind them.

    Every rank has a pair, so the 32 offsets lie in at most 32 ranks, whose ends the lanes hold.

    Args:
        ends: pair offset behind the last pair of each rank, [R].
        first_pair_offset: first of the 32 pair offsets.
        last_rank: number of the last rank that exists.
        warp: warp that the lanes belong to.
        first_rank: rank of the first pair offset, in all lanes.
        begin: first pair offset of that rank, in all lanes.

    Returns:
        A rank and its first pair offset for each of the 32; the same two numbers, in all lanes, for the next
        one.
    """
    nth = first_rank + lanes()
    exists = nth < last_rank
    end = load(ends, nth, exists)
    behind = end - first_pair_offset

    def rank_after(num):
        """Returns the rank ``num`` behind the first one, and its first offset: the end of the rank before."""
        from_before = warp.from_lane(end, jnp.maximum(num - 1, 0))
        return first_rank + num, jnp.where(num > 0, from_before, begin)

    # A bit for each of these pair offsets with which a rank begins.
    starts = warp.union(jnp.where(exists & (behind > 0) & (behind < LANES), 1 << (behind & (LANES - 1)), 0))
    up_to_own = starts & ((2 << lanes()) - 1)
    ended = exists & (behind <= LANES)
    return rank_after(lax.population_count(up_to_own)), rank_after(lax.population_count(warp.ballot(ended)))


def _subtile_bits(form, column, row, tile_grid, warp):
    side, size = subtile_size(tile_grid), tile_grid.tile_size
    bits = full(0)
    for subtile in range(num_subtiles(tile_grid)):
        x = column * size + (subtile % (size // side)) * side
        y = row * size + (subtile // (size // side)) * side
        bits |= reaches_box(form, x, y, side, side, warp).astype(jnp.int32) << subtile
    return bits
