"""What is drawn, sorted by depth by kernels, against numpy; the kernels are interpreted on a CPU."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splax.ops.tile_grid import TileGrid
from splax.ops.triton.binning import depth_sort, radix_sort
from splax.ops.triton.binning.depth_sort import sort_by_depth, sort_by_depth_in_jax
from splax.ops.triton.binning.pack import PackedGaussians
from splax.ops.triton.binning.tile_lists import make_tile_lists
from splax.ops.triton.lanes.warp import Warp
from splax.ops.triton.lanes.work_partition import WorkPartition
from splax.ops.triton.pixel_regions import ID_MASK

INTERPRETED = Warp(interpret=True)
GROUP = WorkPartition(1, 1, radix_sort._STEPS).group
GROUP_TO_PACK = WorkPartition(1, 1, depth_sort._STEPS_TO_PACK).group


def some_drawn(num: int, fraction: float, seed: int = 0):
    """Pairs and depths of rows of which a fraction is drawn; depths of the others are anything."""
    rng = np.random.default_rng(seed)
    counts = np.where(rng.uniform(size=num) < fraction, rng.integers(1, 9, num), 0).astype(np.int32)
    depths = np.exp(rng.uniform(np.log(1e-3), np.log(1e9), num))
    depths[rng.uniform(size=num) < 0.3] = depths[0]
    return counts, np.where(counts > 0, depths, rng.choice([np.inf, -1, 0.5], num)).astype(np.float32)


def sorted_rows(counts: np.ndarray, depths: np.ndarray, room: int, bits: int = 32) -> np.ndarray:
    """The first rows that are drawn, in the order of the lowest bits of their depths."""
    kept = np.flatnonzero(counts > 0)[:room]
    return kept[np.argsort(depths[kept].view(np.uint32) & np.uint32(2**bits - 1), kind="stable")]


@functools.partial(jax.jit, static_argnums=2)
def sort(counts, depths, room):
    return sort_by_depth(counts, depths, room, INTERPRETED)


def assert_sorted(ranks, counts, depths, room, bits=32):
    wanted = sorted_rows(counts, depths, room, bits)
    assert ranks.rows.shape == (min(len(counts), room),)
    np.testing.assert_array_equal(ranks.num, [len(wanted)])
    np.testing.assert_array_equal(ranks.rows[: len(wanted)], wanted)


def assert_batch_sorted(num, room, bits=32):
    """Of views of which nothing, some and all is drawn; with more rows than room XLA sorts by all bits."""
    bits = bits if num <= room else 32
    views = [some_drawn(num, fraction, seed) for seed, fraction in enumerate((0.0, 0.3, 1.0))]
    counts, depths = (jnp.asarray(np.stack(x)) for x in zip(*views, strict=True))
    ranks = jax.jit(jax.vmap(lambda counts, depths: sort_by_depth(counts, depths, room, INTERPRETED)))(
        counts, depths
    )
    for i, view in enumerate(views):
        assert_sorted(jax.tree.map(lambda x, i=i: x[i], ranks), *view, room, bits)


@pytest.fixture
def two_passes(monkeypatch):
    """Sorts by the lower half of the bits: the first pass and the last, which XLA compiles in half the time."""
    monkeypatch.setattr(depth_sort, "_KEY_BITS", 16)


@pytest.mark.parametrize(
    ("num", "room"),
    [
        (1, 1),
        (33, 99),
        (GROUP, GROUP),
        (GROUP + 1, 10 * GROUP),
        (2 * GROUP_TO_PACK - 9, GROUP + 40),
    ],
)
@pytest.mark.usefixtures("two_passes")
def test_batches_of_any_size(num, room):
    assert_batch_sorted(num, room, bits=16)


@pytest.mark.parametrize("room", [5000, 40 * 32 + 300])
@pytest.mark.usefixtures("two_passes")
def test_programs_take_several_groups_and_tables_several_turns_where_there_are_many_rows(monkeypatch, room):
    monkeypatch.setattr(depth_sort, "MOST_PROGRAMS", 40)
    monkeypatch.setattr(depth_sort, "_STEPS_TO_PACK", 1)
    for name, value in {"MOST_PROGRAMS": 40, "_STEPS": 1, "_ENTRIES": 1}.items():
        monkeypatch.setattr(radix_sort, name, value)
    assert_batch_sorted(40 * 32 + 500, room, bits=16)


def test_depths_are_sorted_by_all_their_bits():
    counts, depths = some_drawn(5 * GROUP - 17, 0.6)
    assert_sorted(sort(counts, depths, len(counts)), counts, depths, len(counts))


def test_many_rows_are_packed_and_sorted_by_xla_where_all_fit_too(monkeypatch):
    monkeypatch.setattr(depth_sort, "_MOST_ROWS", 100)
    assert_batch_sorted(GROUP_TO_PACK + 70, 9 * GROUP_TO_PACK)


@pytest.mark.parametrize("room", [300, 40])
def test_plain_jax_finds_the_same(room):
    counts, depths = some_drawn(300, 0.6)
    assert_sorted(sort_by_depth_in_jax(jnp.asarray(counts), jnp.asarray(depths), room), counts, depths, room)


@pytest.mark.parametrize("bit", range(31))
def test_depths_that_differ_in_one_bit(bit):
    # Each row's key has the bit or has it not; the others are those of 1, or of 2 where 1 would be infinite.
    low = np.float32(2 if bit == 30 else 1).view(np.int32) & ~np.int32(1 << bit)
    has = np.random.default_rng(bit).uniform(size=40) < 0.5
    keys = np.where(has, low | np.int32(1 << bit), low).astype(np.int32)
    counts = np.ones(40, np.int32)
    ranks = sort(counts, keys.view(np.float32), 40)
    np.testing.assert_array_equal(ranks.rows, np.argsort(keys, kind="stable"))


def one_tile_each(num: int, fraction: float):
    """Round Gaussians in the middle of the one tile there is, of which a fraction is drawn."""
    counts, depths = some_drawn(num, fraction)
    counts = np.minimum(counts, 1)
    attributes = jnp.tile(jnp.array([4, 4, -0.1, 0, -0.1, 0, 1, 1, 1], jnp.float32), (num, 1))
    boxes = jnp.full((num, 2), 1 << 16, jnp.int32)
    return PackedGaussians(attributes, boxes, jnp.asarray(counts)), depths


@pytest.mark.parametrize("with_pair_offsets", [False, True])
def test_lists_with_less_room_than_rows_are_those_with_more(with_pair_offsets):
    num = 700
    packed, depths = one_tile_each(num, 0.2)
    drawn = int(packed.counts.sum())

    def lists(capacity) -> Any:
        return make_tile_lists(
            packed,
            jnp.asarray(depths),
            TileGrid(8, 8, 8),
            capacity,
            INTERPRETED,
            with_pair_offsets=with_pair_offsets,
        )

    few, many = lists(drawn + 3), lists(num)
    np.testing.assert_array_equal(
        few.ids[:drawn] & ID_MASK, sorted_rows(np.asarray(packed.counts), depths, num)
    )
    np.testing.assert_array_equal(few.ids[:drawn], many.ids[:drawn])
    np.testing.assert_array_equal(few.offsets, many.offsets)
    assert few.num_isects == many.num_isects == drawn
    if with_pair_offsets:
        np.testing.assert_array_equal(few.pair_offsets[:drawn], many.pair_offsets[:drawn])
        is_drawn = np.asarray(packed.counts) > 0
        np.testing.assert_array_equal(few.first[is_drawn], many.first[is_drawn])


def test_lists_without_room_for_all_count_all():
    packed, depths = one_tile_each(700, 0.5)
    lists = make_tile_lists(
        packed, jnp.asarray(depths), TileGrid(8, 8, 8), 100, INTERPRETED, with_pair_offsets=True
    )
    assert lists.num_isects == int(packed.counts.sum()) > 100
    assert int(lists.offsets[-1]) == 100
    wanted = sorted_rows(np.asarray(packed.counts), depths, 100)
    np.testing.assert_array_equal(lists.ids & ID_MASK, wanted)
