"""Cameras that moved by a known similarity: it is found again, from what they see."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_camera
from helpers import project as project_one
from scipy.spatial.transform import Rotation
from test_lenses import fisheye

from splax.cameras import Camera
from splax.corrections.camera_alignment import (
    MAX_POINTS,
    Similarity,
    camera_centres,
    fit_similarity,
    lens_of,
    motions_between,
    move_viewmat,
    project,
    visible_points,
)
from splax.corrections.rigid import move_camera

WIDTH, HEIGHT, VIEWS = 40, 32, 6
KNOWN = Similarity(Rotation.from_rotvec([0.05, -0.1, 0.07]).as_matrix(), np.array([0.3, -0.2, 0.1]), 1.1)


@pytest.fixture(scope="module")
def cameras():
    angles = np.linspace(0, 2, VIEWS)
    return [
        make_camera(WIDTH, HEIGHT, position=(3 * np.cos(a), 3 * np.sin(a), 0.5 + 0.2 * a)) for a in angles
    ]


def arrays(cameras):
    viewmats = np.stack([np.asarray(camera.viewmat, np.float64) for camera in cameras])
    return viewmats, Camera.stack(cameras).to_numpy().lens


def seen_by(viewmats, lenses, seed=0, num=500):
    rng = np.random.default_rng(seed)
    means, opacities = rng.uniform(-1, 1, (num, 3)), rng.uniform(size=num)
    return visible_points(means, opacities, viewmats, lenses, [(WIDTH, HEIGHT)] * len(viewmats))


def test_a_moved_camera_shows_the_moved_world_where_the_camera_showed_the_world(cameras):
    viewmats, lenses = arrays(cameras)
    points = np.random.default_rng(0).uniform(-1, 1, (9, 3))
    moved = points @ KNOWN.matrix[:3, :3].T + KNOWN.matrix[:3, 3]
    for index, (camera, viewmat) in enumerate(zip(cameras, KNOWN.move(viewmats), strict=True)):
        np.testing.assert_allclose(
            project(viewmat, lens_of(lenses, index), moved), project_one(camera, points), atol=1e-4
        )
    np.testing.assert_allclose(KNOWN.inverse().matrix, np.linalg.inv(KNOWN.matrix), atol=1e-12)
    np.testing.assert_allclose(KNOWN.inverse().move(KNOWN.move(viewmats)), viewmats, atol=1e-6)


def test_a_known_similarity_is_recovered(cameras):
    given, lenses = arrays(cameras)
    refined = KNOWN.move(given)
    found = fit_similarity(given, refined, lenses, seen_by(refined, lenses))
    assert found is not None
    np.testing.assert_allclose(found.matrix, KNOWN.matrix, atol=1e-6)


def test_a_lens_that_is_no_pinhole_serves_as_well(cameras):
    cameras = [dataclasses.replace(camera, lens=fisheye()) for camera in cameras]
    given, lenses = arrays(cameras)
    refined = KNOWN.move(given)
    points = seen_by(refined, lenses, num=100)
    np.testing.assert_allclose(
        project(given, lenses, np.zeros((VIEWS, 3))), [c.project(jnp.zeros(3)) for c in cameras], rtol=1e-5
    )
    found = fit_similarity(given, refined, lenses, points)
    assert found is not None
    np.testing.assert_allclose(found.matrix, KNOWN.matrix, atol=1e-6)


def test_a_scaling_about_the_middle_of_the_cameras_is_recovered(cameras):
    given, lenses = arrays(cameras)
    middle = camera_centres(given).mean(axis=0)
    spread = Similarity(np.eye(3), -0.03 * middle, 1.03)
    refined = spread.move(given)
    np.testing.assert_allclose(
        camera_centres(refined) - middle, 1.03 * (camera_centres(given) - middle), atol=1e-6
    )
    found = fit_similarity(given, refined, lenses, seen_by(refined, lenses))
    assert found is not None
    np.testing.assert_allclose(found.matrix, spread.matrix, atol=1e-6)


def test_motions_of_single_cameras_are_those_of_the_refinement(cameras):
    given, lenses = arrays(cameras)
    motions = np.random.default_rng(0).normal(scale=0.01, size=(VIEWS, 6))
    moved = np.stack([move_viewmat(viewmat, motion) for viewmat, motion in zip(given, motions, strict=True)])
    for camera, viewmat, motion in zip(cameras, moved, motions, strict=True):
        expected = move_camera(camera.viewmat, jnp.asarray(motion, jnp.float32))
        np.testing.assert_allclose(viewmat, expected, atol=1e-5)
    np.testing.assert_allclose(motions_between(given, moved), motions, atol=1e-6)  # viewmats are of float32
    # What each does by itself hardly moves the whole.
    found = fit_similarity(given, moved, lenses, seen_by(moved, lenses))
    assert found is not None and abs(found.scale - 1) < 0.05


def test_too_few_views_or_points_give_no_similarity(cameras):
    given, lenses = arrays(cameras)
    points = seen_by(given, lenses)
    assert fit_similarity(given[:2], given[:2], lens_of(lenses, np.arange(2)), points[:2]) is None
    assert fit_similarity(given, given, lenses, [seen[:3] for seen in points]) is None


def test_the_most_opaque_points_in_the_picture_are_taken(cameras):
    viewmats, lenses = arrays(cameras[:1])
    rng = np.random.default_rng(1)
    means, opacities = rng.uniform(-4, 4, (4000, 3)), rng.uniform(size=4000)
    (found,) = visible_points(means, opacities, viewmats, lenses, [(WIDTH, HEIGHT)])
    assert len(found) == MAX_POINTS
    pixels = project_one(cameras[0], found)
    assert ((pixels >= 0) & (pixels < [WIDTH, HEIGHT])).all()
    depths = found @ viewmats[0, 2, :3] + viewmats[0, 2, 3]
    assert (depths > 0).all()
    ranks = [opacities[(means == point).all(axis=1)].item() for point in found]
    assert ranks == sorted(ranks, reverse=True)
    means[0], opacities[0] = np.nan, 1
    (again,) = visible_points(means, opacities, viewmats, lenses, [(WIDTH, HEIGHT)])
    assert np.isfinite(again).all()
