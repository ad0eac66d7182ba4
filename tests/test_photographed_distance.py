"""The distance from which a scene was photographed, against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

import splax
from splax.training.photographed_distance import photographed_distance


def make_view(position, target, name):
    camera = splax.Camera.look_at(position, target, fov_x=1.0, width=40, height=30)
    return splax.View(np.zeros((30, 40, 3), np.uint8), camera, name)


def wall(distance, num=400, half=4.0):
    rng = np.random.default_rng(0)
    points = np.stack(
        [rng.uniform(-half, half, num), np.full(num, distance), rng.uniform(-half, half, num)], 1
    )
    return points.astype(np.float32)


def test_cameras_close_together_that_look_at_a_wall_measure_its_distance():
    views = [make_view((x, 0, 0), (x, 1, 0), str(x)) for x in (-0.1, 0.0, 0.1)]
    gaussians = splax.Gaussians.from_points(wall(20.0))
    assert photographed_distance(gaussians, views, fallback=0.1) == pytest.approx(20, rel=1e-5)


def test_a_dense_cluster_weighs_no_more_than_it_covers():
    """A thousand points on a small thing in front, and a wall that fills the picture."""
    views = [make_view((0, 0, 0), (0, 1, 0), "0")]
    near = np.random.default_rng(1).normal((0, 2, 0), 0.01, (1000, 3)).astype(np.float32)
    gaussians = splax.Gaussians.from_points(np.concatenate([wall(20.0), near]))
    assert photographed_distance(gaussians, views, fallback=1.0) == pytest.approx(20, rel=1e-5)


def test_where_nothing_is_seen_the_fallback_counts():
    views = [make_view((0, 0, 0), (0, -1, 0), "0")]
    gaussians = splax.Gaussians.from_points(wall(20.0))
    assert photographed_distance(gaussians, views, fallback=3.5) == 3.5
    gaussians.alive[...] = jnp.zeros(400, bool)
    assert photographed_distance(gaussians, [make_view((0, 0, 0), (0, 1, 0), "1")], fallback=2.0) == 2.0
