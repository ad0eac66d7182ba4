"""Quaternions against scipy's rotations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from splax.ops.quaternions import normalize_quats, quat_scale_to_covar, quat_to_rotmat


def make_quats(*shape: int) -> np.ndarray:
    """Random quaternions wxyz, lengths from 0.01 to 100."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(*shape, 4)) * 10 ** rng.uniform(-2, 2, size=(*shape, 1))).astype(np.float32)


def test_rotation_matrices_as_scipy():
    quats = make_quats(500)
    expected = Rotation.from_quat(quats, scalar_first=True).as_matrix()
    np.testing.assert_allclose(quat_to_rotmat(jnp.asarray(quats)), expected, atol=2e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_quarter_turns(axis):
    quat = np.zeros(4, np.float32)
    quat[0] = quat[1 + axis] = np.sqrt(0.5)
    # Counter-clockwise seen against the axis: the next axis turns into the one after it.
    following, after = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3]
    np.testing.assert_allclose(quat_to_rotmat(jnp.asarray(quat)) @ following, after, atol=1e-6)


def test_batches_signs_and_lengths():
    quats = jnp.asarray(make_quats(2, 3))
    rotations = quat_to_rotmat(quats)
    assert rotations.shape == (2, 3, 3, 3)
    np.testing.assert_allclose(rotations[1, 2], quat_to_rotmat(quats[1, 2]), atol=1e-6)
    np.testing.assert_allclose(quat_to_rotmat(-7 * quats), rotations, atol=2e-6)
    np.testing.assert_allclose(jnp.linalg.norm(normalize_quats(quats), axis=-1), 1, atol=1e-6)


def test_covariances_have_the_scales_along_the_axes():
    quats = make_quats(50)
    scales = np.random.default_rng(1).uniform(0.1, 2, size=(50, 3)).astype(np.float32)
    covars = quat_scale_to_covar(jnp.asarray(quats), jnp.asarray(scales))
    rotations = Rotation.from_quat(quats, scalar_first=True).as_matrix()
    expected = np.einsum("nij,nj,nkj->nik", rotations, scales**2, rotations)
    np.testing.assert_allclose(covars, expected, atol=1e-5)


def test_gradient_is_tangent_to_the_sphere():
    """The length of a quaternion changes nothing, so no gradient points along it."""
    quats = jnp.asarray(make_quats(20))
    weights = jnp.asarray(np.random.default_rng(2).normal(size=(20, 3, 3)), jnp.float32)
    gradient = jax.grad(lambda q: (weights * quat_to_rotmat(q)).sum())(quats)
    lengths = jnp.linalg.norm(quats, axis=1) * jnp.linalg.norm(gradient, axis=1)
    np.testing.assert_allclose((gradient * quats).sum(axis=1) / lengths, 0, atol=1e-5)
