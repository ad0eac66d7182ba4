"""How the image is cut, and how a Gaussian lies in memory."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from splax.ops.constants import ALPHA_THRESHOLD
from splax.ops.triton.lanes.warp import LANES, Warp, lanes

# Bits of a pair that number the Gaussian; the four above them mark the subtiles it reaches.
ID_BITS = 28
ID_MASK = (1 << ID_BITS) - 1
# Alpha 1/255 as a power of two, which is how kernels hold alpha.
LOG2_THRESHOLD = math.log2(ALPHA_THRESHOLD)


class Form(NamedTuple):
    """log2 of a Gaussian's alpha: a dx^2 + b dx dy + c dy^2 + top, of the offset from its mean.

    The first columns of a Gaussian's row; its channels follow.
    """

    mean_x: jax.Array
    mean_y: jax.Array
    a: jax.Array
    b: jax.Array
    c: jax.Array
    top: jax.Array


FORM = len(Form._fields)


def polynomial_around(form: Form, x: jax.Array, y: jax.Array, warp: Warp) -> list[jax.Array]:
    """Coefficients of u^2, u v, v^2, u, v and 1 of a :class:`Form` at (x + u, y + v).

    A pixel then takes two multiplications and additions for it, and a column of pixels three more.
    """
    mean_x, mean_y = form.mean_x - x, form.mean_y - y
    slope_x = warp.fma(form.b, mean_y, 2 * form.a * mean_x)
    slope_y = warp.fma(form.b, mean_x, 2 * form.c * mean_y)
    constant = warp.fma(0.5 * mean_x, slope_x, warp.fma(0.5 * mean_y, slope_y, form.top))
    return [form.a, form.b, form.c, -slope_x, -slope_y, constant]


class Tiling(NamedTuple):
    """Static sizes of one rasterization."""

    width: int
    height: int
    tile_size: int

    @property
    def columns(self) -> int:
        """Tiles per row."""
        return -(-self.width // self.tile_size)

    @property
    def rows(self) -> int:
        """Tiles per column."""
        return -(-self.height // self.tile_size)

    @property
    def num_tiles(self) -> int:
        """Tiles of the image."""
        return self.columns * self.rows

    @property
    def subtile(self) -> int:
        """Pixels per side of a subtile, which one warp draws."""
        return max(8, self.tile_size // 2)

    @property
    def subtiles(self) -> int:
        """Subtiles of a tile, 1 or 4."""
        return (self.tile_size // self.subtile) ** 2

    @property
    def lines(self) -> int:
        """Pixels of a lane below each other in a subtile."""
        return self.subtile // 4

    @property
    def blocks(self) -> int:
        """Parts of a tile that the backward pass treats apart, so that no lane has more than 8 pixels."""
        return max(1, self.tile_size**2 // 256)

    @property
    def num_pixels(self) -> int:
        """Pixels of a tile."""
        return self.tile_size**2


class Column(NamedTuple):
    """The pixels of the lanes in one subtile that lie below each other: a row of lanes for each, [lines, 32].

    Arrays of many rows and not many arrays, since Triton's compiler takes time as the cube of what there is.
    """

    x: jax.Array  # [32]
    y: jax.Array
    inside: jax.Array  # whether in the image
    image: jax.Array  # row-major in the image
    tile: jax.Array  # row-major in the tile


class Region(NamedTuple):
    """Pixels that one warp draws: a subtile, or the upper or lower half of one.

    Attributes:
        tile: number of its tile.
        subtile: number of its subtile, within the tile.
        half: 0 or 1 for a half; None for all of it.
    """

    tile: jax.Array
    subtile: jax.Array
    half: jax.Array | None = None

    def size(self, tiling: Tiling) -> tuple[int, int]:
        """Width and height in pixels."""
        side = tiling.subtile
        return side, side if self.half is None else side // 2

    def corner_in_tile(self, tiling: Tiling) -> tuple[jax.Array, jax.Array]:
        """Its left upper pixel in its tile."""
        side, across = tiling.subtile, tiling.tile_size // tiling.subtile
        left, top = (self.subtile % across) * side, (self.subtile // across) * side
        return left, top if self.half is None else top + self.half * (side // 2)

    def corner(self, tiling: Tiling) -> tuple[jax.Array, jax.Array]:
        """Its left upper pixel in the image."""
        left, top = self.corner_in_tile(tiling)
        size = tiling.tile_size
        return (self.tile % tiling.columns) * size + left, (self.tile // tiling.columns) * size + top

    def center(self, tiling: Tiling) -> tuple[jax.Array, jax.Array]:
        """Its middle in the image, in pixels."""
        (left, top), (width, height) = self.corner(tiling), self.size(tiling)
        return left.astype(jnp.float32) + width / 2, top.astype(jnp.float32) + height / 2


def columns_of(region: Region, tiling: Tiling) -> list[Column]:
    """Its pixels: lanes lie 8 x 4, and repeat to the right, then downwards."""
    (width, height), lane = region.size(tiling), lanes()
    y = lane // 8 + 4 * lax.broadcasted_iota(jnp.int32, (height // 4, LANES), 0)
    return [_column(region, i, y, tiling) for i in range(0, width, 8)]


def lines_of(region: Region, tiling: Tiling) -> list[list[Column]]:
    """The same pixels, each line of a column by itself, [32]: loads of many rows come in an order of their own."""
    width, height = region.size(tiling)
    lines = [lanes() // 8 + i for i in range(0, height, 4)]
    return [[_column(region, i, y, tiling) for y in lines] for i in range(0, width, 8)]


def _column(region, first, y, tiling):
    """The column that begins at a pixel of the region, and of it the pixels at y."""
    (left, top), (left_in_tile, top_in_tile) = region.corner(tiling), region.corner_in_tile(tiling)
    x = lanes() % 8 + first
    all_x = jnp.broadcast_to(x, y.shape)
    return Column(
        x=(left + x).astype(jnp.float32) + 0.5,
        y=(top + y).astype(jnp.float32) + 0.5,
        inside=(left + all_x < tiling.width) & (top + y < tiling.height),
        image=(top + y) * tiling.width + left + all_x,
        tile=(top_in_tile + y) * tiling.tile_size + left_in_tile + all_x,
    )
