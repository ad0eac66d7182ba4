"""Ranges, order and checkpoints of tiles, found by kernels that are interpreted on a CPU, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splax.ops.triton.binning.tile_ranges import LONGER_THAN, PAIRS_PER_BUCKET, TILES_PER_BLOCK, tile_ranges
from splax.ops.triton.lanes import block_sums
from splax.ops.triton.lanes.warp import LANES, Warp, lanes, store

INTERPRETED = Warp(interpret=True)


def sorted_tiles(lengths: np.ndarray, unused: int, dtype: type = np.uint16) -> np.ndarray:
    """Tile of each pair, of lists of some lengths, and room that nothing uses."""
    return np.repeat(np.arange(len(lengths) + 1), [*lengths, unused]).astype(dtype)


def expected(lengths: np.ndarray):
    """Offsets, order, first checkpoints, and how many lists are longer than the longest of the lengths."""
    not_longer = np.sum(lengths[:, None] <= np.array(LONGER_THAN), axis=1)
    bucket_states = np.maximum(-(-lengths // PAIRS_PER_BUCKET) - 1, 0)
    begins, starts = (np.concatenate([[0], np.cumsum(x)]) for x in (lengths, bucket_states))
    return begins, np.argsort(not_longer, kind="stable"), starts, [(not_longer == 0).sum()]


def assert_ranges(ranges, lengths: np.ndarray):
    for found, wanted in zip(ranges, expected(lengths), strict=True):
        np.testing.assert_array_equal(found, wanted)


def some_lengths(num_tiles: int, seed: int) -> np.ndarray:
    """Lists of which some are empty, some long, and some as long as a whole number of buckets, or one more."""
    rng = np.random.default_rng(seed)
    edges = [0, 1, PAIRS_PER_BUCKET, PAIRS_PER_BUCKET + 1, 2 * PAIRS_PER_BUCKET]
    edges += [length + more for length in LONGER_THAN for more in (0, 1)]
    return np.where(
        rng.uniform(size=num_tiles) < 0.5, rng.choice(edges, num_tiles), rng.geometric(0.05, num_tiles)
    )


@pytest.mark.parametrize("cumsum", [False, True])
@pytest.mark.parametrize("unused", [0, 5, LONGER_THAN[0] + 9])
@pytest.mark.parametrize(
    "num_tiles",
    [1, 2, LANES, TILES_PER_BLOCK - 1, TILES_PER_BLOCK, TILES_PER_BLOCK + 1, 3 * TILES_PER_BLOCK + 40],
)
def test_ranges_are_those_of_the_lists(num_tiles, unused, cumsum, monkeypatch):
    if cumsum:
        monkeypatch.setattr(block_sums, "_MOST_BLOCKS", 0)
    lengths = some_lengths(num_tiles, seed=num_tiles)
    lengths[-1] = max(lengths[-1], 1)
    assert_ranges(tile_ranges(jnp.asarray(sorted_tiles(lengths, unused)), num_tiles, INTERPRETED), lengths)


@pytest.mark.parametrize("length", [0, LONGER_THAN[0] + 1])
def test_all_lists_empty_or_all_long(length):
    lengths = np.full(TILES_PER_BLOCK + 7, length)
    ranges = tile_ranges(jnp.asarray(sorted_tiles(lengths, unused=3)), len(lengths), INTERPRETED)
    assert_ranges(ranges, lengths)


def test_more_tiles_than_16_bits_can_number():
    num_tiles = 2**16 + 3 * TILES_PER_BLOCK + 5
    lengths = np.random.default_rng(0).poisson(0.5, num_tiles)
    lengths[[0, 70, 2**16 + 5, num_tiles - 1]] = [LONGER_THAN[0] + 1, 600, 5000, 300]
    tiles = jnp.asarray(sorted_tiles(lengths, unused=9, dtype=np.uint32))
    assert_ranges(tile_ranges(tiles, num_tiles, INTERPRETED), lengths)


def test_a_batch_has_the_ranges_of_each_of_its_views():
    num_tiles = TILES_PER_BLOCK + 3
    views = [some_lengths(num_tiles, seed) for seed in range(3)]
    room = max(lengths.sum() for lengths in views) + 1
    tiles = np.stack([sorted_tiles(lengths, room - lengths.sum()) for lengths in views])
    batch = jax.vmap(lambda tiles: tile_ranges(tiles, num_tiles, INTERPRETED))(jnp.asarray(tiles))
    for i, lengths in enumerate(views):
        assert_ranges([x[i] for x in batch], lengths)


@pytest.mark.parametrize("num", [1, 33, 256, 257, 700])
def test_sums_before_each_block_and_in_all(num):
    sums = np.random.default_rng(num).integers(-(2**31), 2**31, num).astype(np.int32)
    blocks = np.unique(np.linspace(0, num - 1, 5).astype(np.int32))

    def kernel(sums, before, total):
        for place, block in enumerate(blocks):
            before[place], total[place] = block_sums.before_and_total(sums, int(block))
        store(total, len(blocks) + lanes(), jnp.full(LANES, block_sums.sum_all(sums)))

    shapes = [jax.ShapeDtypeStruct((len(blocks) + LANES,), jnp.int32)] * 2
    combined = block_sums.combine(jnp.asarray(sums))
    before, total = INTERPRETED.launch("test", kernel, (1,), shapes, combined)
    ends = np.cumsum(sums, dtype=np.int32)
    np.testing.assert_array_equal(before[: len(blocks)], (ends - sums)[blocks])
    assert (total == ends[-1]).all()
