"""Points that photos show, and where: as COLMAP's files have them, and as a term of the loss."""

import dataclasses
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import make_camera, project
from jaxtyping import config
from test_colmap import IMAGES, write_dataset
from test_point_depth import world_points

import splax
from splax.corrections.poses import PoseRefinement
from splax.corrections.rigid import move_camera
from splax.corrections.track_penalty import ROBUST, reprojection_error
from splax.data.colmap_lens import ColmapLens
from splax.data.distortion import undistort_pixels, undistorted_intrinsics
from splax.training.photos.loader import PhotoLoader

WIDTH, HEIGHT = 40, 32


def test_the_error_is_that_of_huber_in_shares_of_the_longer_side():
    camera, rng = make_camera(WIDTH, HEIGHT), np.random.default_rng(0)
    pixels = rng.uniform(2, 30, (4, 2))
    points = world_points(camera, pixels, rng.uniform(1, 4, 4))
    offsets = np.array([[0, 0], [0.3, 0.4], [3, 4], [0.01, 0]])
    d = np.linalg.norm(offsets, axis=1) / WIDTH
    expected = np.where(d < ROBUST, d**2 / (2 * ROBUST), d - ROBUST / 2).mean()
    found = reprojection_error(camera, points, jnp.asarray(pixels + offsets, jnp.float32))
    assert found == pytest.approx(expected, rel=1e-3)
    # The same image of twice the size; then with rows of nothing, and a point behind the camera.
    twice = camera.resize(2 * WIDTH, 2 * HEIGHT)
    again = reprojection_error(twice, points, jnp.asarray(2 * (pixels + offsets), jnp.float32))
    assert again == pytest.approx(expected, rel=1e-3)
    behind = world_points(camera, pixels[:1], np.array([-2.0]))
    nothing = jnp.full((3, 3), jnp.nan)
    more = jnp.concatenate([points, behind, nothing, points[:1]])
    places = jnp.asarray(
        np.concatenate([pixels + offsets, pixels[:1], pixels[:3], np.full((1, 2), np.nan)]), jnp.float32
    )
    value, gradient = jax.value_and_grad(
        lambda viewmat: reprojection_error(dataclasses.replace(camera, viewmat=viewmat), more, places)
    )(camera.viewmat)
    assert value == pytest.approx(expected, rel=1e-3) and jnp.isfinite(gradient).all()
    assert reprojection_error(camera, nothing, places[:3]) == 0


@pytest.mark.parametrize("model", ["OPENCV", "PINHOLE", "OPENCV_FISHEYE"])
def test_places_in_the_photo_go_through_the_lens_backwards(model):
    coefficients = {"PINHOLE": (), "OPENCV": (-0.1, 0.02, 0.001, -0.002)}.get(model, (0.05, 0.01, 0, 0))
    lens = ColmapLens(model, (60.0, 61, 33, 23, *coefficients), 64, 48)
    K = lens.K if lens.is_pinhole else undistorted_intrinsics(lens)
    local = np.random.default_rng(0).uniform([-0.4, -0.3, 1], [0.4, 0.3, 1], (50, 3))
    found = undistort_pixels(lens, K, lens.project(local))
    np.testing.assert_allclose(found, local[:, :2] * np.diag(K)[:2] + K[:2, 2], atol=1e-6)


def test_views_know_where_their_photos_show_points(tmp_path):
    """Observations written where the points of the model appear; the images are half as large as it says."""
    root = write_dataset(tmp_path)
    whole = splax.load_dataset(root, test_every=0)
    assert all(view.point_pixels is None for view in whole.train)  # none was observed
    observe_truly(root / "sparse" / "0", whole)
    for downscale in (1, 2, 2.5):
        scene = splax.load_dataset(root, test_every=0, downscale=downscale)
        for view in scene.train:
            assert view.points is not None and view.point_pixels is not None
            assert view.point_pixels.dtype == np.float32
            np.testing.assert_allclose(view.point_pixels, project(view.camera, view.points), atol=1e-3)


def observe_truly(folder, scene):
    """Observations of both points of the model in each of its images."""
    data = struct.pack("<Q", len(IMAGES))
    views = {view.name: view for view in scene.train}
    for index, (name, camera_id, quat, translation) in enumerate(IMAGES):
        pixels = project(views[name].camera, scene.points)
        data += struct.pack("<i7di", index + 1, *quat, *translation, camera_id) + name.encode() + b"\0"
        data += struct.pack("<Q", len(pixels))
        data += b"".join(struct.pack("<ddq", *pixel, 7 + i) for i, pixel in enumerate(pixels))
    (folder / "images.bin").write_bytes(data)


def test_pixels_that_do_not_go_with_the_points_are_refused(monkeypatch):
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # as users run splax
    view = splax.make_demo_scene(num_train=1, num_test=0, width=8, height=6).train[0]
    points = np.zeros((3, 3), np.float32)
    for wrong in (np.zeros((2, 2), np.float32), np.zeros((3, 2)), np.full((3, 2), np.inf, np.float32)):
        with pytest.raises(ValueError, match=r"point_pixels must be float32 \[P, 2\]"):
            dataclasses.replace(view, points=points, point_pixels=wrong)
    with pytest.raises(ValueError, match="track_weight must be 0 or more"):
        PoseRefinement(track_weight=-1)


@pytest.fixture(scope="module")
def tracked():
    """A scene whose views know points and where they show them; the third does not."""
    scene = splax.make_demo_scene(num_train=6, num_test=1, width=WIDTH, height=HEIGHT)
    rng = np.random.default_rng(0)
    points = (scene.center + scene.radius / 4 * rng.normal(size=(30, 3))).astype(np.float32)

    def track(view):
        pixels = project(view.camera, points).astype(np.float32)
        return dataclasses.replace(view, points=points, point_pixels=pixels)

    train = [view if index == 2 else track(view) for index, view in enumerate(scene.train)]
    return dataclasses.replace(scene, train=train)


def test_pixels_come_with_the_photos_where_they_are_used(tracked):
    loader = PhotoLoader(tracked.train, seed=0, tracks=True)
    loader.plan(6)
    for step in range(6):
        photos, rows = loader.take(step, 1)
        view = tracked.train[int(photos.views[rows[0]])]
        pixels = np.asarray(photos.targets.point_pixels)[rows[0]]
        assert pixels.shape == (30, 2)
        if view.point_pixels is None:
            assert np.isnan(pixels).all()
        else:
            np.testing.assert_array_equal(pixels, view.point_pixels)
    assert PhotoLoader(tracked.train, seed=0, depths=True)._loaders[0].has_tracks is False


class TracksAlone(splax.Trainer):
    """The photos teach nothing."""

    def loss(self, model, output, batch):
        return jnp.zeros(())


def test_tracks_bring_cameras_back(tracked):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(6, 6)) * np.radians([0.6, 0.6, 0.6, 1, 1, 1]) * [1, 1, 1, 2, 2, 2]
    wrong = [
        dataclasses.replace(
            view,
            camera=dataclasses.replace(
                view.camera, viewmat=move_camera(view.camera.viewmat, jnp.asarray(motion, jnp.float32))
            ),
        )
        for view, motion in zip(tracked.train, noise, strict=True)
    ]

    gaussians = splax.Gaussians.random(20, extent=1, center=tracked.center, sh_degree=0, rngs=nnx.Rngs(0))
    model = splax.SplatModel(gaussians, splax.TileRasterizer(8, isect_capacity=1024, render_depth=False))
    settings = splax.TrainConfig(steps=300, progress=False, corrections=(PoseRefinement(rate=3e-3),))
    scene = dataclasses.replace(tracked, train=wrong)
    trainer = TracksAlone(model, scene, settings, strategy=splax.Strategy())
    trainer.fit()
    motions = np.asarray(trainer.corrections["poses"])
    assert not motions[2].any()  # of which no tracks are known
    known = [0, 1, 3, 4, 5]
    assert np.abs((motions + noise)[known]).mean() < 0.1 * np.abs(noise[known]).mean()
