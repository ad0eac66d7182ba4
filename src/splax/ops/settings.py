"""RenderSettings: the static values of one rendering, on which compiled programs depend."""

from __future__ import annotations

from typing import NamedTuple

from splax.ops.ewa import Projection
from splax.ops.shading import StoredShading
from splax.ops.tile_grid import TileGrid


class RenderSettings(NamedTuple):
    """Static settings of one rendering; see :class:`splax.TileRasterizer`.

    Attributes:
        tile_grid: the tiles of the image.
        projection: object that projects the Gaussians.
        shading: object that makes the channels; None if the channels are given.
        near_plane: smallest camera-space z that is drawn, world units.
        far_plane: largest camera-space z that is drawn, world units.
        render_depth: whether depth is rendered, as the last channel.
        absgrad: whether the offset's gradient sums absolute values over the pixels.
        deterministic: whether kernels sum gradients in a fixed order.
        isect_capacity: number of pairs that the buffer has room for; None if the pairs are counted first.
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
        """Number of pairs that the buffer has room for, after it was counted or given."""
        if self.isect_capacity is None:
            raise AssertionError("the capacity is counted before backends are called")
        return self.isect_capacity
