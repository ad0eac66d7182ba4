"""One pass over the projected Gaussians: their rows as the other kernels read them, and the tiles they reach.

XLA would interleave separate arrays into rows at a tenth of the memory's speed.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.triton.footprint import tile_span
from splax.ops.triton.tiling import FORM, Form, Tiling
from splax.ops.triton.warp import LANES, Warp, full, lanes, load, store

_LN2 = math.log(2)
_LEAST_OPACITY = 1e-10


class Splats(NamedTuple):
    """Projected Gaussians.

    Attributes:
        means2d: centres in pixels, [N, 2].
        conics: inverse 2D covariances (a, b, c), [N, 3].
        opacities: [N].
        channels: [N, C].
    """

    means2d: jax.Array
    conics: jax.Array
    opacities: jax.Array
    channels: jax.Array


class Prepared(NamedTuple):
    """What kernels read of each Gaussian.

    Attributes:
        attributes: a :class:`Form`, then the channels, [N, 6 + C].
        boxes: left, top, columns and rows of the box of tiles around it, [N, 4].
        counts: tiles of the box that the ellipse reaches, [N]; 0 where culled.
    """

    attributes: jax.Array
    boxes: jax.Array
    counts: jax.Array


def prepare(splats: Splats, radii: jax.Array, tiling: Tiling, warp: Warp) -> Prepared:
    """Packs Gaussians and finds their tiles; rows of ``radii`` 0, [N, 2], reach none."""
    num, num_channels = splats.channels.shape
    width = FORM + num_channels

    def kernel(means2d, conics, opacities, channels, radii, attributes, boxes, counts):
        gaussian = pl.program_id(0) * LANES + lanes()
        exists = gaussian < num

        def columns_of(ref, count):
            return [load(ref, gaussian * count + q, exists) for q in range(count)]

        x, y = columns_of(means2d, 2)
        conic_a, conic_b, conic_c = columns_of(conics, 3)
        opacity = jnp.maximum(load(opacities, gaussian, exists), _LEAST_OPACITY)
        form = Form(
            x, y, -0.5 / _LN2 * conic_a, -1 / _LN2 * conic_b, -0.5 / _LN2 * conic_c, jnp.log2(opacity)
        )
        for q, value in enumerate((*form, *columns_of(channels, num_channels))):
            store(attributes, gaussian * width + q, value, exists)

        radius_x, radius_y = columns_of(radii, 2)
        visible = (radius_x > 0) & (radius_y > 0)
        left, columns = _tiles_between(x, radius_x, tiling.columns, tiling.tile_size)
        top, rows = _tiles_between(y, radius_y, tiling.rows, tiling.tile_size)
        rows = jnp.where(visible, rows, 0)
        for q, value in enumerate((left, top, columns, rows)):
            store(boxes, gaussian * 4 + q, value, exists)

        def add(i, count):
            return count + jnp.where(i < rows, tile_span(form, left, columns, top + i, tiling)[1], 0)

        store(counts, gaussian, lax.fori_loop(0, jnp.max(rows), add, full(0)), exists)

    shapes = [
        jax.ShapeDtypeStruct((num * width,), jnp.float32),
        jax.ShapeDtypeStruct((num * 4,), jnp.int32),
        jax.ShapeDtypeStruct((num,), jnp.int32),
    ]
    args = [x.reshape(-1) for x in (*splats, radii)]
    if num_channels == 0:
        args[3] = args[2]  # kernels take no empty arrays; this one is not read
    attributes, boxes, counts = warp.launch(kernel, (-(-num // LANES),), shapes, *args)
    return Prepared(attributes.reshape(num, width), boxes.reshape(num, 4), counts)


def _tiles_between(mean, radius, tiles, tile_size):
    """First tile of the image within a radius, and how many there are."""
    first = jnp.clip(jnp.floor((mean - radius) / tile_size), 0, tiles).astype(jnp.int32)
    end = jnp.clip(jnp.floor((mean + radius) / tile_size) + 1, 0, tiles).astype(jnp.int32)
    return first, jnp.maximum(end - first, 0)


def splat_gradients(sums: jax.Array, attributes: jax.Array, warp: Warp) -> Splats:
    """Gradients of :class:`Splats` from the sums over pixels, [6 + C, N]."""
    num, width = attributes.shape
    num_channels = width - FORM

    def kernel(sums, attributes, v_means2d, v_conics, v_opacities, v_channels):
        gaussian = pl.program_id(0) * LANES + lanes()
        exists = gaussian < num
        s, sx, sy, sxx, sxy, syy, *values = (load(sums, q * num + gaussian, exists) for q in range(width))
        form = Form(*(load(attributes, gaussian * width + q, exists) for q in range(FORM)))
        opacity = jnp.exp2(form.top)
        v_x, v_y = -(2 * form.a * sx + form.b * sy), -(form.b * sx + 2 * form.c * sy)
        store(v_means2d, gaussian * 2, _LN2 * v_x, exists)
        store(v_means2d, gaussian * 2 + 1, _LN2 * v_y, exists)
        for q, value in enumerate((-0.5 * sxx, -sxy, -0.5 * syy)):
            store(v_conics, gaussian * 3 + q, value, exists)
        v_opacity = jnp.where(form.top > math.log2(_LEAST_OPACITY) + 1e-3, s / opacity, 0)
        store(v_opacities, gaussian, v_opacity, exists)
        for q, value in enumerate(values):
            store(v_channels, gaussian * num_channels + q, value, exists)

    sizes = (num * 2, num * 3, num, max(num * num_channels, 1))
    shapes = [jax.ShapeDtypeStruct((size,), jnp.float32) for size in sizes]
    args = (sums.reshape(-1), attributes.reshape(-1))
    v_means2d, v_conics, v_opacities, v_channels = warp.launch(kernel, (-(-num // LANES),), shapes, *args)
    v_channels = v_channels[: num * num_channels].reshape(num, num_channels)
    return Splats(v_means2d.reshape(num, 2), v_conics.reshape(num, 3), v_opacities, v_channels)
