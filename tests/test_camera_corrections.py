"""Cameras that are a little wrong come back; what no photo shows stays as it is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.spatial.transform import Rotation

import splax
from splax.corrections.intrinsics import IntrinsicsRefinement
from splax.corrections.poses import PoseRefinement
from splax.corrections.rigid import move_camera, rotation
from splax.reports.images import to_uint8

VIEWS = 8


@pytest.fixture(scope="module")
def scene():
    return splax.make_demo_scene(num_train=VIEWS, num_test=2, width=32, height=24)


def cameras_of(scene):
    return splax.Camera.stack([view.camera for view in scene.train])


def test_rotations_are_those_of_scipy():
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    for vector in (*vectors, 1e-3 * vectors[0], np.zeros(3)):
        expected = Rotation.from_rotvec(vector).as_matrix()
        np.testing.assert_allclose(rotation(jnp.asarray(vector, jnp.float32)), expected, atol=1e-6)
    at_zero = jax.jacobian(rotation)(jnp.zeros(3))
    np.testing.assert_allclose(at_zero[2, 1], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(at_zero[1, 0], [0, 0, 1], atol=1e-6)


def test_a_camera_is_turned_where_it_stands_and_moved_along_the_axes_of_the_world(scene):
    camera = scene.train[1].camera
    motion = jnp.asarray([0.1, -0.2, 0.3, 1.0, 2.0, 3.0])
    moved = dataclasses.replace(camera, viewmat=move_camera(camera.viewmat, motion))
    np.testing.assert_allclose(moved.position, camera.position + jnp.arange(1.0, 4.0), atol=1e-5)
    turned = Rotation.from_rotvec(motion[:3]).as_matrix() @ np.asarray(camera.camera_to_world)[:3, :3]
    np.testing.assert_allclose(moved.camera_to_world[:3, :3], turned, atol=1e-5)


def test_what_moves_all_cameras_as_one_is_taken_out_and_nothing_else(scene):
    cameras = cameras_of(scene)
    positions = np.asarray(cameras.position, np.float64)
    turn, shift, spread = np.array([0.3, -0.2, 0.1]), np.array([1.0, 2.0, -1.0]), 0.1
    joint = np.concatenate(
        [np.tile(turn, (VIEWS, 1)), np.cross(turn, positions) + shift + spread * positions], axis=1
    )
    other = np.random.default_rng(0).normal(size=(VIEWS, 6))
    project = PoseRefinement(track_weight=0).project
    np.testing.assert_allclose(project(jnp.asarray(joint, jnp.float32), cameras), 0, atol=1e-4)
    once = project(jnp.asarray(other, jnp.float32), cameras)
    np.testing.assert_allclose(project(once + joint, cameras), once, atol=1e-4)
    assert np.linalg.norm(once) > 0.8 * np.linalg.norm(other)  # 7 of 48 dimensions are gone


@pytest.fixture(scope="module")
def known(scene):
    """Gaussians, and a scene whose photos are pictures of them."""
    gaussians = splax.Gaussians.random(60, extent=1, center=scene.center, sh_degree=0, rngs=nnx.Rngs(1))
    gaussians.logit_opacities[...] += 4
    model = splax.SplatModel(gaussians, splax.TileRasterizer(8, isect_capacity=4096))
    draw = jax.jit(lambda camera: model(camera).image)

    def photo(view):
        return dataclasses.replace(view, image=to_uint8(draw(view.camera)))

    views = [photo(view) for view in scene.train]
    return gaussians, dataclasses.replace(scene, train=views, test=[photo(view) for view in scene.test])


def fit_cameras(known, cameras, correction, steps):
    """Trains cameras only, from wrong ones, on photos of Gaussians that stay as they are."""
    gaussians, scene = known
    views = [
        dataclasses.replace(view, camera=camera) for view, camera in zip(scene.train, cameras, strict=True)
    ]
    model = splax.SplatModel(gaussians, splax.TileRasterizer(8, isect_capacity=4096))
    config = splax.TrainConfig(steps=steps, progress=False, corrections=(correction,))
    trainer = splax.Trainer(
        model,
        dataclasses.replace(scene, train=views),
        config,
        strategy=splax.Strategy(),
        optimizer=optax.set_to_zero(),
    )
    trainer.fit()
    return trainer


def test_poses_that_are_a_degree_off_come_back(known):
    _, scene = known
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(VIEWS, 6))
    noise[:, :3] *= np.radians(1) / np.linalg.norm(noise[:, :3], axis=1, keepdims=True)
    noise[:, 3:] *= 0.03
    # Only what photos can show of it.
    noise = PoseRefinement(track_weight=0).project(jnp.asarray(noise, jnp.float32), cameras_of(scene))
    wrong = [
        dataclasses.replace(view.camera, viewmat=move_camera(view.camera.viewmat, motion))
        for view, motion in zip(scene.train, noise, strict=True)
    ]
    trainer = fit_cameras(known, wrong, PoseRefinement(rate=2e-3), 400)

    def error(motions):
        """Mean error of the angle in degrees, and of the position."""
        errors = []
        for view, camera, motion in zip(scene.train, wrong, motions, strict=True):
            found = dataclasses.replace(camera, viewmat=move_camera(camera.viewmat, motion))
            relative = found.viewmat[:3, :3] @ view.camera.viewmat[:3, :3].T
            angle = np.degrees(Rotation.from_matrix(np.asarray(relative)).magnitude())
            errors.append((angle, np.linalg.norm(found.position - view.camera.position)))
        return np.mean(errors, axis=0)

    before, after = error(jnp.zeros((VIEWS, 6))), error(trainer.corrections["poses"])
    # Turning and moving sideways look nearly alike, so the last of it takes long: what shows is right before.
    assert (after < 0.6 * before).all(), (before, after)
    assert trainer.history[-1].psnr > trainer.history[0].psnr + 15


def test_a_wrong_focal_length_and_principal_point_come_back_and_hold_for_other_views(known):
    _, scene = known

    def spoil(camera):
        K = camera.K.at[0, 0].mul(1.05).at[1, 1].mul(0.96).at[0, 2].add(0.8).at[1, 2].add(-0.6)
        return dataclasses.replace(camera, K=K)

    wrong_test = [dataclasses.replace(view, camera=spoil(view.camera)) for view in scene.test]
    trainer = fit_cameras(
        known, [spoil(view.camera) for view in scene.train], IntrinsicsRefinement(rate=1e-3), 300
    )
    scores = trainer.evaluate(wrong_test)
    truth = scene.test[0].camera
    fixed = IntrinsicsRefinement().camera(trainer.corrections["intrinsics"], None, wrong_test[0].camera)
    np.testing.assert_allclose(fixed.K, truth.K, rtol=5e-3, atol=0.1)
    assert scores["psnr"] > 35


def test_intrinsics_of_each_view_do_not_hold_for_others(scene):
    correction = IntrinsicsRefinement(shared=False)
    params = correction.init(cameras_of(scene)) + jnp.arange(VIEWS)[:, None] * 0.01
    camera = scene.train[0].camera
    assert correction.camera(params, None, camera) is camera
    corrected = correction.camera(params, jnp.asarray(2), camera)
    assert corrected.K[0, 0] == pytest.approx(float(camera.K[0, 0]) * np.exp(0.02), rel=1e-5)
    assert corrected.K[1, 2] == pytest.approx(float(camera.K[1, 2] + 0.02 * camera.K[1, 1]), rel=1e-5)
