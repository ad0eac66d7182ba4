"""Rotations as quaternions, wxyz, stored unnormalised and normalised on use."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def normalize_quats(quats: Float[Array, "*batch 4"]) -> Float[Array, "*batch 4"]:
    """Unit quaternions, [..., 4]. A zero quaternion gives NaN: callers mask it out first."""
    return quats / jnp.linalg.norm(quats, axis=-1, keepdims=True)


def quat_to_rotmat(quats: Float[Array, "*batch 4"]) -> Float[Array, "*batch 3 3"]:
    """Rotation matrices, [..., 3, 3], of quaternions wxyz of any length but zero."""
    w, x, y, z = jnp.moveaxis(normalize_quats(quats), -1, 0)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def quat_scale_to_covar(
    quats: Float[Array, "*batch 4"], scales: Float[Array, "*batch 3"]
) -> Float[Array, "*batch 3 3"]:
    """Covariances R S S^T R^T, [..., 3, 3], of activated scales (Kerbl et al. 2023, eq. 6)."""
    half = quat_to_rotmat(quats) * scales[..., None, :]
    return jnp.matmul(half, jnp.swapaxes(half, -1, -2), precision=jax.lax.Precision.HIGHEST)
