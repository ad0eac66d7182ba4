"""What is learned beside the scene: it is found where it is known, and the scene is better for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.ndimage import map_coordinates

import splax
from splax.corrections.base import Correction, Corrections
from splax.corrections.bilateral_grid import BilateralGrid, apply_grid, total_variation
from splax.corrections.exposure import Exposure, apply_affine
from splax.corrections.intrinsics import IntrinsicsRefinement
from splax.corrections.poses import PoseRefinement

VIEWS = 8
ALL = [Correction(), Exposure(), BilateralGrid(), PoseRefinement(), IntrinsicsRefinement()]


@pytest.fixture(scope="module")
def scene():
    """Dark enough for its photos to be brightened without clipping."""
    bright = splax.make_demo_scene(num_train=VIEWS, num_test=4, width=32, height=24)
    return map_images(bright, train=[0.7] * VIEWS, test=0.7)


def map_images(scene: splax.Scene, train, test=1.0) -> splax.Scene:
    """The scene with every photo multiplied by a gain or tint."""

    def change(view, gain):
        image = np.rint(np.clip(view.image * gain, 0, 255)).astype(np.uint8)
        return dataclasses.replace(view, image=image)

    changed = [change(view, gain) for view, gain in zip(scene.train, train, strict=True)]
    return dataclasses.replace(scene, train=changed, test=[change(view, test) for view in scene.test])


def make_trainer(scene, corrections=(), *, steps=600, num=300, **config):
    gaussians = splax.Gaussians.random(num, extent=2, center=scene.center, sh_degree=0, rngs=nnx.Rngs(0))
    model = splax.SplatModel(gaussians, splax.TileRasterizer(8, isect_capacity=4096))
    config = splax.TrainConfig(steps=steps, progress=False, corrections=tuple(corrections), **config)
    return splax.Trainer(model, scene, config, strategy=splax.Strategy())


def cameras_of(scene):
    return splax.Camera.stack([view.camera for view in scene.train])


def learned(trainer, name):
    return np.asarray(trainer.corrections[name])


def fit_alone(correction, cameras, loss, steps=500):
    """Trains nothing but a correction, every view in each step; ``loss(corrections, params)``."""
    corrections = Corrections([correction], cameras, steps=steps, extent=1.0)

    def step(_, state):
        grads = jax.grad(lambda params: loss(corrections, params))(state.params)
        return corrections.update(state, grads, jnp.ones(()))

    state = jax.lax.fori_loop(0, steps, step, corrections.init())
    return state.params[correction.name]


# --- the mechanism -------------------------------------------------------------------------------------


@pytest.mark.parametrize("correction", ALL, ids=lambda c: c.name)
def test_a_correction_begins_as_the_identity(scene, correction):
    corrections = Corrections([correction], cameras_of(scene), steps=10, extent=1.0)
    params = corrections.init().params
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(24, 32, 3)), jnp.float32)
    for view in (jnp.asarray(3), None):
        np.testing.assert_allclose(corrections.image(params, view, image), image, atol=1e-6)
        camera = scene.train[3].camera
        for actual, expected in zip(
            jax.tree.leaves(corrections.camera(params, view, camera)), jax.tree.leaves(camera), strict=True
        ):
            np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert corrections.penalty(params) == pytest.approx(0, abs=1e-9)


def test_two_of_one_name_are_refused(scene):
    with pytest.raises(ValueError, match="different names"):
        Corrections([Exposure(), Exposure(rate=0.1)], cameras_of(scene), steps=10, extent=1.0)


class Offset(Correction):
    """Somebody's own, who forgot its optimizer."""

    name = "offset"

    def init(self, cameras):
        return jnp.ones(3)

    def penalty(self, params):
        return (params**2).sum()


class OptimizedOffset(Offset):
    def optimizer(self, steps, extent):
        return optax.sgd(0.1)


class OffsetOptimizedByCameras(Offset):
    def optimizer_of(self, cameras, steps, extent):
        return optax.sgd(0.1)


def test_a_correction_without_an_optimizer_does_not_climb_and_is_named(scene):
    def loss(corrections, params):
        return corrections.penalty(params)

    with pytest.warns(
        UserWarning, match=r"correction 'offset' has Params and no optimizer.*Offset\.optimizer"
    ):
        found = fit_alone(Offset(), cameras_of(scene), loss, steps=10)
    np.testing.assert_array_equal(found, np.ones(3))
    for kind in (OptimizedOffset, OffsetOptimizedByCameras):
        found = fit_alone(kind(), cameras_of(scene), loss, steps=10)
        np.testing.assert_allclose(found, np.full(3, 0.8**10), rtol=1e-5)  # each step takes a fifth away


@dataclasses.dataclass(frozen=True)
class Broken(Exposure):
    def penalty(self, params):
        return jnp.sqrt(params[..., 3].sum())  # its derivative at 0 is infinite


def test_a_correction_without_finite_gradient_stops_the_run(scene):
    trainer = make_trainer(scene, [Broken()], steps=3)
    with pytest.warns(UserWarning, match="Going back"), pytest.raises(splax.NonFiniteError):
        trainer.fit()
    np.testing.assert_array_equal(learned(trainer, "exposure"), np.tile(np.eye(3, 4), (VIEWS, 1, 1)))


# --- exposure ------------------------------------------------------------------------------------------


def test_exposure_finds_affine_maps_of_colour(scene):
    rng = np.random.default_rng(0)
    truth = np.eye(3, 4) + rng.normal(scale=0.1, size=(VIEWS, 3, 4))
    truth += np.eye(3, 4) - truth.mean(axis=0)
    image = jnp.asarray(rng.uniform(size=(8, 8, 3)), jnp.float32)
    photos = jax.vmap(lambda maps: apply_affine(maps, image))(jnp.asarray(truth, jnp.float32))

    def loss(corrections, params):
        views = jnp.arange(VIEWS)
        shown = jax.vmap(lambda view: corrections.image(params, view, image))(views)
        return jnp.abs(shown - photos).mean()

    found = fit_alone(Exposure(), cameras_of(scene), loss)
    np.testing.assert_allclose(found, truth, atol=5e-3)
    np.testing.assert_allclose(found.mean(axis=0), np.eye(3, 4), atol=1e-6)


def test_exposure_makes_up_for_photos_of_different_brightness(scene):
    # Up and down: neighbours say nothing about a view.
    gains = 1 + np.random.default_rng(0).uniform(0.2, 0.4, size=VIEWS) * ([1, -1] * (VIEWS // 2))
    gains /= gains.mean()
    uneven = map_images(scene, train=gains)
    plain, corrected = make_trainer(uneven), make_trainer(uneven, [Exposure()])
    plain.fit()
    corrected.fit()
    assert corrected.evaluate()["psnr"] > plain.evaluate()["psnr"] + 0.5
    # What a map makes of grey.
    brightness = learned(corrected, "exposure")[..., :3].sum(axis=-1).mean(axis=-1)
    assert np.corrcoef(brightness, gains)[0, 1] > 0.95


@pytest.mark.parametrize("correction", [Exposure, BilateralGrid, PoseRefinement, IntrinsicsRefinement])
def test_a_rate_of_zero_is_refused(correction):
    with pytest.raises(ValueError, match="positive"):
        correction(rate=0.0)


# --- bilateral grid ------------------------------------------------------------------------------------


def test_a_grid_is_interpolated_as_by_scipy():
    rng = np.random.default_rng(0)
    grid, image = rng.normal(size=(4, 3, 5, 3, 4)), rng.uniform(size=(7, 9, 3))
    rows, columns = np.mgrid[:7, :9]
    places = np.stack(
        [
            image @ [0.299, 0.587, 0.114] * 3,
            (rows + 0.5) / 7 * 2,
            (columns + 0.5) / 9 * 4,
        ]
    )
    maps = np.stack(
        [map_coordinates(grid[..., i, j], places, order=1) for i in range(3) for j in range(4)], axis=-1
    ).reshape(7, 9, 3, 4)
    expected = np.einsum("hwij,hwj->hwi", maps, np.concatenate([image, np.ones((7, 9, 1))], axis=-1))
    actual = apply_grid(jnp.asarray(grid, jnp.float32), jnp.asarray(image, jnp.float32))
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_total_variation_of_a_ramp():
    ramp = jnp.broadcast_to(jnp.arange(5.0)[:, None, None, None, None], (5, 4, 3, 3, 4))
    for axes in ((0, 1, 2, 3, 4), (1, 0, 2, 3, 4), (2, 1, 0, 3, 4)):
        grids = 0.5 * jnp.transpose(ramp, axes)[None]
        assert total_variation(grids) == pytest.approx(0.25)  # steps of 0.5 along one axis


def test_a_bilateral_grid_finds_vignettes(scene):
    """Photos that darken from left to right, or from right to left, each in its own way."""
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(24, 32, 3)), jnp.float32)
    strength = np.linspace(-0.3, 0.3, VIEWS)[:, None]
    gains = jnp.asarray(1 + strength * np.linspace(-1, 1, 32), jnp.float32)
    photos = image * gains[:, None, :, None]

    def shown(corrections, params):
        return jax.vmap(lambda view: corrections.image(params, view, image))(jnp.arange(VIEWS))

    def loss(corrections, params):
        return jnp.abs(shown(corrections, params) - photos).mean() + corrections.penalty(params)

    small = {"width": 4, "height": 4, "levels": 3}
    errors = []
    for correction in (Exposure(), BilateralGrid(rate=0.02, smoothness=0.01, **small)):
        params = fit_alone(correction, cameras_of(scene), loss, steps=200)
        corrections = Corrections([correction], cameras_of(scene), steps=1, extent=1.0)
        errors.append(float(jnp.abs(shown(corrections, {correction.name: params}) - photos).mean()))
    assert errors[1] < 0.2 * errors[0]


def test_a_grid_of_one_cell_is_refused():
    with pytest.raises(ValueError, match="2 cells"):
        BilateralGrid(levels=1)
