"""When photos were taken: read from datasets that say so, and carried wherever their cameras go."""

import dataclasses
import json
import math
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_camera, write_image
from test_trainer import DenseModel, make_dense_trainer, make_gaussians, params_of

import splax
from splax.cli.describe import describe_scene
from splax.data.formats import load_dataset
from splax.scene import Scene, View
from splax.training.photos.loader import PhotoLoader
from splax.training.photos.resolution import shrink_camera

IDENTITY = np.eye(4).tolist()


def write_frames(path: Path, names, times) -> Path:
    """A file of transforms as D-NeRF's, with a time in frames that have one."""
    frames = []
    for name, time in zip(names, times, strict=True):
        write_image(path.parent / f"{name}.png")
        frame = {"file_path": f"./{name}", "rotation": 0.3, "transform_matrix": IDENTITY}
        frames.append(frame if time is None else frame | {"time": time})
    path.write_text(json.dumps({"camera_angle_x": 0.7, "frames": frames}))
    return path


def write_scene(folder: Path, times) -> Path:
    names = [f"{index:03d}" for index in range(len(times))]
    return write_frames(folder / "transforms.json", names, times).parent


# --- reading -------------------------------------------------------------------------------------------


def test_times_of_frames_are_read(tmp_path):
    scene = load_dataset(write_scene(tmp_path, [0.0, 0.25, 1]), test_every=0)
    assert [view.time for view in scene.train] == [0, 0.25, 1]
    for view in scene.train:
        assert view.camera.time is not None and view.camera.time.dtype == jnp.float32
        assert view.camera.time == view.time
    assert "time      0 to 1, 3 different" in describe_scene(scene).splitlines()
    assert scene.warnings == ()


def test_datasets_without_times_have_none(tmp_path):
    scene = load_dataset(write_scene(tmp_path, [None, None]), test_every=0)
    assert [view.time for view in scene.train] == [None, None]
    assert scene.train[0].camera.time is None
    assert not any(line.startswith("time") for line in describe_scene(scene).splitlines())


def test_times_of_both_splits_of_d_nerf_are_read(tmp_path):
    write_frames(tmp_path / "transforms_train.json", ["train/r_0", "train/r_1"], [0.0, 0.5])
    write_frames(tmp_path / "transforms_test.json", ["test/r_0"], [0.75])
    scene = load_dataset(tmp_path, downscale=2)
    assert [view.time for view in scene.train] == [0, 0.5]
    assert [view.time for view in scene.test] == [0.75]


@pytest.mark.parametrize("time", ["noon", [0.5], True, math.nan, math.inf, 10**400])
def test_a_time_that_is_no_number_is_refused(tmp_path, time):
    folder = write_scene(tmp_path, [0.0, time])
    message = r"transforms\.json: frame 1 \('\./001'\): time must be a finite number, got .*take time out"
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(folder)
    assert "\n" not in str(caught.value)


def test_times_that_some_frames_lack_are_ignored_with_a_warning(tmp_path):
    folder = write_scene(tmp_path, [0.0, None, 1.0, None])
    with pytest.warns(UserWarning, match=r"2 of 4 frames state no time, such as '001.png'; all times are ig"):
        scene = load_dataset(folder, test_every=2)
    assert {view.time for view in [*scene.train, *scene.test]} == {None}
    assert any("state no time" in warning for warning in scene.warnings)


def test_a_split_without_times_takes_those_of_the_other(tmp_path):
    write_frames(tmp_path / "transforms_train.json", ["train/r_0"], [0.5])
    write_frames(tmp_path / "transforms_test.json", ["test/r_0"], [None])
    with pytest.warns(UserWarning, match=r"1 of 2 frames state no time, such as 'test/r_0.png'"):
        scene = load_dataset(tmp_path)
    assert scene.train[0].time is scene.test[0].time is None


def test_times_that_float32_cannot_tell_apart_are_named(tmp_path):
    # Seconds since 1970, of which float32 holds every 128th.
    folder = write_scene(tmp_path, [1.7e9, 1.7e9 + 1])
    with pytest.warns(UserWarning, match=r"times from 1700000000 to 1700000001 .* count them from the first"):
        load_dataset(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(write_scene(tmp_path, [0.0, 0.0, 1.0]))  # photos of one moment


# --- flowing -------------------------------------------------------------------------------------------


def make_views(num: int, sizes=((24, 16),), timed: bool = True) -> list[View]:
    views = []
    for index in range(num):
        width, height = sizes[index % len(sizes)]
        camera = make_camera(width, height, position=(3 * np.cos(index), 3 * np.sin(index), 1.0))
        camera = dataclasses.replace(camera, time=index / 10) if timed else camera
        views.append(View(np.full((height, width, 3), index, np.uint8), camera, f"{index:03d}"))
    return views


@pytest.mark.parametrize("limit", [None, 4 * 24 * 16 * 3])
def test_the_feed_brings_times_along(limit):
    loader = PhotoLoader(make_views(6, sizes=((24, 16), (23, 16))), seed=0, limit=limit)
    assert loader.streams == (limit is not None)
    np.testing.assert_allclose(np.asarray(loader.cameras.time), np.arange(6) / 10)
    loader.plan(12)
    step = 0
    while step < 12:
        photos, rows = loader.take(step, 12 - step)
        for row in rows:
            np.testing.assert_allclose(np.asarray(photos.cameras.time)[row], photos.views[row] / 10)
        step += len(rows)


def test_views_of_which_some_have_a_time_are_refused():
    views = [*make_views(2), *make_views(3, timed=False)[2:]]
    with pytest.raises(ValueError, match=r"a time in all cameras or in none, got 2 of 3"):
        PhotoLoader(views, seed=0)


def test_smaller_cameras_and_orbits_keep_the_time():
    views = make_views(3)[1:]
    assert shrink_camera(views[0].camera, 2).time == views[0].camera.time
    assert splax.orbit(Scene(views, []), 2)[1].time == views[0].camera.time


def test_corrections_keep_the_time():
    camera = make_views(2)[1].camera
    cameras = jax.tree.map(lambda leaf: leaf[None], camera)
    for correction in (splax.PoseRefinement(), splax.IntrinsicsRefinement()):
        moved = correction.camera(correction.init(cameras), jnp.int32(0), camera)
        assert moved.time == camera.time
        np.testing.assert_allclose(moved.K, camera.K, rtol=1e-6)


def test_a_time_changes_no_picture_by_itself():
    scene = splax.make_demo_scene(num_train=2, num_test=0, width=24, height=16)
    model = splax.SplatModel(make_gaussians(scene, 50), splax.TileRasterizer(8, isect_capacity=4096))
    still = splax.Camera.stack([view.camera for view in scene.train])
    moving = dataclasses.replace(still, time=jnp.array([0.0, 1.0]))
    images = [jax.jit(jax.vmap(lambda camera: model(camera).image))(cameras) for cameras in (still, moving)]
    np.testing.assert_allclose(images[1], images[0], atol=1e-6)
    gradient = jax.grad(lambda camera: model(camera).image.sum())(jax.tree.map(lambda x: x[0], moving))
    assert gradient.time == 0 and np.abs(gradient.K).max() > 0


class Fading(DenseModel):
    """Colours that go with time."""

    def colors(self, gaussians, camera):
        assert camera.time is not None
        return super().colors(gaussians, camera) * camera.time


class Dimmed(DenseModel):
    """Colours as those of Fading at a time of 0.5."""

    def colors(self, gaussians, camera):
        return super().colors(gaussians, camera) * 0.5


def at_time(views, time) -> list[View]:
    return [dataclasses.replace(v, camera=dataclasses.replace(v.camera, time=time)) for v in views]


def test_training_and_scores_give_the_model_the_time_of_each_view():
    still = splax.make_demo_scene(num_train=4, num_test=1, width=32, height=24)
    moving = dataclasses.replace(still, train=at_time(still.train, 0.5), test=at_time(still.test, 0.5))
    trainers = [
        make_dense_trainer(scene, model_cls=cls) for scene, cls in ((still, Dimmed), (moving, Fading))
    ]
    for trainer in trainers:
        trainer.fit(6)
    expected, actual = map(params_of, trainers)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    expected, actual = (trainer.evaluate() for trainer in trainers)
    assert actual["psnr"] == pytest.approx(expected["psnr"], rel=1e-3)
