"""Losses against closed forms, dm-pix and finite differences."""

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from splax.losses.photometric import dssim, l1, photometric_loss
from splax.metrics.image import ssim


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


@pytest.mark.parametrize("shape", [(11, 11, 1), (23, 40, 3), (2, 16, 12, 3)])
def test_dssim_is_the_metric_and_has_its_gradient(shape):
    """Against what JAX makes of the metric; the metric itself is compared with others in test_metrics."""
    image, target = make_images(shape)

    def metric(image, target):
        return 1 - ssim(image, target)

    np.testing.assert_allclose(dssim(image, target), metric(image, target), atol=5e-6)
    for argument in (0, 1, (0, 1)):
        gradients = [
            jax.tree.leaves(jax.grad(lambda *x, f=f: f(*x).sum(), argnums=argument)(image, target))
            for f in (dssim, metric)
        ]
        for ours, plain in zip(*gradients, strict=True):
            np.testing.assert_allclose(ours, plain, atol=1e-5 * float(jnp.abs(plain).max()))


def test_dssim_as_scikit_image():
    image, target = make_images((23, 40, 3))
    score = structural_similarity(
        np.asarray(image),
        np.asarray(target),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=-1,
        data_range=1,
    )
    assert 1 - float(dssim(image, target)) == pytest.approx(score, abs=1e-5)


def test_forward_mode_and_second_derivatives():
    with jax.enable_x64(True):
        image, target = make_images(dtype=np.float64)
        direction = jnp.asarray(np.random.default_rng(2).normal(size=image.shape))
        slope = jax.jvp(lambda image: dssim(image, target), (image,), (direction,))[1]
        gradient = jax.grad(dssim)
        assert slope == pytest.approx(float((gradient(image, target) * direction).sum()), rel=1e-9)
        step = 1e-5
        sides = [gradient(image + sign * step * direction, target) for sign in (1, -1)]
        expected = (sides[0] - sides[1]) / (2 * step)
        product = jax.jvp(lambda image: gradient(image, target), (image,), (direction,))[1]
        np.testing.assert_allclose(product, expected, atol=1e-7 * float(jnp.abs(expected).max()))
        backwards = jax.grad(lambda image: (gradient(image, target) * direction).sum())(image)
        np.testing.assert_allclose(backwards, product, atol=1e-9 * float(jnp.abs(product).max()))
