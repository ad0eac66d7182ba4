"""PSNR and SSIM against closed forms, dm-pix and scikit-image."""

from typing import Any

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.metrics
from jaxtyping import config

from splax.metrics.image import psnr, ssim


def make_images(
    shape=(23, 31, 3), noise=0.1, seed=0, dtype: type = np.float32
) -> tuple[jax.Array, jax.Array]:
    """A smooth image and a noisy copy, in [0, 1]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[-3], : shape[-2]]
    smooth = 0.5 + 0.4 * np.sin(rows / 5 + 0.3)[..., None] * np.cos(
        columns[..., None] / 7 + np.arange(shape[-1])
    )
    image = np.clip(smooth + rng.normal(scale=noise, size=shape), 0, 1)
    return jnp.asarray(image, dtype), jnp.asarray(np.broadcast_to(smooth, shape), dtype)


def test_psnr_of_known_errors():
    image = jnp.full((4, 5, 3), 0.5)
    assert psnr(image, image + 0.1) == pytest.approx(20, abs=1e-4)
    assert psnr(image, image.at[0, 0, 0].add(0.3)) == pytest.approx(-10 * np.log10(0.09 / 60), abs=1e-4)
    assert psnr(image, image) == jnp.inf


def test_psnr_as_scikit_image():
    image, target = make_images()
    expected = skimage.metrics.peak_signal_noise_ratio(np.asarray(target), np.asarray(image), data_range=1)
    assert psnr(image, target) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("shape", [(23, 31, 3), (11, 11, 3), (40, 12, 1)])
@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_ssim_as_scikit_image(shape, noise):
    image, target = make_images(shape, noise)
    mean_and_windows: Any = skimage.metrics.structural_similarity(
        np.asarray(image, np.float64),
        np.asarray(target, np.float64),
        channel_axis=-1,
        data_range=1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        win_size=11,
        full=True,
    )
    assert ssim(image, target) == pytest.approx(float(mean_and_windows[1][5:-5, 5:-5].mean()), abs=2e-5)


@pytest.mark.parametrize("noise", [0.01, 0.1, 1.0])
def test_ssim_as_dm_pix(noise):
    image, target = make_images(noise=noise)
    assert ssim(image, target) == pytest.approx(float(dm_pix.ssim(image, target)), abs=2e-5)


def test_ssim_gradient_as_dm_pix():
    image, target = make_images()
    gradients = jax.jit(jax.grad(ssim, argnums=(0, 1)))(image, target)
    expected = jax.jit(jax.grad(dm_pix.ssim, argnums=(0, 1)))(image, target)
    for actual, other in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(actual, other, atol=1e-3 * float(jnp.abs(other).max()))


def test_ssim_limits():
    image, _ = make_images()
    assert ssim(image, image) == pytest.approx(1, abs=1e-6)
    # Constant images differ in luminance only: (2ab + C1) / (a^2 + b^2 + C1).
    flat = jnp.full_like(image, 0.25)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert ssim(flat, 1 - flat) == pytest.approx(expected, abs=1e-3)
    # Opposite structure, equal means.
    wave = 0.3 * jnp.sin(jnp.arange(31.0))[None, :, None] * jnp.ones((23, 1, 3))
    assert ssim(0.5 + wave, 0.5 - wave) < -0.8


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_batches_and_transforms_agree(metric):
    images, targets = make_images((2, 3, 12, 14, 3))
    expected = [[float(metric(images[i, j], targets[i, j])) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(metric(images, targets), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(jax.vmap(metric))(images, targets), expected, rtol=1e-5)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_a_mask_of_everything_is_none(metric):
    image, target = make_images()
    assert metric(image, target, jnp.ones((23, 31), bool)) == pytest.approx(
        float(metric(image, target)), rel=1e-6
    )


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_a_mask_of_a_rectangle_is_a_crop(metric):
    image, target = make_images()
    mask = np.zeros((23, 31), bool)
    mask[3:18, 5:25] = True
    expected = metric(image[3:18, 5:25], target[3:18, 5:25])
    assert metric(image, target, jnp.asarray(mask)) == pytest.approx(float(expected), rel=1e-5)
    batch = metric(jnp.stack([image] * 2), jnp.stack([target] * 2), jnp.stack([mask, np.ones_like(mask)]))
    np.testing.assert_allclose(batch, [expected, metric(image, target)], rtol=1e-5)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_masked_pixels_count_nowhere(metric):
    image, target = make_images()
    mask = np.ones((23, 31), bool)
    mask[4, 7] = mask[20:, 25:] = False
    changed = jnp.where(mask[..., None], image, jnp.nan)
    expected = metric(image, target, jnp.asarray(mask))
    assert metric(changed, target, jnp.asarray(mask)) == pytest.approx(float(expected), rel=1e-6)
    assert jnp.isnan(metric(image, target, jnp.zeros((23, 31), bool)))


def test_ssim_forward_and_second_derivatives():
    with jax.enable_x64(True):
        image, target = make_images((12, 12, 1), dtype=np.float64)
        direction = jnp.asarray(np.random.default_rng(1).normal(size=image.shape))
        step = 1e-6
        gradient = jax.jit(jax.grad(ssim))
        sides = [image + sign * step * direction for sign in (1, -1)]

        slope = float(ssim(sides[0], target) - ssim(sides[1], target)) / (2 * step)
        _, tangent = jax.jit(lambda t: jax.jvp(lambda x: ssim(x, target), (image,), (t,)))(direction)
        assert tangent == pytest.approx(slope, rel=1e-6)
        assert jnp.vdot(gradient(image, target), direction) == pytest.approx(slope, rel=1e-6)

        hessian = jax.jit(jax.hessian(ssim))(image, target).reshape(image.size, image.size)
        bend = (gradient(sides[0], target) - gradient(sides[1], target)) / (2 * step)
        np.testing.assert_allclose(hessian @ direction.ravel(), bend.ravel(), atol=1e-6)


def test_float64_is_kept():
    with jax.enable_x64(True):
        image, target = make_images(dtype=np.float64)
        assert ssim(image, target).dtype == np.float64


def test_errors_say_what_is_wrong(monkeypatch):
    monkeypatch.setattr(config, "jaxtyping_disable", True)  # as users run splax
    image = jnp.zeros((20, 20, 3))
    with pytest.raises(ValueError, match=r"at least 11x11 pixels, got shape \(20, 10, 3\)"):
        ssim(image[:, :10], image[:, :10])
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match=r"got \(20, 20, 3\) and \(20, 20, 1\)"):
            metric(image, image[..., :1])
        with pytest.raises(ValueError, match="got uint8; divide"):
            metric(image, image.astype(jnp.uint8))
