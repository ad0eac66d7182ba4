"""The kernels of SSIM, interpreted on a CPU, against dm-pix; on a GPU see test_gpu.py."""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splax.ops.triton.lanes.warp import Warp
from splax.ops.triton.ssim import mean_and_gradients


def make_images(shape):
    rng = np.random.default_rng(0)
    image = rng.random(shape)
    target = np.clip(image + rng.normal(scale=0.1, size=shape), 0, 1)
    return jnp.asarray(image, jnp.float32), jnp.asarray(target, jnp.float32)


def in_kernels(image, target, differentiated=(0, 1)):
    x, y = (x.reshape(*x.shape[:-2], -1) for x in (image, target))
    value, gradients = mean_and_gradients(x, y, image.shape[-1], differentiated, Warp(interpret=True))
    return value, [gradient.reshape(image.shape) for gradient in gradients]


@pytest.mark.parametrize("shape", [(11, 11, 1), (23, 31, 3), (57, 12, 4)])
def test_value_and_gradients_as_dm_pix(shape):
    image, target = make_images(shape)
    value, gradients = in_kernels(image, target)
    expected, by_image_and_target = jax.value_and_grad(dm_pix.ssim, argnums=(0, 1))(image, target)
    assert value == pytest.approx(float(expected), abs=2e-5)
    for gradient, other in zip(gradients, by_image_and_target, strict=True):
        np.testing.assert_allclose(gradient, other, atol=1e-3 * float(jnp.abs(other).max()))


def test_a_batch_is_its_images():
    images, targets = make_images((2, 13, 14, 3))
    values, (gradients,) = in_kernels(images, targets, differentiated=(0,))
    for nth in range(2):
        value, (gradient,) = in_kernels(images[nth], targets[nth], differentiated=(0,))
        np.testing.assert_allclose(values[nth], value, rtol=1e-6)
        np.testing.assert_allclose(gradients[nth], gradient, atol=1e-9)
