"""What depth for a start may come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32

from splax.scene import Scene


class DepthError(ValueError):
    """No depth could be found for a scene; the message says why."""


# Anything that knows depth: called with a scene, it gives a depth map for each training view, in their order.
# A depth map is camera-space z in world units, 0 where unknown; None stands for unknown everywhere. It may be
# smaller or larger than the photo, but shows the same part of the scene. Maps may come one by one. A source that
# finds nothing raises DepthError; its str is its name for people.
DepthSource: TypeAlias = Callable[[Scene], Iterable[Float32[np.ndarray, "h w"] | None]]


def stored_depth(scene: Scene) -> Iterable[Float32[np.ndarray, "h w"] | None]:
    """The depth images that the dataset came with, as a source of depth."""
    return (view.depth for view in scene.train)


def has_depth(scene: Scene) -> bool:
    """Whether the dataset came with depth images."""
    return any(view.has_depth for view in scene.train)
