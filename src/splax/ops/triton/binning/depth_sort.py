"""The sort of the drawn Gaussians by depth, front to back; only the device knows their number.

XLA's sort (stable_sort.py) takes as long for Gaussians that are not drawn, and its launches stay out of CUDA
graphs, so that on a small scene the GPU waits for them most of the time. But it collects items with the same
target in shared memory, which Pallas does not have, before it writes: it sorts millions of rows, and of pairs,
faster.
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

# Number of steps of 32 rows that are loaded at once where little is done to each.
_STEPS_TO_PACK = 8
_KEY_BITS = 32
# With more rows XLA sorts the drawn ones faster, once they are packed. On an H200 it takes 0.32 ms for 13.5
# million rows and 0.15 for 2.8 million; this sort takes 0.48 and 0.16.
_MOST_ROWS = 1 << 22
# A key behind the bits of all depths: no unsigned integer is larger.
_NEVER = -1


class Ranks(NamedTuple):
    """The drawn Gaussians in the order of their depths.

    Attributes:
        rows: rows of the drawn Gaussians, front to back, equal depths in the order of the rows, [R]; arbitrary
            behind the first ``num``.
        num: number of drawn Gaussians, [1].
    """

    rows: jax.Array
    num: jax.Array


def sort_by_depth(counts: jax.Array, depths: jax.Array, room: int, warp: Warp) -> Ranks:
    """Sorts the drawn Gaussians by depth; if there are more than ``room``, those of the first rows only.

    Args:
        counts: number of pairs of each Gaussian, [N]; 0 if it is not drawn.
        depths: camera-space z, [N]; positive where a Gaussian is drawn.
        room: largest number of Gaussians to sort; R is the smaller of this and N.
        warp: warp that runs the kernels.
    """
    num_rows = counts.shape[0]
    if num_rows <= min(room, _MOST_ROWS):
        _, rows, num = radix_sort(_Spread(depths, counts), _KEY_BITS, num_rows, warp)
        return Ranks(rows, num)
    room = min(num_rows, room)
    bits, rows, num = _pack(counts, depths, room, warp)
    # Bits behind the drawn rows are arbitrary.
    bits = jnp.where(jnp.arange(room) < num, bits, _NEVER)
    return Ranks(stable_sort(lax.bitcast_convert_type(bits, jnp.uint32), rows)[1], num)


def sort_by_depth_in_jax(counts: jax.Array, depths: jax.Array, room: int) -> Ranks:
    """Does :func:`sort_by_depth` without kernels; XLA takes ten seconds to compile interpreted ones."""
    is_drawn = (counts > 0) & (jnp.cumsum(counts > 0) <= room)
    rows = jnp.lexsort((depths, ~is_drawn))[:room].astype(jnp.int32)
    num = is_drawn.sum(dtype=jnp.int32)
    # The kernels do not write rows behind the drawn ones either.
    return Ranks(jnp.where(jnp.arange(len(rows)) < num, rows, -1), num.reshape(1))


class _Spread(NamedTuple):
    """All rows as a :class:`Source`; only the drawn rows exist as items."""

    depths: jax.Array
    counts: jax.Array

    @property
    def num(self):
        """None, since the number of drawn rows is not known yet."""
        return None

    def size(self):
        """Returns the number of rows."""
        return self.counts.shape[0]

    def exist(self, rows):
        """Returns masks of the rows, a list of steps, that are drawn."""
        return [load(self.counts, row, row < self.size()) > 0 for row in rows]

    def keys_at(self, rows, exist):
        """Returns the bits of the depths, also of rows that are not drawn."""
        del exist  # if it were used, the loads of depths would wait for those of counts
        depths = [load(self.depths, row, row < self.size()) for row in rows]
        return [lax.bitcast_convert_type(depth, jnp.int32) for depth in depths]

    def values_at(self, rows, exist):
        """Returns the rows themselves."""
        del exist
        return rows


def _pack(counts, depths, room, warp):
    """Returns the first ``room`` rows that are drawn, in order."""
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
    """Counts the drawn rows of each share."""
    partition = WorkPartition(counts.shape[0], MOST_PROGRAMS, _STEPS_TO_PACK)

    def kernel(counts, drawn):
        source = _Spread(counts, counts)

        def count(group, total):
            return total + sum(on.astype(jnp.int32) for on in source.exist(group))

        drawn[pl.program_id(0)] = jnp.sum(partition.share_of_program(source.size()).walk(count, full(0)))

    shape = jax.ShapeDtypeStruct((partition.programs,), jnp.int32)
    return warp.launch("count_drawn", kernel, (partition.programs,), shape, counts)
