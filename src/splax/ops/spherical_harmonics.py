"""Colours that depend on the direction of view, as real spherical harmonics of degree 0 to 3.

Signs and order are those of the 3DGS file layout (Kerbl et al. 2023): degree 1 is ``(-y, z, -x)``.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MAX_SH_DEGREE = 3
SH_C0 = 0.28209479177387814
_C1 = 0.4886025119029199
_C2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
_C3 = (0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154, 1.445305721320277)

# Each of :func:`sh_bases` as a product of two polynomials: coefficients of (1, x, y, z), and of (1, z, xx, yy, zz,
# xy). For kernels in which a basis function is data.
SH_FACTORS = (
    ((0, 0, -_C1, 0), (1, 0, 0, 0, 0, 0)),
    ((0, 0, 0, _C1), (1, 0, 0, 0, 0, 0)),
    ((0, -_C1, 0, 0), (1, 0, 0, 0, 0, 0)),
    ((_C2[0], 0, 0, 0), (0, 0, 0, 0, 0, 1)),
    ((0, 0, -_C2[0], 0), (0, 1, 0, 0, 0, 0)),
    ((_C2[1], 0, 0, 0), (0, 0, -1, -1, 2, 0)),
    ((0, -_C2[0], 0, 0), (0, 1, 0, 0, 0, 0)),
    ((_C2[2], 0, 0, 0), (0, 0, 1, -1, 0, 0)),
    ((0, 0, -_C3[0], 0), (0, 0, 3, -1, 0, 0)),
    ((0, 0, 0, _C3[1]), (0, 0, 0, 0, 0, 1)),
    ((0, 0, -_C3[2], 0), (0, 0, -1, -1, 4, 0)),
    ((0, 0, 0, _C3[3]), (0, 0, -3, -3, 2, 0)),
    ((0, -_C3[2], 0, 0), (0, 0, -1, -1, 4, 0)),
    ((0, 0, 0, _C3[4]), (0, 0, 1, -1, 0, 0)),
    ((0, -_C3[0], 0, 0), (0, 0, 1, -3, 0, 0)),
)


def check_sh_degree(degree: int) -> None:
    """Checks the degree of a colour.

    Raises:
        ValueError: if the degree is not 0, 1, 2 or 3.
    """
    if not 0 <= degree <= MAX_SH_DEGREE:
        raise ValueError(f"sh_degree must be 0 to {MAX_SH_DEGREE}, got {degree}.")


def num_sh_bases(degree: int) -> int:
    """Returns the number of basis functions up to ``degree``, (degree + 1)^2."""
    return (degree + 1) ** 2


def sh_degree_of(num_bases: int) -> int:
    """Returns the degree that has ``num_bases`` basis functions.

    Raises:
        ValueError: if no degree of 0 to 3 has that many.
    """
    for degree in range(MAX_SH_DEGREE + 1):
        if num_sh_bases(degree) == num_bases:
            return degree
    raise ValueError(
        f"{num_bases} spherical harmonics coefficients fit no degree of 0 to {MAX_SH_DEGREE}; "
        "expected 1, 4, 9 or 16 (shN holds one fewer)."
    )


def rgb_to_sh0(rgb: Float[Any, "*batch 3"]) -> Float[Any, "*batch 3"]:
    """Returns the coefficients of degree 0 whose colour is ``rgb``, in [0, 1], from all directions."""
    return (rgb - 0.5) / SH_C0


def sh0_to_rgb(sh0: Float[Any, "*batch 3"]) -> Float[Any, "*batch 3"]:
    """Returns the mean colour of coefficients of degree 0; the inverse of :func:`rgb_to_sh0`."""
    return sh0 * SH_C0 + 0.5


def sh_bases(degree: int, directions: Float[Array, "*batch 3"]) -> list[Float[Array, "*batch"]]:
    """Returns the basis functions at unit directions but the constant one: (degree + 1)^2 - 1 arrays."""
    return sh_bases_at(degree, directions[..., 0], directions[..., 1], directions[..., 2])


def sh_bases_at(degree: int, x, y, z) -> list:
    """Returns :func:`sh_bases` for separate coordinates x, y and z of unit directions."""
    xx, yy, zz = x * x, y * y, z * z
    bases = []
    if degree >= 1:
        bases += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree >= 2:
        bases += [
            _C2[0] * x * y,
            -_C2[0] * y * z,
            _C2[1] * (2 * zz - xx - yy),
            -_C2[0] * x * z,
            _C2[2] * (xx - yy),
        ]
    if degree >= 3:
        bases += [
            -_C3[0] * y * (3 * xx - yy),
            _C3[1] * x * y * z,
            -_C3[2] * y * (4 * zz - xx - yy),
            _C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            -_C3[2] * x * (4 * zz - xx - yy),
            _C3[4] * z * (xx - yy),
            -_C3[0] * x * (xx - 3 * yy),
        ]
    return bases


def band_of(index: int) -> int:
    """Returns the degree of the basis function at ``index`` of :func:`sh_bases`; bands begin at 0, 3 and 8."""
    return int((index + 1) ** 0.5)


def eval_sh(
    sh0: Float[Array, "n 1 c"],
    shN: Float[Array, "n k c"],
    directions: Float[Array, "n 3"],
    active_degree: Int[Array, ""] | int | None = None,
) -> Float[Array, "n c"]:
    """Returns the colours max(SH + 0.5, 0), [N, C].

    Args:
        sh0: coefficients of degree 0, [N, 1, C].
        shN: coefficients of the higher degrees, [N, (degree + 1)^2 - 1, C].
        directions: vectors from the camera to each Gaussian in the world, [N, 3], of any length but zero.
        active_degree: highest degree that counts; None for all. It is data, so that a change does not recompile.
    """
    degree = sh_degree_of(shN.shape[1] + 1)
    color = SH_C0 * sh0[:, 0]
    if degree > 0:
        directions = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
    for index, basis in enumerate(sh_bases(degree, directions)):
        if active_degree is not None:
            basis = jnp.where(band_of(index) <= active_degree, basis, 0)
        color = color + basis[:, None] * shN[:, index]
    return jnp.maximum(color + 0.5, 0)
