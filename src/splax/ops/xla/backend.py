"""Two backends in plain JAX: one has all derivatives, the other a faster reverse mode."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, cast

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from splax.ops.backend import Backend
from splax.ops.intersection import Intersections, count_isects, intersect_tiles
from splax.ops.projection import ProjectedGaussians
from splax.ops.settings import RenderSettings
from splax.ops.tile_grid import TileGrid
from splax.ops.xla.compositing import composite
from splax.ops.xla.ssim import mean_and_gradients
from splax.ops.xla.vjp import composite_vjp


def rasterize_to_pixels(
    means2d: Float[Array, "n 2"],
    conics: Float[Array, "n 3"],
    colors: Float[Array, "n c"],
    opacities: Float[Array, " n"],
    isects: Intersections,
    tile_grid: TileGrid,
    *,
    probe: Float[Array, "n 2"] | None = None,
    differentiable: bool = False,
) -> tuple[Float[Array, "h w c"], Float[Array, "h w"]]:
    """Composites Gaussians front to back.

    Args:
        means2d: centres in pixels, [N, 2].
        conics: inverse 2D covariances (a, b, c) of [[a, b], [b, c]], [N, 3].
        colors: channels of each Gaussian, [N, C].
        opacities: opacities in [0, 1], [N].
        isects: lists of the Gaussians that touch each tile.
        tile_grid: the tiles of the image.
        probe: array that gets gradients in absolute values, [N, 2], or None; see
            :class:`splax.ops.backend.Backend`.
        differentiable: whether JAX differentiates the image, in every mode and order, instead of the faster
            reverse mode that is written by hand.

    Returns:
        The channels without a background, [H, W, C], and alpha, [H, W].
    """
    if means2d.shape[0] == 0:
        shape = (tile_grid.height, tile_grid.width)
        return jnp.zeros((*shape, colors.shape[1]), colors.dtype), jnp.zeros(shape, colors.dtype)
    attributes = jnp.concatenate([means2d, conics, opacities[:, None], colors], axis=1).T
    draw = composite if differentiable else composite_vjp
    tiles = cast(Array, draw(attributes, None if probe is None else probe.T, isects, tile_grid))
    columns, rows = tile_grid.columns, tile_grid.rows
    tile = tile_grid.tile_size
    image = tiles.reshape(rows, columns, colors.shape[1] + 1, tile, tile)
    image = jnp.transpose(image, (0, 3, 1, 4, 2)).reshape(rows * tile, columns * tile, -1)
    image = lax.slice(image, (0, 0, 0), (tile_grid.height, tile_grid.width, image.shape[2]))
    return image[..., :-1], image[..., -1]


def _rasterize(
    settings: RenderSettings,
    projected: ProjectedGaussians,
    channels: Array,
    probe: Array | None,
    *,
    differentiable: bool,
) -> tuple[Array, Array, Array]:
    isects = intersect_tiles(
        projected, isect_capacity=settings.known_capacity, **settings.tile_grid._asdict()
    )
    image, alpha = rasterize_to_pixels(
        projected.means2d,
        projected.conics,
        channels,
        projected.opacities,
        isects,
        settings.tile_grid,
        probe=probe,
        differentiable=differentiable,
    )
    return image, alpha, isects.num_isects


def _count(settings: RenderSettings, projected: ProjectedGaussians) -> Int[Array, ""]:
    return count_isects(projected, **settings.tile_grid._asdict())


def _draws_everything(settings: RenderSettings, arrays: Any, camera: Any = None) -> None:
    del settings, arrays, camera


def _runs_everywhere() -> None:
    return None


XLA = Backend(
    obstacle=_draws_everything,
    missing=_runs_everywhere,
    rasterize=functools.partial(_rasterize, differentiable=True),
    count=_count,
    ssim=mean_and_gradients,
)
XLA_VJP = dataclasses.replace(XLA, rasterize=functools.partial(_rasterize, differentiable=False))
