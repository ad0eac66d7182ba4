"""What lanes and kernels are made of, against numpy; interpreted on a CPU, and on a GPU as they are compiled."""

import importlib.abc
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splax.ops.tile_grid import TileGrid
from splax.ops.triton.binning.tile_lists import ranks_of_pairs
from splax.ops.triton.binning.tile_tests import reaches_box, tile_spans
from splax.ops.triton.lanes.warp import LANES, Warp, full, lanes, load, nth_bits, stack, store
from splax.ops.triton.pixel_regions import (
    LOG2_THRESHOLD,
    PixelRegion,
    QuadraticForm,
    pixel_columns,
    pixel_lines,
    polynomial_around,
    subtile_size,
)


@pytest.fixture(params=["interpreted", pytest.param("compiled", marks=pytest.mark.gpu)])
def warp(request) -> Warp:
    return Warp(interpret=request.param == "interpreted")


def test_no_operation_looks_for_a_dialect_in_vain(monkeypatch, abstract_gpu):
    """Each one did, three times; see splax.ops.jax_internals.triton_dialect."""
    searched = []

    class Witness(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname, path, target=None):
            searched.append(fullname)

    def copy(x):
        def kernel(x, out):
            store(out, lanes(), load(x, lanes()))

        return Warp(interpret=False).launch("copy", kernel, (1,), jax.ShapeDtypeStruct((32,), x.dtype), x)

    traced = jax.jit(copy).trace(jnp.zeros(32))
    monkeypatch.setattr(sys, "meta_path", [Witness(), *sys.meta_path])
    assert "triton" in traced.lower(lowering_platforms=("cuda",)).as_text()
    assert not [name for name in searched if name.endswith(".tt")]


def run(warp: Warp, function, *arrays: np.ndarray, rows: int = 1, dtype: type = np.float32) -> np.ndarray:
    """What a function of rows of lanes gives, as many rows of lanes."""

    def kernel(*refs):
        *args, out = refs
        results = function(*(load(ref, lanes()) for ref in args))
        for row, result in enumerate(results if rows > 1 else [results]):
            store(out, row * LANES + lanes(), result)

    shape = jax.ShapeDtypeStruct((rows * LANES,), dtype)
    out = warp.launch("test", kernel, (1,), shape, *map(jnp.asarray, arrays))
    return np.asarray(out).reshape(rows, LANES).squeeze()


def normal(seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=scale, size=LANES).astype(np.float32)


def test_products_and_sums_are_joined(warp):
    a, b, c = normal(0), normal(1), normal(2)
    joined = run(warp, warp.fma, a, b, c)
    np.testing.assert_allclose(joined, a.astype(np.float64) * b + c, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(run(warp, lambda a, c: warp.fma(a, 0.5, c), a, c), 0.5 * a + c, rtol=1e-6)


def test_differences_of_sizes(warp):
    x, y = normal(0), normal(1)
    np.testing.assert_array_equal(run(warp, warp.difference_of_sizes, x, y), np.abs(x) - np.abs(y))


def test_roots(warp):
    x = np.exp(normal(0, 20)).astype(np.float32)
    x[:3] = 0, 1, 1e-42
    np.testing.assert_allclose(run(warp, warp.sqrt, x), np.sqrt(x), rtol=1e-6, atol=1e-19)


def test_floats_become_integers(warp):
    x = normal(0, 100)
    x[:8] = 0, -0.5, 7, -7, 1e30, -1e30, np.nan, 2**24 + 2
    most = 2.0**31 - 1
    for name in ("floor", "ceil"):
        wanted = np.clip(np.nan_to_num(getattr(np, name)(x.astype(np.float64)), nan=0), -(2.0**31), most)
        np.testing.assert_array_equal(run(warp, getattr(warp, name), x, dtype=np.int32), wanted)


@pytest.mark.parametrize("least", [0, 3, 31])
def test_bits_of_all_lanes_are_united(warp, least):
    bits = np.where(np.arange(LANES) >= least, np.uint32(1) << np.arange(LANES, dtype=np.uint32), 0)
    union = run(warp, warp.union, bits.astype(np.uint32).view(np.int32), dtype=np.int32)
    np.testing.assert_array_equal(union.view(np.uint32), np.bitwise_or.reduce(bits).astype(np.uint32))


@pytest.mark.parametrize("counts", [[1] * 70, [100, 1, 1, 29, 1, 2, 33], [31, 1, 32, 1, 31, 5], [3]])
def test_each_slot_finds_its_rank(warp, counts):
    """Of all windows of 32 slots, one after the other; behind the last pair the last rank goes on."""
    ends = np.cumsum(counts).astype(np.int32)
    windows = -(-int(ends[-1]) // LANES)

    def kernel(ends, ranks, firsts):
        at = full(0), full(0)
        for window in range(windows):
            own, at = ranks_of_pairs(ends, window * LANES, len(counts) - 1, warp, *at)
            for out, value in zip((ranks, firsts), own, strict=True):
                store(out, window * LANES + lanes(), value)

    shapes = [jax.ShapeDtypeStruct((windows * LANES,), jnp.int32)] * 2
    ranks, firsts = warp.launch("test", kernel, (1,), shapes, jnp.asarray(ends))
    wanted = np.minimum(np.searchsorted(ends, np.arange(windows * LANES), side="right"), len(counts) - 1)
    np.testing.assert_array_equal(ranks, wanted)
    np.testing.assert_array_equal(firsts, (ends - counts)[wanted])


@pytest.mark.parametrize("bits", [0, 1, 1 << 31, 0b1011 << 7, 0xFFFFFFFF, 0x80F00101])
def test_set_bits_are_found_by_their_number(warp, bits):
    bits = np.uint32(bits).view(np.int32)
    found = run(warp, nth_bits, np.full(LANES, bits), dtype=np.int32)
    wanted = [bit for bit in range(32) if np.uint32(bits.view(np.uint32)) >> np.uint32(bit) & 1]
    np.testing.assert_array_equal(found[: len(wanted)], wanted)
    assert (found[len(wanted) :] >= 31).all()


@pytest.mark.parametrize("distance", [1, 2, 4, 8, 16])
def test_two_lanes_exchange_what_they_sum(warp, distance):
    a, b = normal(0), normal(1)
    other = np.arange(LANES) ^ distance
    wanted = np.where(np.arange(LANES) & distance, b + b[other], a + a[other])
    np.testing.assert_allclose(run(warp, lambda a, b: warp.exchange(a, b, distance), a, b), wanted, rtol=1e-6)


def test_stacked_rows_keep_their_lanes(warp):
    """A ballot of many rows is right only where each lane has its own column of them."""
    rows = [normal(seed) for seed in range(4)]
    ballots = run(warp, lambda *rows: _rows_of(warp.ballot(stack(rows) > 0)), *rows, rows=4, dtype=np.int32)
    wanted = [((row > 0).astype(np.uint64) << np.arange(LANES, dtype=np.uint64)).sum() for row in rows]
    np.testing.assert_array_equal(ballots.view(np.uint32), np.repeat(wanted, LANES).reshape(4, LANES))


def _rows_of(stacked):
    number = jax.lax.broadcasted_iota(jnp.int32, stacked.shape, 0)
    return [jnp.where(number == row, stacked, 0).sum(axis=0, dtype=jnp.int32) for row in range(len(stacked))]


def test_a_gaussian_covers_pixels_until_they_are_finished(warp):
    """Five pixels behind each other: as in gsplat, the Gaussian that would cross the limit is left out."""
    powers = [-1.0, -9.0, -0.3, -0.5, 5.0]
    settings = {"threshold": LOG2_THRESHOLD, "most": 0.9, "least": 1e-3}

    def cover(transmittance):
        after = []
        for power in powers:
            transmittance = warp.cover(jnp.full(LANES, power, jnp.float32), transmittance, **settings)
            after.append(transmittance)
        return after

    start = np.linspace(0.0031, 1, LANES).astype(np.float32)
    found = run(warp, cover, start, rows=len(powers))
    wanted = start.astype(np.float64)
    for power, row in zip(powers, found, strict=True):
        left = wanted * (1 - min(2**power, 0.9))
        if power >= LOG2_THRESHOLD:
            wanted = np.where((wanted > 0) & (left > 1e-3), left, -np.abs(wanted))
        np.testing.assert_allclose(row, wanted, rtol=1e-5)
    assert (found[-1] < 0).any() and (found[-1] > 0).any()


FORM_SIZE = QuadraticForm(105.3, 62.9, -0.4, 0.3, -0.2, -0.7)  # pyright: ignore[reportArgumentType]
TILE_GRID = TileGrid(width=200, height=90, tile_size=16)


def log2_alpha(x: Any, y: Any) -> Any:
    dx, dy = x - FORM_SIZE.mean_x, y - FORM_SIZE.mean_y
    return FORM_SIZE.a * dx**2 + FORM_SIZE.b * dx * dy + FORM_SIZE.c * dy**2 + FORM_SIZE.top


def test_the_polynomial_around_a_point_is_the_form(warp):
    u, v = np.meshgrid(np.linspace(-8, 8, 8), np.linspace(-8, 8, 4))
    u, v = (x.reshape(-1).astype(np.float32) for x in (u, v))

    def evaluate(u, v):
        form = QuadraticForm(*(jnp.full(LANES, value, jnp.float32) for value in FORM_SIZE))
        at = full(100).astype(jnp.float32), full(60).astype(jnp.float32)
        xx, xy, yy, x, y, one = polynomial_around(form, *at, warp=warp)
        return xx * u * u + xy * u * v + yy * v * v + x * u + y * v + one

    np.testing.assert_allclose(run(warp, evaluate, u, v), log2_alpha(100 + u, 60 + v), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("width", "height"), [(8, 8), (8, 4), (16, 8)])
def test_every_box_with_a_touched_pixel_is_reached(warp, width, height):
    """The boxes of a grid around the Gaussian; those far away are not."""
    left, top = np.meshgrid(80 + width * np.arange(8), 48 + height * np.arange(4))
    left, top = (x.reshape(-1).astype(np.int32) for x in (left, top))

    def reaches(left, top):
        form = QuadraticForm(*(jnp.full(LANES, value, jnp.float32) for value in FORM_SIZE))
        return reaches_box(form, left, top, width, height, warp).astype(jnp.int32)

    found = run(warp, reaches, left, top, dtype=np.int32)
    inside = [np.arange(size)[:, None] + 0.5 for size in (width, height)]
    highest = [log2_alpha(x + inside[0], y + inside[1].T).max() for x, y in zip(left, top, strict=True)]
    assert found[np.array(highest) >= LOG2_THRESHOLD].all()
    assert not found[np.array(highest) < LOG2_THRESHOLD - 4].any()
    assert 0 < found.sum() < LANES


@pytest.mark.parametrize("tile_size", [8, 16, 32])
def test_every_tile_with_a_touched_pixel_is_in_the_span_of_its_row(warp, tile_size):
    """Ellipses of all shapes, those in the image and those that end outside; few tiles too many."""
    rng = np.random.default_rng(tile_size)
    tile_grid = TileGrid(width=256, height=192, tile_size=tile_size)
    mean = rng.uniform((-40, -40), (296, 232), (LANES, 2))
    angle, (wide, narrow) = rng.uniform(0, np.pi, LANES), np.exp(rng.uniform(-0.5, 4, (2, LANES)))
    cos, sin, scale = np.cos(angle), np.sin(angle), -0.5 / np.log(2)
    values = [
        mean[:, 0],
        mean[:, 1],
        scale * ((cos / wide) ** 2 + (sin / narrow) ** 2),
        2 * scale * cos * sin * (1 / wide**2 - 1 / narrow**2),
        scale * ((sin / wide) ** 2 + (cos / narrow) ** 2),
        np.log2(rng.uniform(0.02, 1, LANES)),
    ]
    values = [value.astype(np.float32) for value in values]

    def spans(*form):
        span = tile_spans(QuadraticForm(*form), full(0), full(tile_grid.columns), tile_grid, warp)
        return [number for row in range(tile_grid.rows) for number in span(full(row))]

    found = run(warp, spans, *values, rows=2 * tile_grid.rows, dtype=np.int32).reshape(
        tile_grid.rows, 2, LANES
    )
    x, y = np.meshgrid(np.arange(tile_grid.width) + 0.5, np.arange(tile_grid.height) + 0.5)
    num_found = num_touched = 0
    for lane in range(LANES):
        mean_x, mean_y, a, b, c, top = (float(value[lane]) for value in values)
        dx, dy = x - mean_x, y - mean_y
        touched: np.ndarray = a * dx**2 + b * dx * dy + c * dy**2 + top >= LOG2_THRESHOLD
        tiles = touched.reshape(tile_grid.rows, tile_size, tile_grid.columns, tile_size).any(axis=(1, 3))
        first, number = found[:, 0, lane, None], found[:, 1, lane, None]
        columns = np.arange(tile_grid.columns)[None]
        in_span: np.ndarray = np.greater_equal(columns, first) & np.less(columns, first + number)
        assert in_span[tiles].all()
        num_found, num_touched = num_found + in_span.sum(), num_touched + tiles.sum()
    assert 0 < num_touched <= num_found <= 1.1 * num_touched


@pytest.mark.parametrize("half", [None, 0, 1])
@pytest.mark.parametrize(("tile_size", "subtile"), [(8, 0), (16, 3), (32, 2)])
def test_a_region_has_each_of_its_pixels_once(tile_size, subtile, half):
    tile_grid = TileGrid(width=75, height=50, tile_size=tile_size)
    tile = tile_grid.columns + 1
    region = PixelRegion(jnp.asarray(tile), jnp.asarray(subtile), None if half is None else jnp.asarray(half))
    (left, top), (width, height) = map(int, region.corner(tile_grid)), region.size(tile_grid)
    assert (width, height) == (subtile_size(tile_grid), subtile_size(tile_grid) // (1 if half is None else 2))
    columns = pixel_columns(region, tile_grid)
    x = np.concatenate([np.broadcast_to(column.x, column.y.shape).ravel() for column in columns])
    y = np.concatenate([np.ravel(column.y) for column in columns])
    pixels = {(left + i + 0.5, top + j + 0.5) for i in range(width) for j in range(height)}
    assert {(float(i), float(j)) for i, j in zip(x, y, strict=True)} == pixels and len(x) == len(pixels)
    np.testing.assert_allclose(region.center(tile_grid), (x.mean(), y.mean()))
    inside = np.concatenate([np.ravel(column.inside) for column in columns])
    np.testing.assert_array_equal(inside, (x < 75) & (y < 50))
    places = np.concatenate([np.ravel(column.image) for column in columns])
    np.testing.assert_array_equal(places, (y - 0.5) * 75 + x - 0.5)
    for column, lines in zip(columns, pixel_lines(region, tile_grid), strict=True):
        for field in ("y", "inside", "image", "tile"):
            np.testing.assert_array_equal(getattr(column, field), [getattr(line, field) for line in lines])
