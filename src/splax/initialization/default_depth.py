"""Which depth a start is made of where nobody says."""

from __future__ import annotations

from splax.initialization.depth_source import DepthSource, has_depth, stored_depth
from splax.initialization.plane_sweep import PlaneSweep
from splax.scene import Scene


def default_depth(scene: Scene) -> DepthSource:
    """The dataset's depth images; a plane sweep where it has none."""
    return stored_depth if has_depth(scene) else PlaneSweep()
