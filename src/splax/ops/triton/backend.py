"""The kernels for NVIDIA GPUs, in Pallas Triton, as a backend. They are imported when they are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from splax.lenses import Pinhole
from splax.ops.backend import Backend
from splax.ops.ewa import EWA
from splax.ops.intersection import saturating_sum
from splax.ops.jax_internals.platform import has_cuda, has_pallas_triton
from splax.ops.projection import ProjectedGaussians
from splax.ops.settings import RenderSettings
from splax.ops.shading import SphericalHarmonics
from splax.ops.types import CompositingInputs, Parameters, RenderBuffers

KERNEL_TILE_SIZES = (8, 16, 32)
# Kernels can number fewer Gaussians than this.
_MAX_GAUSSIANS = 2**28
# Kernels can number fewer elements of an array than this.
_MAX_ELEMENTS = 2**31


def _missing() -> str | None:
    if not has_cuda():
        return (
            "needs an NVIDIA GPU and a JAX installed for it (pip install 'jax[cuda13]'), but JAX sees only "
            f"{jax.devices()}"
        )
    if not has_pallas_triton():
        return f"needs Pallas Triton, which jax {jax.__version__} lacks (pip install 'jax>=0.10,<0.13')"
    return None


def _obstacle(settings: RenderSettings, arrays: Sequence[Array], camera: Any = None) -> str | None:
    """Channels may have any type that float32 can hold; stored Gaussians must be float32."""
    first, *others = arrays
    if settings.tile_grid.tile_size not in KERNEL_TILE_SIZES:
        return f"draws tiles of {KERNEL_TILE_SIZES} pixels, not {settings.tile_grid.tile_size}: pass one of these"
    if camera is not None and (obstacle := _obstacle_of_parameters(settings, arrays, camera)):
        return obstacle
    dtype = jnp.result_type(first, *others) if first.dtype == jnp.float32 else first.dtype
    if dtype != jnp.float32:
        return f"computes in float32, but the Gaussians are {dtype}: cast them"
    if not 0 < first.shape[0] < _MAX_GAUSSIANS:
        return f"draws 1 to {_MAX_GAUSSIANS - 1} Gaussians, got {first.shape[0]}"
    return None


def _obstacle_of_parameters(settings: RenderSettings, arrays: Sequence[Array], camera: Any) -> str | None:
    if type(settings.projection) is not EWA:
        return f"projects by EWA, not by {type(settings.projection).__name__}: that runs in plain JAX"
    if type(settings.shading) is not SphericalHarmonics:
        return (
            f"colours by SphericalHarmonics, not by {type(settings.shading).__name__}: that runs in plain JAX"
        )
    if not isinstance(camera.lens, Pinhole):
        return f"draws what a Pinhole sees, not a {type(camera.lens).__name__}: that runs in plain JAX"
    if settings.isect_capacity is None:
        return "needs a buffer of known size: give TileRasterizer an isect_capacity, or use sized_for"
    for array in (*arrays, *jax.tree.leaves(camera)):
        if array.dtype != jnp.float32:
            return f"computes in float32, but Gaussians or camera are {array.dtype}: cast them"
    if (most := max(array.size for array in arrays)) >= _MAX_ELEMENTS:
        return f"numbers {_MAX_ELEMENTS - 1} elements of a Param, got {most}: train fewer Gaussians"
    return None


def _rasterize(
    settings: RenderSettings,
    projected: ProjectedGaussians,
    channels: Float[Array, "n c"],
    probe: Array | None,
) -> tuple[Array, Array, Array]:
    from splax.ops.triton import rasterize as triton

    radii, depths = lax.stop_gradient((projected.radii, projected.depths))
    inputs = _compositing_inputs(projected, channels)
    tile_grid, warp = settings.tile_grid, triton.Warp(interpret=False)
    return triton.rasterize(
        inputs, radii, depths, probe, tile_grid, settings.known_capacity, warp, settings.deterministic
    )


def _count(settings: RenderSettings, projected: ProjectedGaussians) -> Int[Array, ""]:
    from splax.ops.triton.binning.pack import pack
    from splax.ops.triton.lanes.warp import Warp

    projected = lax.stop_gradient(projected)
    inputs = _compositing_inputs(projected, projected.means2d[:, :0])
    tile_grid, warp = settings.tile_grid, Warp(interpret=False)
    return saturating_sum(pack(inputs, projected.radii, tile_grid, warp).counts)


def _compositing_inputs(projected: ProjectedGaussians, channels: Array) -> CompositingInputs:
    opacities = projected.opacities.astype(jnp.float32)
    return CompositingInputs(projected.means2d, projected.conics, opacities, channels.astype(jnp.float32))


def _render(settings: RenderSettings, params: Parameters, camera: Any, offset: Array | None) -> RenderBuffers:
    from splax.ops.triton import render as triton

    return cast(RenderBuffers, triton.render(params, camera, offset, settings, triton.Warp(interpret=False)))


def _ssim(
    x: Array, y: Array, channels: int, differentiated: tuple[int, ...]
) -> tuple[Float[Array, "*batch"], list[Array]]:
    from splax.ops.triton import ssim as triton

    return triton.mean_and_gradients(x, y, channels, differentiated, triton.Warp(interpret=False))


TRITON = Backend(
    obstacle=_obstacle,
    missing=_missing,
    rasterize=_rasterize,
    count=_count,
    render=_render,
    ssim=_ssim,
    platform="cuda",
    keeps_order=True,
)
