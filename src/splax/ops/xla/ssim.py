"""SSIM and its gradients in plain JAX.

Three maps are filtered (those by which SSIM depends on an image: its window mean, the mean of squares and the mean
of products) where JAX's own gradient filters the cotangents of five, as in fused-ssim (Mallick et al. 2024, Taming
3DGS).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from splax.ops.ssim import (
    SSIM_C1,
    SSIM_C2,
    SSIM_TAPS,
    SSIM_WINDOW,
    Ssim,
    WindowMeans,
    compare,
    filter_windows,
)

_MARGIN = SSIM_WINDOW - 1

# An image, and a map of its windows; width and channels are one axis, so that the innermost loop is long.
Rows = Float[Array, "*batch h wc"]
WindowRows = Float[Array, "*batch h2 wc2"]


def mean_and_gradients(
    x: Rows, y: Rows, channels: int, differentiated: tuple[int, ...]
) -> tuple[Float[Array, "*batch"], list[Rows]]:
    """Returns the mean SSIM of two images, and its gradients.

    Args:
        x: first image, [..., H, W * C].
        y: second image, [..., H, W * C].
        channels: number of channels, C.
        differentiated: indices, 0 or 1, of the images whose gradients are returned.
    """
    ssim = Ssim(SSIM_TAPS, SSIM_C1, SSIM_C2, channels)
    means = WindowMeans(*_blur(jnp.stack([x, y, x * x + y * y, x * y]), channels))
    value, maps = compare(means, ssim)
    count = value.shape[-2] * value.shape[-1]
    gradients = []
    for nth in differentiated:
        one, other = ((x, y), (y, x))[nth]
        by_means = jnp.stack([maps[nth], maps.by_squares, maps.by_products])
        mean, squares, products = _spread(by_means, channels)
        gradients.append((mean + 2 * one * squares + other * products) / count)
    return value.mean(axis=(-2, -1)), gradients


def _blur(maps: Rows, channels: int) -> WindowRows:
    """Returns the Gaussian-weighted mean of every window that lies within the image."""
    height = maps.shape[-2]
    rows = filter_windows(maps, -1, channels)
    # Padded and cropped again for XLA: fused with the second pass, the first is computed for each of its taps.
    rows = filter_windows(_pad(rows, -2, _MARGIN), -2, 1)
    return jax.lax.slice_in_dim(rows, _MARGIN, height, axis=rows.ndim - 2)


def _spread(maps: WindowRows, channels: int) -> Rows:
    """Returns for every pixel the weighted sum over the windows that hold it: the transpose of :func:`_blur`."""
    rows = filter_windows(_pad(maps, -1, _MARGIN * channels), -1, channels)
    return filter_windows(_pad(rows, -2, _MARGIN), -2, 1)


def _pad(x: Array, axis: int, width: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (width, width)
    # Barriers keep XLA's GPU compiler, too, from computing the pass before it for each tap of the one after.
    return jnp.pad(jax.lax.optimization_barrier(x), widths)
