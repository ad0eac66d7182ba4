"""PSNR and SSIM: measures of how alike two images are.

Images are floats in [0, 1], [..., H, W, C]; leading axes are a batch, and the result has their shape. A mask is
true where pixels count, [..., H, W].
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from splax.ops.ssim import SSIM_C1, SSIM_C2, SSIM_WINDOW, filter_windows

_RADIUS = SSIM_WINDOW // 2


@jax.jit
def psnr(
    image: Float[Array, "*batch h w c"],
    target: Float[Array, "*batch h w c"],
    mask: Bool[Array, "*batch h w"] | None = None,
) -> Float[Array, "*batch"]:
    """Peak signal-to-noise ratio in dB, -10 log10(mean squared error); infinite for equal images.

    Args:
        image: image in [0, 1], float, [..., H, W, C].
        target: image to compare with, in [0, 1], float, [..., H, W, C].
        mask: true where pixels count, [..., H, W]; None for all pixels.

    Returns:
        The PSNR of each pair of images, over the pixels that count and all channels, [...]; NaN if no pixel
        counts.

    Raises:
        ValueError: if the shapes differ, or the images are not float.

    Example:
        >>> import jax.numpy as jnp
        >>> import splax
        >>> photo = jnp.zeros((4, 6, 3))
        >>> round(float(splax.psnr(photo + 0.1, photo)), 2)
        20.0
        >>> left = jnp.arange(6) < 3
        >>> half_wrong = photo.at[:, 3:].set(1.0)
        >>> float(splax.psnr(half_wrong, photo, mask=jnp.tile(left, (4, 1))))
        inf
    """
    check_images(image, target)
    squared = (image - target) ** 2
    return -10 * jnp.log10(_mean(squared, mask))


@jax.jit
def ssim(
    image: Float[Array, "*batch h w c"],
    target: Float[Array, "*batch h w c"],
    mask: Bool[Array, "*batch h w"] | None = None,
) -> Float[Array, "*batch"]:
    """Structural similarity (Wang et al. 2004), 1 for equal images.

    Windows that reach beyond the border do not count ('valid' padding), as in most implementations for Gaussian
    splatting.

    Args:
        image: image in [0, 1], float, [..., H, W, C].
        target: image to compare with, in [0, 1], float, [..., H, W, C].
        mask: true where pixels count, [..., H, W]; None for all pixels. A window counts if all its pixels do.

    Returns:
        The mean over channels and windows for each pair of images, [...]; NaN if no window counts.

    Raises:
        ValueError: if the shapes differ, the images are not float, or a side is shorter than the window of
            11 pixels.

    Example:
        >>> import jax
        >>> import splax
        >>> photo = jax.random.uniform(jax.random.key(0), (24, 32, 3))
        >>> round(float(splax.ssim(photo, photo)), 3)
        1.0
        >>> bool(splax.ssim(0.5 * photo, photo) < 0.9)
        True
    """
    check_windows(image, target)
    maps = jnp.stack([image, target, image * image, target * target, image * target])
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blur(maps)
    covar = mean_xy - mean_x * mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    variances = mean_xx + mean_yy - squares
    # Eq. 13 with one division: on a CPU, a second one makes the gradient take 1.7 times as long.
    numerator = (2 * mean_x * mean_y + SSIM_C1) * (2 * covar + SSIM_C2)
    similarity = numerator / ((squares + SSIM_C1) * (variances + SSIM_C2))
    return _mean(similarity, None if mask is None else _whole_windows(mask))


def _mean(
    values: Float[Array, "*batch h w c"], mask: Bool[Array, "*batch h w"] | None
) -> Float[Array, "*batch"]:
    """The mean over the pixels that count and over channels."""
    where = None if mask is None else mask[..., None]
    return values.mean(axis=(-3, -2, -1), where=where)


def _whole_windows(mask: Bool[Array, "*batch h w"]) -> Bool[Array, "*batch h2 w2"]:
    """True for windows of which all pixels are in the mask, for all windows that lie within the image."""
    window = (*[1] * (mask.ndim - 2), SSIM_WINDOW, SSIM_WINDOW)
    return jax.lax.reduce_window(mask, True, jax.lax.bitwise_and, window, (1,) * mask.ndim, "valid")


def check_windows(image: Array, target: Array) -> None:
    """Raises a ValueError if :func:`ssim` cannot compare the images."""
    check_images(image, target)
    if min(image.shape[-3:-1]) < SSIM_WINDOW:
        raise ValueError(
            f"ssim needs images of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, got shape {image.shape}; "
            "downscale less."
        )


def check_images(image: Array, target: Array) -> None:
    """Raises a ValueError if :func:`psnr` cannot compare the images."""
    if image.shape != target.shape or image.ndim < 3:
        raise ValueError(
            f"Two images [..., H, W, C] of one shape are needed, got {image.shape} and {target.shape}."
        )
    for dtype in (image.dtype, target.dtype):
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"Images must be float in [0, 1], got {dtype}; divide uint8 by 255.")


def _blur(maps: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h2 w2 c"]:
    """Gaussian-weighted mean of every window that lies within the image."""
    *batch, height, width, channels = maps.shape
    # Rows as one axis of width * channels: the innermost loop is then long.
    rows = filter_windows(maps.reshape(*batch, height, width * channels), -1, channels)
    # If XLA fused the two passes, it would compute the first again for each tap of the second.
    rows = filter_windows(jax.lax.optimization_barrier(rows), -2, 1)
    return rows.reshape(*batch, height - 2 * _RADIUS, width - 2 * _RADIUS, channels)
