"""Lenses: the pinhole against OpenCV and finite differences, and what a lens of one's own can rely on."""

import dataclasses

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_camera
from jaxtyping import config

import splax
from splax.cameras import Camera
from splax.lenses import Lens, Pinhole

K = np.array([[31.0, 0, 19], [0, 37, 16], [0, 0, 1]])
POINTS = np.random.default_rng(0).uniform((-1, -1, 0.5), (1, 1, 3), (20, 3))


@dataclasses.dataclass(frozen=True, eq=False)
class Fisheye(Lens):
    """Equidistant: the angle to the axis is the distance to the centre of the image."""

    focal: jax.Array  # [..., 2]
    center: jax.Array  # [..., 2]
    turns: int = dataclasses.field(default=1, metadata={"static": True})

    def project(self, points):
        distance = jnp.hypot(points[..., 0], points[..., 1])
        angle = jnp.arctan2(distance, points[..., 2])
        return self.focal * points[..., :2] * (angle / distance)[..., None] + self.center

    def resize(self, scale_x, scale_y):
        scale = jnp.array([scale_x, scale_y])
        return dataclasses.replace(self, focal=self.focal * scale, center=self.center * scale)


def fisheye(turns=1) -> Fisheye:
    return Fisheye(jnp.array([31.0, 37.0]), jnp.array([19.0, 16.0]), turns)


def fisheye_camera(**changes) -> Camera:
    return dataclasses.replace(make_camera(40, 30), lens=fisheye(), **changes)


# --- the pinhole ---------------------------------------------------------------------------------------


def test_the_pinhole_projects_as_opencv_does():
    expected = cv2.projectPoints(POINTS, np.zeros(3), np.zeros(3), K, None)[0][:, 0]
    lens = Pinhole(jnp.asarray(K, jnp.float32))
    np.testing.assert_allclose(lens.project(jnp.asarray(POINTS, jnp.float32)), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(Pinhole.project)(lens, POINTS.astype(np.float32)), expected, rtol=1e-5)


def test_the_gradient_of_the_pinhole_is_that_of_finite_differences():
    with jax.enable_x64(True):
        lens, points = Pinhole(jnp.asarray(K)), jnp.asarray(POINTS)
        weights = jnp.asarray(np.random.default_rng(1).normal(size=(20, 2)))

        def value(lens, points):
            return (weights * lens.project(points)).sum()

        v_lens, v_points = jax.grad(value, argnums=(0, 1))(lens, points)
        rng, step = np.random.default_rng(2), 1e-6
        dK, dpoints = rng.normal(size=(3, 3)), rng.normal(size=POINTS.shape)
        ends = [value(Pinhole(jnp.asarray(K + s * dK)), points + s * dpoints) for s in (step, -step)]
        expected = (ends[0] - ends[1]) / (2 * step)
        actual = (v_lens.K * dK).sum() + (v_points * dpoints).sum()
        np.testing.assert_allclose(actual, expected, rtol=1e-7)


def test_a_resized_pinhole_shows_the_same_on_another_grid():
    lens, points = Pinhole(jnp.asarray(K, jnp.float32)), jnp.asarray(POINTS, jnp.float32)
    resized = lens.resize(0.5, 3.0)
    np.testing.assert_allclose(resized.project(points), lens.project(points) * jnp.array([0.5, 3]), rtol=1e-5)
    np.testing.assert_allclose(resized.K, [[15.5, 0, 9.5], [0, 111, 48], [0, 0, 1]])
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), lens)
    assert batch.resize(0.5, 0.5).K.shape == (2, 3, 3)


def test_K_of_another_shape(monkeypatch):
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # as users run splax
    with pytest.raises(ValueError, match=r"Pinhole K must be \[\.\.\., 3, 3\], got shape \(4, 4\)"):
        Pinhole(jnp.eye(4))
    assert Pinhole(np.eye(3, dtype=int)).K.dtype == jnp.float32  # pyright: ignore[reportArgumentType]


# --- a lens of one's own -------------------------------------------------------------------------------


def test_the_fisheye_of_this_file_is_that_of_opencv():
    expected = cv2.fisheye.projectPoints(POINTS[None], np.zeros(3), np.zeros(3), K, np.zeros(4))[0][0]
    np.testing.assert_allclose(fisheye().project(jnp.asarray(POINTS, jnp.float32)), expected, rtol=1e-5)


def test_a_camera_takes_any_lens():
    camera = fisheye_camera(time=0.5)
    assert len(jax.tree.leaves(camera)) == 4 and jax.tree.structure(camera) == jax.tree.structure(camera)
    small = camera.resize(20, 10)
    point = jnp.array([0.2, 0.1, 0.3])
    np.testing.assert_allclose(small.project(point), camera.project(point) / jnp.array([2, 3]), rtol=1e-5)
    batch = Camera.stack([camera, small.resize(40, 30)])
    pixels = jax.jit(jax.vmap(lambda camera: camera.project(point)))(batch)
    np.testing.assert_allclose(pixels, [camera.project(point)] * 2, rtol=1e-5)
    gradient = jax.grad(lambda camera: camera.project(point)[0])(camera)
    np.testing.assert_allclose(gradient.lens.center, [1, 0])


def test_static_fields_are_compiled_in():
    traces = []

    @jax.jit
    def turns(lens):
        traces.append(lens.turns)
        return lens.focal * lens.turns

    for number in (1, 1, 2):
        np.testing.assert_allclose(turns(fisheye(number)), [31 * number, 37 * number])
    assert traces == [1, 2]


def test_what_needs_a_pinhole_says_so():
    with pytest.raises(
        ValueError, match=r"K of a Pinhole.*lens of this camera is a Fisheye.*camera\.project"
    ):
        _ = fisheye_camera().K
    with pytest.raises(ValueError, match=r"K replaces the K of a lens.*Fisheye has none; give lens= alone"):
        dataclasses.replace(fisheye_camera(), K=jnp.eye(3))


def test_lenses_of_two_kinds_are_no_batch():
    with pytest.raises(ValueError, match=r"lenses of one kind.*got Fisheye, Pinhole; stack.*separately"):
        Camera.stack([make_camera(40, 30), fisheye_camera()])


def test_the_base_is_not_a_lens():
    with pytest.raises(TypeError, match="abstract"):
        splax.Lens()  # pyright: ignore[reportAbstractUsage]
