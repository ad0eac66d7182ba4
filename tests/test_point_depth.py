"""Depth at a few known points of a photo: the loss against closed forms, and what training makes of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import make_camera, project
from test_recipe import output_of

import splax
from splax.losses.depth import rendered_disparity
from splax.losses.point_depth import point_disparity_loss
from splax.training.photos.loader import PhotoLoader
from splax.training.photos.resolution import shrink_camera

WIDTH, HEIGHT = 40, 32
compiled_loss = jax.jit(point_disparity_loss, static_argnums=3)


def world_points(camera, pixels, depths):
    """The points that a camera sees at pixels, at these depths."""
    viewmat, K = np.asarray(camera.viewmat, np.float64), np.asarray(camera.K, np.float64)
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(K).T
    local = rays * depths[:, None]
    return jnp.asarray((local - viewmat[:3, 3]) @ viewmat[:3, :3], jnp.float32)


def padded(*points):
    """Points, and rows of none."""
    return jnp.concatenate([*points, jnp.full((5, 3), jnp.nan)])


def plane_disparity(x, y):
    return 0.3 + 0.002 * x + 0.001 * y


@pytest.fixture(scope="module")
def plane():
    """The rendering of a tilted plane: its inverse depth is linear over the image."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    alpha = np.random.default_rng(0).uniform(0.2, 1, x.shape)
    return output_of(jnp.asarray(alpha, jnp.float32), jnp.asarray(alpha / plane_disparity(x, y), jnp.float32))


def test_the_loss_is_the_error_of_inverse_depth_where_the_points_appear(plane):
    camera, rng = make_camera(WIDTH, HEIGHT), np.random.default_rng(1)
    pixels, depths = rng.uniform(1, [WIDTH - 1, HEIGHT - 1], (30, 2)), rng.uniform(1, 5, 30)
    points = world_points(camera, pixels, depths)
    np.testing.assert_allclose(project(camera, points), pixels, atol=1e-3)
    errors = np.abs(plane_disparity(*pixels.T) - 1 / depths)
    assert compiled_loss(plane, points, camera, 3.0) == pytest.approx(3 * errors.mean(), rel=1e-4)
    # Beside the image, behind the camera, and no points at all.
    beside = world_points(camera, np.array([[-0.5, 9], [9, HEIGHT + 0.5], [9, 9]]), np.array([2.0, 2, -2]))
    points = padded(beside, points)
    assert compiled_loss(plane, points, camera, 3.0) == pytest.approx(3 * errors.mean(), rel=1e-4)
    assert compiled_loss(plane, padded(), camera, 3.0) == 0
    # Points under the mask.
    mask = np.arange(WIDTH) < WIDTH // 2
    kept = errors[pixels[:, 0] < WIDTH // 2]
    loss = compiled_loss(plane, points, camera, 3.0, jnp.tile(mask, (HEIGHT, 1)))
    assert 0 < len(kept) < 30 and loss == pytest.approx(3 * kept.mean(), rel=1e-4)


def test_a_small_image_is_compared_at_the_same_points(plane):
    camera, rng = make_camera(WIDTH, HEIGHT), np.random.default_rng(1)
    pixels, depths = rng.uniform(2, [WIDTH - 2, HEIGHT - 2], (30, 2)), rng.uniform(1, 5, 30)
    y, x = np.mgrid[: HEIGHT // 2, : WIDTH // 2] * 2 + 1
    small = output_of(jnp.ones(x.shape), jnp.asarray(1 / plane_disparity(x, y), jnp.float32))
    args = world_points(camera, pixels, depths), shrink_camera(camera, 2), 3.0
    errors = np.abs(plane_disparity(*pixels.T) - 1 / depths)
    assert compiled_loss(small, *args) == pytest.approx(3 * errors.mean(), rel=1e-4)


def test_gradients_are_those_of_finite_differences_and_finite_everywhere(plane):
    camera, rng = make_camera(WIDTH, HEIGHT), np.random.default_rng(2)
    points = world_points(camera, rng.uniform(2, 30, (6, 2)), rng.uniform(1, 5, 6))
    points = padded(camera.position[None], points)  # the first is in no direction

    @jax.jit
    def loss(alpha, depth, viewmat):
        moved = dataclasses.replace(camera, viewmat=viewmat)
        return point_disparity_loss(output_of(alpha, depth), points, moved, 3.0)

    alpha = plane.alpha.at[3:5].set(0)
    args = alpha, plane.accumulated_depth, camera.viewmat
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*args)
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)
    # Where the nearest pixel has a share in a point: four of them for each.
    assert 0 < (gradients[1] != 0).sum() <= 4 * 6
    for index, step in ((1, 1e-2), (2, 1e-3)):
        direction = jnp.asarray(rng.normal(size=args[index].shape), jnp.float32)
        direction = direction.at[3].set(0) if index == 2 else direction
        ends = [
            loss(*(a + sign * step * direction if i == index else a for i, a in enumerate(args)))
            for sign in (1, -1)
        ]
        slope = float((gradients[index] * direction).sum())
        assert slope == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=0.02)


@pytest.fixture(scope="module")
def scene():
    return splax.make_demo_scene(num_train=6, num_test=1, width=32, height=24)


def test_points_come_with_the_photos_of_their_views(scene):
    rng = np.random.default_rng(0)
    counts = [3, None, 7, 0, 5, None]
    seen = [None if n is None else rng.normal(size=(n, 3)).astype(np.float32) for n in counts]
    views = [dataclasses.replace(view, points=p) for view, p in zip(scene.train, seen, strict=True)]
    for limit in (1 << 30, 0):  # resident, and streamed
        loader = PhotoLoader(views, seed=0, limit=limit, depths=True)
        loader.plan(6)
        for step in range(6):
            photos, rows = loader.take(step, 1)
            view, points = int(photos.views[rows[0]]), np.asarray(photos.targets.points)[rows[0]]
            of_view = seen[view]
            known = np.zeros((0, 3)) if of_view is None else of_view
            assert points.shape == (7, 3) and np.isnan(points[len(known) :]).all()
            np.testing.assert_array_equal(points[: len(known)], known)
    loader = PhotoLoader(views, seed=0)
    loader.plan(1)
    assert loader.take(0, 1)[0].targets.points is None


def test_points_that_are_none_are_refused(scene):
    with pytest.raises(ValueError, match=r"points must be float32 \[P, 3\] and finite"):
        dataclasses.replace(scene.train[0], points=np.full((2, 3), np.inf, np.float32))


class DepthAlone(splax.Trainer):
    """The photos teach nothing."""

    def loss(self, model, output, batch):
        return jnp.zeros(())


def errors_of_depth(scene, steps) -> list[float]:
    """What is left of the depth's error after every 10 steps, from random Gaussians."""
    gaussians = splax.Gaussians.random(
        300, extent=scene.radius / 2, center=scene.center, sh_degree=0, rngs=nnx.Rngs(0)
    )
    model = splax.SplatModel(gaussians, splax.TileRasterizer(8, isect_capacity=8192))
    config = splax.TrainConfig(steps=steps, depth_weight=1, deterministic=True, progress=False)
    trainer = DepthAlone(model, scene, config, strategy=splax.Strategy())
    trainer.fit()
    return [entry.loss for entry in trainer.history]


def test_points_pull_gaussians_to_their_depth(scene):
    """Points of a sphere; half of the views know those they see, the others add nothing to the loss."""
    directions = np.random.default_rng(0).normal(size=(100, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def seen(view):
        ahead = directions @ (np.asarray(view.camera.position) - scene.center) > 0
        return (scene.center + scene.radius / 4 * directions[ahead]).astype(np.float32)

    train = [
        dataclasses.replace(view, points=seen(view)) if index % 2 else view
        for index, view in enumerate(scene.train)
    ]
    errors = errors_of_depth(dataclasses.replace(scene, train=train), 60)
    assert errors[-1] < 0.5 * errors[0]


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["king", "fox_colmap"])
def test_points_of_real_models_pull_gaussians_to_their_depth(real_data, tmp_path, name):
    folder = real_data / name
    if name == "fox_colmap":
        folder = tmp_path
        (folder / "sparse").symlink_to(real_data / name / "sparse")
        (folder / "images").symlink_to(real_data / "fox" / "images")
    scene = splax.load_dataset(folder, downscale=32)
    errors = errors_of_depth(scene, 60)
    assert errors[-1] < 0.5 * errors[0]


def test_what_is_drawn_nowhere_has_no_inverse_depth():
    disparity = rendered_disparity(output_of(jnp.array([[0.0, 0.5]]), jnp.array([[0.0, 1.0]])))
    np.testing.assert_array_equal(disparity, [[0, 0.5]])
