"""One pass over the projected Gaussians: it packs their rows for the other kernels and finds the tiles they reach.

XLA would interleave separate arrays into rows at a tenth of the memory's speed.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.tile_grid import TileGrid
from splax.ops.triton.binning.tile_tests import tile_spans
from splax.ops.triton.lanes.warp import LANES, Warp, full, lanes, load, store
from splax.ops.triton.pixel_regions import FORM_SIZE, QuadraticForm
from splax.ops.types import CompositingInputs

_LN2 = math.log(2)
_LEAST_OPACITY = 1e-10
# Sixteen bits can number that many tiles.
MOST_TILES_A_SIDE = 2**16 - 1


class PackedGaussians(NamedTuple):
    """Numbers of the projected Gaussians that the other kernels read.

    Attributes:
        attributes: rows of a :class:`QuadraticForm` and the channels, [N, 6 + C].
        boxes: box of tiles around each Gaussian, packed by :func:`pack_box`, [N, 2].
        counts: number of tiles of the box that the ellipse reaches, [N]; 0 where culled.
    """

    attributes: jax.Array
    boxes: jax.Array
    counts: jax.Array


def pack(inputs: CompositingInputs, radii: jax.Array, tile_grid: TileGrid, warp: Warp) -> PackedGaussians:
    """Packs Gaussians and finds their tiles.

    Args:
        inputs: numbers of the projected Gaussians, N rows.
        radii: half width and half height in pixels, [N, 2]; a row of 0 reaches no tile.
        tile_grid: the tiles of the image.
        warp: warp that runs the kernels.
    """
    num, num_channels = inputs.channels.shape
    width = FORM_SIZE + num_channels

    def kernel(means2d, conics, opacities, channels, radii, attributes, boxes, counts):
        gaussian = pl.program_id(0) * LANES + lanes()
        exists = gaussian < num

        def columns_of(ref, count):
            return [load(ref, gaussian * count + q, exists) for q in range(count)]

        x, y = columns_of(means2d, 2)
        conic_a, conic_b, conic_c = columns_of(conics, 3)
        form = quadratic_form(x, y, (conic_a, conic_b, conic_c), load(opacities, gaussian, exists))
        for q, value in enumerate((*form, *columns_of(channels, num_channels))):
            store(attributes, gaussian * width + q, value, exists)
        box, count = tiles_of(form, columns_of(radii, 2), tile_grid, warp)
        for q, value in enumerate(pack_box(box)):
            store(boxes, gaussian * 2 + q, value, exists)
        store(counts, gaussian, count, exists)

    shapes = [
        jax.ShapeDtypeStruct((num * width,), jnp.float32),
        jax.ShapeDtypeStruct((num * 2,), jnp.int32),
        jax.ShapeDtypeStruct((num,), jnp.int32),
    ]
    args = [x.reshape(-1) for x in (*inputs, radii)]
    if num_channels == 0:
        args[3] = args[2]  # kernels take no empty arrays; this one is not read
    attributes, boxes, counts = warp.launch("pack", kernel, (-(-num // LANES),), shapes, *args)
    return PackedGaussians(attributes.reshape(num, width), boxes.reshape(num, 2), counts)


def quadratic_form(x, y, conic, opacity) -> QuadraticForm:
    """Returns the :class:`QuadraticForm` of Gaussians with these centres, conics and opacities."""
    a, b, c = conic
    top = jnp.log2(jnp.maximum(opacity, _LEAST_OPACITY))
    return QuadraticForm(x, y, -0.5 / _LN2 * a, -1 / _LN2 * b, -0.5 / _LN2 * c, top)


def tiles_of(form: QuadraticForm, radii, tile_grid: TileGrid, warp: Warp):
    """Returns the box of tiles (left, top, columns, rows) in the radii, and how many the ellipse reaches."""
    radius_x, radius_y = radii
    visible = (radius_x > 0) & (radius_y > 0)
    left, columns = _tiles_between(form.mean_x, radius_x, tile_grid.columns, tile_grid.tile_size)
    top, rows = _tiles_between(form.mean_y, radius_y, tile_grid.rows, tile_grid.tile_size)
    rows = jnp.where(visible, rows, 0)

    span = tile_spans(form, left, columns, tile_grid, warp)

    def add(i, count):
        return count + jnp.where(i < rows, span(top + i)[1], 0)

    return (left, top, columns, rows), lax.fori_loop(0, jnp.max(rows), add, full(0))


def pack_box(box):
    """Packs left, top, columns and rows into two integers, each up to :data:`MOST_TILES_A_SIDE`."""
    left, top, columns, rows = box
    return left | (columns << 16), top | (rows << 16)


def unpack_box(horizontal, vertical):
    """Returns left, top, columns and rows: the inverse of :func:`pack_box`."""
    return horizontal & 0xFFFF, vertical & 0xFFFF, (horizontal >> 16) & 0xFFFF, (vertical >> 16) & 0xFFFF


def form_gradients(form: QuadraticForm, moments) -> QuadraticForm:
    """Returns cotangents of a :class:`QuadraticForm` from the six moments that are summed over pixels."""
    s, sx, sy, sxx, sxy, syy = moments
    v_x, v_y = -(2 * form.a * sx + form.b * sy), -(form.b * sx + 2 * form.c * sy)
    return QuadraticForm(*(_LN2 * v for v in (v_x, v_y, sxx, sxy, syy, s)))


def _tiles_between(mean, radius, tiles, tile_size):
    """Returns the first tile of the image within a radius, and the number of tiles."""
    first = jnp.clip(jnp.floor((mean - radius) / tile_size), 0, tiles).astype(jnp.int32)
    end = jnp.clip(jnp.floor((mean + radius) / tile_size) + 1, 0, tiles).astype(jnp.int32)
    return first, jnp.maximum(end - first, 0)


def compositing_gradients(sums: jax.Array, attributes: jax.Array, warp: Warp) -> CompositingInputs:
    """Returns gradients of :class:`CompositingInputs` from the sums over pixels, [6 + C, N]."""
    num, width = attributes.shape
    num_channels = width - FORM_SIZE

    def kernel(sums, attributes, v_means2d, v_conics, v_opacities, v_channels):
        gaussian = pl.program_id(0) * LANES + lanes()
        exists = gaussian < num
        moments = [load(sums, q * num + gaussian, exists) for q in range(FORM_SIZE)]
        form = QuadraticForm(*(load(attributes, gaussian * width + q, exists) for q in range(FORM_SIZE)))
        v_form = form_gradients(form, moments)
        store(v_means2d, gaussian * 2, v_form.mean_x, exists)
        store(v_means2d, gaussian * 2 + 1, v_form.mean_y, exists)
        # The derivatives of `quadratic_form`.
        v_conic = (-0.5 / _LN2 * v_form.a, -1 / _LN2 * v_form.b, -0.5 / _LN2 * v_form.c)
        for q, value in enumerate(v_conic):
            store(v_conics, gaussian * 3 + q, value, exists)
        v_opacity = v_form.top / (_LN2 * jnp.exp2(form.top))
        store(
            v_opacities,
            gaussian,
            jnp.where(form.top > math.log2(_LEAST_OPACITY) + 1e-3, v_opacity, 0),
            exists,
        )
        values = [load(sums, q * num + gaussian, exists) for q in range(FORM_SIZE, width)]
        for q, value in enumerate(values):
            store(v_channels, gaussian * num_channels + q, value, exists)

    sizes = (num * 2, num * 3, num, max(num * num_channels, 1))
    shapes = [jax.ShapeDtypeStruct((size,), jnp.float32) for size in sizes]
    args = (sums.reshape(-1), attributes.reshape(-1))
    v_means2d, v_conics, v_opacities, v_channels = warp.launch(
        "compositing_gradients", kernel, (-(-num // LANES),), shapes, *args
    )
    v_channels = v_channels[: num * num_channels].reshape(num, num_channels)
    return CompositingInputs(v_means2d.reshape(num, 2), v_conics.reshape(num, 3), v_opacities, v_channels)
