"""How far cameras are from the true ones, apart from what no photo can tell."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from splax.cameras import Camera


class PoseError(NamedTuple):
    """Means over the cameras.

    Attributes:
        degrees: angle between orientations.
        distance: between centres, in the unit of the true ones.
    """

    degrees: float
    distance: float


def pose_error(cameras: Sequence[Camera], truth: Sequence[Camera]) -> PoseError:
    """Compares cameras with the true ones, once the best similarity of their centres has been applied.

    Args:
        cameras: as they were given or learned, at least one.
        truth: in the same order.
    """
    poses, true_poses = _poses(cameras), _poses(truth)
    scale, rotation, translation = best_similarity(poses[:, :3, 3], true_poses[:, :3, 3])
    centers = scale * poses[:, :3, 3] @ rotation.T + translation
    between = np.swapaxes(true_poses[:, :3, :3], 1, 2) @ rotation @ poses[:, :3, :3]
    # The sine as well as the cosine: near 0 degrees the latter alone says little.
    axis = between[:, (2, 0, 1), (1, 2, 0)] - between[:, (1, 2, 0), (2, 0, 1)]
    angles = np.arctan2(np.linalg.norm(axis, axis=1), np.trace(between, axis1=1, axis2=2) - 1)
    distances = np.linalg.norm(centers - true_poses[:, :3, 3], axis=1)
    return PoseError(float(np.degrees(angles.mean())), float(distances.mean()))


def best_similarity(
    source: Float[np.ndarray, "n 3"], target: Float[np.ndarray, "n 3"]
) -> tuple[float, Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]]:
    """Scale, rotation and translation that bring points nearest to others in least squares (Umeyama 1991)."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    around = source - source_mean
    u, values, vt = np.linalg.svd((target - target_mean).T @ around)
    signs = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * signs) @ vt
    spread = (around**2).sum()
    scale = float((values * signs).sum() / spread) if spread > 0 else 1.0
    return scale, rotation, target_mean - scale * rotation @ source_mean


def _poses(cameras: Sequence[Camera]) -> Float[np.ndarray, "n 4 4"]:
    """Camera to world."""
    return np.linalg.inv(np.stack([np.asarray(camera.viewmat, np.float64) for camera in cameras]))
