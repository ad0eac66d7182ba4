"""Small rigid motions of cameras as six numbers: a rotation vector and a translation."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

# Squared angle, rad^2, below which the series is as exact as the formula; unlike that, it has a derivative at 0.
_SMALL = 1e-4


def rotation(vector: Float[Array, " 3"]) -> Float[Array, "3 3"]:
    """The rotation about a vector by its length in radians (Rodrigues), [3, 3]; differentiable at 0 as well."""
    squared = (vector * vector).sum()
    small = squared < _SMALL
    angle = jnp.sqrt(jnp.where(small, 1.0, squared))
    first = jnp.where(small, 1 - squared / 6 + squared**2 / 120, jnp.sin(angle) / angle)
    second = jnp.where(small, 0.5 - squared / 24 + squared**2 / 720, (1 - jnp.cos(angle)) / angle**2)
    x, y, z = vector
    zero = jnp.zeros_like(x)
    cross = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    # cross^2 without a matrix product, whose precision may be low on a GPU.
    square = vector[:, None] * vector[None, :] - squared * jnp.eye(3, dtype=vector.dtype)
    return jnp.eye(3, dtype=vector.dtype) + first * cross + second * square


def move_camera(viewmat: Float[Array, "4 4"], motion: Float[Array, " 6"]) -> Float[Array, "4 4"]:
    """The view matrix of a camera that is turned about its centre and then shifted.

    Args:
        viewmat: world-to-camera transform, [4, 4].
        motion: rotation vector in radians, then translation of the camera's centre in world units, both along the
            axes of the world, [6].

    Returns:
        World-to-camera transform, [4, 4].
    """
    turned = _product(viewmat[:3, :3], rotation(-motion[:3]))
    # The centre c obeys R c + t = 0.
    centre = -_product(viewmat[:3, :3].T, viewmat[:3, 3:])[:, 0] + motion[3:]
    translation = -_product(turned, centre[:, None])
    return viewmat.at[:3, :3].set(turned).at[:3, 3:].set(translation)


def _product(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    return (a[:, :, None] * b[None]).sum(axis=1)
