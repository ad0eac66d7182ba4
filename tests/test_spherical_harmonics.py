"""Spherical harmonics against scipy, by quadrature on the sphere, and against the 3DGS sign convention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import sph_harm_y

from splax.ops.spherical_harmonics import (
    MAX_SH_DEGREE,
    SH_C0,
    SH_FACTORS,
    eval_sh,
    num_sh_bases,
    rgb_to_sh0,
    sh0_to_rgb,
    sh_bases,
    sh_bases_at,
    sh_degree_of,
)


def make_directions(num=200, seed=0) -> np.ndarray:
    directions = np.random.default_rng(seed).normal(size=(num, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def all_bases(directions: np.ndarray) -> np.ndarray:
    """Every basis function of degree 0 to 3 at unit directions, [N, 16]."""
    others = sh_bases(MAX_SH_DEGREE, jnp.asarray(directions, jnp.float32))
    return np.stack([np.full(len(directions), SH_C0), *others], axis=-1)


def real_harmonic(degree: int, order: int, directions: np.ndarray) -> np.ndarray:
    """Real combination of scipy's complex harmonics, with their Condon-Shortley sign."""
    polar, azimuth = np.arccos(directions[:, 2]), np.arctan2(directions[:, 1], directions[:, 0])
    value = sph_harm_y(degree, abs(order), polar, azimuth)
    if order == 0:
        return value.real
    return np.sqrt(2) * (value.real if order > 0 else value.imag)


def test_bases_as_scipy():
    directions = make_directions()
    bases = all_bases(directions)
    for degree in range(MAX_SH_DEGREE + 1):
        for order in range(-degree, degree + 1):
            expected = real_harmonic(degree, order, directions)
            np.testing.assert_allclose(
                bases[:, degree * (degree + 1) + order], expected, atol=2e-6, err_msg=f"{degree}, {order}"
            )


def test_bases_are_orthonormal():
    # Gauss-Legendre in z times a regular grid in azimuth is exact for products of degree 3.
    z, weights = np.polynomial.legendre.leggauss(8)
    azimuth = np.arange(16) * 2 * np.pi / 16
    ring = np.stack([np.cos(azimuth), np.sin(azimuth)], axis=-1)
    radius = np.sqrt(1 - z**2)
    directions = np.concatenate(
        [radius[:, None, None] * ring, np.broadcast_to(z[:, None, None], (8, 16, 1))], axis=-1
    ).reshape(-1, 3)
    bases = all_bases(directions)
    gram = np.einsum("n,ni,nj->ij", np.repeat(weights, 16) * 2 * np.pi / 16, bases, bases)
    np.testing.assert_allclose(gram, np.eye(16), atol=2e-6)


def test_signs_of_degree_1_are_those_of_3dgs():
    x, y, z = make_directions().T
    c1 = 0.4886025119029199
    np.testing.assert_allclose(all_bases(make_directions())[:, 1:4].T, [-c1 * y, c1 * z, -c1 * x], atol=1e-6)


@pytest.mark.parametrize("degree", range(4))
def test_colors(degree):
    rng = np.random.default_rng(1)
    directions, bases = make_directions(20), num_sh_bases(degree)
    coefficients = rng.normal(scale=0.3, size=(20, bases, 3))
    expected = np.einsum("nk,nkc->nc", all_bases(directions)[:, :bases], coefficients) + 0.5
    assert (expected < 0).any() or degree == 0  # so the clamp is tested too
    coefficients = jnp.asarray(coefficients, jnp.float32)
    lengths = 10 ** rng.uniform(-3, 3, size=(20, 1))
    actual = eval_sh(coefficients[:, :1], coefficients[:, 1:], jnp.asarray(directions * lengths, jnp.float32))
    np.testing.assert_allclose(actual, np.maximum(expected, 0), atol=5e-6)


@pytest.mark.parametrize("active", range(4))
def test_bands_above_the_active_degree_count_as_zero(active):
    rng = np.random.default_rng(2)
    coefficients = jnp.asarray(rng.normal(scale=0.2, size=(20, 16, 3)), jnp.float32)
    directions = jnp.asarray(make_directions(20), jnp.float32)
    count = num_sh_bases(active)
    expected = eval_sh(coefficients[:, :1], coefficients[:, 1:count], directions)

    @jax.jit
    def colors(shN, degree):
        return eval_sh(coefficients[:, :1], shN, directions, degree)

    np.testing.assert_allclose(colors(coefficients[:, 1:], jnp.int32(active)), expected, atol=1e-6)
    gradient = jax.grad(lambda shN: colors(shN, jnp.int32(active)).sum())(coefficients[:, 1:])
    assert not gradient[:, count - 1 :].any()
    assert active == 0 or gradient[:, : count - 1].any()


def test_any_number_of_channels():
    coefficients = jnp.asarray(np.random.default_rng(3).normal(size=(5, 4, 7)), jnp.float32)
    colors = eval_sh(coefficients[:, :1], coefficients[:, 1:], jnp.asarray(make_directions(5), jnp.float32))
    assert colors.shape == (5, 7)


def test_rgb_and_back():
    rgb = jnp.asarray(np.random.default_rng(4).uniform(size=(9, 3)), jnp.float32)
    sh0 = rgb_to_sh0(rgb)
    np.testing.assert_allclose(sh0_to_rgb(sh0), rgb, atol=1e-6)
    directions = jnp.asarray(make_directions(9), jnp.float32)
    np.testing.assert_allclose(eval_sh(sh0[:, None], jnp.zeros((9, 0, 3)), directions), rgb, atol=1e-6)


def test_degrees():
    assert [sh_degree_of(num_sh_bases(degree)) for degree in range(4)] == [0, 1, 2, 3]
    for bases in (0, 2, 15, 25):
        with pytest.raises(ValueError, match=f"{bases} spherical harmonics.*1, 4, 9 or 16"):
            sh_degree_of(bases)


def test_factors_multiply_to_the_basis_functions():
    x, y, z = np.random.default_rng(0).normal(size=(3, 20))
    linear, quadratic = np.stack([x**0, x, y, z]), np.stack([x**0, z, x * x, y * y, z * z, x * y])
    products = [(np.array(a) @ linear) * (np.array(b) @ quadratic) for a, b in SH_FACTORS]
    np.testing.assert_allclose(products, sh_bases_at(3, x, y, z), rtol=1e-12, atol=1e-12)
