"""Which tiles and subtiles the ellipse of a Gaussian reaches: where its alpha is 1/255 or more.

Every test errs on the side of reaching, so the image does not depend on it.
"""

import jax.numpy as jnp

from splax.ops.triton.tiling import LOG2_THRESHOLD, Form, Tiling
from splax.ops.triton.warp import LANES, Warp

# Slack for rounding, in powers of two of alpha.
_MARGIN = 1e-3


def tile_span(form: Form, left, columns, row, tiling: Tiling, warp: Warp):
    """First tile and number of tiles that the ellipse reaches in one row of tiles.

    The right-most point of the part of an ellipse in a band of y is the ellipse's own right-most point, or
    the nearest point of the band to it on the boundary; the left-most one likewise.
    """
    a, b, c = -form.a, -form.b, -form.c
    level = jnp.maximum(form.top - LOG2_THRESHOLD, 0) + _MARGIN
    # For thin ellipses the determinant is lost to rounding; a smaller one makes the ellipse larger.
    determinant = jnp.maximum(warp.fma(-b, b, 4 * a * c * (1 - 1e-6)), 1e-30)
    reach_y = jnp.sqrt(4 * a * level / determinant)
    first_y = (row * tiling.tile_size).astype(jnp.float32) + 0.5 - form.mean_y
    low, high = jnp.maximum(first_y, -reach_y), jnp.minimum(first_y + (tiling.tile_size - 1), reach_y)
    extreme = -b / (2 * c) * jnp.sqrt(4 * c * level / determinant)
    # A pixel's centre is half a pixel from its corner.
    slack = warp.fma(jnp.abs(form.mean_x), 1e-6, jnp.full(LANES, 1e-3))
    per_half, shift = 0.5 / a, tiling.tile_size.bit_length() - 1

    def side(dy, sign):
        dy = jnp.minimum(jnp.maximum(dy, low), high)
        half = jnp.sqrt(jnp.maximum(warp.fma(-determinant * dy, dy, 4 * a * level), 0))
        x = warp.fma(warp.fma(-b, dy, sign * half), per_half, form.mean_x)
        return x + (sign * slack - 0.5)

    # Tiles are 8, 16 or 32 pixels wide.
    start = jnp.ceil(side(-extreme, -1)).astype(jnp.int32) >> shift
    stop = (jnp.floor(side(extreme, 1)).astype(jnp.int32) >> shift) + 1
    start, stop = (jnp.clip(tile, left, left + columns) for tile in (start, stop))
    return start, jnp.where(low <= high, jnp.maximum(stop - start, 0), 0)


def reaches_box(form: Form, left, top, width: int, height: int, warp: Warp):
    """Whether the ellipse reaches the box of the pixel centres of a rectangle.

    The form is concave: its largest value in a box without the mean is on one of the sides that face the mean.
    """
    x0 = left.astype(jnp.float32) + 0.5 - form.mean_x
    y0 = top.astype(jnp.float32) + 0.5 - form.mean_y
    lean_x, lean_y = -0.5 * form.b / form.a, -0.5 * form.b / form.c

    def clip(value, low, size):
        return jnp.minimum(jnp.maximum(value, low), low + (size - 1))

    def power(dx, dy):
        squares = warp.fma(form.a * dx, dx, form.c * dy * dy)
        return warp.fma(form.b * dx, dy, warp.fma(squares, 1 - 1e-5, form.top))

    near_x, near_y = clip(0.0, x0, width), clip(0.0, y0, height)
    best_x, best_y = clip(lean_x * near_y, x0, width), clip(lean_y * near_x, y0, height)
    return jnp.maximum(power(near_x, best_y), power(best_x, near_y)) >= LOG2_THRESHOLD - _MARGIN
