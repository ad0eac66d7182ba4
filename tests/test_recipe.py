"""Regularizers, coarse to fine, batches of views, antialiasing, depth: each does what it says."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import make_gaussians
from test_trainer import make_dense_trainer
from test_trainer import make_gaussians as make_dense_gaussians

import splax
from splax.losses.depth import disparity_loss, shrink_depth
from splax.reports.images import to_uint8
from splax.training.optimizers import make_optimizer
from splax.training.photos.resolution import shrink_camera, shrink_image, shrink_mask
from splax.training.recovery.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def scene():
    return splax.make_demo_scene(num_train=6, num_test=2, width=64, height=48)


def make_trainer(scene, *, steps, num=200, capacity=8192, antialiased=False, **config):
    gaussians = splax.Gaussians.random(num, extent=2, center=scene.center, sh_degree=0, rngs=nnx.Rngs(0))
    model = splax.SplatModel(
        gaussians, splax.TileRasterizer(8, isect_capacity=capacity, antialiased=antialiased)
    )
    config = splax.TrainConfig(steps=steps, progress=False, **config)
    return splax.Trainer(model, scene, config, strategy=splax.Strategy())


# --- regularizers --------------------------------------------------------------------------------------


def test_regularizers_are_means_over_the_living():
    params = {name: jnp.asarray(value) for name, value in make_gaussians(4).items()}
    alive = jnp.array([True, True, True, False])
    params["log_scales"] = params["log_scales"].at[1].set(jnp.log(jnp.array([0.01, 0.1, 0.5])))
    scales = np.exp(np.asarray(params["log_scales"][:3]))
    opacities = 1 / (1 + np.exp(-np.asarray(params["logit_opacities"][:3])))
    ratios = scales.max(axis=1) / scales.min(axis=1)
    expected = 0.1 * opacities.mean() + 0.2 * scales.mean() + 0.3 * np.maximum(ratios - 10, 0).mean()
    assert ratios[1] > 10
    regularizers = splax.Regularizers(opacity=0.1, scale=0.2, stretch=0.3)
    assert regularizers(params, alive) == pytest.approx(expected, rel=1e-5)
    assert splax.Regularizers()(params, alive) == 0


def test_rows_that_cannot_be_drawn_have_no_part_in_the_gradient():
    params = {name: jnp.asarray(value) for name, value in make_gaussians(3).items()}
    params["log_scales"] = params["log_scales"].at[2].set(jnp.array([np.nan, np.inf, 500.0]))
    regularizers = splax.Regularizers(opacity=0.1, scale=0.2, stretch=0.3)
    for gradient in jax.tree.leaves(jax.grad(regularizers)(params, jnp.array([True, True, False]))):
        assert jnp.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[2], 0)


def test_regularizers_shrink_and_fade_gaussians(scene):
    def mean_size_and_opacity(**weights):
        trainer = make_trainer(scene, steps=60, regularizers=splax.Regularizers(**weights))
        gaussians = trainer.fit().gaussians
        return float(gaussians.scales.mean()), float(gaussians.opacities.mean())

    plain = mean_size_and_opacity()
    assert mean_size_and_opacity(scale=1.0)[0] < 0.95 * plain[0]
    assert mean_size_and_opacity(opacity=1.0)[1] < 0.95 * plain[1]


@pytest.mark.parametrize("wrong", [{"opacity": -1.0}, {"scale": np.inf}, {"max_ratio": 0.5}])
def test_unfit_weights_are_refused(wrong):
    with pytest.raises(ValueError, match="Regularizers"):
        splax.Regularizers(**wrong)


# --- coarse to fine ------------------------------------------------------------------------------------


def test_the_resolution_doubles_every_so_often():
    schedule = splax.CoarseToFine(halvings=2, every=10)
    assert [schedule.factor(step) for step in (0, 9, 10, 19, 20, 500)] == [4, 4, 2, 2, 1, 1]
    assert [schedule.next_change(step) for step in (0, 9, 10, 19, 20)] == [10, 10, 20, 20, None]
    assert splax.CoarseToFine().factor(0) == 1
    with pytest.raises(ValueError, match="halvings"):
        splax.CoarseToFine(halvings=-1)


def test_a_small_image_shows_what_the_camera_of_the_large_one_saw():
    camera = splax.Camera.look_at([0, -3, 1], [0, 0, 0], fov_x=0.9, width=42, height=31)
    small = shrink_camera(camera, 4)
    assert (small.width, small.height) == (10, 7)
    point = np.array([0.2, 0.1, -0.1, 1])
    pixel, small_pixel = ((np.asarray(c.K) @ (np.asarray(c.viewmat) @ point)[:3]) for c in (camera, small))
    np.testing.assert_allclose(small_pixel[:2] / small_pixel[2], pixel[:2] / pixel[2] / 4, rtol=1e-5)
    image = jnp.asarray(np.random.default_rng(0).uniform(size=(31, 42, 3)), jnp.float32)
    np.testing.assert_allclose(shrink_image(image, 4)[1, 2], image[4:8, 8:12].mean(axis=(0, 1)), rtol=1e-5)
    mask = jnp.ones((31, 42), bool).at[5, 9].set(False).at[30, 41].set(False)
    assert (~shrink_mask(mask, 4)).sum() == 1
    assert not shrink_mask(mask, 4)[1, 2]


def test_training_goes_through_all_resolutions(scene):
    trainer = make_trainer(scene, steps=30, resolution=splax.CoarseToFine(halvings=2, every=10))
    sizes = []
    call = trainer._call

    def spy(photos, rows, downscale):
        sizes.append(downscale)
        return call(photos, rows, downscale)

    trainer._call = spy
    trainer.fit()
    assert trainer.step == 30
    assert sorted(set(sizes), reverse=True) == [4, 2, 1]
    assert trainer.evaluate()["views"] == 2


# --- batches -------------------------------------------------------------------------------------------


def test_an_update_has_the_mean_gradient_of_its_views():
    """Adam's first update is the rate in the direction of the gradient's sign, times the root of the batch."""
    tx = make_optimizer(extent=1.0, steps=100, batch_size=4)
    params = {"gaussians": {"means": jnp.zeros((3, 3))}}
    state = tx.init(params)
    gradients = np.random.default_rng(0).normal(size=(4, 3, 3))
    updates: Any = None
    for step, gradient in enumerate(gradients):
        updates, state = tx.update(
            {"gaussians": {"means": jnp.asarray(gradient, jnp.float32)}}, state, params
        )
        if step < 3:
            np.testing.assert_array_equal(updates["gaussians"]["means"], 0)
    expected = -np.sign(gradients.mean(axis=0)) * 1.6e-4 * 2
    np.testing.assert_allclose(updates["gaussians"]["means"], expected, rtol=1e-3)


def test_the_rate_has_decayed_at_the_end_of_a_run_in_batches():
    tx = make_optimizer(extent=1.0, steps=40, batch_size=4)
    params = {"gaussians": {"means": jnp.zeros((1, 3))}}
    state, sizes = tx.init(params), []
    updates: Any = None
    for _ in range(44):
        updates, state = tx.update({"gaussians": {"means": jnp.ones((1, 3))}}, state, params)
        sizes.append(float(jnp.abs(updates["gaussians"]["means"]).max()))
    assert sizes[43] == pytest.approx(0.01 * sizes[3], rel=0.05)


def test_gaussians_are_born_in_the_middle_of_a_batch(scene):
    strategy = splax.DefaultStrategy(grow_grad2d=1e-7, refine_start=0, refine_every=5, max_gaussians=300)
    trainer = make_trainer(scene, steps=14, batch_size=4)
    trainer = splax.Trainer(trainer.model, scene, trainer.config, strategy=strategy)
    model = trainer.fit()
    assert int(model.gaussians.num_alive) == 300
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param))))


def test_unfit_batches_are_refused(scene):
    with pytest.raises(ValueError, match="batch_size"):
        splax.TrainConfig(steps=10, batch_size=11)
    with pytest.raises(ValueError, match=r"batch_size 4 is for .* optax.MultiSteps\(optimizer, 4\)"):
        splax.Trainer(
            make_trainer(scene, steps=14).model,
            scene,
            splax.TrainConfig(batch_size=4),
            optimizer=make_optimizer(extent=1.0, steps=14),
        )
    with pytest.raises(ValueError, match="batch_size"):
        make_optimizer(extent=1.0, steps=10, batch_size=0)


# --- antialiasing --------------------------------------------------------------------------------------


def test_an_antialiased_splat_keeps_its_brightness_when_seen_from_afar(scene):
    """The mean of a picture is that of the picture at a quarter of the size, unlike without."""
    gaussians = splax.Gaussians.random(400, extent=1, center=scene.center, sh_degree=0, rngs=nnx.Rngs(0))
    gaussians.log_scales[...] -= 2.5  # far below a pixel
    camera = scene.train[0].camera
    errors = {}
    for antialiased in (False, True):
        rasterizer = splax.TileRasterizer(8, antialiased=antialiased)
        means = [float(rasterizer(gaussians, c).image.mean()) for c in (camera, shrink_camera(camera, 4))]
        errors[antialiased] = abs(means[1] / means[0] - 1)
    assert errors[True] < 0.2 * errors[False]


# --- depth ---------------------------------------------------------------------------------------------


def output_of(alpha, accumulated_depth):
    none = jnp.zeros((1, 2))
    return splax.RenderOutput(
        jnp.zeros((*alpha.shape, 3)), alpha, accumulated_depth, none, none, jnp.asarray(0), jnp.asarray(1)
    )


def test_the_depth_loss_is_over_known_pixels_in_inverse_extents():
    alpha = jnp.array([[0.5, 1.0, 0.0, 0.9]])
    output = output_of(alpha, alpha * jnp.array([[2.0, 4.0, 3.0, 1.0]]))
    depth = jnp.array([[1.0, 4.0, 2.0, 0.0]])
    # |1/2 - 1|, |1/4 - 1/4|, and nothing drawn where 1/2 should be.
    assert disparity_loss(output, depth, 3.0) == pytest.approx(3 * (0.5 + 0 + 0.5) / 3)
    assert disparity_loss(output, depth, 3.0, jnp.array([[True, True, False, True]])) == pytest.approx(0.75)
    assert disparity_loss(output, jnp.zeros((1, 4)), 3.0) == 0
    gradients = jax.grad(
        lambda alpha, sums: disparity_loss(output_of(alpha, sums), depth, 3.0), argnums=(0, 1)
    )(alpha, output.accumulated_depth)
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)


def test_a_small_depth_image_mixes_no_depths():
    depth = jnp.arange(35.0).reshape(5, 7)
    np.testing.assert_array_equal(shrink_depth(depth, 2), [[8, 10, 12], [22, 24, 26]])
    np.testing.assert_array_equal(shrink_depth(depth, 1), depth)


def test_depth_makes_geometry_better(scene):
    """Depth that the training views know, checked in views held out."""
    truth = splax.Gaussians.random(150, extent=1, center=scene.center, sh_degree=0, rngs=nnx.Rngs(5))
    truth.logit_opacities[...] += 6
    draw = splax.TileRasterizer(8)

    def seen(view):
        output = draw(truth, view.camera)
        depth = jnp.where(output.alpha > 0.9, output.depth, 0)
        return dataclasses.replace(view, image=to_uint8(output.image), depth=np.asarray(depth))

    deep = dataclasses.replace(
        scene, train=[seen(view) for view in scene.train], test=[seen(view) for view in scene.test]
    )

    def error(**config):
        trainer = make_trainer(deep, steps=150, capacity=16384, **config)
        model = trainer.fit()
        outputs = [(model(view.camera), jnp.asarray(view.depth)) for view in deep.test]
        return float(np.mean([disparity_loss(output, depth, scene.extent) for output, depth in outputs]))

    assert error(depth_weight=0.5) < 0.8 * error()


def test_depth_that_is_not_there_is_refused(scene):
    with pytest.raises(ValueError, match="no training view has a depth"):
        make_trainer(scene, steps=1, depth_weight=0.1)
    with pytest.raises(ValueError, match="depth_weight"):
        splax.TrainConfig(depth_weight=-1.0)


# --- resume --------------------------------------------------------------------------------------------


def test_a_run_with_everything_on_resumes_to_the_bit(tmp_path):
    """In the middle of a batch and of a resolution; what corrections learned comes back with their optimizers."""
    scene = splax.make_demo_scene(num_train=4, num_test=1, width=32, height=24)

    def make():
        return make_dense_trainer(
            scene,
            make_dense_gaussians(scene, 60),
            deterministic=True,
            corrections=(splax.Exposure(), splax.PoseRefinement(), splax.IntrinsicsRefinement()),
            regularizers=splax.Regularizers(opacity=0.01, scale=0.01, stretch=0.1),
            resolution=splax.CoarseToFine(halvings=1, every=8),
            optimizer=make_optimizer(extent=scene.extent, steps=100, batch_size=4),
        )

    whole = make()
    whole.fit(12)
    first = make()
    first.fit(6)
    first.save(Checkpoints(tmp_path))
    second = make()
    second.resume(Checkpoints(tmp_path))
    second.fit(6)
    for actual, expected in zip(
        jax.tree.leaves((second.corrections, nnx.state(second.model))),
        jax.tree.leaves((whole.corrections, nnx.state(whole.model))),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)
    assert (np.asarray(second.corrections["poses"]) != 0).any()
