"""The source of depth for a start if the user names none."""

from __future__ import annotations

from splax.initialization.depth_source import DepthSource, has_depth, stored_depth
from splax.initialization.plane_sweep import PlaneSweep
from splax.scene import Scene


def default_depth(scene: Scene) -> DepthSource:
    """The depth images of the dataset; if it has none, a plane sweep."""
    return stored_depth if has_depth(scene) else PlaneSweep()
