"""Rows that are drawn, packed by kernels, against numpy; the kernels are interpreted on a CPU."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splax.ops.triton import block_sums
from splax.ops.triton.compaction import BLOCK, drawn_first
from splax.ops.triton.intersection import make_lists
from splax.ops.triton.prepare import Prepared
from splax.ops.triton.tiling import ID_MASK, Tiling
from splax.ops.triton.warp import Warp

INTERPRETED = Warp(interpret=True)


def some_drawn(num: int, fraction: float, seed: int = 0):
    """Pairs and depths of rows of which a fraction is drawn."""
    rng = np.random.default_rng(seed)
    counts = np.where(rng.uniform(size=num) < fraction, rng.integers(1, 9, num), 0).astype(np.int32)
    depths = np.where(counts > 0, rng.uniform(0.1, 9, num), np.inf).astype(np.float32)
    return counts, depths


def partition(counts: np.ndarray, room: int) -> np.ndarray:
    """What is drawn, then the rest, each in the order of the rows."""
    return np.concatenate([np.flatnonzero(counts > 0), np.flatnonzero(counts == 0)])[:room]


@pytest.mark.parametrize(
    ("num", "fraction", "room"),
    [
        (1, 1.0, 1),
        (33, 0.5, 33),
        (BLOCK, 0.0, 300),
        (BLOCK, 1.0, BLOCK),
        (2 * BLOCK - 17, 0.3, BLOCK + 1),
        (2 * BLOCK + 1, 1.0, 300),
    ],
)
@pytest.mark.parametrize("cumsum", [False, True])
def test_drawn_rows_come_first_and_in_order(num, fraction, room, cumsum, monkeypatch):
    if cumsum:
        monkeypatch.setattr(block_sums, "_MOST_BLOCKS", 0)
    counts, depths = some_drawn(num, fraction)
    keys, rows = drawn_first(jnp.asarray(counts), jnp.asarray(depths), room, INTERPRETED)
    wanted = partition(counts, room)
    np.testing.assert_array_equal(rows, wanted)
    np.testing.assert_array_equal(keys, depths[wanted].view(np.uint32))


def test_a_batch_is_packed_as_each_of_its_views():
    views = [some_drawn(BLOCK + 40, fraction, seed) for seed, fraction in enumerate((0.0, 0.1, 0.9))]
    counts, depths = (np.stack(x) for x in zip(*views, strict=True))
    room = 200
    keys, rows = jax.vmap(lambda counts, depths: drawn_first(counts, depths, room, INTERPRETED))(
        jnp.asarray(counts), jnp.asarray(depths)
    )
    for (counts, depths), view_keys, view_rows in zip(views, keys, rows, strict=True):
        wanted = partition(counts, room)
        np.testing.assert_array_equal(view_rows, wanted)
        np.testing.assert_array_equal(view_keys, depths[wanted].view(np.uint32))


def one_tile_each(num: int, fraction: float):
    """Round Gaussians in the middle of the one tile there is, of which a fraction is drawn."""
    counts, depths = some_drawn(num, fraction)
    counts = np.minimum(counts, 1)
    attributes = jnp.tile(jnp.array([4, 4, -0.1, 0, -0.1, 0, 1, 1, 1], jnp.float32), (num, 1))
    boxes = jnp.full((num, 2), 1 << 16, jnp.int32)
    return Prepared(attributes, boxes, jnp.asarray(counts)), depths


@pytest.mark.parametrize("with_slots", [False, True])
def test_lists_with_less_room_than_rows_are_those_with_more(with_slots):
    num = 700
    prepared, depths = one_tile_each(num, 0.2)
    drawn = int(prepared.counts.sum())

    def lists(capacity) -> Any:
        return make_lists(
            prepared, jnp.asarray(depths), Tiling(8, 8, 8), capacity, INTERPRETED, with_slots=with_slots
        )

    few, many = lists(drawn + 3), lists(num)
    np.testing.assert_array_equal(few.ids[:drawn] & ID_MASK, np.argsort(depths, kind="stable")[:drawn])
    np.testing.assert_array_equal(few.ids[:drawn], many.ids[:drawn])
    np.testing.assert_array_equal(few.offsets, many.offsets)
    assert few.num_isects == many.num_isects == drawn
    if with_slots:
        np.testing.assert_array_equal(few.slots[:drawn], many.slots[:drawn])
        is_drawn = np.asarray(prepared.counts) > 0
        np.testing.assert_array_equal(few.first[is_drawn], many.first[is_drawn])


def test_lists_without_room_for_all_count_all():
    prepared, depths = one_tile_each(700, 0.5)
    lists = make_lists(prepared, jnp.asarray(depths), Tiling(8, 8, 8), 100, INTERPRETED, with_slots=True)
    assert lists.num_isects == int(prepared.counts.sum()) > 100
    assert int(lists.offsets[-1]) == 100
    kept = np.flatnonzero(prepared.counts)[:100]
    np.testing.assert_array_equal(lists.ids & ID_MASK, kept[np.argsort(depths[kept])])
