"""How the image is cut, and how a Gaussian lies in memory."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from splax.ops.projection import ALPHA_THRESHOLD
from splax.ops.triton.warp import LANES, lanes

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


def columns_of(tile, subtile, tiling: Tiling) -> list[Column]:
    """The pixels of a subtile: lanes lie 8 x 4, and repeat to the right, then downwards."""
    side, size, lane = tiling.subtile, tiling.tile_size, lanes()
    shape = (tiling.lines, LANES)
    x0 = (subtile % (size // side)) * side + lane % 8
    y0 = (subtile // (size // side)) * side + lane // 8
    left, top = (tile % tiling.columns) * size, (tile // tiling.columns) * size
    y = y0 + 4 * lax.broadcasted_iota(jnp.int32, shape, 0)
    columns = []
    for i in range(0, side, 8):
        x = jnp.broadcast_to(x0 + i, shape)
        columns.append(
            Column(
                x=(left + x0 + i).astype(jnp.float32) + 0.5,
                y=(top + y).astype(jnp.float32) + 0.5,
                inside=(left + x < tiling.width) & (top + y < tiling.height),
                image=(top + y) * tiling.width + left + x,
                tile=y * size + x,
            )
        )
    return columns
