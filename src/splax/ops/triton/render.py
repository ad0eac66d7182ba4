"""From stored Gaussians to pixels in kernels alone, with a backward pass of its own."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from splax.ops.deferred import deferred
from splax.ops.parameters import DrawSettings, Parameters, Rendered, Splats
from splax.ops.triton.backward import Drawn, pair_gradients
from splax.ops.triton.forward import draw
from splax.ops.triton.intersection import make_lists
from splax.ops.triton.prepare import splat_gradients
from splax.ops.triton.project import project, project_gradients, start_of_sums
from splax.ops.triton.rasterize import draw_and_save, sum_pairs
from splax.ops.triton.tiling import FORM, Tiling
from splax.ops.triton.warp import Warp


class Job(NamedTuple):
    """What is static in :func:`render`.

    Attributes:
        settings: of the rasterizer.
        tiling: static sizes.
        capacity: room for pairs.
        warp: how kernels run.
        splat: projected Gaussians as a function of parameters, viewmat and intrinsics, in plain JAX: what the
            gradients of the camera, which no kernel computes, are taken from.
    """

    settings: DrawSettings
    tiling: Tiling
    capacity: int
    warp: Warp
    splat: Callable[..., Splats]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def render(
    params: Parameters, viewmat: jax.Array, intrinsics: jax.Array, offset: jax.Array | None, job: Job
) -> Rendered:
    """Renders Gaussians in their own colours.

    Args:
        params: the Gaussians.
        viewmat: world-to-camera, [4, 4].
        intrinsics: K in pixels, [3, 3].
        offset: added to the centres, pixels, [N, 2]; None is zero.
        job: the rest.
    """
    # JAX traces this even if only the two functions below, which follow the gradients, are compiled.
    shapes = Rendered.shapes(params.means.shape[0], job.tiling.height, job.tiling.width, job.settings)
    return deferred(functools.partial(_render, job=job), shapes)(params, viewmat, intrinsics, offset)


def _render(params, viewmat, intrinsics, offset, *, job):
    prepared, _, depths, means2d, radii = project(
        params, viewmat, intrinsics, offset, job.settings, job.tiling, job.warp
    )
    lists = make_lists(prepared, depths, job.tiling, job.capacity, job.warp, with_slots=False)
    channels, alpha, _ = draw(lists, prepared.attributes, job.tiling, job.warp, save=False)
    return Rendered(channels, alpha, means2d, radii, lists.num_isects)


class _Saved(NamedTuple):
    """What the backward pass of the kernels needs."""

    params: Parameters
    viewmat: jax.Array
    intrinsics: jax.Array
    # Not bools: what is saved may hold arrays and structure only.
    has_offset: tuple[()] | None
    learns_camera: tuple[()] | None
    color_slopes: jax.Array
    drawn: Drawn


def _render_fwd(params, viewmat, intrinsics, offset, job):
    learns_camera = () if viewmat.perturbed or intrinsics.perturbed else None
    params, viewmat, intrinsics, offset = _values((params, viewmat, intrinsics, offset))
    prepared, color_slopes, depths, means2d, radii = project(
        params, viewmat, intrinsics, offset, job.settings, job.tiling, job.warp
    )
    drawn = draw_and_save(
        prepared, depths, job.tiling, job.capacity, job.warp, deterministic=job.settings.deterministic
    )
    rendered = Rendered(drawn.image, drawn.alpha, means2d, radii, drawn.lists.num_isects)
    has_offset = None if offset is None else ()
    return rendered, _Saved(params, viewmat, intrinsics, has_offset, learns_camera, color_slopes, drawn)


def _render_bwd(job, saved, cotangents):
    # A cotangent known to be zero is no array: nothing is written, nor read, for it.
    return _differentiate(job, saved, *(None if _is_zero(v) else v for v in cotangents[:3]))


# JAX differentiates in two turns and asks twice for the same: jit keeps what it traced.
@functools.partial(jax.jit, static_argnums=0, inline=True)
def _differentiate(job, saved, v_channels, v_alpha, v_means2d):
    params, viewmat, intrinsics, has_offset, learns_camera, color_slopes, drawn = saved
    if v_channels is None:
        v_channels = jnp.zeros_like(drawn.image)
    absolute = job.settings.absgrad and has_offset is not None
    channels = range(drawn.image.shape[-1])
    start = None
    if drawn.lists.slots is None:
        start = start_of_sums(params, drawn.lists.counts, FORM + len(channels) + 2 * absolute, job.warp)
    rows = pair_gradients(
        drawn, v_channels, v_alpha, channels, job.tiling, job.warp, start=start, absolute=absolute
    )
    v_params, v_offset = project_gradients(
        params,
        viewmat,
        intrinsics,
        drawn.lists.counts,
        color_slopes,
        rows,
        drawn.lists.first,
        v_means2d,
        job.settings,
        job.tiling,
        job.warp,
        with_offset=has_offset is not None,
    )
    v_camera = None, None
    if learns_camera is not None:
        v_camera = _camera_gradients(saved, rows, v_means2d, job)
    return v_params, *v_camera, v_offset


def _camera_gradients(saved, rows, v_means2d, job):
    """Gradients of viewmat and intrinsics."""
    attributes, lists = saved.drawn.attributes, saved.drawn.lists
    sums = sum_pairs(rows, lists, job.tiling, job.warp)[: attributes.shape[1]]
    v_splats = splat_gradients(sums, attributes, job.warp)
    drawn = lists.counts > 0
    # Attributes of rows that are not drawn were never written.
    v_splats = Splats(*(jnp.where(drawn.reshape(-1, *[1] * (v.ndim - 1)), v, 0) for v in v_splats))
    if v_means2d is not None:
        v_splats = v_splats._replace(means2d=v_splats.means2d + v_means2d)
    _, pull = jax.vjp(functools.partial(job.splat, saved.params), saved.viewmat, saved.intrinsics)
    return pull(v_splats)


def _values(args):
    """The arrays, without JAX's word on which of them are differentiated."""
    return jax.tree.map(lambda x: x.value, args, is_leaf=lambda x: isinstance(x, CustomVJPPrimal))


def _is_zero(cotangent) -> bool:
    return isinstance(cotangent, SymbolicZero)


render.defvjp(_render_fwd, _render_bwd, symbolic_zeros=True)
