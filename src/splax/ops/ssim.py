"""SSIM of a window from its means, and how it depends on them; the same in plain JAX and in kernels."""

from typing import NamedTuple

import jax


class Ssim(NamedTuple):
    """What SSIM is made of (Wang et al. 2004, eq. 13).

    Attributes:
        taps: of the window along one axis, symmetric.
        c1: of the luminance term.
        c2: of the structure term.
        channels: numbers of a pixel, which lie side by side.
    """

    taps: tuple[float, ...]
    c1: float
    c2: float
    channels: int

    @property
    def margin(self) -> int:
        """Rows that an image has more than windows."""
        return len(self.taps) - 1


class WindowMeans(NamedTuple):
    """Weighted means over a window of two images x and y."""

    x: jax.Array
    y: jax.Array
    squares: jax.Array  # of x^2 + y^2
    products: jax.Array  # of x y


class SsimMaps(NamedTuple):
    """Derivatives of each window's SSIM by its means."""

    by_mean_x: jax.Array
    by_mean_y: jax.Array
    by_squares: jax.Array  # the mean of x^2, or that of y^2: the same
    by_products: jax.Array


def compare(means: WindowMeans, ssim: Ssim) -> tuple[jax.Array, SsimMaps]:
    """SSIM of each window and its derivatives; the names are those of the four factors of a / b in eq. 13."""
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
