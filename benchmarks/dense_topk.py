"""The method splax replaced, as a baseline: dense [tiles, Gaussians] overlaps and ``top_k``.

Every tile is tested against every Gaussian, and the ``max_gaussians_per_tile`` nearest that touch it are
composited, padded to that number; farther ones are dropped. Projection, colours, constants and rules are
splax's, so that where no list is too long the images are the same.

Tiles are worked off in chunks, so that [tiles, Gaussians] never exists as a whole, and each chunk is computed
again in the backward pass rather than stored: at 540x960 the stored arrays would take tens of GB.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from splax.ops.constants import ALPHA_THRESHOLD, MAX_ALPHA, MIN_TRANSMITTANCE
from splax.ops.projection import ProjectedGaussians
from splax.ops.tile_grid import TileGrid

MAX_GAUSSIANS_PER_TILE = 500
TILE_SIZE = 16
TILES_PER_CHUNK = 16


class Thresholds(NamedTuple):
    """Where compositing leaves something out."""

    alpha: float | Array = ALPHA_THRESHOLD
    transmittance: float | Array = MIN_TRANSMITTANCE


class DenseOutput(NamedTuple):
    """Image [H, W, C], and how many Gaussians touch each tile, [rows, columns] of tiles."""

    image: Float[Array, "h w c"]
    list_lengths: Int[Array, "rows columns"]


def render_dense(
    projected: ProjectedGaussians,
    colors: Float[Array, "n c"],
    opacities: Float[Array, " n"],
    background: Float[Array, " c"],
    thresholds: Thresholds,
    *,
    width: int,
    height: int,
) -> DenseOutput:
    """Composites projected Gaussians; differentiable."""
    tile_grid = TileGrid(width, height, TILE_SIZE)
    columns, rows = tile_grid.columns, tile_grid.rows
    depths = jnp.where((projected.radii > 0).all(axis=1), projected.depths, jnp.inf)
    order = jnp.argsort(jax.lax.stop_gradient(depths))
    means2d, conics, colors, opacities = (
        x[order] for x in (projected.means2d, projected.conics, colors, opacities)
    )
    radii = projected.radii[order]
    attributes = jnp.concatenate([means2d, conics, opacities[:, None], colors], axis=1)

    @jax.checkpoint
    def render_tile(index):
        corner = TILE_SIZE * jnp.stack([index % columns, index // columns]).astype(means2d.dtype)
        ids, valid, length = _nearest(jax.lax.stop_gradient(means2d), radii, corner)
        return _composite(attributes[ids], valid, corner, thresholds), length

    tiles, lengths = jax.lax.map(render_tile, jnp.arange(rows * columns), batch_size=TILES_PER_CHUNK)
    tiles = tiles.reshape(rows, columns, TILE_SIZE, TILE_SIZE, -1)
    image = jnp.swapaxes(tiles, 1, 2).reshape(rows * TILE_SIZE, columns * TILE_SIZE, -1)[:height, :width]
    image = image[..., :-1] + (1 - image[..., -1:]) * background
    return DenseOutput(image, lengths.reshape(rows, columns))


def _nearest(means2d, radii, corner):
    """Nearest Gaussians whose box touches a tile: rows [K], which are real [K], and how many there are."""
    overlap = ((radii > 0) & (means2d + radii >= corner) & (means2d - radii <= corner + TILE_SIZE)).all(
        axis=1
    )
    # Gaussians come sorted by depth, so the smallest row is the nearest. Exact in float32 below 2^24 rows.
    num = len(means2d)
    scores = jnp.where(overlap, -jnp.arange(num, dtype=jnp.float32), -jnp.inf)
    scores, ids = jax.lax.top_k(scores, min(MAX_GAUSSIANS_PER_TILE, num))
    return ids, scores > -jnp.inf, overlap.sum()


def _composite(attributes, valid, corner, thresholds):
    """Channels and alpha of one tile's pixels, [pixels, C + 1]."""
    row, column = jnp.divmod(jnp.arange(TILE_SIZE**2), TILE_SIZE)
    x, y, a, b, c, opacity = (attributes[:, i, None] for i in range(6))
    dx = x - (corner[0] + column + 0.5)
    dy = y - (corner[1] + row + 0.5)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = jnp.minimum(MAX_ALPHA, opacity * jnp.exp(-sigma))
    alpha = jnp.where(valid[:, None] & (sigma >= 0) & (alpha >= thresholds.alpha), alpha, 0)
    after = jnp.cumprod(1 - alpha, axis=0)
    before = jnp.concatenate([jnp.ones_like(after[:1]), after[:-1]])
    weights = jnp.where(after > thresholds.transmittance, alpha * before, 0)
    channels = jnp.concatenate([attributes[:, 6:], jnp.ones_like(opacity)], axis=1)
    return weights.T @ channels
