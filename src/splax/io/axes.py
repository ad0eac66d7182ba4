"""Mirrors axes of Gaussians, for files whose axes point the other way."""

import math

import numpy as np

from splax.io.splat_arrays import SplatArrays

# The axes in which each basis function of degree 1 to 3 is odd: it changes sign when one of them is mirrored.
_ODD_AXES = (
    "y", "z", "x",
    "xy", "yz", "", "xz", "",
    "y", "xyz", "y", "z", "x", "z", "x",
)  # fmt: skip


def flip_axes(arrays: SplatArrays, signs: tuple[int, int, int]) -> SplatArrays:
    """The same Gaussians in a world with mirrored axes.

    Args:
        arrays: Gaussians to mirror.
        signs: sign for each of the axes x, y and z: -1 for an axis that points the other way, else 1.
    """
    x, y, z = signs
    sign_of = dict(zip("xyz", signs, strict=True))
    sh_signs = [math.prod(sign_of[axis] for axis in axes) for axes in _ODD_AXES[: arrays.shN.shape[1]]]
    return arrays.replace(
        means=arrays.means * np.array(signs, np.float32),
        # This quaternion has the rotation S R S, where S = diag(signs) is the mirror and R the rotation.
        quats=arrays.quats * np.array([1, y * z, x * z, x * y], np.float32),
        shN=arrays.shN * np.asarray(sh_signs, np.float32)[:, None],
    )
