"""Which slots the pairs of each Gaussian take: sums of their counts, in the order of the lists.

XLA gathers, slices, reduces and adds in a pass each, over all rows, though most of a large scene are not drawn.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from splax.ops.triton.compaction import BLOCK, rows_of
from splax.ops.triton.warp import LANES, Warp, full, load, store


class Slots(NamedTuple):
    """Where the pairs of Gaussians lie.

    Attributes:
        ends: slot behind the last one of each rank, [R].
        first: first slot of each Gaussian, [N]; 0 where it has none. None if it was not asked for.
    """

    ends: jax.Array
    first: jax.Array | None


def number_slots(counts: jax.Array, order: jax.Array, warp: Warp, *, with_first: bool) -> Slots:
    """Gives slots to all pairs, Gaussian after Gaussian; int32 wraps around if there are too many.

    Args:
        counts: pairs of each Gaussian, [N].
        order: number of the Gaussian of each rank, [R], of different ones; those without pairs come last.
        warp: how kernels run.
        with_first: whether the first slot of each Gaussian is needed.
    """
    num, num_ranks = counts.shape[0], order.shape[0]
    sums, *first = _sum_blocks(counts, order, warp, with_first)
    block_ends = jnp.cumsum(sums, dtype=jnp.int32)

    def kernel(counts, order, block_ends, *refs):
        ends, *first = refs[with_first:]
        block = pl.program_id(0)
        ranks = rows_of(block)
        has_pairs = _has_pairs(counts, order, block)
        total = block_ends[block_ends.shape[0] - 1]
        before = jnp.where(block > 0, block_ends[jnp.maximum(block - 1, 0)], 0)

        @pl.when(has_pairs)
        def _():
            gaussians, their_counts = _gather(counts, order, ranks)
            last = full(before)
            for rank, gaussian, count in zip(ranks, gaussians, their_counts, strict=True):
                end = last + warp.running_sum(count)
                store(ends, rank, end, rank < num_ranks)
                for ref in first:
                    store(ref, gaussian, end - count, count > 0)
                last = warp.from_lane(end, full(LANES - 1))

        @pl.when(~has_pairs)
        def _():
            for rank in ranks:
                store(ends, rank, full(total), rank < num_ranks)

    shapes = [jax.ShapeDtypeStruct((size,), jnp.int32) for size in [num_ranks] + [num] * with_first]
    ends, *first = warp.launch(
        "number_slots",
        kernel,
        (-(-num_ranks // BLOCK),),
        shapes,
        *(counts, order, block_ends, *first),
        in_place={3: 1} if with_first else {},
    )
    return Slots(ends, first[0] if with_first else None)


def _sum_blocks(counts, order, warp, with_zeros):
    """Pairs of each block of ranks and, if wanted, a 0 for each Gaussian."""
    num = counts.shape[0]
    # Not all Gaussians have a rank: what no block of ranks reaches is for others to clear.
    num_blocks = -(-(num if with_zeros else order.shape[0]) // BLOCK)

    def kernel(counts, order, sums, *zeros):
        block = pl.program_id(0)
        ranks = rows_of(block)
        has_pairs = _has_pairs(counts, order, block)

        @pl.when(has_pairs)
        def _():
            sums[block] = jnp.sum(sum(_gather(counts, order, ranks)[1]))

        @pl.when(~has_pairs)
        def _():
            sums[block] = 0

        # A program that runs anyway: XLA would start one of its own for them.
        for ref in zeros:
            for row in ranks:
                store(ref, row, full(0), row < num)

    shapes = [jax.ShapeDtypeStruct((size,), jnp.int32) for size in [num_blocks] + [num] * with_zeros]
    return warp.launch("sum_blocks", kernel, (num_blocks,), shapes, counts, order)


def _has_pairs(counts, order, block):
    """Whether the first rank of a block has pairs; if not, none of them has."""
    rank = block * BLOCK
    return (rank < order.shape[0]) & (counts[order[jnp.minimum(rank, order.shape[0] - 1)]] > 0)


def _gather(counts, order, ranks):
    """Gaussians of some ranks and their counts; all are loaded before one is used.

    Behind the last rank the count is 0, and the number is none: an interpreted kernel writes all lanes, those that
    are off what was there before, so that no two may name the same element.
    """
    exist = [rank < order.shape[0] for rank in ranks]
    gaussians = [load(order, rank, on) for rank, on in zip(ranks, exist, strict=True)]
    gaussians = [jnp.where(on, x, counts.shape[0]) for x, on in zip(gaussians, exist, strict=True)]
    return gaussians, [load(counts, x, on) for x, on in zip(gaussians, exist, strict=True)]
