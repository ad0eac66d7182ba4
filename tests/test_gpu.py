"""The same code on an NVIDIA GPU: against the CPU's results, which the other tests hold against the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import splax

pytestmark = pytest.mark.gpu


def make_model(implementation, tile_size: int = 16) -> splax.SplatModel:
    gaussians = splax.Gaussians.random(2_000, extent=1.5, rngs=nnx.Rngs(0))
    key = jax.random.key(1)
    gaussians.quats[...] = jax.random.normal(key, gaussians.quats.shape)
    gaussians.log_scales[...] = gaussians.log_scales[...] - 0.5 + 0.3 * jax.random.normal(key, (2_000, 3))
    return splax.SplatModel(gaussians, splax.TileRasterizer(tile_size, implementation))


def render_and_grads(device, implementation, tile_size: int = 16):
    with jax.default_device(device):
        model = make_model(implementation, tile_size)
        camera = splax.Camera.look_at((0, -4, 1), (0, 0, 0), fov_x=0.8, width=75, height=50)
        weights = jnp.asarray(np.random.default_rng(0).normal(size=(50, 75, 3)), jnp.float32)

        def loss(model, camera):
            return (model(camera).image * weights).sum()

        image = model(camera).image
        grads = nnx.grad(loss, argnums=(0, 1))(model, camera)
        return np.asarray(image), [np.asarray(x) for x in jax.tree.leaves(nnx.as_pure(grads))]


@pytest.mark.parametrize("implementation", ["xla", "xla_vjp"])
@pytest.mark.parametrize("tile_size", [8, 16, 32])
def test_image_and_gradients_equal_the_cpus(implementation, tile_size):
    image, grads = render_and_grads(jax.devices("gpu")[0], implementation, tile_size)
    expected, expected_grads = render_and_grads(jax.devices("cpu")[0], implementation, tile_size)
    # A pixel beside a threshold may fall on either side of it.
    assert (np.abs(image - expected) > 1e-5).mean() < 1e-3
    for grad, wanted in zip(grads, expected_grads, strict=True):
        far = np.abs(grad - wanted) > 1e-3 * np.abs(wanted) + 1e-4 * np.abs(wanted).max()
        assert far.mean() < 1e-3


def draw_and_differentiate(device, implementation, isect_capacity):
    """Image, and gradients of the Params and the projected centres: all that training needs."""
    with jax.default_device(device):
        model = make_model(implementation)
        model.rasterizer.isect_capacity = isect_capacity
        # Rows that cannot be drawn: not finite, dead, without a rotation, behind the camera.
        gaussians = model.gaussians
        for row, name in enumerate(("means", "quats", "log_scales", "logit_opacities", "sh0", "shN")):
            param = getattr(gaussians, name)
            param[...] = param[...].at[(row,) + (0,) * (param.ndim - 1)].set(jnp.nan)
        gaussians.shN[...] = gaussians.shN[...] + 0.1 * jax.random.normal(
            jax.random.key(2), gaussians.shN.shape
        )
        gaussians.alive[...] = gaussians.alive[...].at[6].set(False)
        gaussians.quats[...] = gaussians.quats[...].at[7].set(0)
        gaussians.means[...] = gaussians.means[...].at[8].set(jnp.array([0.0, -9.0, 1.0]))
        gaussians.active_sh_degree[...] = jnp.asarray(2)
        camera = splax.Camera.look_at((0, -4, 1), (0, 0, 0), fov_x=0.8, width=75, height=50)
        weights = jnp.asarray(np.random.default_rng(0).normal(size=(50, 75, 3)), jnp.float32)

        @nnx.jit
        def grads(model, offset):
            def loss(model, offset):
                output = model(camera, means2d_offset=offset, background=jnp.ones(3))
                return (output.image * weights).sum() + (output.depth * weights[..., 0]).sum(), output.image

            return nnx.grad(loss, argnums=(0, 1), has_aux=True)(model, offset)

        grads, image = grads(model, jnp.zeros((2_000, 2)))
        return np.asarray(image), [np.asarray(x) for x in jax.tree.leaves(nnx.as_pure(grads))]


def test_kernels_alone_give_the_image_and_gradients_of_separate_steps():
    image, grads = draw_and_differentiate(jax.devices("gpu")[0], None, 100_000)
    expected, expected_grads = draw_and_differentiate(jax.devices("cpu")[0], "xla_vjp", 100_000)
    assert (np.abs(image - expected) > 1e-4).mean() < 1e-3
    for grad, wanted in zip(grads, expected_grads, strict=True):
        assert np.isfinite(grad).all()
        assert not grad[:9].any()
        far = np.abs(grad - wanted) > 1e-3 * np.abs(wanted) + 1e-4 * np.abs(wanted).max()
        assert far.mean() < 1e-3


def test_training_learns_and_densifies():
    scene = splax.make_demo_scene(num_train=12, num_test=2, width=64, height=48)
    gaussians = splax.Gaussians.random(
        1_000, extent=0.5 * scene.radius, center=scene.center, rngs=nnx.Rngs(0)
    )
    model = splax.SplatModel(gaussians)
    strategy = splax.DefaultStrategy(refine_start=100, refine_every=50, grow_grad2d=1e-4)
    trainer = splax.Trainer(model, scene, splax.TrainConfig(steps=400, progress=False), strategy=strategy)
    before = trainer.evaluate()["psnr"]
    trainer.fit()
    assert trainer.evaluate()["psnr"] > before + 3
    assert int(model.gaussians.num_alive) > 1_000
    assert all(device.platform == "gpu" for device in model.gaussians.means[...].devices())
