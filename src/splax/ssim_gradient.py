"""SSIM for training: the value of :func:`splax.metrics.ssim` and its gradient, written out.

JAX's own gradient filters the cotangents of five maps of window means. Here it is three maps (those by which SSIM
depends on an image: its window mean, the mean of squares and the mean of products), as in fused-ssim (Mallick et
al. 2024, Taming 3DGS). It is computed together with the value, so nothing but the gradient itself is kept.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from splax.metrics import SSIM_C1, SSIM_C2, SSIM_WINDOW, check_windows, filter_windows

_MARGIN = SSIM_WINDOW - 1


class _Similarity(NamedTuple):
    """SSIM of each window, and its derivatives by window means; rows of width times channels."""

    value: Float[Array, "*batch h2 wc2"]
    by_mean_x: Float[Array, "*batch h2 wc2"]
    by_mean_y: Float[Array, "*batch h2 wc2"]
    by_squares: Float[Array, "*batch h2 wc2"]  # the mean of x^2, or that of y^2: the same
    by_products: Float[Array, "*batch h2 wc2"]  # the mean of x y


@jax.custom_jvp
def mean_ssim(
    image: Float[Array, "*batch h w c"], target: Float[Array, "*batch h w c"]
) -> Float[Array, "*batch"]:
    """:func:`splax.metrics.ssim` without a mask, with a gradient that is quick in reverse mode.

    Forward mode and higher derivatives work as well.

    Raises:
        ValueError: as :func:`splax.metrics.ssim`.
    """
    check_windows(image, target)
    return _similarity(_rows(image), _rows(target), image.shape[-1]).value.mean(axis=(-2, -1))


def _mean_ssim_jvp(primals, tangents):
    image, target = primals
    check_windows(image, target)
    x, y, channels = _rows(image), _rows(target), image.shape[-1]
    similarity = _similarity(x, y, channels)
    change = jnp.zeros(image.shape[:-3], image.dtype)
    count = similarity.value.shape[-2] * similarity.value.shape[-1]
    # The target is a photo as a rule, and then the second one is not computed.
    for tangent, one, other, by_mean in (
        (tangents[0], x, y, similarity.by_mean_x),
        (tangents[1], y, x, similarity.by_mean_y),
    ):
        if not isinstance(tangent, SymbolicZero):
            maps = jnp.stack([by_mean, similarity.by_squares, similarity.by_products])
            mean, squares, products = _spread(maps, channels)
            gradient = (mean + 2 * one * squares + other * products) / count
            change += (gradient * _rows(tangent)).sum(axis=(-2, -1))
    return similarity.value.mean(axis=(-2, -1)), change


mean_ssim.defjvp(_mean_ssim_jvp, symbolic_zeros=True)


def _rows(image: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h wc"]:
    """Width and channels as one axis: the innermost loop is then long."""
    return image.reshape(*image.shape[:-2], -1)


def _similarity(x: Float[Array, "*batch h wc"], y: Float[Array, "*batch h wc"], channels: int) -> _Similarity:
    """Wang et al. 2004, eq. 13, and its derivatives; the names are those of the four factors of a / b."""
    mean_x, mean_y, squares, products = _blur(jnp.stack([x, y, x * x + y * y, x * y]), channels)
    mean_squares = mean_x * mean_x + mean_y * mean_y
    luminance_a, luminance_b = 2 * mean_x * mean_y + SSIM_C1, mean_squares + SSIM_C1
    structure_a = 2 * (products - mean_x * mean_y) + SSIM_C2
    structure_b = squares - mean_squares + SSIM_C2
    inverse = 1 / (luminance_b * structure_b)  # one division: they are slow on a CPU
    value = luminance_a * structure_a * inverse
    across = 2 * (structure_a - luminance_a) * inverse
    along = 2 * value * (structure_b - luminance_b) * inverse
    return _Similarity(
        value=value,
        by_mean_x=mean_y * across - mean_x * along,
        by_mean_y=mean_x * across - mean_y * along,
        by_squares=-value * luminance_b * inverse,
        by_products=2 * luminance_a * inverse,
    )


def _blur(maps: Float[Array, "*batch h wc"], channels: int) -> Float[Array, "*batch h2 wc2"]:
    """Gaussian-weighted mean of every window that lies within the image."""
    height = maps.shape[-2]
    rows = filter_windows(maps, -1, channels)
    # Padded and cropped again for XLA: fused with the second pass, the first is computed for each of its taps.
    rows = filter_windows(_pad(rows, -2, _MARGIN), -2, 1)
    return jax.lax.slice_in_dim(rows, _MARGIN, height, axis=rows.ndim - 2)


def _spread(maps: Float[Array, "*batch h2 wc2"], channels: int) -> Float[Array, "*batch h wc"]:
    """The transpose of :func:`_blur`: to every pixel, the weighted sum over the windows that hold it."""
    rows = filter_windows(_pad(maps, -1, _MARGIN * channels), -1, channels)
    return filter_windows(_pad(rows, -2, _MARGIN), -2, 1)


def _pad(x: Array, axis: int, width: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (width, width)
    # Barriers keep XLA's GPU compiler, too, from computing the pass before it for each tap of the one after.
    return jnp.pad(jax.lax.optimization_barrier(x), widths)
