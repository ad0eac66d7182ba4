"""The renderer, from top to bottom: stored Gaussians and a camera to pixels.

Gaussians are projected and coloured (:mod:`splax.ops.project_and_shade`); then a backend lists them for each
tile and composites them. A backend that has kernels from stored parameters to pixels does all of it at once.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from splax.ops import backends
from splax.ops.project_and_shade import project_and_shade
from splax.ops.projection import ProjectedGaussians
from splax.ops.settings import RenderSettings
from splax.ops.types import Parameters, RenderBuffers


def render(
    params: Parameters,
    camera: Any,
    *,
    colors: Float[Array, "n c"] | None,
    offset: Float[Array, "n 2"] | None,
    settings: RenderSettings,
    implementation: str | None,
) -> tuple[RenderBuffers, int]:
    """Renders one camera.

    Args:
        params: stored Gaussians, N rows.
        camera: the :class:`splax.Camera` that looks at them.
        colors: channels of each Gaussian, [N, C]; None if the settings' shading makes them.
        offset: offset of the projected centres in pixels, [N, 2]; None is zero.
        settings: the rasterizer's static settings.
        implementation: name of the backend; None takes the fastest one that can draw on this platform.

    Returns:
        The arrays of the view, and the capacity of the buffer of pairs.

    Raises:
        ValueError: if the capacity is missing under ``jit``, if ``deterministic`` cannot be promised, or if the
            named backend cannot draw these Gaussians.
        NotImplementedError: if the named backend does not run on this machine.
    """
    if colors is None and is_whole(params, camera, settings, implementation):
        return _render_whole(
            params, camera, offset, settings=settings, implementation=implementation
        ), settings.known_capacity
    projected, channels = _project_and_shade(params, camera, colors, settings=settings)
    if settings.deterministic:
        backends.check_deterministic(settings, implementation, projected.means2d)
    if settings.isect_capacity is None:
        settings = settings._replace(isect_capacity=_fit_capacity(projected, settings, implementation))
    return _composite(
        projected, channels, offset, settings=settings, implementation=implementation
    ), settings.known_capacity


def is_whole(params: Parameters, camera: Any, settings: RenderSettings, implementation: str | None) -> bool:
    """Returns whether a backend goes from stored parameters to pixels in one go."""
    return backends.obstacle_to_whole(params, camera, settings, implementation)[1] is None


def project(params: Parameters, camera: Any, settings: RenderSettings) -> ProjectedGaussians:
    """Returns the projected Gaussians; opacities are 0 in culled rows."""
    return _project(params, camera, settings=settings)


def count_isects(
    projected: ProjectedGaussians, settings: RenderSettings, implementation: str | None
) -> Int[Array, ""]:
    """Counts the (tile, Gaussian) pairs of a view."""
    return _count(jax.lax.stop_gradient(projected), settings=settings, implementation=implementation)


def round_capacity(needed: int) -> int:
    """Rounds a capacity up to one of four sizes per doubling, so that similar views share a compiled program.

    Args:
        needed: number of pairs.

    Raises:
        ValueError: if 32-bit indices cannot number that many pairs.
    """
    if needed >= 2**31 - 2**24:
        raise ValueError(
            f"the view has {needed} or more (tile, Gaussian) pairs, beyond what 32-bit indices can hold; use a "
            "larger tile_size, a smaller image, or smaller Gaussians."
        )
    step = max(256, 1 << max(needed.bit_length() - 3, 0))
    return max(1024, -(-needed // step) * step)


@functools.partial(jax.jit, static_argnames=("settings", "implementation"))
def _render_whole(params, camera, offset, *, settings, implementation):
    backend = backends.BACKENDS[backends.obstacle_to_whole(params, camera, settings, implementation)[0]]
    assert backend.render is not None
    whole, args = functools.partial(backend.render, settings), (params, camera, offset)
    if implementation is not None:
        return whole(*args)

    def in_steps(params, camera, offset):
        # The backend is named, or the kernels would be traced again. Only sums on a GPU differ from run to run.
        return render_in_steps(params, camera, offset, settings._replace(deterministic=False), "xla_vjp")

    height, width = settings.tile_grid.height, settings.tile_grid.width
    shapes = RenderBuffers.shapes(params.means.shape[0], height, width, render_depth=settings.render_depth)
    return backends.by_platform(backend, whole, in_steps, shapes, args)


def render_in_steps(
    params: Parameters,
    camera: Any,
    offset: Float[Array, "n 2"] | None,
    settings: RenderSettings,
    implementation: str | None,
) -> RenderBuffers:
    """Computes what a backend's ``render`` does, in separate steps; the settings must have a capacity."""
    projected, channels = project_and_shade(params, camera, None, settings)
    return _composite(projected, channels, offset, settings=settings, implementation=implementation)


@functools.partial(jax.jit, static_argnames="settings")
def _project_and_shade(params, camera, colors, *, settings):
    return project_and_shade(params, camera, colors, settings)


@functools.partial(jax.jit, static_argnames="settings")
def _project(params, camera, *, settings):
    return project_and_shade(params, camera, params.means[:, :0], settings)[0]


@functools.partial(jax.jit, static_argnames=("settings", "implementation"))
def _count(projected, *, settings, implementation):
    return backends.count_isects(projected, settings, implementation)


@functools.partial(jax.jit, static_argnames=("settings", "implementation"))
def _composite(projected, channels, offset, *, settings, implementation):
    probe = None
    if offset is not None:
        if settings.absgrad:
            probe, offset = offset, jax.lax.stop_gradient(offset)
        projected = projected._replace(means2d=projected.means2d + offset)
    image, alpha, num_isects = backends.rasterize(projected, channels, probe, settings, implementation)
    return RenderBuffers(image, alpha, projected.means2d, projected.radii, num_isects)


def _fit_capacity(projected: ProjectedGaussians, settings: RenderSettings, implementation: str | None) -> int:
    count = count_isects(projected, settings, implementation)
    try:
        needed = int(count)
    except jax.errors.ConcretizationTypeError as error:
        raise ValueError(
            "under jax.jit or jax.vmap shapes are static: make a rasterizer outside with "
            "rasterizer.sized_for(gaussians, cameras), or give TileRasterizer an isect_capacity; "
            "RenderOutput.overflow says whether the capacity was too small."
        ) from error
    return round_capacity(needed)
