"""Cameras: known points land on known pixels, and cameras pass through JAX's transforms."""

import dataclasses

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import config

from splax.cameras import Camera
from splax.lenses import Pinhole


def make_camera(position=(1.0, -2.0, 0.5), target=(0.2, 0.1, -0.3), width=40, height=30) -> Camera:
    return Camera.look_at(position, target, fov_x=1.0, width=width, height=height)


def project(camera: Camera, point) -> jax.Array:
    """Pixel of a point in the world."""
    x, y, z = camera.viewmat[:3, :3] @ jnp.asarray(point, jnp.float32) + camera.viewmat[:3, 3]
    return (camera.K @ jnp.array([x / z, y / z, 1]))[:2]


@pytest.fixture
def unchecked(monkeypatch):
    """As users run splax: without the type checks of the test run."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)


def test_look_at_puts_the_target_in_the_middle():
    camera = make_camera()
    np.testing.assert_allclose(project(camera, (0.2, 0.1, -0.3)), [20, 15], atol=1e-4)
    np.testing.assert_allclose(camera.position, [1, -2, 0.5], atol=1e-6)


def test_look_at_follows_opencv():
    # From the south, looking north, z up: east is right, and up is towards smaller y.
    camera = Camera.look_at((0, -5, 0), (0, 0, 0), fov_x=np.pi / 2, width=100, height=80)
    np.testing.assert_allclose(project(camera, (1, 0, 0)), [50 + 50 / 5, 40], atol=1e-4)
    np.testing.assert_allclose(project(camera, (0, 0, 1)), [50, 40 - 50 / 5], atol=1e-4)
    np.testing.assert_allclose(camera.viewmat @ jnp.array([0, 0, 0, 1.0]), [0, 0, 5, 1], atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.det(camera.viewmat[:3, :3]), 1, atol=1e-6)


def test_field_of_view_spans_the_width():
    camera = Camera.look_at((0, -1, 0), (0, 0, 0), fov_x=0.8, width=64, height=10)
    np.testing.assert_allclose(project(camera, (np.tan(0.4), 0, 0))[0], 64, atol=1e-4)


def test_other_up():
    camera = Camera.look_at((0, 0, -3), (0, 0, 0), up=(0, -1, 0), fov_x=1, width=8, height=8)
    np.testing.assert_allclose(camera.viewmat[:3, :3], np.eye(3), atol=1e-6)


def test_camera_to_world_is_the_inverse():
    camera = make_camera()
    expected = np.linalg.inv(np.asarray(camera.viewmat, np.float64))
    np.testing.assert_allclose(camera.camera_to_world, expected, atol=1e-6)
    np.testing.assert_allclose(camera.position, expected[:3, 3], atol=1e-6)


def test_stack_and_vmap():
    cameras = [make_camera(position=(1.0 + i, -2, 0.5)) for i in range(3)]
    stacked = Camera.stack(cameras)
    assert stacked.viewmat.shape == (3, 4, 4) and stacked.K.shape == (3, 3, 3)
    expected = np.stack([c.camera_to_world for c in cameras])
    np.testing.assert_allclose(stacked.camera_to_world, expected, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda c: c.camera_to_world)(stacked), expected, atol=1e-6)
    second = jax.tree.map(lambda leaf: leaf[1], stacked)
    assert (second.width, second.height) == (40, 30)
    np.testing.assert_array_equal(second.viewmat, cameras[1].viewmat)


def test_resize_keeps_the_view():
    camera = make_camera()
    smaller = camera.resize(10, 15)
    assert (smaller.width, smaller.height) == (10, 15)
    point = (0.5, 0.3, 0.1)
    np.testing.assert_allclose(
        project(smaller, point), project(camera, point) * jnp.array([0.25, 0.5]), rtol=1e-5
    )
    assert smaller.K[2, 2] == 1


def test_jit_traces_once_for_cameras_of_one_size():
    traces = []

    @jax.jit
    def position(camera):
        traces.append((camera.width, camera.height))
        return camera.position

    for x in (1.0, 2.0):
        np.testing.assert_allclose(position(make_camera(position=(x, -2, 0.5))), [x, -2, 0.5], atol=1e-6)
    position(make_camera(width=44))
    assert traces == [(40, 30), (44, 30)]


def test_gradients_reach_pose_and_intrinsics():
    camera = make_camera()
    gradient = jax.grad(lambda c: project(c, (0.5, 0.3, 0.1))[0])(camera)
    assert isinstance(gradient, Camera) and gradient.width == 40
    depth = (camera.viewmat[:3, :3] @ jnp.array([0.5, 0.3, 0.1]) + camera.viewmat[:3, 3])[2]
    np.testing.assert_allclose(gradient.viewmat[0, 3], camera.K[0, 0] / depth, rtol=1e-5)
    np.testing.assert_allclose(gradient.K[0, 2], 1, rtol=1e-6)


def test_leaves_have_names():
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(make_camera())]
    assert paths == [".viewmat", ".lens.K"]
    assert jax.tree.map(lambda leaf: None, make_camera()).viewmat is None  # any leaf is allowed inside JAX


def test_numpy_and_integers_become_float_arrays(unchecked):
    camera = Camera(viewmat=np.eye(4), K=np.eye(3, dtype=int), width=np.int64(4), height=2)  # pyright: ignore
    assert camera.viewmat.dtype == camera.K.dtype == jnp.float32
    assert type(camera.width) is int


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"viewmat": jnp.eye(3)}, r"viewmat must be \[\.\.\., 4, 4\], got shape \(3, 3\)"),
        ({"K": jnp.eye(4)}, r"K must be \[\.\.\., 3, 3\], got shape \(4, 4\)"),
        ({"width": 0}, "width must be a positive int"),
        ({"height": -3}, "height must be a positive int.*-3"),
        ({"width": 4.0}, "width must be a positive int.*4.0"),
        ({"height": True}, "height must be a positive int.*True"),
        ({"K": None}, r"needs a lens=splax.Pinhole\(K\), or K=; got neither"),
        ({"K": jnp.zeros((2, 3, 3))}, r"one batch shape, got \(\) and \(2,\)"),
        ({"K": None, "lens": jnp.eye(3)}, "lens must be a splax.Lens"),
        (
            {"time": jnp.zeros(2)},
            r"time must be of the batch shape of viewmat, \(\), got \(2,\).*leave it None",
        ),
    ],
)
def test_impossible_cameras(unchecked, change, reason):
    arguments = {"viewmat": jnp.eye(4), "K": jnp.eye(3), "width": 4, "height": 4}
    with pytest.raises(ValueError, match=reason):
        Camera(**(arguments | change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target": (0, 0, 1)}, "position != target"),
        ({"target": (0, 0, 5)}, "parallel to up"),
        ({"target": (np.nan, 0, 0)}, "position != target"),
        ({"fov_x": 0.0}, "fov_x must lie in"),
        ({"fov_x": 3.2}, "fov_x must lie in"),
        ({"width": 0}, "width must be a positive int"),
    ],
)
def test_impossible_views(change, reason):
    arguments = {"position": (0, 0, 1), "target": (1, 0, 0), "fov_x": 1.0, "width": 4, "height": 4}
    with pytest.raises(ValueError, match=reason):
        Camera.look_at(**(arguments | change))


def test_stack_of_unequal_cameras():
    with pytest.raises(ValueError, match=r"one size, got sizes \[\(40, 30\), \(41, 30\)\]"):
        Camera.stack([make_camera(), make_camera(width=41)])
    with pytest.raises(ValueError, match=r"got sizes \[\]"):
        Camera.stack([])


# --- lens ----------------------------------------------------------------------------------------------


def test_a_lens_and_K_are_two_spellings():
    camera = make_camera()
    other = Camera(viewmat=camera.viewmat, lens=Pinhole(camera.K), width=40, height=30)
    assert jax.tree.structure(camera) == jax.tree.structure(other)
    assert camera.K is camera.lens.K  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_array_equal(camera.K, other.K)


def test_replace_takes_K_as_well_as_a_lens():
    camera = dataclasses.replace(make_camera(), time=0.5)
    K = camera.K * 2
    for changed in (dataclasses.replace(camera, K=K), dataclasses.replace(camera, lens=Pinhole(K))):
        np.testing.assert_array_equal(changed.K, K)
        np.testing.assert_array_equal(changed.viewmat, camera.viewmat)
        assert changed.time == 0.5 and (changed.width, changed.height) == (40, 30)
    traced = jax.jit(lambda c: dataclasses.replace(c, K=c.K * 2))(camera)
    np.testing.assert_array_equal(traced.K, K)


def test_project_is_that_of_opencv():
    camera = dataclasses.replace(make_camera(), K=jnp.array([[31.0, 0, 19], [0, 37, 16], [0, 0, 1]]))
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3))
    viewmat = np.asarray(camera.viewmat, np.float64)
    expected = cv2.projectPoints(
        points, cv2.Rodrigues(viewmat[:3, :3])[0], viewmat[:3, 3], np.asarray(camera.K, np.float64), None
    )[0][:, 0]
    np.testing.assert_allclose(camera.project(jnp.asarray(points, jnp.float32)), expected, rtol=1e-5)
    exact = camera.to_numpy().project(points)
    assert exact.dtype == np.float64
    np.testing.assert_allclose(exact, expected, rtol=1e-7)  # OpenCV makes the float32 rotation exact
    # Cameras of a batch project a point each.
    batch = Camera.stack([camera] * 20)
    np.testing.assert_allclose(batch.project(jnp.asarray(points, jnp.float32)), expected, rtol=1e-5)


# --- time ----------------------------------------------------------------------------------------------


def test_time_is_a_leaf_where_there_is_one():
    camera = make_camera()
    assert camera.time is None
    moving = dataclasses.replace(camera, time=0.25)
    assert moving.time is not None and moving.time.dtype == jnp.float32 and moving.time.shape == ()
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(moving)]
    assert paths == [".viewmat", ".lens.K", ".time"]
    assert dataclasses.replace(moving, time=None).time is None
    assert moving.resize(20, 15).time == 0.25
    assert dataclasses.replace(camera, time=3).time == 3.0
    gradient = jax.grad(lambda c: jnp.sin(c.time) * c.position[0])(moving)
    np.testing.assert_allclose(gradient.time, np.cos(0.25) * camera.position[0], rtol=1e-6)


def test_cameras_with_a_time_are_stacked_and_mapped_over():
    cameras = [dataclasses.replace(make_camera((1.0 + i, -2, 0.5)), time=i / 2) for i in range(3)]
    batch = Camera.stack(cameras)
    assert batch.time is not None
    np.testing.assert_array_equal(batch.time, [0, 0.5, 1])
    np.testing.assert_array_equal(jax.vmap(lambda c: 2 * c.time)(batch), [0, 1, 2])
    assert jax.tree.map(lambda leaf: leaf[1], batch).time == 0.5
    with pytest.raises(ValueError, match=r"a time in all cameras or in none, got 3 of 4.*time=None"):
        Camera.stack([*cameras, make_camera()])


def test_times_share_a_compiled_function():
    traces = []

    @jax.jit
    def double(camera):
        traces.append(camera.time)
        return 2 * camera.time

    # As a number, an array and one row of a batch.
    batch = Camera.stack([dataclasses.replace(make_camera(), time=float(i)) for i in range(3)])
    for time in (0.5, jnp.float32(0.5), np.float64(0.5)):
        double(dataclasses.replace(make_camera(), time=time))
    double(jax.tree.map(lambda leaf: leaf[1], batch))
    assert len(traces) == 1
