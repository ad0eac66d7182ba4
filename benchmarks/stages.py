"""Where the time of a splax frame goes: every stage compiled and timed by itself."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array
from measure import median_ms, time_interleaved
from workloads import Params, Workload

from splax.gaussians import Gaussians
from splax.ops.intersection import Intersections, intersect_tiles
from splax.ops.projection import ProjectedGaussians
from splax.ops.tile_grid import TileGrid
from splax.ops.xla.backend import rasterize_to_pixels
from splax.rasterizer import TileRasterizer, round_capacity


def time_stages(workload: Workload, *, tile_size: int, repeats: int) -> dict[str, float]:
    """Milliseconds of each stage. Backward stages hold the forward pass of that stage, as ``jax.vjp`` does."""
    params = {name: jnp.asarray(value) for name, value in workload.params.items()}
    camera, rasterizer = workload.camera, TileRasterizer(tile_size)
    capacity = round_capacity(int(rasterizer.count_isects(Gaussians(**params), camera)))
    size = TileGrid(camera.width, camera.height, tile_size)

    def project(params: Params) -> tuple[ProjectedGaussians, Array]:
        gaussians = Gaussians(**params).renderable_only()
        return rasterizer.project(gaussians, camera), gaussians.colors(camera)

    def project_and_back(params: Params, cotangent: Any) -> Any:
        return jax.vjp(project, params)[1](cotangent)

    def composite(splats: Any, isects: Intersections) -> Array:
        projected, colors = splats
        return rasterize_to_pixels(
            projected.means2d,
            projected.conics,
            jnp.where(projected.visible[:, None], colors, 0),
            projected.opacities,
            isects,
            size,
        )[0]

    def composite_and_back(splats: Any, isects: Intersections) -> Any:
        image, pull = jax.vjp(lambda splats: composite(splats, isects), splats)
        return image, pull(jnp.asarray(workload.v_image))

    splats = jax.jit(project)(params)
    bin_tiles = jax.jit(functools.partial(intersect_tiles, isect_capacity=capacity, **size._asdict()))
    isects = bin_tiles(splats[0])
    stages = {
        "projection and colours": (project, params),
        "projection and colours, with backward": (project_and_back, params, splats),
        "binning": (bin_tiles, splats[0]),
        "compositing": (composite, splats, isects),
        "compositing, with backward": (composite_and_back, splats, isects),
    }
    calls = {name: functools.partial(jax.jit(stage[0]), *stage[1:]) for name, stage in stages.items()}
    return {name: median_ms(times) for name, times in time_interleaved(calls, repeats=repeats).items()}
