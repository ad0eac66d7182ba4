"""How alike two images are: PSNR and SSIM.

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

    The mean is over all pixels, or those of the mask; NaN if it has none.

    Raises:
        ValueError: if the shapes differ, or the images are not float.
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

    The mean over channels and over all windows that lie within the image ('valid' padding), as most
    implementations for Gaussian splatting have it. With a mask, over all windows that lie within it; NaN if there
    is none.

    Raises:
        ValueError: if the shapes differ, the images are not float, or a side is shorter than the window of
            11 pixels.
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
    """Over pixels and channels."""
    where = None if mask is None else mask[..., None]
    return values.mean(axis=(-3, -2, -1), where=where)


def _whole_windows(mask: Bool[Array, "*batch h w"]) -> Bool[Array, "*batch h2 w2"]:
    """Whether all pixels of each window that lies within the image are in the mask."""
    window = (*[1] * (mask.ndim - 2), SSIM_WINDOW, SSIM_WINDOW)
    return jax.lax.reduce_window(mask, True, jax.lax.bitwise_and, window, (1,) * mask.ndim, "valid")


def check_windows(image: Array, target: Array) -> None:
    """Raises the errors of :func:`ssim`."""
    check_images(image, target)
    if min(image.shape[-3:-1]) < SSIM_WINDOW:
        raise ValueError(
            f"ssim needs images of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels, got shape {image.shape}; "
            "downscale less."
        )


def check_images(image: Array, target: Array) -> None:
    """Raises the errors of :func:`psnr`."""
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
    # Fused with the second pass, the first would be computed again for each of its taps.
    rows = filter_windows(jax.lax.optimization_barrier(rows), -2, 1)
    return rows.reshape(*batch, height - 2 * _RADIUS, width - 2 * _RADIUS, channels)
