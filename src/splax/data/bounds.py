"""Where a scene is and how large it is, from its cameras alone.

Photos come without a scale: "far" and "small" have a meaning only next to the cameras. Training uses two
such measures, both of the training views:

- ``extent`` is the unit of errors of depth and of motions of cameras (``getNerfppNorm`` of Kerbl et al. 2023,
  "3D Gaussian Splatting for Real-Time Radiance Field Rendering");
- ``center`` and ``radius`` say where the cameras look, for a random start.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

EXTENT_MARGIN = 1.1  # of the 3D Gaussian splatting reference implementation
# Camera axes whose mean squared sine to their common direction is below this are taken as parallel
# (about half a degree): their meeting point would be noise.
PARALLEL = 1e-4


class SceneBounds(NamedTuple):
    """Position and size of a scene in world units.

    Attributes:
        center: the point nearest to all camera axes, [3].
        radius: median distance of the cameras from ``center``; positive.
        extent: 1.1 times the largest distance of a camera from the mean camera position; positive.
    """

    center: Float[np.ndarray, " 3"]
    radius: float
    extent: float


def scene_bounds(camera_to_world: Float[np.ndarray, "views 4 4"]) -> SceneBounds:
    """Measures a scene by its cameras.

    ``center`` minimises the sum of squared distances to the camera axes. Where the axes are parallel, or
    there is one view only, no such point exists: then it is the mean camera position moved forward, along
    the mean viewing direction, by ``extent``. Cameras that all stand in one place give ``extent`` 1, since
    nothing fixes the scale, and a ``radius`` of zero is replaced by ``extent``.

    Args:
        camera_to_world: poses with OpenCV axes (+z forward), [V, 4, 4]; at least one.
    """
    poses = np.asarray(camera_to_world, np.float64)
    positions, forward = poses[:, :3, 3], poses[:, :3, 2]
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    mean_position = positions.mean(0)
    spread = np.linalg.norm(positions - mean_position, axis=-1).max()
    # Below the rounding of float32 positions, cameras are at one place.
    one_place = spread <= 1e-6 * (1 + np.abs(mean_position).max())
    extent = 1.0 if one_place else EXTENT_MARGIN * float(spread)

    # Distance of x to an axis is |(I - d dᵀ)(x - p)|; the normal equations sum the projectors.
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    normal_matrix = across.mean(0)
    if np.linalg.eigvalsh(normal_matrix)[0] > PARALLEL:
        center = np.linalg.solve(normal_matrix, np.einsum("vij,vj->i", across, positions) / len(poses))
    else:
        center = mean_position + extent * forward.mean(0) / max(np.linalg.norm(forward.mean(0)), 1e-12)
    radius = float(np.median(np.linalg.norm(positions - center, axis=-1)))
    return SceneBounds(center, radius if radius > 1e-6 * extent else extent, extent)
