"""Pixels of a warp and its lanes, and the layout of a Gaussian in memory."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from splax.ops.constants import ALPHA_THRESHOLD
from splax.ops.tile_grid import TileGrid
from splax.ops.triton.lanes.warp import LANES, Warp, lanes

# Number of bits of a pair that hold the row of its Gaussian; the four bits above mark the subtiles it reaches.
ID_BITS = 28
ID_MASK = (1 << ID_BITS) - 1
# Kernels hold the log2 of alpha; this is that of 1/255.
LOG2_THRESHOLD = math.log2(ALPHA_THRESHOLD)


class QuadraticForm(NamedTuple):
    """The log2 of a Gaussian's alpha, a dx^2 + b dx dy + c dy^2 + top, where dx and dy are offsets from its mean.

    These are the first columns of a Gaussian's row; its channels follow.
    """

    mean_x: jax.Array
    mean_y: jax.Array
    a: jax.Array
    b: jax.Array
    c: jax.Array
    top: jax.Array


FORM_SIZE = len(QuadraticForm._fields)


def polynomial_around(form: QuadraticForm, x: jax.Array, y: jax.Array, warp: Warp) -> list[jax.Array]:
    """Returns the coefficients of u^2, u v, v^2, u, v and 1 of a :class:`QuadraticForm` at (x + u, y + v).

    The value at a pixel then takes two multiplications and two additions, and a column of pixels takes three
    more.
    """
    mean_x, mean_y = form.mean_x - x, form.mean_y - y
    slope_x = warp.fma(form.b, mean_y, 2 * form.a * mean_x)
    slope_y = warp.fma(form.b, mean_x, 2 * form.c * mean_y)
    constant = warp.fma(0.5 * mean_x, slope_x, warp.fma(0.5 * mean_y, slope_y, form.top))
    return [form.a, form.b, form.c, -slope_x, -slope_y, constant]


def subtile_size(tile_grid: TileGrid) -> int:
    """Pixels per side of a subtile, which one warp draws."""
    return max(8, tile_grid.tile_size // 2)


def num_subtiles(tile_grid: TileGrid) -> int:
    """Number of subtiles in a tile, 1 or 4."""
    return (tile_grid.tile_size // subtile_size(tile_grid)) ** 2


def num_lines(tile_grid: TileGrid) -> int:
    """Number of pixels that a lane has below each other in a subtile."""
    return subtile_size(tile_grid) // 4


def num_tile_blocks(tile_grid: TileGrid) -> int:
    """Number of parts of a tile that the backward pass treats apart, so that no lane has more than 8 pixels."""
    return max(1, tile_grid.tile_size**2 // 256)


class PixelColumn(NamedTuple):
    """The pixels of the lanes in one subtile that lie below each other: one row of lanes for each, [lines, 32].

    Few arrays of many rows are used, not many arrays, since the time of Triton's compiler grows with the cube
    of the number of operations.

    Attributes:
        x: x of the pixel centres in the image, [32].
        y: y of the pixel centres in the image, [lines, 32].
        inside: mask of the pixels that lie in the image, [lines, 32].
        image: row-major indices of the pixels in the image, [lines, 32].
        tile: row-major indices of the pixels in the tile, [lines, 32].
    """

    x: jax.Array
    y: jax.Array
    inside: jax.Array
    image: jax.Array
    tile: jax.Array


class PixelRegion(NamedTuple):
    """Pixels that one warp draws: a subtile, or the upper or lower half of a subtile.

    Attributes:
        tile: number of the tile.
        subtile: number of the subtile within the tile.
        half: 0 for the upper half, 1 for the lower half, None for the whole subtile.
    """

    tile: jax.Array
    subtile: jax.Array
    half: jax.Array | None = None

    def size(self, tile_grid: TileGrid) -> tuple[int, int]:
        """Returns width and height in pixels."""
        side = subtile_size(tile_grid)
        return side, side if self.half is None else side // 2

    def corner_in_tile(self, tile_grid: TileGrid) -> tuple[jax.Array, jax.Array]:
        """Returns x and y of the upper left pixel in the tile."""
        side, across = subtile_size(tile_grid), tile_grid.tile_size // subtile_size(tile_grid)
        left, top = (self.subtile % across) * side, (self.subtile // across) * side
        return left, top if self.half is None else top + self.half * (side // 2)

    def corner(self, tile_grid: TileGrid) -> tuple[jax.Array, jax.Array]:
        """Returns x and y of the upper left pixel in the image."""
        left, top = self.corner_in_tile(tile_grid)
        size = tile_grid.tile_size
        return (self.tile % tile_grid.columns) * size + left, (self.tile // tile_grid.columns) * size + top

    def center(self, tile_grid: TileGrid) -> tuple[jax.Array, jax.Array]:
        """Returns x and y of the centre in the image, in pixels."""
        (left, top), (width, height) = self.corner(tile_grid), self.size(tile_grid)
        return left.astype(jnp.float32) + width / 2, top.astype(jnp.float32) + height / 2


def pixel_columns(region: PixelRegion, tile_grid: TileGrid) -> list[PixelColumn]:
    """Returns the pixels of a region: the lanes cover 8 x 4 pixels, and repeat to the right, then downwards."""
    (width, height), lane = region.size(tile_grid), lanes()
    y = lane // 8 + 4 * lax.broadcasted_iota(jnp.int32, (height // 4, LANES), 0)
    return [_pixel_column(region, i, y, tile_grid) for i in range(0, width, 8)]


def pixel_lines(region: PixelRegion, tile_grid: TileGrid) -> list[list[PixelColumn]]:
    """Returns the same pixels, each line of a column as separate arrays, [32].

    Memory is loaded line by line, because Triton chooses its own order for loads of many rows.
    """
    width, height = region.size(tile_grid)
    lines = [lanes() // 8 + i for i in range(0, height, 4)]
    return [[_pixel_column(region, i, y, tile_grid) for y in lines] for i in range(0, width, 8)]


def _pixel_column(region, first, y, tile_grid):
    """Returns the column that begins at a pixel of the region, with its pixels at y."""
    (left, top), (left_in_tile, top_in_tile) = region.corner(tile_grid), region.corner_in_tile(tile_grid)
    x = lanes() % 8 + first
    all_x = jnp.broadcast_to(x, y.shape)
    return PixelColumn(
        x=(left + x).astype(jnp.float32) + 0.5,
        y=(top + y).astype(jnp.float32) + 0.5,
        inside=(left + all_x < tile_grid.width) & (top + y < tile_grid.height),
        image=(top + y) * tile_grid.width + left + all_x,
        tile=(top_in_tile + y) * tile_grid.tile_size + left_in_tile + all_x,
    )
