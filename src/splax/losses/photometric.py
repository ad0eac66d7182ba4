"""The photometric loss that training minimises: the difference between a rendering and a photo.

Images are floats in [0, 1], [..., H, W, C]; leading axes are a batch, and the result has their shape.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from splax.losses.ssim import mean_ssim


def l1(image: Float[Array, "*batch h w c"], target: Float[Array, "*batch h w c"]) -> Float[Array, "*batch"]:
    """Mean absolute difference of two images over pixels and channels."""
    return jnp.abs(image - target).mean(axis=(-3, -2, -1))


def dssim(
    image: Float[Array, "*batch h w c"], target: Float[Array, "*batch h w c"]
) -> Float[Array, "*batch"]:
    """Structural dissimilarity of two images, 1 - SSIM.

    Raises:
        ValueError: on the same images as :func:`splax.ssim`.
    """
    return 1 - mean_ssim(image, target)


def photometric_loss(
    image: Float[Array, "*batch h w c"], target: Float[Array, "*batch h w c"], *, ssim_weight: float = 0.2
) -> Float[Array, "*batch"]:
    """(1 - w) L1 + w (1 - SSIM), with w = ``ssim_weight`` (Kerbl et al. 2023, eq. 7).

    Args:
        image: rendering in [0, 1], float, [..., H, W, C].
        target: photo in [0, 1], float, [..., H, W, C].
        ssim_weight: weight w of SSIM, in [0, 1]; at 0 SSIM is not computed.

    Returns:
        The loss of each pair of images, [...].

    Raises:
        ValueError: on the same images as :func:`splax.ssim`, unless ``ssim_weight`` is 0.

    Example:
        >>> import jax.numpy as jnp
        >>> import splax
        >>> photo = jnp.full((16, 16, 3), 0.5)
        >>> float(splax.photometric_loss(photo, photo, ssim_weight=0))
        0.0
        >>> brighter = photo + 0.25
        >>> float(splax.photometric_loss(brighter, photo, ssim_weight=0))  # L1 alone
        0.25
        >>> round(float(splax.photometric_loss(brighter, photo)), 3)
        0.215
    """
    if ssim_weight == 0:
        return l1(image, target)
    return (1 - ssim_weight) * l1(image, target) + ssim_weight * dssim(image, target)
