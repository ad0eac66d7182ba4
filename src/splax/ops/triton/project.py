"""Everything that happens once per Gaussian, in one pass over memory: one lane a Gaussian.

Forward: which rows can be drawn, activations, projection, colour, and what :mod:`prepare` writes. Backward: from
the sums over pixels to the gradients of the stored parameters. XLA would make some thirty passes of it. Rows that
are not drawn cost their geometry in the first pass and next to nothing in the second.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from splax.ops.parameters import DrawSettings, Parameters
from splax.ops.projection import half_extents, is_in_image
from splax.ops.spherical_harmonics import SH_C0
from splax.ops.triton.geometry import (
    active_bases,
    direction_to,
    dot,
    inputs,
    is_finite,
    is_valid,
    neutral_where_not,
    read_geometry,
    read_view,
    splat,
)
from splax.ops.triton.prepare import Prepared, form_gradients, tiles_of
from splax.ops.triton.tiling import FORM, Tiling
from splax.ops.triton.warp import LANES, Warp, full, lanes, load, store

_RGB = 3


class Projected(NamedTuple):
    """Gaussians of one view, ready to be listed and drawn.

    Attributes:
        prepared: as :func:`prepare.prepare` makes them; attributes and boxes only of rows that are drawn. A
            colour that was clamped to 0 is -0.
        depths: camera-space z, [N].
        means2d: centres in pixels, moved by the offset, [N, 2].
        radii: half extents in pixels, [N, 2]; 0 where culled.
    """

    prepared: Prepared
    depths: jax.Array
    means2d: jax.Array
    radii: jax.Array


def project(
    params: Parameters,
    viewmat: jax.Array,
    intrinsics: jax.Array,
    offset: jax.Array | None,
    settings: DrawSettings,
    tiling: Tiling,
    warp: Warp,
) -> Projected:
    """Projects, colours and packs Gaussians.

    Args:
        params: the Gaussians.
        viewmat: world-to-camera, [4, 4].
        intrinsics: K in pixels, [3, 3].
        offset: added to the centres, pixels, [N, 2]; None is zero.
        settings: of the rasterizer.
        tiling: static sizes.
        warp: how kernels run.
    """
    num, num_bases = params.means.shape[0], params.shN.shape[1]
    channels = _RGB + settings.render_depth
    width = FORM + channels

    def kernel(means, quats, log_scales, logits, sh0, shN, alive, active_degree, camera, *refs):
        *offsets, attributes, boxes, counts, depths, means2d, radii = refs
        gaussian = pl.program_id(0) * LANES + lanes()
        exists = gaussian < num
        view = read_view(camera, tiling)
        geometry = read_geometry((means, quats, log_scales, logits), gaussian, exists)
        valid = (load(alive, gaussian, exists) != 0) & is_valid(geometry, view, settings)
        form, depth, ellipses, opacity = splat(neutral_where_not(geometry, valid, view), view, settings)
        reach = half_extents(ellipses, opacity)
        valid &= is_in_image(ellipses, reach, view.pinhole, settings.radius_clip)

        direction = direction_to(geometry.mean, view)
        bases = active_bases(direction, num_bases, load(active_degree, full(0)))
        color, finite = _color(sh0, shN, bases, gaussian, valid)
        valid &= finite

        moved = [load(offsets[0], gaussian * 2 + q, exists) if offsets else 0 for q in range(2)]
        form = form._replace(mean_x=form.mean_x + moved[0], mean_y=form.mean_y + moved[1])
        reach = [jnp.where(valid, value, 0) for value in reach]
        box, count = tiles_of(form, reach, tiling)
        for q, value in enumerate((*form, *color, depth)[:width]):
            store(attributes, gaussian * width + q, value, valid)
        for q, value in enumerate(box):
            store(boxes, gaussian * 4 + q, value, valid)
        for q, value in enumerate((form.mean_x, form.mean_y)):
            store(means2d, gaussian * 2 + q, value, exists)
        for q, value in enumerate(reach):
            store(radii, gaussian * 2 + q, value, exists)
        store(counts, gaussian, count, exists)
        store(depths, gaussian, depth, exists)

    sizes = [(num * width, jnp.float32), (num * 4, jnp.int32), (num, jnp.int32)]
    sizes += [(num, jnp.float32), (num * 2, jnp.float32), (num * 2, jnp.float32)]
    shapes = [jax.ShapeDtypeStruct((size,), dtype) for size, dtype in sizes]
    args = [*inputs(params, viewmat, intrinsics), *([] if offset is None else [offset.reshape(-1)])]
    attributes, boxes, counts, depths, means2d, radii = warp.launch(
        kernel, (-(-num // LANES),), shapes, *args
    )
    prepared = Prepared(attributes.reshape(num, width), boxes.reshape(num, 4), counts)
    return Projected(prepared, depths, means2d.reshape(num, 2), radii.reshape(num, 2))


def project_gradients(
    params: Parameters,
    viewmat: jax.Array,
    intrinsics: jax.Array,
    prepared: Prepared,
    sums: jax.Array,
    v_means2d: jax.Array,
    settings: DrawSettings,
    tiling: Tiling,
    warp: Warp,
) -> tuple[Parameters, jax.Array]:
    """Gradients of the stored parameters; exactly 0 in rows that are not drawn.

    Args:
        params: the Gaussians.
        viewmat: world-to-camera, [4, 4].
        intrinsics: K in pixels, [3, 3].
        prepared: from :func:`project`.
        sums: moments and channels summed over pixels, [6 + C, N].
        v_means2d: cotangent of :attr:`Projected.means2d`, [N, 2].
        settings: of the rasterizer.
        tiling: static sizes.
        warp: how kernels run.

    Returns:
        Gradients of the parameters (None for ``alive`` and ``active_sh_degree``), and of the offset, [N, 2].
    """
    num, num_bases = params.means.shape[0], params.shN.shape[1]
    width = prepared.attributes.shape[1]

    def kernel(means, quats, log_scales, logits, sh0, shN, alive, active_degree, camera, *refs):
        counts, attributes, sums, v_means2d, *refs = refs
        v_means, v_quats, v_log_scales, v_logits, v_sh0, v_shN, v_offset = refs[-7:]
        gaussian = pl.program_id(0) * LANES + lanes()
        exists = gaussian < num
        drawn = load(counts, gaussian, exists) > 0
        v_mean2d = [load(v_means2d, gaussian * 2 + q, exists) for q in range(2)]
        moved = drawn | (v_mean2d[0] != 0) | (v_mean2d[1] != 0)
        for q, value in enumerate(v_mean2d):
            store(v_offset, gaussian * 2 + q, value, exists & ~drawn)

        def sum_of(q):
            return load(sums, q * num + gaussian, drawn)

        @pl.when(jnp.max(moved.astype(jnp.int32)) > 0)
        def _():
            view = read_view(camera, tiling)
            geometry = read_geometry((means, quats, log_scales, logits), gaussian, moved)
            # A centre has a cotangent of its own, even if it is not drawn.
            valid = (load(alive, gaussian, moved) != 0) & is_valid(geometry, view, settings)
            valid = drawn | (moved & valid)

            v_color = []
            for q in range(_RGB):
                bits = lax.bitcast_convert_type(
                    load(attributes, gaussian * width + FORM + q, drawn), jnp.int32
                )
                # The derivative of max(x, 0): where x is 0, JAX takes a half.
                slope = jnp.where(bits > 0, 1.0, jnp.where(bits == 0, 0.5, 0.0))
                v_color.append(slope * sum_of(FORM + q))
            direction, to_mean = jax.vjp(lambda mean: direction_to(mean, view), geometry.mean)
            active = load(active_degree, full(0))
            bases, to_direction = jax.vjp(lambda at: active_bases(at, num_bases, active), direction)
            finite, v_bases = valid, []
            for q in range(_RGB):
                finite &= is_finite([load(sh0, gaussian * _RGB + q, valid)])
                store(v_sh0, gaussian * _RGB + q, SH_C0 * v_color[q], drawn)
            for k, basis in enumerate(bases):
                places = [(gaussian * num_bases + k) * _RGB + q for q in range(_RGB)]
                values = [load(shN, place, valid) for place in places]
                finite &= is_finite(values)
                for place, v in zip(places, v_color, strict=True):
                    store(v_shN, place, basis * v, drawn)
                v_bases.append(dot(values, v_color))
            (v_mean_by_color,) = to_mean(*to_direction(v_bases))

            def form_and_depth(geometry):
                return splat(geometry, view, settings)[:2]

            (form, _), to_geometry = jax.vjp(form_and_depth, geometry)
            v_form = form_gradients(form, [sum_of(q) for q in range(FORM)])
            for q, value in enumerate((v_form.mean_x, v_form.mean_y)):
                store(v_offset, gaussian * 2 + q, value + v_mean2d[q], drawn)
            v_form = v_form._replace(mean_x=v_form.mean_x + v_mean2d[0], mean_y=v_form.mean_y + v_mean2d[1])
            v_depth = sum_of(FORM + _RGB) if settings.render_depth else jnp.zeros_like(form.top)
            (v,) = to_geometry((v_form, v_depth))
            v_mean = [a + b for a, b in zip(v.mean, v_mean_by_color, strict=True)]
            columns = [(v_means, v_mean), (v_quats, v.quat), (v_log_scales, v.log_scale)]
            for ref, values in (*columns, (v_logits, [v.logit_opacity])):
                for q, value in enumerate(values):
                    store(ref, gaussian * len(values) + q, value, finite)

    floats = params[:6]
    # Rows that are not drawn are not written.
    empty = [jnp.zeros(max(x.size, 1), jnp.float32) for x in floats]
    args = [*inputs(params, viewmat, intrinsics), prepared.counts, prepared.attributes.reshape(-1)]
    args += [sums.reshape(-1), v_means2d.reshape(-1)]
    shapes = [jax.ShapeDtypeStruct((size,), jnp.float32) for size in (*(x.size for x in empty), num * 2)]
    aliases = {len(args) + i: i for i in range(len(empty))}
    *grads, v_offset = warp.launch(kernel, (-(-num // LANES),), shapes, *args, *empty, aliases=aliases)
    grads = [grad[: x.size].reshape(x.shape) for grad, x in zip(grads, floats, strict=True)]
    untrained = {"alive": None, "active_sh_degree": None}
    return Parameters(*grads, **untrained), v_offset.reshape(num, 2)  # pyright: ignore


def _color(sh0, shN, bases, gaussian, mask):
    """Colours, -0 where they are clamped, and whether all coefficients are finite; as :func:`eval_sh`."""
    values = [load(sh0, gaussian * _RGB + q, mask) for q in range(_RGB)]
    color, finite = [SH_C0 * value for value in values], is_finite(values)
    for k, basis in enumerate(bases):
        values = [load(shN, (gaussian * len(bases) + k) * _RGB + q, mask) for q in range(_RGB)]
        color = [total + basis * value for total, value in zip(color, values, strict=True)]
        finite &= is_finite(values)
    color = [value + 0.5 for value in color]
    # The sign tells the backward pass what was clamped.
    return [jnp.where(value < 0, 0.0 * value, value) for value in color], finite
