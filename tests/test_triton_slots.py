"""Slots of pairs, numbered by kernels, against numpy; the kernels are interpreted on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splax.ops.triton.compaction import BLOCK
from splax.ops.triton.slots import number_slots
from splax.ops.triton.warp import Warp

INTERPRETED = Warp(interpret=True)


def shuffled(num: int, num_drawn: int, room: int, most: int = 9, seed: int = 0):
    """Pairs of Gaussians of which some are drawn, and an order that has those first."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(num).astype(np.int32)
    counts = np.zeros(num, np.int32)
    counts[order[:num_drawn]] = rng.integers(1, most, num_drawn)
    return counts, order[:room]


def expected(counts: np.ndarray, order: np.ndarray):
    """Ends in the order of the ranks, and firsts in that of the Gaussians."""
    ends = np.cumsum(counts[order], dtype=np.int32)
    first = np.zeros_like(counts)
    first[order] = np.where(counts[order] > 0, ends - counts[order], 0)
    return ends, first


@pytest.mark.parametrize(
    ("num", "num_drawn", "room", "with_first"),
    [
        (1, 1, 1, True),
        (12, 9, 12, True),
        (BLOCK, BLOCK, BLOCK, True),
        (BLOCK + 33, 0, BLOCK + 33, True),
        (2 * BLOCK + 5, BLOCK, 2 * BLOCK + 5, True),
        (2 * BLOCK + 1, 2 * BLOCK + 1, 2 * BLOCK + 1, False),
        (3 * BLOCK, 2 * BLOCK, BLOCK + 7, True),
    ],
)
def test_slots_are_running_sums(num, num_drawn, room, with_first):
    counts, order = shuffled(num, num_drawn, room)
    ends, first = number_slots(jnp.asarray(counts), jnp.asarray(order), INTERPRETED, with_first=with_first)
    wanted_ends, wanted_first = expected(counts, order)
    np.testing.assert_array_equal(ends, wanted_ends)
    if with_first:
        np.testing.assert_array_equal(first, wanted_first)
    else:
        assert first is None


def test_too_many_pairs_wrap_around_as_integers_do():
    counts, order = shuffled(BLOCK + 3, BLOCK + 3, BLOCK + 3, most=2**28)
    ends, _ = number_slots(jnp.asarray(counts), jnp.asarray(order), INTERPRETED, with_first=False)
    assert ends.min() < 0
    np.testing.assert_array_equal(ends, expected(counts, order)[0])


def test_a_batch_is_numbered_as_each_of_its_views():
    num, room = BLOCK + 40, BLOCK + 9
    views = [shuffled(num, num_drawn, room, seed=num_drawn) for num_drawn in (0, 60, BLOCK + 9)]
    counts, order = (jnp.asarray(np.stack(x)) for x in zip(*views, strict=True))
    ends, first = jax.vmap(lambda counts, order: number_slots(counts, order, INTERPRETED, with_first=True))(
        counts, order
    )
    assert first is not None
    for i, view in enumerate(views):
        wanted_ends, wanted_first = expected(*view)
        np.testing.assert_array_equal(ends[i], wanted_ends)
        np.testing.assert_array_equal(first[i], wanted_first)
