"""A training loop written by hand, as in the seed of this project: no Trainer, plain JAX and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import splax

NUM = 200


@pytest.fixture(scope="module")
def scene():
    return splax.make_demo_scene(num_train=3, num_test=1, width=32, height=24)


def make_model(scene, **options) -> splax.SplatModel:
    gaussians = splax.Gaussians.random(NUM, extent=1.5, center=scene.center, sh_degree=1, rngs=nnx.Rngs(0))
    return splax.SplatModel(gaussians, splax.TileRasterizer(tile_size=8, **options))


def test_a_hand_written_loop_trains(scene):
    model = make_model(scene, isect_capacity=4096)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.adam(2e-2)
    opt_state = optimizer.init(params)

    def loss_fn(params, camera, target):
        model = nnx.merge(graphdef, params, rest)
        output = model(camera)
        return jnp.abs(output.image - target).mean() + 0.01 * model.gaussians.scales.mean(), output.overflow

    @jax.jit
    def step(params, opt_state, camera, target):
        (loss, overflow), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, camera, target)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss, overflow

    losses = []
    for _ in range(15):
        for view in scene.train:
            target = jnp.asarray(view.image) / 255
            params, opt_state, loss, overflow = step(params, opt_state, view.camera, target)
            assert not overflow
            losses.append(float(loss))
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])

    before = splax.psnr(model(scene.test[0].camera).image, jnp.asarray(scene.test[0].image) / 255)
    nnx.update(model, params)
    after = splax.psnr(model(scene.test[0].camera).image, jnp.asarray(scene.test[0].image) / 255)
    assert after > before


def test_nnx_optimizer_and_nnx_jit_work_too(scene):
    model = make_model(scene, isect_capacity=4096)
    optimizer = nnx.Optimizer(model, optax.adam(2e-2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, camera, target):
        loss, grads = nnx.value_and_grad(lambda model: jnp.abs(model(camera).image - target).mean())(model)
        optimizer.update(model, grads)
        return loss

    view = scene.train[0]
    losses = [step(model, optimizer, view.camera, jnp.asarray(view.image) / 255) for _ in range(10)]
    assert losses[-1] < 0.9 * losses[0]


def test_jit_without_a_capacity_says_what_to_do(scene):
    model = make_model(scene)
    with pytest.raises(ValueError, match=r"under jax.jit .*sized_for.*isect_capacity"):
        nnx.jit(lambda model, camera: model(camera).image)(model, scene.train[0].camera)


def test_an_overflow_under_jit_is_reported(scene):
    camera = scene.train[0].camera
    needed = int(make_model(scene).rasterizer.count_isects(make_model(scene).gaussians, camera))
    render = nnx.jit(lambda model, camera: model(camera))
    output = render(make_model(scene, isect_capacity=100), camera)
    assert output.overflow and output.num_isects == needed and output.isect_capacity == 100
    with pytest.raises(ValueError, match=f"{needed} intersections but isect_capacity is 100"):
        output.check()
    assert np.isfinite(output.image).all()
    enough = render(make_model(scene, isect_capacity=needed), camera)
    assert not enough.overflow
    assert enough.check() is enough
    np.testing.assert_allclose(enough.image, make_model(scene)(camera).image, atol=1e-6)
