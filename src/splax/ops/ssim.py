"""SSIM of a window from its means, and the derivatives; plain JAX and kernels share the formulas."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

# Wang et al. 2004, section III-B: an 11x11 Gaussian window of sigma 1.5; K1 = 0.01, K2 = 0.03, range 1.
SSIM_WINDOW = 11
_SIGMA = 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
_RADIUS = SSIM_WINDOW // 2


def _gaussian_taps() -> tuple[float, ...]:
    taps = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    return tuple(float(tap) for tap in taps / taps.sum())


SSIM_TAPS = _gaussian_taps()


class Ssim(NamedTuple):
    """Constants of SSIM (Wang et al. 2004, eq. 13), and the number of channels.

    Attributes:
        taps: weights of the window along one axis, symmetric.
        c1: constant of the luminance term.
        c2: constant of the structure term.
        channels: number of channels of a pixel; they lie side by side in memory.
    """

    taps: tuple[float, ...]
    c1: float
    c2: float
    channels: int

    @property
    def margin(self) -> int:
        """Number of rows of an image less the number of rows of windows."""
        return len(self.taps) - 1


class WindowMeans(NamedTuple):
    """Weighted means over a window of two images x and y."""

    x: jax.Array
    y: jax.Array
    squares: jax.Array  # mean of x^2 + y^2
    products: jax.Array  # mean of x y


class SsimMaps(NamedTuple):
    """Derivatives of each window's SSIM by the window's means."""

    by_mean_x: jax.Array
    by_mean_y: jax.Array
    by_squares: jax.Array  # by the mean of x^2, which equals that by the mean of y^2
    by_products: jax.Array


def compare(means: WindowMeans, ssim: Ssim) -> tuple[jax.Array, SsimMaps]:
    """Returns the SSIM of each window, and its derivatives; names are those of the factors in eq. 13."""
    mean_x, mean_y, squares, products = means
    mean_squares = mean_x * mean_x + mean_y * mean_y
    luminance_a, luminance_b = 2 * mean_x * mean_y + ssim.c1, mean_squares + ssim.c1
    structure_a = 2 * (products - mean_x * mean_y) + ssim.c2
    structure_b = squares - mean_squares + ssim.c2
    inverse = 1 / (luminance_b * structure_b)  # one division: they are slow on a CPU
    value = luminance_a * structure_a * inverse
    across = 2 * (structure_a - luminance_a) * inverse
    along = 2 * value * (structure_b - luminance_b) * inverse
    maps = SsimMaps(
        by_mean_x=mean_y * across - mean_x * along,
        by_mean_y=mean_x * across - mean_y * along,
        by_squares=-value * luminance_b * inverse,
        by_products=2 * luminance_a * inverse,
    )
    return value, maps


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def filter_windows(x: Array, axis: int, stride: int) -> Array:
    """Correlates ``axis`` with the window's taps, ``stride`` entries apart, as a sum of shifted slices.

    On a CPU that is ten times as fast as XLA's convolution.
    """
    axis %= x.ndim
    length = x.shape[axis] - (SSIM_WINDOW - 1) * stride
    shifts = (jax.lax.slice_in_dim(x, i * stride, i * stride + length, axis=axis) for i in range(SSIM_WINDOW))
    return sum((tap * shift for tap, shift in zip(SSIM_TAPS, shifts, strict=True)), jnp.zeros((), x.dtype))


@filter_windows.defjvp
def _filter_jvp(axis, stride, primals, tangents):
    # The tangent is the filter of the tangent too, but written so that its transpose, the gradient, is a sum of
    # slices as well: padded and summed, then cropped. JAX's own transpose is a sum of pads, four times slower.
    (x,), (tangent,) = primals, tangents
    axis %= x.ndim

    def pad(values: Array, low: int, high: int) -> Array:
        widths = [(0, 0, 0)] * x.ndim
        widths[axis] = (low, high, 0)
        return jax.lax.pad(values, jnp.zeros((), x.dtype), widths)

    last = SSIM_WINDOW - 1
    full = sum(
        (pad(tap * tangent, (last - i) * stride, i * stride) for i, tap in enumerate(SSIM_TAPS)),
        jnp.zeros((), x.dtype),
    )
    cropped = jax.lax.slice_in_dim(full, last * stride, x.shape[axis], axis=axis)
    return filter_windows(x, axis, stride), cropped
