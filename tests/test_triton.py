"""The kernels for NVIDIA GPUs, interpreted on a CPU, against plain XLA; on a GPU see test_gpu.py."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from test_triton_project import RENDER_SETTINGS

import splax
from splax.ops import backends
from splax.ops.intersection import count_isects
from splax.ops.projection import ActivatedGaussians, project_gaussians
from splax.ops.tile_grid import TileGrid
from splax.ops.triton.binning import tile_ranges
from splax.ops.triton.binning.pack import PackedGaussians, pack
from splax.ops.triton.binning.tile_lists import make_tile_lists
from splax.ops.triton.blending import forward
from splax.ops.triton.blending.forward import PAIRS_PER_BUCKET
from splax.ops.triton.lanes.row_io import store_rows, sum_rows
from splax.ops.triton.lanes.search import lower_bounds, shared_lower_bound
from splax.ops.triton.lanes.warp import LANES, Warp, lanes, lanes_of_sums, load, store
from splax.ops.triton.rasterize import rasterize
from splax.ops.types import CompositingInputs

INTERPRETED = Warp(interpret=True)
SIZE = TileGrid(width=24, height=20, tile_size=16)
# Lists of the four tiles that this image has are longer and shorter than that.
HALVED_FROM = 400


def project(num: int = 900):
    """Gaussians in front of a camera, with their opacities, three colours each, and a few culled ones."""
    rng = np.random.default_rng(0)
    means = rng.normal(loc=(0, 0, 4), size=(num, 3))
    means[:5, 2] = -1
    K = jnp.array([[24.0, 0, 12], [0, 24, 9], [0, 0, 1]])
    camera = splax.Camera(viewmat=jnp.eye(4), K=K, width=SIZE.width, height=SIZE.height)
    arrays = (
        means,
        rng.normal(size=(num, 4)),
        0.05 * rng.uniform(0.2, 3, (num, 3)),
        rng.uniform(0.05, 1, num),
    )
    arrays = tuple(jnp.asarray(x, jnp.float32) for x in arrays)
    projected = project_gaussians(ActivatedGaussians(*arrays), camera)
    visible = (projected.radii > 0).all(axis=1)
    colors = jnp.asarray(rng.uniform(size=(num, 3)), jnp.float32)
    return projected, jnp.where(visible, arrays[3], 0), jnp.where(visible[:, None], colors, 0)


@pytest.mark.parametrize(("deterministic", "in_halves"), [(False, False), (True, False), (False, True)])
def test_image_and_gradients_equal_plain_xlas(deterministic, in_halves, monkeypatch):
    if in_halves:
        monkeypatch.setattr(forward, "LONGER_THAN", (HALVED_FROM, 192, 128, 64))
        monkeypatch.setattr(tile_ranges, "LONGER_THAN", (HALVED_FROM, 192, 128, 64))
    projected, opacities, colors = project()
    capacity = int(1.2 * count_isects(projected, **SIZE._asdict()))  # kernels list a few more, to be safe
    assert capacity > 4 * PAIRS_PER_BUCKET  # so that some tile's list goes on from a stored state
    rng = np.random.default_rng(1)
    shape = (SIZE.height, SIZE.width)
    cotangents = (
        jnp.asarray(rng.normal(size=(*shape, 3)), jnp.float32),
        jnp.asarray(rng.normal(size=shape), jnp.float32),
    )

    def draw_plainly(means2d, conics, opacities, colors, probe):
        moved = projected._replace(means2d=means2d, conics=conics, opacities=opacities)
        settings = RENDER_SETTINGS._replace(tile_grid=SIZE, isect_capacity=capacity)
        return backends.rasterize(moved, colors, probe, settings, "xla_vjp")[:2]

    def draw(means2d, conics, opacities, colors, probe):
        inputs = CompositingInputs(means2d, conics, opacities, colors)
        radii, depths = projected.radii, projected.depths
        tile_grid = SIZE
        drawn: Any = rasterize(inputs, radii, depths, probe, tile_grid, capacity, INTERPRETED, deterministic)
        return drawn[:2]

    probe = jnp.zeros_like(projected.means2d)
    args = (projected.means2d, projected.conics, opacities, colors, probe)
    expected, expected_vjp = jax.vjp(draw_plainly, *args)
    drawn, vjp = jax.vjp(draw, *args)
    for image, wanted in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(image, wanted, atol=1e-5)
    for gradient, wanted in zip(vjp(cotangents), expected_vjp(cotangents), strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-3, atol=1e-4 * float(jnp.abs(wanted).max()))


def test_only_tiles_that_an_ellipse_reaches_are_counted():
    projected, opacities, colors = project()
    inputs = CompositingInputs(projected.means2d, projected.conics, opacities, colors)
    counts = np.asarray(pack(inputs, projected.radii, SIZE, INTERPRETED).counts)
    y, x = np.mgrid[: SIZE.height, : SIZE.width] + 0.5
    for gaussian in range(len(counts)):
        dx, dy = x - float(projected.means2d[gaussian, 0]), y - float(projected.means2d[gaussian, 1])
        a, b, c = np.asarray(projected.conics[gaussian], np.float64)
        touched = float(opacities[gaussian]) * np.exp(-0.5 * (a * dx**2 + c * dy**2) - b * dx * dy) >= 1 / 255
        tiles = {(int(i // 16), int(j // 16)) for i, j in np.argwhere(touched)}
        assert counts[gaussian] >= len(tiles)
        assert counts[gaussian] <= len(tiles) + 2  # an ellipse can reach between pixel centres
    assert (counts[:5] == 0).all()


def test_sum_rows_adds_short_and_long_lists():
    counts = np.array([0, 3, 70, 200, 1, 0, 64, 65] * 5, np.int32)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int32)
    rows = np.random.default_rng(0).normal(size=(counts.sum(), 3)).astype(np.float32)
    sums = sum_rows(jnp.asarray(rows), jnp.asarray(first), jnp.asarray(counts), INTERPRETED)
    expected = [rows[i : i + n].astype(np.float64).sum(axis=0) for i, n in zip(first, counts, strict=True)]
    np.testing.assert_allclose(np.asarray(sums).T, expected, atol=1e-4)


@pytest.mark.parametrize("num", [1, 2, 5, 9, 11, 16, 20, 31, 32])
def test_sum_each_gives_every_lane_the_sum_it_names(num):
    values = np.random.default_rng(num).normal(size=(num, LANES)).astype(np.float32)

    def kernel(values, sums):
        store(sums, lanes(), INTERPRETED.sum_each([load(values, q * LANES + lanes()) for q in range(num)]))

    shape = jax.ShapeDtypeStruct((LANES,), jnp.float32)
    sums = np.asarray(INTERPRETED.launch("test", kernel, (1,), shape, jnp.asarray(values).reshape(-1)))
    which, once = map(np.asarray, lanes_of_sums(num))
    assert sorted(which[once]) == list(range(num))
    named = which < num
    np.testing.assert_allclose(sums[named], values.sum(axis=1)[which[named]], atol=1e-5)


def test_arrays_too_large_for_a_kernel_are_refused():
    rows = jax.ShapeDtypeStruct((2**31,), jnp.float32)
    with pytest.raises(ValueError, match=r"2,147,483,648 elements.*isect_capacity"):
        INTERPRETED.launch("test", lambda ref, out: None, (1,), rows, jnp.zeros(LANES))


def test_images_of_too_many_tiles_a_side_are_refused():
    one = PackedGaussians(jnp.zeros((1, 9)), jnp.zeros((1, 2), jnp.int32), jnp.zeros(1, jnp.int32))
    with pytest.raises(ValueError, match=r"524288 x 8 pixels.*65,535 tiles of 8.*tile_size"):
        make_tile_lists(one, jnp.ones(1), TileGrid(2**19, 8, 8), 1, INTERPRETED, with_pair_offsets=False)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 1_000, 40_000])
def test_searches_find_what_numpy_finds(length):
    rng = np.random.default_rng(length)
    values = np.sort(rng.integers(0, length, length)).astype(np.int32)
    targets = np.concatenate([[0, length], rng.integers(-1, length + 1, LANES - 2)]).astype(np.int32)

    def kernel(values, targets, together, alone):
        nth = pl.program_id(0)
        store(together, nth * LANES + lanes(), shared_lower_bound(values, length, targets[nth], INTERPRETED))
        ends, mine = (jnp.full(LANES, 0), jnp.full(LANES, length)), load(targets, lanes())
        (found,) = lower_bounds(lambda place, on: load(values, place, on), *ends, length, [mine])
        store(alone, lanes(), found)

    shapes = [jax.ShapeDtypeStruct((size,), jnp.int32) for size in (LANES**2, LANES)]
    together, alone = INTERPRETED.launch(
        "test", kernel, (LANES,), shapes, jnp.asarray(values), jnp.asarray(targets)
    )
    expected = np.searchsorted(values, targets)
    np.testing.assert_array_equal(together, np.repeat(expected, LANES))
    np.testing.assert_array_equal(alone, expected)


@pytest.mark.parametrize("width", [1, 3, 4, 24, 45])
def test_rows_are_written_whole_where_wanted(width):
    num_rows = 50
    values = np.random.default_rng(0).normal(size=(2 * LANES, width)).astype(np.float32)

    def kernel(values, out):
        base = pl.program_id(0) * LANES
        columns = [load(values, (base + lanes()) * width + q) for q in range(width)]
        row = base + lanes()
        store_rows(out, base, columns, (row < num_rows) & (row % 5 != 3), INTERPRETED)

    shape = jax.ShapeDtypeStruct((num_rows * width,), jnp.float32)
    out = INTERPRETED.launch("test", kernel, (2,), shape, jnp.asarray(values.reshape(-1)))
    wanted = np.arange(num_rows) % 5 != 3
    out = np.asarray(out).reshape(num_rows, width)
    np.testing.assert_array_equal(out[wanted], values[:num_rows][wanted])
    assert not (out[~wanted] == values[:num_rows][~wanted]).any()


def test_channels_that_do_not_fit_are_drawn_in_several_passes(monkeypatch):
    monkeypatch.setattr(forward, "_CHANNELS_PER_LANE", 16)
    tile_grid = SIZE
    assert forward.channels_per_draw(tile_grid) == 8
    projected, opacities, _ = project(300)
    rng = np.random.default_rng(2)
    colors = jnp.asarray(rng.uniform(size=(300, 9)), jnp.float32)
    cotangent = jnp.asarray(rng.normal(size=(SIZE.height, SIZE.width, 9)), jnp.float32)

    def draw(opacities, colors):
        inputs = CompositingInputs(projected.means2d, projected.conics, opacities, colors)
        radii, depths = projected.radii, projected.depths
        drawn: Any = rasterize(inputs, radii, depths, None, tile_grid, 2_000, INTERPRETED, False)
        return drawn[0]

    def draw_plainly(opacities, colors):
        settings = RENDER_SETTINGS._replace(tile_grid=SIZE, isect_capacity=2_000)
        moved = projected._replace(opacities=opacities)
        return backends.rasterize(moved, colors, None, settings, "xla_vjp")[0]

    image, pull = jax.vjp(jax.jit(draw), opacities, colors)
    expected, pull_plainly = jax.vjp(jax.jit(draw_plainly), opacities, colors)
    np.testing.assert_allclose(image, expected, atol=1e-5)
    for gradient, wanted in zip(pull(cotangent), pull_plainly(cotangent), strict=True):
        np.testing.assert_allclose(gradient, wanted, atol=1e-4 * float(jnp.abs(wanted).max()))
