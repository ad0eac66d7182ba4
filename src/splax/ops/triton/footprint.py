"""Which tiles and subtiles the ellipse of a Gaussian reaches: where its alpha is 1/255 or more.

Every test errs on the side of reaching, so the image does not depend on it.
"""

import jax.numpy as jnp

from splax.ops.triton.tiling import LOG2_THRESHOLD, Form, Tiling

# Slack for rounding, in powers of two of alpha.
_MARGIN = 1e-3


def tile_span(form: Form, left, columns, row, tiling: Tiling):
    """First tile and number of tiles that the ellipse reaches in one row of tiles.

    The right-most point of the part of an ellipse in a band of y is the ellipse's own right-most point, or
    the nearest point of the band to it on the boundary; the left-most one likewise.
    """
    a, b, c = -form.a, -form.b, -form.c
    level = jnp.maximum(form.top - LOG2_THRESHOLD, 0) + _MARGIN
    # For thin ellipses the determinant is lost to rounding; a smaller one makes the ellipse larger.
    determinant = jnp.maximum(4 * a * c * (1 - 1e-6) - b * b, 1e-30)
    reach_y = jnp.sqrt(4 * a * level / determinant)
    first_y = (row * tiling.tile_size).astype(jnp.float32) + 0.5 - form.mean_y
    low, high = jnp.maximum(first_y, -reach_y), jnp.minimum(first_y + (tiling.tile_size - 1), reach_y)
    extreme = -b / (2 * c) * jnp.sqrt(4 * c * level / determinant)

    def side(dy, sign):
        dy = jnp.minimum(jnp.maximum(dy, low), high)
        half = jnp.sqrt(jnp.maximum(4 * a * level - determinant * dy * dy, 0))
        return form.mean_x + (sign * half - b * dy) / (2 * a)

    # A pixel's centre is half a pixel from its corner.
    slack = 1e-3 + 1e-6 * jnp.abs(form.mean_x)
    scale = 1 / tiling.tile_size
    start = jnp.floor(jnp.ceil(side(-extreme, -1) - 0.5 - slack) * scale)
    stop = jnp.floor(jnp.floor(side(extreme, 1) - 0.5 + slack) * scale) + 1
    start = jnp.clip(start, left, left + columns).astype(jnp.int32)
    stop = jnp.clip(stop, left, left + columns).astype(jnp.int32)
    return start, jnp.where(low <= high, jnp.maximum(stop - start, 0), 0)


def reaches_box(form: Form, left, top, width: int, height: int):
    """Whether the ellipse reaches the box of the pixel centres of a rectangle.

    The form is concave: its largest value in a box without the mean is on one of the sides that face the mean.
    """
    x0, y0 = left.astype(jnp.float32) + 0.5, top.astype(jnp.float32) + 0.5

    def clip(value, low, size):
        return jnp.minimum(jnp.maximum(value, low), low + (size - 1))

    def power(x, y):
        dx, dy = x - form.mean_x, y - form.mean_y
        squares = form.a * dx * dx + form.c * dy * dy
        return squares + form.b * dx * dy + form.top + (_MARGIN - 1e-5 * squares)

    near_x, near_y = clip(form.mean_x, x0, width), clip(form.mean_y, y0, height)
    best_x = clip(form.mean_x - 0.5 * form.b / form.a * (near_y - form.mean_y), x0, width)
    best_y = clip(form.mean_y - 0.5 * form.b / form.c * (near_x - form.mean_x), y0, height)
    return jnp.maximum(power(near_x, best_y), power(best_x, near_y)) >= LOG2_THRESHOLD
