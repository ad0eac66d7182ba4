"""Other axes for Gaussians: mirrors of single coordinates, as files of other conventions need."""

import math

import numpy as np

from splax.io.splat_arrays import SplatArrays

# The axes in which each basis function of degree 1 to 3 is odd.
_ODD_AXES = (
    "y", "z", "x",
    "xy", "yz", "", "xz", "",
    "y", "xyz", "y", "z", "x", "z", "x",
)  # fmt: skip


def flip_axes(arrays: SplatArrays, signs: tuple[int, int, int]) -> SplatArrays:
    """The same Gaussians in a world whose axes x, y, z point the other way where ``signs`` holds -1."""
    x, y, z = signs
    sign_of = dict(zip("xyz", signs, strict=True))
    sh_signs = [math.prod(sign_of[axis] for axis in axes) for axes in _ODD_AXES[: arrays.shN.shape[1]]]
    return arrays.replace(
        means=arrays.means * np.array(signs, np.float32),
        # S R S, of the mirror S = diag(signs) and the rotation R, is the rotation of this quaternion.
        quats=arrays.quats * np.array([1, y * z, x * z, x * y], np.float32),
        shN=arrays.shN * np.asarray(sh_signs, np.float32)[:, None],
    )
