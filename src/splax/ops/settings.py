"""What is static in one rendering: compiled programs depend on it."""

from __future__ import annotations

from typing import NamedTuple

from splax.ops.ewa import Projection
from splax.ops.shading import StoredShading
from splax.ops.tile_grid import TileGrid


class RenderSettings(NamedTuple):
    """Settings of one rendering; see :class:`splax.TileRasterizer`.

    Attributes:
        tile_grid: the tiles of the image.
        projection: how Gaussians become 2D Gaussians.
        shading: how they get their colour; None if colours are given.
        near_plane: least depth, world units.
        far_plane: largest depth, world units.
        render_depth: whether depth is a channel, the last one.
        absgrad: whether the offset's gradient adds up absolute values over the pixels.
        deterministic: whether kernels sum gradients in a fixed order.
        isect_capacity: room for (tile, Gaussian) pairs; None: they are counted first.
    """

    tile_grid: TileGrid
    projection: Projection
    shading: StoredShading | None
    near_plane: float
    far_plane: float
    render_depth: bool
    absgrad: bool
    deterministic: bool
    isect_capacity: int | None

    @property
    def known_capacity(self) -> int:
        """The capacity where it is known."""
        if self.isect_capacity is None:
            raise AssertionError("the capacity is counted before backends are called")
        return self.isect_capacity
