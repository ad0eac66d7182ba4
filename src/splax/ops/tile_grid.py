"""How the image is cut into tiles."""

from __future__ import annotations

from typing import NamedTuple


class TileGrid(NamedTuple):
    """The square tiles that cover an image, numbered row by row; static.

    Attributes:
        width: image width in pixels.
        height: image height in pixels.
        tile_size: pixels per tile side.
    """

    width: int
    height: int
    tile_size: int

    @property
    def columns(self) -> int:
        """Number of tiles in a row; the last one may reach over the right edge."""
        return -(-self.width // self.tile_size)

    @property
    def rows(self) -> int:
        """Number of tiles in a column; the last one may reach over the lower edge."""
        return -(-self.height // self.tile_size)

    @property
    def num_tiles(self) -> int:
        """Number of tiles in the image."""
        return self.columns * self.rows

    @property
    def num_pixels(self) -> int:
        """Number of pixels in a tile."""
        return self.tile_size**2
