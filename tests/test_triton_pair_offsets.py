"""Slots of pairs, numbered by kernels, against numpy; the kernels are interpreted on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splax.ops.intersection import saturating_sum
from splax.ops.triton.binning.depth_sort import Ranks
from splax.ops.triton.binning.pair_offsets import RANKS_PER_BLOCK, assign_pair_offsets
from splax.ops.triton.lanes import block_sums
from splax.ops.triton.lanes.warp import Warp

INTERPRETED = Warp(interpret=True)


def shuffled(num: int, num_drawn: int, room: int, most: int = 9, seed: int = 0):
    """Pairs of Gaussians of which some are drawn, and ranks of those; behind them are numbers of no Gaussian."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(num).astype(np.int32)
    counts = np.zeros(num, np.int32)
    counts[order[:num_drawn]] = rng.integers(1, most, num_drawn)
    order[num_drawn:] = rng.choice([-1, num + 5, 0], num - num_drawn)
    return counts, Ranks(jnp.asarray(order[:room]), jnp.array([min(num_drawn, room)]))


def expected(counts: np.ndarray, ranks: Ranks):
    """Ends in the order of the ranks, and firsts in that of the Gaussians."""
    order = np.asarray(ranks.rows)[: int(ranks.num[0])]
    ends = np.cumsum(counts[order], dtype=np.int32)
    first = np.zeros_like(counts)
    first[order] = ends - counts[order]
    return ends, first


@pytest.mark.parametrize(
    ("num", "num_drawn", "room", "with_first"),
    [
        (1, 1, 1, True),
        (12, 9, 12, True),
        (RANKS_PER_BLOCK, RANKS_PER_BLOCK, RANKS_PER_BLOCK, True),
        (RANKS_PER_BLOCK + 33, 0, RANKS_PER_BLOCK + 33, True),
        (2 * RANKS_PER_BLOCK + 5, RANKS_PER_BLOCK, 2 * RANKS_PER_BLOCK + 5, True),
        (2 * RANKS_PER_BLOCK + 1, 2 * RANKS_PER_BLOCK + 1, 2 * RANKS_PER_BLOCK + 1, False),
        (3 * RANKS_PER_BLOCK, 2 * RANKS_PER_BLOCK, RANKS_PER_BLOCK + 7, True),
    ],
)
@pytest.mark.parametrize("cumsum", [False, True])
def test_slots_are_running_sums(num, num_drawn, room, with_first, cumsum, monkeypatch):
    counts, ranks = shuffled(num, num_drawn, room)
    if cumsum:
        monkeypatch.setattr(block_sums, "_MOST_BLOCKS", 0)
    ends, total, first = assign_pair_offsets(jnp.asarray(counts), ranks, INTERPRETED, with_first=with_first)
    wanted_ends, wanted_first = expected(counts, ranks)
    np.testing.assert_array_equal(ends[: len(wanted_ends)], wanted_ends)
    assert total == wanted_ends[-1:].sum()
    if with_first:
        np.testing.assert_array_equal(first, wanted_first)
    else:
        assert first is None


@pytest.mark.parametrize(
    ("num", "most"),
    [(5 * RANKS_PER_BLOCK, 2**22), (RANKS_PER_BLOCK + 3, 2**28), (RANKS_PER_BLOCK, 2**31 - 1)],
)
def test_ends_wrap_around_as_integers_do_and_the_total_stays_at_the_largest(num, most):
    counts, ranks = shuffled(num, num, num, most)
    ends, total, _ = assign_pair_offsets(jnp.asarray(counts), ranks, INTERPRETED, with_first=False)
    assert ends.min() < 0 and counts.sum(dtype=np.int64) > 2**31
    np.testing.assert_array_equal(ends, expected(counts, ranks)[0])
    assert total == saturating_sum(jnp.asarray(counts)) == 2**31 - 1


def test_a_total_that_just_fits_is_exact():
    num = 4 * RANKS_PER_BLOCK - 9
    counts, ranks = jnp.full(num, 2**20, jnp.int32), Ranks(jnp.arange(num), jnp.array([num]))
    pair_offsets = assign_pair_offsets(counts, ranks, INTERPRETED, with_first=True)
    assert pair_offsets.total == pair_offsets.ends[-1] == len(counts) * 2**20


def test_a_batch_is_numbered_as_each_of_its_views():
    num, room = RANKS_PER_BLOCK + 40, RANKS_PER_BLOCK + 9
    views = [shuffled(num, num_drawn, room, seed=num_drawn) for num_drawn in (0, 60, RANKS_PER_BLOCK + 9)]
    counts, ranks = jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *views)
    ends, totals, first = jax.vmap(
        lambda counts, ranks: assign_pair_offsets(counts, ranks, INTERPRETED, with_first=True)
    )(counts, ranks)
    assert first is not None
    for i, (counts, ranks) in enumerate(views):
        wanted_ends, wanted_first = expected(counts, ranks)
        np.testing.assert_array_equal(ends[i, : len(wanted_ends)], wanted_ends)
        assert totals[i] == wanted_ends[-1:].sum()
        np.testing.assert_array_equal(first[i], wanted_first)
