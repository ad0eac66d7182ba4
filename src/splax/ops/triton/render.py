"""From stored Gaussians to pixels in kernels alone, with its own backward pass."""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from splax.ops.ewa import EWA
from splax.ops.jax_internals.deferred_tracing import deferred
from splax.ops.project_and_shade import project_and_shade
from splax.ops.settings import RenderSettings
from splax.ops.triton.binning.pack import compositing_gradients
from splax.ops.triton.binning.tile_lists import make_tile_lists
from splax.ops.triton.blending.backward import DrawnImage, pair_gradients
from splax.ops.triton.blending.forward import draw
from splax.ops.triton.lanes.warp import Warp
from splax.ops.triton.pixel_regions import FORM_SIZE
from splax.ops.triton.projection.project import PixelSums, initial_sums, project, project_gradients
from splax.ops.triton.rasterize import draw_and_save, sum_pairs
from splax.ops.types import CompositingInputs, KernelSettings, Parameters, RenderBuffers


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def render(
    params: Parameters, camera: Any, offset: jax.Array | None, settings: RenderSettings, warp: Warp
) -> RenderBuffers:
    """Renders Gaussians in their own colours.

    Args:
        params: stored Gaussians, N rows.
        camera: the :class:`splax.Camera` that looks at them; its lens is a pinhole.
        offset: offset of the projected centres in pixels, [N, 2]; None is zero.
        settings: the rasterizer's static settings.
        warp: warp that runs the kernels.
    """
    # JAX traces this even if only the two functions below, which follow the gradients, are compiled.
    num, tile_grid = params.means.shape[0], settings.tile_grid
    shapes = RenderBuffers.shapes(num, tile_grid.height, tile_grid.width, render_depth=settings.render_depth)
    return deferred(functools.partial(_render, settings=settings, warp=warp), shapes)(params, camera, offset)


def _render(params, camera, offset, *, settings, warp):
    packed, _, depths, means2d, radii = _project(params, camera, offset, settings, warp)
    tile_grid = settings.tile_grid
    lists = make_tile_lists(packed, depths, tile_grid, settings.known_capacity, warp, with_pair_offsets=False)
    channels, alpha, _ = draw(lists, packed.attributes, tile_grid, warp, save=False)
    return RenderBuffers(channels, alpha, means2d, radii, lists.num_isects)


def _project(params, camera, offset, settings, warp):
    return project(params, camera, offset, kernel_settings(settings), settings.tile_grid, warp)


def kernel_settings(settings: RenderSettings) -> KernelSettings:
    """Returns the settings that kernels read."""
    projection = cast(EWA, settings.projection)
    return KernelSettings(
        eps2d=projection.eps2d,
        near_plane=settings.near_plane,
        far_plane=settings.far_plane,
        radius_clip=projection.radius_clip,
        antialiased=projection.antialiased,
        render_depth=settings.render_depth,
        absgrad=settings.absgrad,
        deterministic=settings.deterministic,
    )


class _Saved(NamedTuple):
    """Values that the forward pass of the kernels saves for the backward pass."""

    params: Parameters
    camera: Any
    # These are not bools, because saved values may hold arrays and structure only.
    has_offset: tuple[()] | None
    learns_camera: tuple[()] | None
    clamp_grad: jax.Array
    drawn: DrawnImage


def _render_fwd(params, camera, offset, settings, warp):
    numbers = jax.tree.leaves(camera, is_leaf=_is_primal)
    learns_camera = () if any(number.perturbed for number in numbers) else None
    params, camera, offset = _values((params, camera, offset))
    packed, clamp_grad, depths, means2d, radii = _project(params, camera, offset, settings, warp)
    tile_grid = settings.tile_grid
    drawn = draw_and_save(
        packed, depths, tile_grid, settings.known_capacity, warp, deterministic=settings.deterministic
    )
    rendered = RenderBuffers(drawn.image, drawn.alpha, means2d, radii, drawn.lists.num_isects)
    has_offset = None if offset is None else ()
    return rendered, _Saved(params, camera, has_offset, learns_camera, clamp_grad, drawn)


def _render_bwd(settings, warp, saved, cotangents):
    # A cotangent that is known to be zero is no array, and no memory is used for it.
    return _differentiate(settings, warp, saved, *(None if _is_zero(v) else v for v in cotangents[:3]))


# JAX differentiates in two turns and calls this function twice: jit keeps the trace.
@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def _differentiate(settings, warp, saved, v_channels, v_alpha, v_means2d):
    params, camera, has_offset, learns_camera, clamp_grad, drawn = saved
    tile_grid = settings.tile_grid
    if v_channels is None:
        v_channels = jnp.zeros_like(drawn.image)
    absolute = settings.absgrad and has_offset is not None
    channels = range(drawn.image.shape[-1])
    start = None
    if drawn.lists.pair_offsets is None:
        start = initial_sums(params, drawn.lists.counts, FORM_SIZE + len(channels) + 2 * absolute, warp)
    rows = pair_gradients(
        drawn, v_channels, v_alpha, channels, tile_grid, warp, start=start, absolute=absolute
    )
    v_params, v_offset = project_gradients(
        params,
        camera,
        PixelSums(drawn.lists.counts, clamp_grad, rows, drawn.lists.first, v_means2d),
        kernel_settings(settings),
        tile_grid,
        warp,
        with_offset=has_offset is not None,
    )
    v_camera = None
    if learns_camera is not None:
        v_camera = _camera_gradients(saved, rows, v_means2d, settings, warp)
    return v_params, v_camera, v_offset


def _camera_gradients(saved, rows, v_means2d, settings, warp):
    """Returns the gradients of the camera. No kernel computes them; they come from the projection in plain JAX."""
    attributes, lists = saved.drawn.attributes, saved.drawn.lists
    sums = sum_pairs(rows, lists, settings.tile_grid, warp)[: attributes.shape[1]]
    v_inputs = compositing_gradients(sums, attributes, warp)
    drawn = lists.counts > 0
    # Attributes of rows that are not drawn were never written.
    v_inputs = CompositingInputs(*(jnp.where(drawn.reshape(-1, *[1] * (v.ndim - 1)), v, 0) for v in v_inputs))
    if v_means2d is not None:
        v_inputs = v_inputs._replace(means2d=v_inputs.means2d + v_means2d)

    def inputs_from(camera):
        projected, channels = project_and_shade(saved.params, camera, None, settings)
        return CompositingInputs(projected.means2d, projected.conics, projected.opacities, channels)

    _, pull = jax.vjp(inputs_from, saved.camera)
    return pull(v_inputs)[0]


def _values(args):
    """Returns the arrays without JAX's marks of which are differentiated."""
    return jax.tree.map(lambda x: x.value, args, is_leaf=_is_primal)


def _is_primal(x) -> bool:
    return isinstance(x, CustomVJPPrimal)


def _is_zero(cotangent) -> bool:
    return isinstance(cotangent, SymbolicZero)


render.defvjp(_render_fwd, _render_bwd, symbolic_zeros=True)
