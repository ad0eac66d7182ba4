"""The fast rasterizer against the plain one, whose numbers test_goldens.py compares with another renderer's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_camera, make_gaussians

import splax
from splax.gaussians import Gaussians
from splax.ops.intersection import Intersections, count_isects, intersect_tiles
from splax.ops.tile_grid import TileGrid
from splax.ops.xla import vjp
from splax.ops.xla.compositing import composite
from splax.ops.xla.vjp import composite_vjp
from splax.rasterizer import round_capacity


def problem(
    num: int, width: int, height: int, tile_size: int, *, channels: int = 3, scale: float = 0.15
) -> tuple[jax.Array, Intersections, TileGrid]:
    """Attributes and lists of a random scene, float64."""
    params = make_gaussians(num, scale=scale, dtype=np.float64)
    splats = Gaussians(**{name: jnp.asarray(value) for name, value in params.items()})
    projected = splax.TileRasterizer().project(splats, make_camera(width, height))
    size = {"width": width, "height": height, "tile_size": tile_size}
    capacity = round_capacity(int(count_isects(projected, **size)))
    colors = jnp.asarray(np.random.default_rng(0).normal(size=(num, channels)))
    opacities = jnp.where((projected.radii > 0).all(axis=1), splats.opacities, 0)
    attributes = jnp.concatenate([projected.means2d, projected.conics, opacities[:, None], colors], axis=1)
    return attributes.T, intersect_tiles(projected, isect_capacity=capacity, **size), TileGrid(**size)


def assert_same(attributes: jax.Array, isects: Intersections, tile_grid: TileGrid) -> np.ndarray:
    """Both images and gradients agree; returns the image."""
    shape = (tile_grid.num_tiles, attributes.shape[0] - 5, tile_grid.num_pixels)
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=shape))

    def both(function):
        @jax.jit
        def run(attributes, isects):
            probe = jnp.zeros_like(attributes[:2])
            draw = functools.partial(function, isects=isects, tile_grid=tile_grid)
            image, pull = jax.vjp(draw, attributes, probe)
            return image, jnp.concatenate(pull(cotangent))

        return run(attributes, isects)

    image, gradient = both(
        lambda attributes, probe, isects, tile_grid: composite_vjp(attributes, probe, isects, tile_grid)
    )
    expected_image, expected_gradient = both(composite)
    np.testing.assert_allclose(image, expected_image, atol=1e-12)
    size = np.abs(expected_gradient).max(axis=1, keepdims=True)
    np.testing.assert_allclose(gradient / size, expected_gradient / size, atol=1e-10)
    assert (gradient[-2:] >= np.abs(gradient[:2]) - 1e-10).all() and (
        gradient[-2:] > np.abs(gradient[:2])
    ).any()
    return np.asarray(image)


@pytest.mark.parametrize(
    ("num", "width", "height", "tile_size", "channels", "scale"),
    [
        (600, 50, 37, 8, 1, 0.3),  # long lists, pixels that stop early
        (50, 31, 20, 32, 4, 0.3),  # one tile holds everything
    ],
)
def test_the_image_and_its_gradient_are_those_of_the_plain_rasterizer(
    num, width, height, tile_size, channels, scale
):
    with jax.enable_x64(True):
        image = assert_same(*problem(num, width, height, tile_size, channels=channels, scale=scale))
    assert image[:, -1].max() > 0.99


def test_lanes_take_tiles_one_after_another(monkeypatch):
    """Eight lanes for many more tiles, some of them empty, and lists that take many steps."""
    monkeypatch.setattr(vjp, "_STEP_ELEMENTS", 1)
    monkeypatch.setattr(vjp, "STEP_SIZE", 3)
    with jax.enable_x64(True):
        attributes, isects, tile_grid = problem(100, 60, 44, 4)
        assert tile_grid.num_tiles > 100 and (jnp.diff(isects.tile_offsets) == 0).any()
        assert_same(attributes, isects, tile_grid)


def test_lists_that_are_cut_off_draw_what_they_hold():
    with jax.enable_x64(True):
        attributes, isects, tile_grid = problem(200, 40, 32, 8)
        end = jnp.minimum(isects.tile_offsets, 500)
        assert isects.num_isects > 500
        assert_same(attributes, Intersections(isects.flatten_ids[:500], end, isects.num_isects), tile_grid)


@pytest.mark.parametrize("implementation", ["xla", "xla_vjp"])
def test_no_gaussian_draws_nothing(implementation):
    splats = Gaussians(**{name: jnp.asarray(value[:0]) for name, value in make_gaussians(1).items()})
    output = splax.TileRasterizer(8, implementation)(splats, make_camera(20, 10))
    assert output.image.shape == (10, 20, 3)
    assert not output.alpha.any() and output.num_isects == 0
