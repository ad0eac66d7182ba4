"""Pair offsets: running sums of the Gaussians' numbers of pairs, in the order of depth.

XLA gathers, slices, reduces and adds in a pass each, over all rows, though most of a large scene are not drawn.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from splax.ops.intersection import saturate
from splax.ops.triton.binning.depth_sort import Ranks
from splax.ops.triton.lanes.block_sums import before_and_total, combine, sum_all
from splax.ops.triton.lanes.warp import LANES, Warp, full, load, store
from splax.ops.triton.lanes.work_partition import steps_from

# Number of steps of 32 ranks that one warp looks at; all are loaded before the first is used.
_STEPS = 16
RANKS_PER_BLOCK = _STEPS * LANES


class PairOffsets(NamedTuple):
    """The places of the Gaussians' pairs before the sort by tile.

    Attributes:
        ends: pair offset behind the last one of each rank, [R]; behind the last rank anything.
        total: pairs of all ranks, []; the largest int32 if there are more.
        first: first pair offset of each Gaussian, [N]; 0 where it has none. None if it was not asked for.
    """

    ends: jax.Array
    total: jax.Array
    first: jax.Array | None


def assign_pair_offsets(counts: jax.Array, ranks: Ranks, warp: Warp, *, with_first: bool) -> PairOffsets:
    """Gives an offset to every pair, Gaussian after Gaussian.

    The ends wrap around if there are too many pairs for int32; the total does not.

    Args:
        counts: number of pairs of each Gaussian, [N].
        ranks: Gaussians that have pairs, in the order of their pair offsets.
        warp: warp that runs the kernels.
        with_first: whether to return the first pair offset of each Gaussian.
    """
    num, most_ranks = counts.shape[0], ranks.rows.shape[0]
    sums, about, *first = _sum_blocks(counts, ranks, warp, with_first)

    def kernel(counts, order, num_ranks, sums, about, *refs):
        ends, total, *first = refs[with_first:]
        block, num_ranks = pl.program_id(0), num_ranks[0]

        @pl.when(block * RANKS_PER_BLOCK < num_ranks)
        def _():
            here = _ranks_of(block)
            gaussians, their_counts = _gather(counts, order, here, num_ranks)
            last = full(before_and_total(sums, block)[0])
            for rank, gaussian, count in zip(here, gaussians, their_counts, strict=True):
                end = last + warp.running_sum(count)
                store(ends, rank, end, rank < num_ranks)
                for ref in first:
                    store(ref, gaussian, end - count, count > 0)
                last = warp.from_lane(end, full(LANES - 1))

        @pl.when(block == 0)
        def _():
            total[0] = saturate(before_and_total(sums, block)[1], sum_all(about))

    shapes = [jax.ShapeDtypeStruct((size,), jnp.int32) for size in [most_ranks, 1] + [num] * with_first]
    ends, total, *first = warp.launch(
        "pair_offsets",
        kernel,
        (-(-most_ranks // RANKS_PER_BLOCK),),
        shapes,
        *(counts, *ranks, combine(sums), about, *first),
        in_place={5: 2} if with_first else {},
    )
    return PairOffsets(ends, total.reshape(()), first[0] if with_first else None)


def _sum_blocks(counts, ranks, warp, with_zeros):
    """Sums the pairs of each block of ranks, as int32 and as floats, which never wrap; makes N zeros if wanted."""
    num = counts.shape[0]
    # Not all Gaussians have a rank: further blocks write the zeros that no block of ranks reaches.
    num_blocks = -(-(num if with_zeros else ranks.rows.shape[0]) // RANKS_PER_BLOCK)

    def kernel(counts, order, num_ranks, sums, about, *zeros):
        block, num_ranks = pl.program_id(0), num_ranks[0]

        @pl.when(block * RANKS_PER_BLOCK < num_ranks)
        def _():
            _, their_counts = _gather(counts, order, _ranks_of(block), num_ranks)
            sums[block] = jnp.sum(sum(their_counts))
            about[block] = jnp.sum(sum(count.astype(jnp.float32) for count in their_counts))

        @pl.when(block * RANKS_PER_BLOCK >= num_ranks)
        def _():
            sums[block] = 0
            about[block] = 0.0

        # These programs write the zeros too: XLA would start another kernel for them.
        for ref in zeros:
            for row in _ranks_of(block):
                store(ref, row, full(0), row < num)

    shapes = [jax.ShapeDtypeStruct((num_blocks,), dtype) for dtype in (jnp.int32, jnp.float32)]
    shapes += [jax.ShapeDtypeStruct((num,), jnp.int32)] * with_zeros
    return warp.launch("sum_blocks", kernel, (num_blocks,), shapes, counts, *ranks)


def _ranks_of(block):
    """Returns the ranks of a block, [32] for each step."""
    return steps_from(block * RANKS_PER_BLOCK, _STEPS)


def _gather(counts, order, ranks, num_ranks):
    """Returns the Gaussians of some ranks, and their counts; all are loaded before one is used.

    Behind the last rank the count is 0, and the row is out of bounds: an interpreted kernel writes all lanes, and
    lanes whose mask is off write back the old value, so no two lanes may name the same element.
    """
    exist = [rank < num_ranks for rank in ranks]
    gaussians = [load(order, rank, on) for rank, on in zip(ranks, exist, strict=True)]
    gaussians = [jnp.where(on, x, counts.shape[0]) for x, on in zip(gaussians, exist, strict=True)]
    return gaussians, [load(counts, x, on) for x, on in zip(gaussians, exist, strict=True)]
