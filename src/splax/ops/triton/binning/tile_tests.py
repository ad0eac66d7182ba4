"""Tests of whether the ellipse of a Gaussian, where its alpha is 1/255 or more, reaches tiles and subtiles.

In doubt a test says that the ellipse reaches, so the image does not depend on it.
"""

import jax.numpy as jnp

from splax.ops.tile_grid import TileGrid
from splax.ops.triton.lanes.warp import LANES, Warp
from splax.ops.triton.pixel_regions import LOG2_THRESHOLD, QuadraticForm

# Slack for rounding, in powers of two of alpha.
_MARGIN = 1e-3


def tile_spans(form: QuadraticForm, left, columns, tile_grid: TileGrid, warp: Warp):
    """Returns a function of a row of tiles: the first tile and the number of tiles that the ellipse reaches.

    In a band of y, the right-most point of the ellipse is its own right-most point, or else the point on the
    boundary that is nearest to it within the band. The same holds for the left-most point.

    Args:
        form: quadratic form of each lane's Gaussian.
        left: first column of the box of tiles around each Gaussian, [32].
        columns: number of columns of the box, [32].
        tile_grid: the tiles of the image.
        warp: warp that the lanes belong to.
    """
    a, b, c = -form.a, -form.b, -form.c
    level = jnp.maximum(form.top - LOG2_THRESHOLD, 0) + _MARGIN
    # For thin ellipses the determinant is lost to rounding; a smaller one makes the ellipse larger.
    determinant = jnp.maximum(warp.fma(-b, b, 4 * a * c * (1 - 1e-6)), 1e-30)
    scale = 4 * level * warp.reciprocal(determinant)
    reach_y = warp.sqrt(a * scale)
    extreme = -0.5 * b * warp.reciprocal(c) * warp.sqrt(c * scale)
    # A pixel's centre is half a pixel from its corner.
    slack = warp.fma(jnp.abs(form.mean_x), 1e-6, jnp.full(LANES, 1e-3))
    per_half, shift = 0.5 * warp.reciprocal(a), tile_grid.tile_size.bit_length() - 1
    most = 4 * a * level

    def span(row):
        first_y = (row * tile_grid.tile_size).astype(jnp.float32) + 0.5 - form.mean_y
        low, high = jnp.maximum(first_y, -reach_y), jnp.minimum(first_y + (tile_grid.tile_size - 1), reach_y)

        def side(dy, sign):
            dy = jnp.minimum(jnp.maximum(dy, low), high)
            half = warp.sqrt(jnp.maximum(warp.fma(-determinant * dy, dy, most), 0))
            x = warp.fma(warp.fma(-b, dy, sign * half), per_half, form.mean_x)
            return x + (sign * slack - 0.5)

        # Tiles are 8, 16 or 32 pixels wide.
        start = warp.ceil(side(-extreme, -1)) >> shift
        stop = (warp.floor(side(extreme, 1)) >> shift) + 1
        start, stop = (jnp.clip(tile, left, left + columns) for tile in (start, stop))
        return start, jnp.where(low <= high, jnp.maximum(stop - start, 0), 0)

    return span


def reaches_box(form: QuadraticForm, left, top, width: int, height: int, warp: Warp):
    """Returns whether the ellipse reaches the box of the pixel centres of a rectangle.

    The form is concave: its largest value in a box without the mean is on one of the sides that face the mean.

    Args:
        form: quadratic form of each lane's Gaussian.
        left: x of the upper left pixel, [32].
        top: y of the upper left pixel, [32].
        width: width of the rectangle in pixels.
        height: height of the rectangle in pixels.
        warp: warp that the lanes belong to.
    """
    x0 = left.astype(jnp.float32) + 0.5 - form.mean_x
    y0 = top.astype(jnp.float32) + 0.5 - form.mean_y
    lean_x, lean_y = (-0.5 * form.b * warp.reciprocal(q) for q in (form.a, form.c))
    # The squares are made a little smaller than they are, which makes the ellipse larger.
    a, c = form.a * (1 - 1e-5), form.c * (1 - 1e-5)

    def clip(value, low, size):
        return jnp.minimum(jnp.maximum(value, low), low + (size - 1))

    def power(square, fixed, other_square, along):
        """Returns the form at two coordinates; the part of the fixed one is the same for boxes in a row."""
        slope, constant = form.b * fixed, warp.fma(square * fixed, fixed, form.top)
        return warp.fma(warp.fma(other_square, along, slope), along, constant)

    near_x, near_y = clip(0.0, x0, width), clip(0.0, y0, height)
    best_x, best_y = clip(lean_x * near_y, x0, width), clip(lean_y * near_x, y0, height)
    most = jnp.maximum(power(a, near_x, c, best_y), power(c, near_y, a, best_x))
    return most >= LOG2_THRESHOLD - _MARGIN
