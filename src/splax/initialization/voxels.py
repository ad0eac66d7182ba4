"""Merging points: one for each voxel, so that many photos of a surface leave one layer of points.

Voxels grow with the distance from the scene's middle, as what lies far away is seen coarsely: they are cubes of
one size in space contracted as in Mip-NeRF 360 (Barron et al. 2022, eq. 10).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8

from splax.data.points import PointCloud

# Sides of voxels that are tried, contracted units (all space is within 2 of the centre), and how close to stop.
_SMALLEST, _LARGEST, _CLOSE = 1e-5, 4.0, 1.005


def merge_points(
    positions: Float[np.ndarray, "n 3"],
    colors: UInt8[np.ndarray, "n 3"],
    num: int,
    *,
    center: Float[np.ndarray, " 3"],
    radius: float,
) -> PointCloud:
    """At most ``num`` points: the means of the points, and of the colours, in each voxel.

    The voxels are about the smallest that leave so few.

    Args:
        positions: at least one.
        colors: RGB.
        num: how many points at most; positive.
        center: of the scene; within ``radius`` all voxels are of one size.
        radius: world units.
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
    """All of space into a ball of radius 2; the unit ball stays as it is."""
    norm = np.maximum(np.linalg.norm(points, axis=-1, keepdims=True), 1)
    return (2 - 1 / norm) * points / norm


def _voxels(points: Float[np.ndarray, "n 3"], side: float) -> Int[np.ndarray, " n"]:
    """The voxel of each point; those that hold a point are counted from 0."""
    cells = np.floor((points + 2) / side).astype(np.int64)
    per_axis = int(4 / side) + 1  # below 2^19, so that the product of three is an int64
    keys = (cells[:, 0] * per_axis + cells[:, 1]) * per_axis + cells[:, 2]
    return np.unique(keys, return_inverse=True)[1]
