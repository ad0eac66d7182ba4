"""Merges the points in each voxel to one point, so that many photos of a surface give one layer of points.

Voxels grow with the distance from the scene's centre, as far surfaces are seen coarsely. They are cubes of one
size in space that is contracted as in Mip-NeRF 360 (Barron et al. 2022, eq. 10).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8

from splax.data.points import PointCloud

# Least and largest side of voxels to try, in contracted units (all space is within 2 of the centre), and the ratio
# of two sides at which the search stops.
_SMALLEST, _LARGEST, _CLOSE = 1e-5, 4.0, 1.005


def merge_points(
    positions: Float[np.ndarray, "n 3"],
    colors: UInt8[np.ndarray, "n 3"],
    num: int,
    *,
    center: Float[np.ndarray, " 3"],
    radius: float,
) -> PointCloud:
    """Merges points to at most ``num``: the mean position and the mean colour in each voxel.

    The voxels are about the smallest that leave at most ``num`` points.

    Args:
        positions: positions of the points, [n, 3], at least one.
        colors: RGB colours of the points, [n, 3].
        num: most points to return, at least 1.
        center: centre of the scene in the world, [3].
        radius: distance from ``center`` within which all voxels have one size, world units.
    """
    contracted = contract((positions - center) / radius)
    low, high = _SMALLEST, _LARGEST
    voxels = _voxels(contracted, low)
    if voxels.max() >= num:
        while high / low > _CLOSE:
            middle = (low * high) ** 0.5
            if _voxels(contracted, middle).max() >= num:
                low = middle
            else:
                high = middle
        voxels = _voxels(contracted, high)
    counts = np.bincount(voxels)

    def mean(values: np.ndarray) -> np.ndarray:
        sums = [np.bincount(voxels, weights=column) for column in values.T]
        return np.stack(sums, axis=-1) / counts[:, None]

    return PointCloud(mean(positions).astype(np.float32), np.rint(mean(colors)).astype(np.uint8))


def contract(points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """Maps all of space into a ball of radius 2; points of the unit ball stay where they are."""
    norm = np.maximum(np.linalg.norm(points, axis=-1, keepdims=True), 1)
    return (2 - 1 / norm) * points / norm


def _voxels(points: Float[np.ndarray, "n 3"], side: float) -> Int[np.ndarray, " n"]:
    """The number of the voxel that holds each point; voxels that hold a point are counted from 0."""
    cells = np.floor((points + 2) / side).astype(np.int64)
    per_axis = int(4 / side) + 1  # below 2^19, so that the product of three such numbers fits into an int64
    keys = (cells[:, 0] * per_axis + cells[:, 1]) * per_axis + cells[:, 2]
    return np.unique(keys, return_inverse=True)[1]
