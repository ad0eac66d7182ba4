"""Sums that programs share, interpreted, against numpy; on a GPU, where they are atomics, see test_gpu.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from splax.ops.triton.sums import launch_sums, zeros_where
from splax.ops.triton.warp import LANES, Warp, full, lanes, load

INTERPRETED = Warp(interpret=True)


def add_up(start: jax.Array, indices: jax.Array, values: jax.Array) -> jax.Array:
    """Adds values to the elements they name; those of negative numbers to none."""

    def kernel(indices, values, sums):
        place = pl.program_id(0) * LANES + lanes()
        index = load(indices, place)
        sums.finish(full(0) | sums.add(index, load(values, place), index >= 0))

    return launch_sums("test", kernel, (indices.shape[0] // LANES,), start, INTERPRETED, indices, values)


def make_indices(rng: np.random.Generator, num: int, *batch: int) -> np.ndarray:
    """For each warp different elements, and none in some lanes."""
    indices = rng.permuted(np.broadcast_to(np.arange(max(num, LANES)), (*batch, 6, max(num, LANES))), axis=-1)
    indices = indices[..., :LANES]
    indices = np.where((indices >= num) | (rng.random(indices.shape) < 0.3), -1, indices)
    indices[..., 2, :] = -1
    return indices.reshape(*batch, -1).astype(np.int32)


@pytest.mark.parametrize("num", [5, 32, 45, 100])
def test_programs_add_to_what_was_there(num):
    rng = np.random.default_rng(num)
    start, indices = rng.normal(size=num).astype(np.float32), make_indices(rng, num)
    values = rng.normal(size=indices.shape).astype(np.float32)
    expected = start.astype(np.float64)
    np.add.at(expected, indices[indices >= 0], values[indices >= 0])
    np.testing.assert_allclose(add_up(*map(jnp.asarray, (start, indices, values))), expected, atol=1e-5)


def test_each_view_of_a_batch_of_batches_has_sums_of_its_own():
    rng = np.random.default_rng(0)
    start, indices = rng.normal(size=(3, 40)).astype(np.float32), make_indices(rng, 40, 2, 3)
    values = rng.normal(size=(2, *indices.shape[2:])).astype(np.float32)
    batch = jax.vmap(jax.vmap(add_up, (0, 0, None)), (None, 0, 0))
    sums = jax.jit(batch)(*map(jnp.asarray, (start, indices, values)))
    for i in range(2):
        for j in range(3):
            expected, wanted = start[j].astype(np.float64), indices[i, j] >= 0
            np.add.at(expected, indices[i, j][wanted], values[i][wanted])
            np.testing.assert_allclose(sums[i, j], expected, atol=1e-5)


def test_only_wanted_rows_begin_with_zeros():
    counts = np.random.default_rng(0).integers(0, 3, 50).astype(np.int32)
    rows = np.asarray(zeros_where(jnp.asarray(counts), 4, 7, INTERPRETED))
    assert rows.shape == (50, 7)
    assert (rows[counts > 0, :4] == 0).all()
    assert (rows[counts == 0] != 0).any()  # interpreted, memory that nothing wrote is not a number
