"""Losses against closed forms, dm-pix and finite differences."""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from splax.losses import dssim, l1, photometric_loss


def make_images(shape=(14, 13, 3), dtype: type = np.float32) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    target = rng.uniform(0.2, 0.8, size=shape)
    # Nowhere nearer than 0.02: the absolute value has no derivative at 0.
    error = rng.uniform(0.02, 0.15, size=shape) * rng.choice([-1, 1], size=shape)
    return jnp.asarray(target + error, dtype), jnp.asarray(target, dtype)


def test_l1_of_known_error():
    image = jnp.full((2, 2, 3), 0.5)
    assert l1(image, image.at[0, 0].add(-0.2)) == pytest.approx(0.05)


def test_photometric_loss_is_equation_7():
    image, target = make_images()
    absolute = np.abs(np.asarray(image) - np.asarray(target)).mean()
    similarity = float(dm_pix.ssim(image, target))
    assert dssim(image, target) == pytest.approx(1 - similarity, abs=2e-5)
    expected = 0.8 * absolute + 0.2 * (1 - similarity)
    assert photometric_loss(image, target) == pytest.approx(expected, abs=1e-5)
    assert photometric_loss(image, target, ssim_weight=1.0) == pytest.approx(1 - similarity, abs=2e-5)
    assert photometric_loss(target, target) == pytest.approx(0, abs=1e-6)


def test_images_below_the_window_need_no_ssim():
    image, target = make_images((4, 5, 3))
    assert photometric_loss(image, target, ssim_weight=0.0) == pytest.approx(float(l1(image, target)))
    with pytest.raises(ValueError, match="at least 11x11"):
        photometric_loss(image, target)


def test_batch():
    images, targets = make_images((3, 11, 12, 3))
    expected = [photometric_loss(image, target) for image, target in zip(images, targets, strict=True)]
    np.testing.assert_allclose(photometric_loss(images, targets), expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [l1, dssim, photometric_loss])
def test_gradients_as_finite_differences(loss):
    with jax.enable_x64(True):
        image, target = make_images(dtype=np.float64)
        gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(image, target)
        value = jax.jit(loss)
        step, entries = 1e-6, np.random.default_rng(1).choice(image.size, size=25, replace=False)
        for argument, gradient in enumerate(gradients):
            for entry in entries:
                sides = []
                for sign in (1, -1):
                    images = [np.array(image), np.array(target)]
                    images[argument].flat[entry] += sign * step
                    sides.append(float(value(*map(jnp.asarray, images))))
                expected = (sides[0] - sides[1]) / (2 * step)
                assert gradient.ravel()[entry] == pytest.approx(expected, rel=1e-5, abs=1e-9)
