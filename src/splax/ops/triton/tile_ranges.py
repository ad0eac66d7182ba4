"""Where each tile's pairs lie, in which order tiles are drawn, and where their checkpoints are stored.

Two kernels over blocks of tiles: the first also sums what each block has, so that the second knows what the
blocks before its own have. XLA takes eight launches for all that follows the search.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.triton.block_sums import before_and_total, combine
from splax.ops.triton.search import lower_bounds
from splax.ops.triton.warp import LANES, Warp, full, lanes, load, store

# Pairs between two stored states; a multiple of 32. Shorter buckets give the backward pass more programs, longer
# ones less memory.
BUCKET_SIZE = 256
# Lists longer than this are drawn first.
LONG_LIST = 1024
# Steps of 32 tiles that one warp looks for at once. Few, so that there are many warps, and that the loads of one
# step of the search (a sector of its own for each lane) do not take longer to issue than to arrive.
_STEPS = 4
BLOCK = _STEPS * LANES


class TileRanges(NamedTuple):
    """What drawing needs to know of all tiles.

    Attributes:
        offsets: first pair of each tile, and the end of the last one, [T + 1].
        order: all tiles, [T]: long lists first, so that none of them begins last, when nothing runs beside it.
        checkpoint_starts: first checkpoint of each tile, and the end of the last one, [T + 1]; a tile has one for
            each bucket but its first.
    """

    offsets: jax.Array
    order: jax.Array
    checkpoint_starts: jax.Array


def tile_ranges(tiles: jax.Array, num_tiles: int, warp: Warp) -> TileRanges:
    """Finds the pairs of each tile.

    Args:
        tiles: tile of each pair, ascending, [M]; ``num_tiles`` where there is no pair.
        num_tiles: T.
        warp: how kernels run.
    """
    offsets, *sums = _find_tiles(tiles, num_tiles, warp)

    def kernel(offsets, long_lists, checkpoints, order, starts):
        block = pl.program_id(0)
        long_before, num_long = before_and_total(long_lists, block)
        long_before, num_long = full(long_before), full(num_long)
        start = full(before_and_total(checkpoints, block)[0])
        blocks_tiles = _tiles_of(block)
        begins = [load(offsets, tile, tile < num_tiles) for tile in blocks_tiles]
        ends = [load(offsets, tile + 1, tile < num_tiles) for tile in blocks_tiles]
        for tile, begin, end in zip(blocks_tiles, begins, ends, strict=True):
            length = end - begin
            bits = warp.ballot(length > LONG_LIST)
            nth_long = long_before + lax.population_count(bits & ((1 << lanes()) - 1))
            place = jnp.where(length > LONG_LIST, nth_long, num_long + tile - nth_long)
            store(order, place, tile, tile < num_tiles)
            next_start = start + warp.running_sum(_checkpoints(length))
            store(starts, tile, next_start - _checkpoints(length), tile <= num_tiles)
            long_before = long_before + lax.population_count(bits)
            start = warp.from_lane(next_start, full(LANES - 1))

    shapes = [jax.ShapeDtypeStruct((size,), jnp.int32) for size in (num_tiles, num_tiles + 1)]
    args = (offsets, *map(combine, sums))
    order, starts = warp.launch("order_tiles", kernel, (_num_blocks(num_tiles),), shapes, *args)
    return TileRanges(offsets, order, starts)


def _find_tiles(tiles, num_tiles, warp):
    """First pair of each tile; and of each block, how many long lists and how many checkpoints it has."""

    def kernel(tiles, offsets, long_lists, checkpoints):
        block = pl.program_id(0)
        blocks_tiles = _tiles_of(block)
        num_long = num_checkpoints = full(0)

        def value_at(index, mask):
            return load(tiles, index, mask)

        # The last list ends where the next block begins.
        targets = [*blocks_tiles, full((block + 1) * BLOCK)]
        begins = lower_bounds(value_at, full(0), full(tiles.shape[0]), tiles.shape[0], targets)
        from_next_lane = [warp.from_lane(begin, (lanes() + 1) & (LANES - 1)) for begin in begins]
        for step, tile in enumerate(blocks_tiles):
            end = jnp.where(lanes() < LANES - 1, from_next_lane[step], from_next_lane[step + 1])
            length = jnp.where(tile < num_tiles, end - begins[step], 0)
            store(offsets, tile, begins[step], tile <= num_tiles)
            num_long += (length > LONG_LIST).astype(jnp.int32)
            num_checkpoints += _checkpoints(length)
        long_lists[block] = jnp.sum(num_long)
        checkpoints[block] = jnp.sum(num_checkpoints)

    num_blocks = _num_blocks(num_tiles)
    shapes = [jax.ShapeDtypeStruct((size,), jnp.int32) for size in (num_tiles + 1, num_blocks, num_blocks)]
    return warp.launch("tile_offsets", kernel, (num_blocks,), shapes, tiles)


def _num_blocks(num_tiles: int) -> int:
    """Blocks of all tiles and of the one behind the last, where its list ends."""
    return num_tiles // BLOCK + 1


def _tiles_of(block):
    """The tiles of a block, 32 a step."""
    return [block * BLOCK + step * LANES + lanes() for step in range(_STEPS)]


def _checkpoints(length):
    return jnp.maximum(length - 1, 0) // BUCKET_SIZE
