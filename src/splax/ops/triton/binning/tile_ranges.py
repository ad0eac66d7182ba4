"""Tile ranges: the pairs of each tile, the order in which tiles are drawn, and the places of their bucket states.

Two kernels over blocks of tiles: the first also sums what each block has, so that the second knows what the
blocks before its own have. XLA takes eight launches for all that follows the search.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.triton.lanes.block_sums import before_and_total, combine
from splax.ops.triton.lanes.search import lower_bounds
from splax.ops.triton.lanes.warp import LANES, Warp, full, lanes, load, store

# Pairs between two stored states; a multiple of 32. Shorter buckets give the backward pass more programs, longer
# ones less memory.
PAIRS_PER_BUCKET = 256
# Lists longer than each of these come before all that are not: the first for the forward pass, which walks a
# whole list, the others for the backward pass, which walks a bucket.
LONGER_THAN = (1024, 192, 128, 64)
# Number of steps of 32 tiles that one warp looks for at once. It is small, so that there are many warps, and
# that the loads of one step of the search, one sector for each lane, do not take longer to issue than to arrive.
_STEPS = 4
TILES_PER_BLOCK = _STEPS * LANES


class TileRanges(NamedTuple):
    """Numbers of all tiles that the drawing kernels need.

    Attributes:
        offsets: index of the first pair of each tile, and of the end of the last tile, [T + 1].
        order: all tiles, [T]: longer lists first, by :data:`LONGER_THAN`, so that none of these begins last,
            when nothing else runs.
        bucket_state_starts: first bucket state of each tile, and the end of the last one, [T + 1]; a tile has
            one for each bucket but its first.
        num_long: tiles whose lists are longer than the first of :data:`LONGER_THAN`, [1].
    """

    offsets: jax.Array
    order: jax.Array
    bucket_state_starts: jax.Array
    num_long: jax.Array


def tile_ranges(tiles: jax.Array, num_tiles: int, warp: Warp) -> TileRanges:
    """Finds the pairs of each tile.

    Args:
        tiles: tile of each pair, ascending, [M]; ``num_tiles`` behind the last pair.
        num_tiles: number of tiles, T.
        warp: warp that runs the kernels.
    """
    offsets, *sums = _find_tiles(tiles, num_tiles, warp)

    def kernel(offsets, bucket_states, *refs):
        *longer, order, starts, num_long = refs
        block = pl.program_id(0)
        befores, totals = zip(*(map(full, before_and_total(count, block)) for count in longer), strict=True)
        start = full(before_and_total(bucket_states, block)[0])
        blocks_tiles = _tiles_of(block)
        begins = [load(offsets, tile, tile < num_tiles) for tile in blocks_tiles]
        ends = [load(offsets, tile + 1, tile < num_tiles) for tile in blocks_tiles]
        for tile, begin, end in zip(blocks_tiles, begins, ends, strict=True):
            length = end - begin
            ballots = [warp.ballot(length > least) for least in LONGER_THAN]
            lower = (1 << lanes()) - 1
            # Numbers of tiles before this one: none, those with lists longer than each length, and all.
            nths = [
                before + lax.population_count(x & lower) for before, x in zip(befores, ballots, strict=True)
            ]
            nths, firsts = [full(0), *nths, tile], [full(0), *totals]
            places = [firsts[k] + nths[k + 1] - nths[k] for k in range(len(firsts))]
            place = places.pop()
            for least in reversed(LONGER_THAN):
                place = jnp.where(length > least, places.pop(), place)
            store(order, place, tile, tile < num_tiles)
            next_start = start + warp.running_sum(_num_stored_states(length))
            store(starts, tile, next_start - _num_stored_states(length), tile <= num_tiles)
            befores = [before + lax.population_count(x) for before, x in zip(befores, ballots, strict=True)]
            start = warp.from_lane(next_start, full(LANES - 1))

        @pl.when(block == 0)
        def _():
            num_long[0] = before_and_total(longer[0], block)[1]

    shapes = [jax.ShapeDtypeStruct((size,), jnp.int32) for size in (num_tiles, num_tiles + 1, 1)]
    args = (offsets, *map(combine, sums))
    return TileRanges(offsets, *warp.launch("order_tiles", kernel, (_num_blocks(num_tiles),), shapes, *args))


def _find_tiles(tiles, num_tiles, warp):
    """Finds the first pair of each tile; counts each block's bucket states, and its lists above each length."""

    def kernel(tiles, offsets, bucket_states, *longer):
        block = pl.program_id(0)
        blocks_tiles = _tiles_of(block)
        num_bucket_states, *nums_longer = [full(0)] * (1 + len(LONGER_THAN))

        def value_at(index, mask):
            return load(tiles, index, mask)

        # The last list ends where the next block begins.
        targets = [*blocks_tiles, full((block + 1) * TILES_PER_BLOCK)]
        begins = lower_bounds(value_at, full(0), full(tiles.shape[0]), tiles.shape[0], targets)
        from_next_lane = [warp.from_lane(begin, (lanes() + 1) & (LANES - 1)) for begin in begins]
        for step, tile in enumerate(blocks_tiles):
            end = jnp.where(lanes() < LANES - 1, from_next_lane[step], from_next_lane[step + 1])
            length = jnp.where(tile < num_tiles, end - begins[step], 0)
            store(offsets, tile, begins[step], tile <= num_tiles)
            num_bucket_states += _num_stored_states(length)
            nums_longer = [
                num + (length > least).astype(jnp.int32)
                for num, least in zip(nums_longer, LONGER_THAN, strict=True)
            ]
        for sums, counted in zip((bucket_states, *longer), (num_bucket_states, *nums_longer), strict=True):
            sums[block] = jnp.sum(counted)

    num_blocks = _num_blocks(num_tiles)
    sizes = num_tiles + 1, *[num_blocks] * (1 + len(LONGER_THAN))
    shapes = [jax.ShapeDtypeStruct((size,), jnp.int32) for size in sizes]
    return warp.launch("tile_offsets", kernel, (num_blocks,), shapes, tiles)


def _num_blocks(num_tiles: int) -> int:
    """Returns the number of blocks of all tiles and of the one behind the last, where the last list ends."""
    return num_tiles // TILES_PER_BLOCK + 1


def _tiles_of(block):
    """Returns the tiles of a block, [32] for each step."""
    return [block * TILES_PER_BLOCK + step * LANES + lanes() for step in range(_STEPS)]


def _num_stored_states(length):
    return jnp.maximum(length - 1, 0) // PAIRS_PER_BUCKET
