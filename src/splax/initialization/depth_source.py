"""Sources of depth for a start."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32

from splax.scene import Scene


class DepthError(ValueError):
    """No depth could be found for a scene; the message says why."""


# A function that finds depth: called with a scene, it returns a depth map for each training view, in their order.
# A depth map is camera-space z in world units, 0 where unknown; None means unknown everywhere. It may be smaller
# or larger than the photo, but must show the same part of the scene. Maps may be returned one by one, by an
# iterator. A source that finds nothing raises DepthError. Its ``str`` is its name for people.
DepthSource: TypeAlias = Callable[[Scene], Iterable[Float32[np.ndarray, "h w"] | None]]


def stored_depth(scene: Scene) -> Iterable[Float32[np.ndarray, "h w"] | None]:
    """The depth images of the dataset, as a source of depth."""
    return (view.depth for view in scene.train)


def has_depth(scene: Scene) -> bool:
    """Whether the dataset has depth images."""
    return any(view.has_depth for view in scene.train)
