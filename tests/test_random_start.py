"""The cube that random Gaussians fill, for objects, for what cameras go round, and for rooms."""

import numpy as np
import pytest
from helpers import make_camera, project

import splax
from splax.initialization.random_start import random_cube, random_points
from splax.scene import Scene, View

SIZE = 48


def ring(num: int = 8, *, radius: float = 4.0, inward: bool = True, alpha: np.ndarray | None = None) -> Scene:
    """Cameras on a circle, which look at its centre or away from it."""
    views = []
    for index, angle in enumerate(2 * np.pi * np.arange(num) / num):
        position = radius * np.array([np.cos(angle), np.sin(angle), 0.3 * (-1) ** index])
        target = np.zeros(3) if inward else 2 * position
        camera = make_camera(SIZE, SIZE, position=position.tolist(), target=target.tolist(), fov_x=0.7)
        views.append(View(np.zeros((SIZE, SIZE, 3), np.uint8), camera, f"{index}", alpha=alpha))
    return Scene(views, [])


def disc() -> np.ndarray:
    """Opaque within a third of the image's half width of its centre."""
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5 - SIZE / 2
    return np.where(np.hypot(rows, columns) < SIZE / 6, 255, 0).astype(np.uint8)


def test_an_object_lies_in_what_every_camera_sees():
    cube = random_cube(ring(alpha=disc()))
    np.testing.assert_allclose(cube.center, 0, atol=1e-4)
    assert cube.half_side == pytest.approx(4 * np.hypot(1, 0.3 / 4 * 4 / 4) * np.tan(0.35), rel=0.05)


def test_photos_that_go_round_something():
    scene = ring()
    cube = random_cube(scene)
    np.testing.assert_allclose(cube.center, 0, atol=1e-4)
    assert cube.half_side == pytest.approx(1.5 * scene.radius)


def test_photos_that_look_out_of_the_middle():
    """The cube reaches three times as far as the cameras stand from their middle, and 1.1 for the margin."""
    cube = random_cube(ring(inward=False))
    np.testing.assert_allclose(cube.center, 0, atol=1e-5)
    assert cube.half_side == pytest.approx(3 * 1.1 * np.hypot(4, 1.2), rel=1e-3)


def test_points_fill_the_box():
    scene = ring()
    points = random_points(scene, 20_000, np.random.default_rng(0))
    half = random_cube(scene).half_side
    assert points.shape == (20_000, 3) and np.abs(points).max() <= half + 1e-3
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=0.03 * half)
    np.testing.assert_allclose(points.std(axis=0), half / np.sqrt(3), rtol=0.02)


def test_points_lie_within_the_visual_hull():
    """None is seen where a photo is transparent; and the ball that all the discs show is filled."""
    scene = ring(alpha=disc())
    points = random_points(scene, 5000, np.random.default_rng(0))
    assert len(points) == 5000
    for view in scene.train:
        pixels = project(view.camera, points)
        assert (np.linalg.norm(pixels - SIZE / 2, axis=1) < SIZE / 6 + 1.5).all()
    ball = np.linalg.norm(points, axis=1)
    assert 0.4 < ball.max() / (4 * np.tan(0.35) / 3) < 2.5 and (ball < 0.2).any()


def test_photos_that_are_all_transparent_leave_the_box():
    scene = ring(alpha=np.zeros((SIZE, SIZE), np.uint8))
    assert random_points(scene, 100, np.random.default_rng(0)).shape == (100, 3)


@pytest.mark.realdata
def test_lego_starts_within_lego(real_data):
    """Bounds from the dataset's README."""
    scene = splax.load_dataset(real_data / "lego", downscale=4)
    assert random_cube(scene).half_side == pytest.approx(1.45, abs=0.03)
    points = random_points(scene, 10_000, np.random.default_rng(0))
    assert len(points) == 10_000
    low, high = np.array([-0.65, -1.16, -0.55]), np.array([0.65, 1.16, 1.02])
    inside = ((points > low - 0.1) & (points < high + 0.1)).all(axis=1)
    assert inside.mean() > 0.9
