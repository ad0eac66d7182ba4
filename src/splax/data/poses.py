"""Checks camera poses of files, and makes world-to-camera matrices with OpenCV axes of them."""

import numpy as np
from jaxtyping import Float

_ROTATION_TOLERANCE = 1e-3

# The axes of cameras in files, as columns in OpenCV's axes (right, down, forward): a camera-to-world rotation with
# these axes, times the matrix, is one with OpenCV's axes.
OPENCV = np.eye(3)
OPENGL = np.diag([1.0, -1.0, -1.0])  # right, up, backward
LLFF = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])  # down, right, backward


def to_viewmat(
    pose: Float[np.ndarray, "rows 4"], axes: Float[np.ndarray, "3 3"], label: str
) -> Float[np.ndarray, "4 4"]:
    """The world-to-camera matrix with OpenCV axes, [4, 4], of a pose in a file.

    Args:
        pose: camera to world, [3, 4] or [4, 4].
        axes: axes of the camera, [3, 3]; one of this module's constants.
        label: text for errors that names the file, the entry and the matrix.

    Raises:
        ValueError: if a number is not finite, or the pose is not a rigid motion.
    """
    if not (np.abs(pose) < 1e30).all():
        raise ValueError(f"{label} holds NaN or infinite numbers. Remove or estimate it again.")
    rotation, position = pose[:3, :3], pose[:3, 3]
    error = np.abs(rotation.T @ rotation - np.eye(3)).max()
    determinant = np.linalg.det(rotation)
    if error > _ROTATION_TOLERANCE or determinant < 0:
        raise ValueError(
            f"{label}: its upper left 3 x 3 must be a rotation; it has determinant {determinant:.4g} and "
            f"|RᵀR - I| up to {error:.2g}. Remove scale and mirroring from the pose."
        )
    if pose.shape[0] == 4 and np.abs(pose[3] - [0, 0, 0, 1]).max() > _ROTATION_TOLERANCE:
        raise ValueError(f"{label}: its last row must be 0 0 0 1, got {pose[3].tolist()}. Is it transposed?")
    u, _, vt = np.linalg.svd(rotation)  # the nearest exact rotation
    viewmat = np.eye(4)
    viewmat[:3, :3] = (u @ vt @ axes).T
    viewmat[:3, 3] = -viewmat[:3, :3] @ position
    return viewmat
