"""What is drawn, from front to back: a sort of the bits of the depths, of as many as the device finds drawn.

XLA's sort (sorts.py) takes as long for what is not drawn, and its launches stay out of CUDA graphs, so that on a
small scene the GPU waits for them most of the time. But it puts what goes to the same place side by side in shared
memory, which Pallas has not, before it writes: millions of rows, and of pairs, it sorts faster.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.triton.binning.radix_sort import (
    MOST_PROGRAMS,
    Items,
    add_up,
    count_up,
    lanes_before,
    radix_sort,
)
from splax.ops.triton.binning.stable_sort import stable_sort
from splax.ops.triton.lanes.warp import Warp, full, load, stack, store
from splax.ops.triton.lanes.work_partition import WorkPartition, unstack

# Steps of 32 rows that are loaded at once where little is done to each.
_STEPS_TO_PACK = 8
_KEY_BITS = 32
# Of more rows XLA sorts faster what is drawn, once it is packed. On an H200 it takes 0.32 ms of 13.5 million and
# 0.15 of 2.8 million, and this 0.48 and 0.16.
_MOST_ROWS = 1 << 22
# The bits of no depth: as unsigned integers none are larger.
_NEVER = -1


class Ranks(NamedTuple):
    """Which Gaussian is drawn when.

    Attributes:
        rows: numbers of the Gaussians that are drawn, from front to back, equal depths in the order of the rows,
            [R]; behind the first ``num`` anything.
        num: how many there are, [1].
    """

    rows: jax.Array
    num: jax.Array


def sort_by_depth(counts: jax.Array, depths: jax.Array, room: int, warp: Warp) -> Ranks:
    """Sorts what is drawn by depth; of more than there is room for, only the first rows.

    Args:
        counts: pairs of each Gaussian, [N]; 0 where nothing is drawn.
        depths: camera-space z, [N]; positive where something is drawn.
        room: R is the smaller one of this and N.
        warp: how kernels run.
    """
    num_rows = counts.shape[0]
    if num_rows <= min(room, _MOST_ROWS):
        _, rows, num = radix_sort(_Spread(depths, counts), _KEY_BITS, num_rows, warp)
        return Ranks(rows, num)
    room = min(num_rows, room)
    bits, rows, num = _pack(counts, depths, room, warp)
    # Behind what is drawn there is anything.
    bits = jnp.where(jnp.arange(room) < num, bits, _NEVER)
    return Ranks(stable_sort(lax.bitcast_convert_type(bits, jnp.uint32), rows)[1], num)


def sort_by_depth_in_jax(counts: jax.Array, depths: jax.Array, room: int) -> Ranks:
    """What :func:`sort_by_depth` finds, without kernels: interpreted, XLA takes ten seconds to compile them."""
    is_drawn = (counts > 0) & (jnp.cumsum(counts > 0) <= room)
    rows = jnp.lexsort((depths, ~is_drawn))[:room].astype(jnp.int32)
    num = is_drawn.sum(dtype=jnp.int32)
    # Nor do the kernels write numbers of Gaussians behind those that are drawn.
    return Ranks(jnp.where(jnp.arange(len(rows)) < num, rows, -1), num.reshape(1))


class _Spread(NamedTuple):
    """All rows, of which only those that are drawn are to be sorted."""

    depths: jax.Array
    counts: jax.Array

    @property
    def num(self):
        """Not known yet."""
        return None

    def size(self):
        """Rows to look at."""
        return self.counts.shape[0]

    def exist(self, rows):
        """Which of some rows, a list of steps, are there to be sorted."""
        return [load(self.counts, row, row < self.size()) > 0 for row in rows]

    def keys_at(self, rows, exist):
        """Their bits; they need not exist."""
        del exist  # would have the depths wait for the counts
        depths = [load(self.depths, row, row < self.size()) for row in rows]
        return [lax.bitcast_convert_type(depth, jnp.int32) for depth in depths]

    def values_at(self, rows, exist):
        """Which Gaussians they are."""
        del exist
        return rows


def _pack(counts, depths, room, warp):
    """The first ``room`` rows that are drawn, in order."""
    partition = WorkPartition(counts.shape[0], MOST_PROGRAMS, _STEPS_TO_PACK)
    begins, total = add_up(_count_drawn(counts, warp), None, partition, warp)

    def kernel(depths, counts, begins, total, bits, rows, num):
        source = _Spread(depths, counts)

        def pack(group, begin):
            exist = source.exist(group)
            keys, ballots = source.keys_at(group, exist), warp.ballot(stack(exist))
            befores, added = count_up(ballots)
            places = begin + befores + lax.population_count(ballots & lanes_before())
            for row, key, place, on in zip(group, keys, unstack(places), exist, strict=True):
                kept = on & (place < room)
                # Interpreted kernels write all lanes; behind the end nothing is written.
                place = jnp.where(kept, place, room)
                store(bits, place, key, kept)
                store(rows, place, row, kept)
            return begin + added

        program = pl.program_id(0)
        partition.share_of_program(source.size()).walk(pack, full(begins[program]))

        @pl.when(program == 0)
        def _():
            num[0] = jnp.minimum(total[0], room)

    shapes = [jax.ShapeDtypeStruct((size,), jnp.int32) for size in (room, room, 1)]
    return Items(
        *warp.launch("pack_drawn", kernel, (partition.programs,), shapes, depths, counts, begins, total)
    )


def _count_drawn(counts, warp):
    """Rows of each span that are drawn."""
    partition = WorkPartition(counts.shape[0], MOST_PROGRAMS, _STEPS_TO_PACK)

    def kernel(counts, drawn):
        source = _Spread(counts, counts)

        def count(group, total):
            return total + sum(on.astype(jnp.int32) for on in source.exist(group))

        drawn[pl.program_id(0)] = jnp.sum(partition.share_of_program(source.size()).walk(count, full(0)))

    shape = jax.ShapeDtypeStruct((partition.programs,), jnp.int32)
    return warp.launch("count_drawn", kernel, (partition.programs,), shape, counts)
