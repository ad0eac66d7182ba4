"""What is drawn, packed at the front of memory, so that no more of it need be sorted than there is room for pairs.

Most rows of a large scene are out of view, and a sort takes as long for them as for the others.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.triton.block_sums import before_and_total, combine
from splax.ops.triton.warp import LANES, Warp, full, lanes, load, store

# Steps of 32 rows that one warp looks at; all are loaded before the first is used.
_STEPS = 16
BLOCK = _STEPS * LANES


def drawn_first(counts: jax.Array, depths: jax.Array, room: int, warp: Warp) -> tuple[jax.Array, jax.Array]:
    """The first ``room`` rows of a stable partition: rows that are drawn, then the others.

    No atomics: one pass counts what is drawn in each block of rows, the next one knows where a block begins.

    Args:
        counts: pairs of each Gaussian, [N]; 0 where nothing is drawn.
        depths: camera-space z, [N].
        room: rows to keep, at most N.
        warp: how kernels run.

    Returns:
        Bits of the depths, [room] uint32, and numbers of the rows they are of, [room] int32.
    """
    num = counts.shape[0]
    assert room <= num  # or the last places would not be written

    def kernel(counts, depths, sums, kept_keys, kept_rows):
        block = pl.program_id(0)
        rows = rows_of(block)
        drawn = [load(counts, row, row < num) > 0 for row in rows]
        keys = [lax.bitcast_convert_type(load(depths, row, row < num), jnp.uint32) for row in rows]
        before, total = before_and_total(sums, block)
        before = full(before)
        for row, is_drawn, key in zip(rows, drawn, keys, strict=True):
            bits = warp.ballot(is_drawn)
            drawn_before = before + lax.population_count(bits & ((1 << lanes()) - 1))
            place = jnp.where(is_drawn, drawn_before, total + row - drawn_before)
            kept = (row < num) & (place < room)
            store(kept_keys, place, key, kept)
            store(kept_rows, place, row, kept)
            before = before + lax.population_count(bits)

    shapes = [jax.ShapeDtypeStruct((room,), jnp.uint32), jax.ShapeDtypeStruct((room,), jnp.int32)]
    sums = _count_drawn(counts, warp)
    keys, rows = warp.launch("drawn_first", kernel, sums.shape, shapes, counts, depths, combine(sums))
    return keys, rows


def _count_drawn(counts, warp):
    """Rows that are drawn, of each block."""
    num = counts.shape[0]

    def kernel(counts, drawn):
        block = pl.program_id(0)
        flags = [load(counts, row, row < num) > 0 for row in rows_of(block)]
        drawn[block] = jnp.sum(sum(flag.astype(jnp.int32) for flag in flags))

    num_blocks = -(-num // BLOCK)
    shape = jax.ShapeDtypeStruct((num_blocks,), jnp.int32)
    return warp.launch("count_drawn", kernel, (num_blocks,), shape, counts)


def rows_of(block):
    """The rows of a block, 32 a step."""
    return [block * BLOCK + step * LANES + lanes() for step in range(_STEPS)]
