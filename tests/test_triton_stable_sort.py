"""Sorts of lists that carry values along, alone and in batches, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splax.ops.triton.binning import stable_sort as module
from splax.ops.triton.binning.stable_sort import stable_sort

WAYS = {"as one": {}, "twice": {"_KEYS": 20}, "written out": {"_KEYS": 20, "_FEW": 0}}
WAYS["loop"] = WAYS["written out"] | {"_MOST_SORTS": 2}


def assert_sorted(lists, keys, values):
    order = np.argsort(keys, axis=-1, kind="stable")
    for found, unsorted in zip(lists, (keys, values), strict=True):
        assert found.dtype == unsorted.dtype
        np.testing.assert_array_equal(found, np.take_along_axis(unsorted, order, axis=-1))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_each_list_of_a_batch_is_sorted_by_itself(monkeypatch, way, dtype):
    for name, value in WAYS[way].items():
        monkeypatch.setattr(module, name, value)
    rng = np.random.default_rng(0)
    keys, values = rng.integers(0, 9, (3, 40)).astype(dtype), rng.permutation(40).astype(np.int32)
    lists = jax.vmap(lambda *args: stable_sort(*args, bound=9), in_axes=(0, None))(keys, jnp.asarray(values))
    assert_sorted(lists, keys, np.broadcast_to(values, keys.shape))


def test_one_list_and_a_batch_of_batches_are_sorted():
    rng = np.random.default_rng(1)
    keys, values = rng.integers(0, 2**32, (2, 3, 50), np.uint32), rng.permutation(50).astype(np.int32)
    keys[..., ::2] = keys[..., 1::2]
    assert_sorted(stable_sort(jnp.asarray(keys[0, 0]), jnp.asarray(values)), keys[0, 0], values)
    lists = jax.jit(jax.vmap(jax.vmap(stable_sort, (0, None)), (0, None)))(keys, values)
    assert_sorted(lists, keys, np.broadcast_to(values, keys.shape))


def test_as_many_keys_as_16_bits_tell_apart():
    keys = np.tile(np.array([2**15 - 1, 0, 2**15 - 1, 5], np.uint16), (2, 1))
    values = np.arange(8, dtype=np.int32).reshape(2, 4)
    assert_sorted(jax.vmap(lambda *args: stable_sort(*args, bound=2**15))(keys, values), keys, values)
