"""Lists of the tiles, compared with every pixel of every Gaussian in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_camera, make_gaussians

import splax
from splax.gaussians import Gaussians
from splax.ops import intersection
from splax.ops.intersection import count_isects, intersect_tiles
from splax.ops.projection import ProjectedGaussians
from splax.ops.tile_grid import TileGrid

WIDTH, HEIGHT, CAPACITY = 101, 66, 20_000


def scene(num: int, scale: float, stretch: float, seed: int = 0) -> tuple[ProjectedGaussians, np.ndarray]:
    """Projected Gaussians, one axis of each ``stretch`` times as long as the others, and their opacities."""
    params = make_gaussians(num, scale=scale, seed=seed)
    params["log_scales"][:, 0] += np.log(stretch)
    params["logit_opacities"] *= 3
    splats = Gaussians(**{name: jnp.asarray(value) for name, value in params.items()})
    projected = splax.TileRasterizer(8).project(splats, make_camera(WIDTH, HEIGHT))
    return projected, np.asarray(splats.opacities, np.float64)


def touched_pixels(projected: ProjectedGaussians, opacities: np.ndarray) -> np.ndarray:
    """Where alpha reaches 1/255, [N, HEIGHT, WIDTH]."""
    means, conics, radii = (
        np.asarray(x, np.float64) for x in (projected.means2d, projected.conics, projected.radii)
    )
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    dx, dy = means[:, 0, None, None] - x, means[:, 1, None, None] - y
    a, b, c = conics.T[:, :, None, None]
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    touched = opacities[:, None, None] * np.exp(-sigma) >= 1 / 255
    return touched & np.all(radii > 0, axis=1)[:, None, None]


def touched_tiles(pixels: np.ndarray, tile_size: int) -> np.ndarray:
    """Tiles that hold one of the pixels, [N, tiles]."""
    tile_grid = TileGrid(WIDTH, HEIGHT, tile_size)
    columns, rows = tile_grid.columns, tile_grid.rows
    padded = np.zeros((len(pixels), rows * tile_size, columns * tile_size), bool)
    padded[:, :HEIGHT, :WIDTH] = pixels
    tiles = padded.reshape(len(pixels), rows, tile_size, columns, tile_size).any(axis=(2, 4))
    return tiles.reshape(len(pixels), -1)


def lists(projected: ProjectedGaussians, tile_size: int, capacity: int = CAPACITY) -> list[list[int]]:
    """Gaussians of every tile; checks that both ways to count agree."""
    size = {"width": WIDTH, "height": HEIGHT, "tile_size": tile_size}
    isects = intersect_tiles(projected, isect_capacity=capacity, **size)
    offsets = np.asarray(isects.tile_offsets)
    assert offsets[0] == 0 and offsets[-1] == min(int(isects.num_isects), capacity)
    assert count_isects(projected, **size) == isects.num_isects
    return [ids.tolist() for ids in np.split(np.asarray(isects.flatten_ids), offsets[1:])[:-1]]


@pytest.mark.parametrize("tile_size", [4, 8, 16, 32])
@pytest.mark.parametrize(("scale", "stretch"), [(0.1, 1), (0.02, 30), (0.004, 1000), (0.002, 1)])
def test_lists_hold_what_is_touched_and_little_else(tile_size, scale, stretch):
    projected, opacities = scene(200, scale, stretch)
    touched = touched_tiles(touched_pixels(projected, opacities), tile_size)
    actual = lists(projected, tile_size)
    assert all(len(set(ids)) == len(ids) for ids in actual)
    listed = np.zeros_like(touched)
    for tile, ids in enumerate(actual):
        listed[ids, tile] = True
    assert touched.sum() > 100
    assert not (touched & ~listed).any()
    # A thin ellipse may pass between pixel centres.
    assert (listed & ~touched).sum() <= 0.05 * touched.sum() + 10


def test_lists_are_sorted_by_depth_and_then_by_row():
    projected, _ = scene(300, 0.1, 1)
    depths = jnp.round(projected.depths * 4) / 4  # many are equal
    for ids in lists(projected._replace(depths=depths), 16):
        keys = [(float(depths[i]), i) for i in ids]
        assert keys == sorted(keys)


def test_long_scenes_take_several_steps_and_two_keys(monkeypatch):
    projected, _ = scene(150, 0.1, 3)
    expected = lists(projected, 8)
    monkeypatch.setattr(intersection, "_SPANS_PER_STEP", 1)
    assert lists(projected, 8) == expected
    monkeypatch.setattr(intersection, "_KEYS", 0)
    assert lists(projected, 8) == expected
    assert sum(map(len, lists(projected, 8, capacity=100))) == 100


def test_no_gaussian_and_one():
    projected, _ = scene(1, 0.3, 1)
    assert any(lists(projected, 8))
    assert not any(lists(ProjectedGaussians(*(field[:0] for field in projected)), 8))
    culled = projected._replace(radii=jnp.zeros((1, 2)))
    assert not any(lists(culled, 8))


def test_more_pairs_than_integers_are_reported_as_the_largest():
    num = 40_000
    everywhere = ProjectedGaussians(
        means2d=jnp.full((num, 2), 2000.0),
        conics=jnp.tile(jnp.array([1e-8, 0, 1e-8]), (num, 1)),
        depths=jnp.ones(num),
        radii=jnp.full((num, 2), 30_000.0),
        opacities=jnp.ones(num),
    )
    assert count_isects(everywhere, width=4000, height=4000, tile_size=4) == 2**31 - 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_argsort_of_floats_is_stable(dtype):
    rng = np.random.default_rng(0)
    values = rng.choice(np.concatenate([rng.random(300), [0, np.inf, 1e-30, 1e30]]), size=1000).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        for num in (1, 2, 1000):
            actual = intersection._argsort_positive(jnp.asarray(values[:num]))
            np.testing.assert_array_equal(actual, np.argsort(values[:num], kind="stable"))
