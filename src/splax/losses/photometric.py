"""What training minimises: differences between a render and a photo.

Images are floats in [0, 1], [..., H, W, C]; leading axes are a batch, and the result has their shape.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from splax.losses.ssim import mean_ssim


def l1(image: Float[Array, "*batch h w c"], target: Float[Array, "*batch h w c"]) -> Float[Array, "*batch"]:
    """Mean absolute difference."""
    return jnp.abs(image - target).mean(axis=(-3, -2, -1))


def dssim(
    image: Float[Array, "*batch h w c"], target: Float[Array, "*batch h w c"]
) -> Float[Array, "*batch"]:
    """Structural dissimilarity, 1 - SSIM.

    Raises:
        ValueError: as :func:`splax.metrics.image.ssim`.
    """
    return 1 - mean_ssim(image, target)


def photometric_loss(
    image: Float[Array, "*batch h w c"], target: Float[Array, "*batch h w c"], *, ssim_weight: float = 0.2
) -> Float[Array, "*batch"]:
    """(1 - w) L1 + w (1 - SSIM), with w = ``ssim_weight`` (Kerbl et al. 2023, eq. 7).

    Raises:
        ValueError: as :func:`splax.metrics.image.ssim`, unless ``ssim_weight`` is 0.
    """
    if ssim_weight == 0:
        return l1(image, target)
    return (1 - ssim_weight) * l1(image, target) + ssim_weight * dssim(image, target)
