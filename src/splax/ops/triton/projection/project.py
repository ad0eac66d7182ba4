"""All computations that happen once per Gaussian, in one pass over memory: one lane for each Gaussian.

The forward kernel finds the rows that can be drawn, activates, projects and colours them, and writes the arrays
of :mod:`pack`. The backward kernel goes from the sums over pixels to the gradients of the stored parameters.
XLA would make some thirty passes over memory. Warps whose rows are all outside the image read centres and sizes
in the forward kernel, and next to nothing in the backward kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from splax.ops.jax_internals.traced_once import traced_once
from splax.ops.projection import half_extents, is_in_image
from splax.ops.spherical_harmonics import SH_C0
from splax.ops.tile_grid import TileGrid
from splax.ops.triton.binning.pack import PackedGaussians, form_gradients, pack_box, tiles_of
from splax.ops.triton.lanes.atomic_sums import zeros_where
from splax.ops.triton.lanes.row_io import clear_rows, store_rows, total_rows
from splax.ops.triton.lanes.warp import LANES, Warp, full, lanes, load, store, zeros
from splax.ops.triton.pixel_regions import FORM_SIZE, num_tile_blocks
from splax.ops.triton.projection.geometry import (
    Geometry,
    StoredArrays,
    direction_to,
    early_cull,
    is_finite,
    is_valid,
    neutral_where_not,
    project_geometry,
    read_camera,
    read_columns,
    read_geometry,
    stored_arrays,
)
from splax.ops.triton.projection.harmonics import Coefficients, harmonics_gradients, read_basis, sum_harmonics
from splax.ops.types import KernelSettings, Parameters

_RGB = 3
_NUM_STORED = len(StoredArrays._fields)
_SHN = Parameters._fields.index("shN")
# The memory of these parameters' gradients first holds the sums over pixels, from which the gradients are
# computed: 13 columns, of which at most 12 are needed. The memory of shN's is left for what the forward pass
# saved.
_HOLDERS = [Parameters._fields.index(name) for name in ("quats", "means", "log_scales", "sh0")]


class ProjectOutputs(NamedTuple):
    """Gaussians of one view, ready to be listed and drawn.

    Attributes:
        packed: packed Gaussians; attributes and boxes are written only in rows that are drawn.
        clamp_grad: twice the derivative of each colour's clamp at 0, two bits for each channel, [N] int8. With
            it the backward pass does not need the colours.
        depths: camera-space z, [N]; infinite where a Gaussian is not drawn.
        means2d: centres in pixels, moved by the offset, [N, 2].
        radii: half width and half height in pixels, [N, 2]; 0 where culled.
    """

    packed: PackedGaussians
    clamp_grad: jax.Array
    depths: jax.Array
    means2d: jax.Array
    radii: jax.Array


class _ProjectOutputRefs(NamedTuple):
    """References to the flat arrays of :class:`PackedGaussians` and :class:`ProjectOutputs`, which are written."""

    attributes: Any
    boxes: Any
    counts: Any
    clamp_grad: Any
    depths: Any
    means2d: Any
    radii: Any


class PixelSums(NamedTuple):
    """Sums over pixels, from which the gradients of the Gaussians are computed.

    Attributes:
        counts: number of tiles of each Gaussian, [N]; 0 if it is not drawn.
        clamp_grad: derivatives of the colours' clamps, packed; see :class:`ProjectOutputs`.
        rows: moments and channels of each Gaussian, [N, 6 + C], or of each pair, [M * blocks, 6 + C]; with
            ``settings.absgrad`` and an offset, two more columns, which are the offset's gradient. Several arrays
            may hold some columns each; those that :func:`initial_sums` made are overwritten.
        first: first pair offset of each Gaussian, [N], if the rows belong to pairs; None otherwise.
        v_means2d: cotangent of :attr:`ProjectOutputs.means2d`, [N, 2]; None is zero.
    """

    counts: jax.Array
    clamp_grad: jax.Array
    rows: Sequence[jax.Array]
    first: jax.Array | None
    v_means2d: jax.Array | None


class _SumRefs(NamedTuple):
    """References to the flat arrays of :class:`PixelSums`, with None for those that are missing."""

    counts: Any
    clamp_grad: Any
    rows: Sequence[Any]
    first: Any
    v_means2d: Any

    @classmethod
    def of(cls, refs: Sequence[Any], sums: PixelSums) -> _SumRefs:
        """Returns the references by name; they are in the order of :func:`_sum_args`."""
        counts, slopes, *other_arrays = refs
        rows, other_arrays = other_arrays[: len(sums.rows)], list(other_arrays[len(sums.rows) :])
        first = None if sums.first is None else other_arrays.pop(0)
        return cls(counts, slopes, rows, first, None if sums.v_means2d is None else other_arrays.pop(0))


def _sum_args(sums: PixelSums) -> list[jax.Array]:
    args = [sums.counts, sums.clamp_grad, *(x.reshape(-1) for x in sums.rows)]
    args += [] if sums.first is None else [sums.first]
    return args + ([] if sums.v_means2d is None else [sums.v_means2d.reshape(-1)])


@traced_once("settings", "tile_grid", "warp")
def project(
    params: Parameters,
    camera: Any,
    offset: jax.Array | None,
    settings: KernelSettings,
    tile_grid: TileGrid,
    warp: Warp,
) -> ProjectOutputs:
    """Projects, colours and packs Gaussians.

    Args:
        params: stored Gaussians, N rows.
        camera: the :class:`splax.Camera` that looks at them; its lens is a pinhole.
        offset: offset of the projected centres in pixels, [N, 2]; None is zero.
        settings: the rasterizer's static settings, as kernels read them.
        tile_grid: the tiles of the image.
        warp: warp that runs the kernels.
    """
    num, num_bases = params.means.shape[0], params.shN.shape[1]
    channels = _RGB + settings.render_depth
    width = FORM_SIZE + channels

    def kernel(*refs):
        stored, offsets = (
            StoredArrays(*refs[:_NUM_STORED]),
            refs[_NUM_STORED : -len(_ProjectOutputRefs._fields)],
        )
        out = _ProjectOutputRefs(*refs[-len(_ProjectOutputRefs._fields) :])
        base = pl.program_id(0) * LANES
        gaussian = base + lanes()
        exists = gaussian < num
        kernel_camera = read_camera(stored.camera, tile_grid)
        lives = load(stored.alive, gaussian, exists)
        mean, log_scale = (
            read_columns(stored.means, gaussian, 3, exists),
            read_columns(stored.log_scales, gaussian, 3, exists),
        )
        early = early_cull(mean, log_scale, lives, kernel_camera, settings)
        moved = [load(offsets[0], gaussian * 2 + q, exists) if offsets else 0 for q in range(2)]
        some_seen = jnp.max(early.may_be_seen.astype(jnp.int32)) > 0

        @pl.when(~some_seen)
        def _():
            center = [a + b for a, b in zip(early.center, moved, strict=True)]
            store_rows(out.means2d, base, center, exists, warp)
            clear_rows(out.radii, base, 2, num)
            store(out.counts, gaussian, full(0), exists)
            store(out.depths, gaussian, jnp.full(LANES, jnp.inf), exists)

        @pl.when(some_seen)
        def _():
            other_arrays = (
                read_columns(stored.quats, gaussian, 4, exists),
                log_scale,
                load(stored.logits, gaussian, exists),
            )
            geometry = Geometry(mean, *other_arrays)
            valid = lives & is_valid(geometry, kernel_camera, settings)
            form, depth, projected, opacity = project_geometry(
                neutral_where_not(geometry, valid, kernel_camera), kernel_camera, settings
            )
            reach = half_extents(projected, opacity)
            valid &= is_in_image(projected, reach, kernel_camera.pinhole, settings.radius_clip)

            direction = direction_to(geometry.mean, kernel_camera)
            basis = read_basis(stored.table, num_bases, load(stored.active_degree, full(0)))
            color = [SH_C0 * load(stored.sh0, gaussian * _RGB + q, valid) + 0.5 for q in range(_RGB)]
            if num_bases:
                bands = sum_harmonics(stored.shN, num_bases, basis, direction, base, valid, warp)
                color = [a + b for a, b in zip(color, bands, strict=True)]
            valid &= is_finite(color)
            store(out.clamp_grad, gaussian, pack_clamp_grad(color), exists)
            color = [jnp.maximum(value, 0) for value in color]

            form = form._replace(mean_x=form.mean_x + moved[0], mean_y=form.mean_y + moved[1])
            reach = [jnp.where(valid, value, 0) for value in reach]
            box, count = tiles_of(form, reach, tile_grid, warp)
            store_rows(out.attributes, base, [*form, *color, depth][:width], valid, warp)
            store_rows(out.boxes, base, [*pack_box(box)], valid, warp)
            store_rows(out.means2d, base, [form.mean_x, form.mean_y], exists, warp)
            store_rows(out.radii, base, reach, exists, warp)
            store(out.counts, gaussian, count, exists)
            store(out.depths, gaussian, jnp.where(count > 0, depth, jnp.inf), exists)

    sizes = [(num * width, jnp.float32), (num * 2, jnp.int32), (num, jnp.int32), (num, jnp.int8)]
    sizes += [(num, jnp.float32), (num * 2, jnp.float32), (num * 2, jnp.float32)]
    shapes = [jax.ShapeDtypeStruct((size,), dtype) for size, dtype in sizes]
    args = [*stored_arrays(params, camera), *([] if offset is None else [offset.reshape(-1)])]
    outputs = _ProjectOutputRefs(*warp.launch("project", kernel, (-(-num // LANES),), shapes, *args))
    packed = PackedGaussians(
        outputs.attributes.reshape(num, width), outputs.boxes.reshape(num, 2), outputs.counts
    )
    centers, radii = outputs.means2d.reshape(num, 2), outputs.radii.reshape(num, 2)
    return ProjectOutputs(packed, outputs.clamp_grad, outputs.depths, centers, radii)


def project_gradients(
    params: Parameters,
    camera: Any,
    sums: PixelSums,
    settings: KernelSettings,
    tile_grid: TileGrid,
    warp: Warp,
    *,
    with_offset: bool = True,
) -> tuple[Parameters, jax.Array | None]:
    """Returns the gradients of the stored parameters; they are exactly 0 in rows that are not drawn.

    Args:
        params: stored Gaussians, N rows.
        camera: the :class:`splax.Camera` that looks at them; its lens is a pinhole.
        sums: sums over the pixels.
        settings: the rasterizer's static settings, as kernels read them.
        tile_grid: the tiles of the image.
        warp: warp that runs the kernels.
        with_offset: whether to compute the gradient of the offset.

    Returns:
        Gradients of the parameters, None for ``alive`` and ``active_sh_degree``, and that of the offset, [N,
        2], or None.
    """
    rows, first, v_means2d = sums.rows, sums.first, sums.v_means2d
    num, num_bases = params.means.shape[0], params.shN.shape[1]
    width = FORM_SIZE + _RGB + settings.render_depth
    num_columns = width + 2 * (settings.absgrad and with_offset)
    places = [(array, column) for array, x in enumerate(rows) for column in range(x.shape[1])][:num_columns]
    floats = params[:6]
    sizes = [x.size for x in floats] + [num * 2] * with_offset

    def kernel(*refs):
        stored, grads = StoredArrays(*refs[:_NUM_STORED]), refs[-len(sizes) :]
        sum_refs = _SumRefs.of(refs[_NUM_STORED : -len(sizes)], sums)
        v_shN, other_arrays = grads[_SHN], [*grads[:_SHN], *grads[_SHN + 1 :]]
        base = pl.program_id(0) * LANES
        gaussian = base + lanes()
        exists = gaussian < num
        count = load(sum_refs.counts, gaussian, exists)
        drawn = count > 0
        v_mean2d, moved = [zeros()] * 2, drawn
        if v_means2d is not None:
            v_mean2d = [load(sum_refs.v_means2d, gaussian * 2 + q, exists) for q in range(2)]
            moved |= (v_mean2d[0] != 0) | (v_mean2d[1] != 0)
        some_moved = jnp.max(moved.astype(jnp.int32)) > 0

        @pl.when(~some_moved)
        def _():
            for grad, size in zip(grads, sizes, strict=True):
                clear_rows(grad, base, size // num, num)

        @pl.when(some_moved)
        def _():
            if first is None:
                totals = [load(sum_refs.rows[k], gaussian * rows[k].shape[1] + q, drawn) for k, q in places]
            else:
                blocks = num_tile_blocks(tile_grid)
                begin, num_here = load(sum_refs.first, gaussian, drawn) * blocks, count * blocks
                totals = total_rows(sum_refs.rows[0], begin, num_here, len(rows[0]), num_columns, warp)
            kernel_camera = read_camera(stored.camera, tile_grid)
            geometry = read_geometry(stored, gaussian, moved)
            valid = drawn
            if v_means2d is not None:
                # A centre may have a cotangent even if its Gaussian is not drawn.
                valid |= (
                    moved & load(stored.alive, gaussian, moved) & is_valid(geometry, kernel_camera, settings)
                )
            geometry = neutral_where_not(geometry, valid, kernel_camera)

            clamp_grad = unpack_clamp_grad(load(sum_refs.clamp_grad, gaussian, drawn))
            v_color = [
                jnp.where(drawn, slope * totals[FORM_SIZE + q], 0) for q, slope in enumerate(clamp_grad)
            ]
            direction, to_mean = jax.vjp(lambda mean: direction_to(mean, kernel_camera), geometry.mean)
            v_direction = [zeros()] * 3
            if num_bases:
                basis = read_basis(stored.table, num_bases, load(stored.active_degree, full(0)))
                bands = Coefficients(stored.shN, v_shN, num, num_bases)
                v_direction = harmonics_gradients(bands, basis, direction, v_color, base, valid, warp)
            (v_mean_by_color,) = to_mean(v_direction)
            if v_means2d is not None:
                # A Gaussian whose colour is not finite is not drawn, and its centre gets no gradient.
                constant = [load(stored.sh0, gaussian * _RGB + q, valid) for q in range(_RGB)]
                valid &= drawn | is_finite([*constant, *v_direction])

            def form_and_depth(geometry):
                return project_geometry(geometry, kernel_camera, settings)[:2]

            (form, _), to_geometry = jax.vjp(form_and_depth, geometry)
            v_form = form_gradients(form, [jnp.where(drawn, value, 0) for value in totals[:FORM_SIZE]])
            v_center = [v_form.mean_x + v_mean2d[0], v_form.mean_y + v_mean2d[1]]
            v_form = v_form._replace(mean_x=v_center[0], mean_y=v_center[1])
            v_depth = jnp.where(drawn, totals[FORM_SIZE + _RGB], 0) if settings.render_depth else zeros()
            (v,) = to_geometry((v_form, v_depth))
            v_mean = [a + b for a, b in zip(v.mean, v_mean_by_color, strict=True)]
            columns = [v_mean, v.quat, v.log_scale, [v.logit_opacity]]
            columns = [[jnp.where(valid, value, 0) for value in values] for values in columns]
            columns.append([SH_C0 * value for value in v_color])
            if with_offset:
                absolute = [jnp.where(drawn, value, 0) for value in totals[width:]]
                columns.append(absolute or v_center)
            for grad, values in zip(other_arrays, columns, strict=True):
                store_rows(grad, base, values, exists, warp)

    args = [*stored_arrays(params, camera), *_sum_args(sums)]
    first_row = _NUM_STORED + _SumRefs._fields.index("rows")
    # Kernels take no empty arrays.
    shapes = [jax.ShapeDtypeStruct((max(size, 1),), jnp.float32) for size in sizes]
    # Each warp reads the sums of its Gaussians before it writes over them.
    fits = first is None and all(x.size == sizes[nth] for x, nth in zip(rows, _HOLDERS, strict=False))
    in_place = {first_row + k: nth for k, nth in enumerate(_HOLDERS[: len(rows)])} if fits else {}
    grads = warp.launch("project_gradients", kernel, (-(-num // LANES),), shapes, *args, in_place=in_place)
    v_floats = [grad[: x.size].reshape(x.shape) for grad, x in zip(grads, floats, strict=False)]
    untrained = {"alive": None, "active_sh_degree": None}
    v_offset = grads[-1].reshape(num, 2) if with_offset else None
    return Parameters(*v_floats, **untrained), v_offset  # pyright: ignore


def initial_sums(params: Parameters, counts: jax.Array, columns: int, warp: Warp) -> tuple[jax.Array, ...]:
    """Makes zeros for the sums of the drawn Gaussians, in memory that will hold some of the gradients.

    Args:
        params: stored Gaussians, N rows.
        counts: number of tiles of each Gaussian, [N]; 0 if it is not drawn.
        columns: number of sums of each Gaussian.
        warp: warp that runs the kernels.

    Returns:
        Arrays with at least ``columns`` columns in total; rows that are not drawn hold arbitrary values.
    """
    widths = [math.prod(params[nth].shape[1:]) for nth in _HOLDERS]
    enough = next((k for k in range(1, len(widths)) if sum(widths[:k]) >= columns), len(widths))
    return zeros_where(counts, widths[:enough], warp)


def pack_clamp_grad(color):
    """Packs twice the derivative of max(x, 0), two bits for each channel; at x = 0, JAX takes one half."""
    r, g, b = ((value > 0).astype(jnp.int32) + (value >= 0).astype(jnp.int32) for value in color)
    return (r | g << 2 | b << 4).astype(jnp.int8)


def unpack_clamp_grad(packed):
    """Returns the derivatives that :func:`pack_clamp_grad` packed, one array for each channel."""
    return [0.5 * ((packed.astype(jnp.int32) >> 2 * q) & 3).astype(jnp.float32) for q in range(_RGB)]
