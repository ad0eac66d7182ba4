"""Sums that programs share, interpreted, against numpy; on a GPU, where they are atomics, see test_gpu.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from splax.ops.triton.lanes import atomic_sums as sums
from splax.ops.triton.lanes.atomic_sums import launch_atomic_sums, zeros_where
from splax.ops.triton.lanes.warp import LANES, Warp, full, lanes, load

INTERPRETED = Warp(interpret=True)


def add_up(start: tuple[jax.Array, ...], rows: jax.Array, columns: jax.Array, values: jax.Array):
    """Adds values to the rows and columns they name; those of negative rows to none."""

    def kernel(rows, columns, values, sums):
        place = pl.program_id(0) * LANES + lanes()
        row = load(rows, place)
        done = sums.add(row, sums.columns(load(columns, place)), load(values, place), row >= 0)
        sums.finish(full(0) | done)

    return launch_atomic_sums(
        "test", kernel, (rows.shape[0] // LANES,), start, INTERPRETED, rows, columns, values
    )


def make_places(rng: np.random.Generator, num: int, width: int, *batch: int) -> tuple[np.ndarray, np.ndarray]:
    """For each warp different elements, and none in some lanes."""
    many = max(num * width, LANES)
    places = rng.permuted(np.broadcast_to(np.arange(many), (*batch, 6, many)), axis=-1)[..., :LANES]
    rows, columns = places // width, places % width
    rows = np.where((rows >= num) | (rng.random(rows.shape) < 0.3), -1, rows)
    rows[..., 2, :] = -1
    return rows.reshape(*batch, -1).astype(np.int32), columns.reshape(*batch, -1).astype(np.int32)


def make_start(rng: np.random.Generator, widths: tuple[int, ...], *shape: int) -> list[np.ndarray]:
    return [rng.normal(size=(*shape, width)).astype(np.float32) for width in widths]


@pytest.mark.parametrize(("num", "widths"), [(5, (1,)), (32, (1,)), (15, (3,)), (9, (4, 3, 2)), (50, (3, 4))])
def test_programs_add_to_what_was_there(num, widths):
    rng = np.random.default_rng(num)
    start, (rows, columns) = make_start(rng, widths, num), make_places(rng, num, sum(widths))
    values = rng.normal(size=rows.shape).astype(np.float32)
    expected = np.concatenate(start, axis=-1).astype(np.float64)
    np.add.at(expected, (rows[rows >= 0], columns[rows >= 0]), values[rows >= 0])
    sums = add_up(tuple(map(jnp.asarray, start)), *map(jnp.asarray, (rows, columns, values)))
    assert [x.shape for x in sums] == [x.shape for x in start]
    np.testing.assert_allclose(np.concatenate(sums, axis=-1), expected, atol=1e-5)


def test_each_view_of_a_batch_of_batches_has_sums_of_its_own():
    rng = np.random.default_rng(0)
    start, (rows, columns) = make_start(rng, (2, 3), 3, 8), make_places(rng, 8, 5, 2, 3)
    values = rng.normal(size=(2, rows.shape[-1])).astype(np.float32)
    batch = jax.vmap(jax.vmap(add_up, (0, 0, 0, None)), (None, 0, 0, 0))
    sums = jax.jit(batch)(tuple(map(jnp.asarray, start)), *map(jnp.asarray, (rows, columns, values)))
    sums = np.concatenate(sums, axis=-1)
    for i in range(2):
        for j in range(3):
            expected, wanted = (
                np.concatenate([x[j] for x in start], axis=-1).astype(np.float64),
                rows[i, j] >= 0,
            )
            np.add.at(expected, (rows[i, j][wanted], columns[i, j][wanted]), values[i][wanted])
            np.testing.assert_allclose(sums[i, j], expected, atol=1e-5)


@pytest.mark.parametrize(("num", "many"), [(50, 2**19), (50, 0), (8 * LANES + 5, 0)])
def test_only_wanted_rows_begin_with_zeros(num, many, monkeypatch):
    """With one group of rows for each warp, and with several."""
    monkeypatch.setattr(sums, "_MANY_ROWS", many)
    counts = np.random.default_rng(0).integers(0, 3, num).astype(np.int32)
    arrays = [np.asarray(x) for x in zeros_where(jnp.asarray(counts), (4, 3), INTERPRETED)]
    assert [x.shape for x in arrays] == [(num, 4), (num, 3)]
    for array in arrays:
        assert (array[counts > 0] == 0).all()
        assert (array[counts == 0] != 0).any()  # interpreted, memory that nothing wrote is not a number
