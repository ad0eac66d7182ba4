"""Colours by spherical harmonics inside kernels: sixteen lanes a Gaussian, one basis function each.

The coefficients of a Gaussian lie side by side, so the lanes read, and write, whole stretches of memory. Each
basis function is the product of two polynomials (:data:`SH_FACTORS`), whose coefficients its lane holds.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from splax.ops.spherical_harmonics import SH_FACTORS
from splax.ops.triton.lanes.warp import LANES, Warp, lanes, load, store, zeros

_GROUP = 16
_RGB = 3
# Gaussians of each half of the warp that are read at once, to wait for memory less often, and summed at once.
_AT_ONCE = 4
_NUM_LINEAR = 4


class Basis(NamedTuple):
    """The basis function of each lane, 0 in lanes and bands that are not in use.

    Attributes:
        linear: coefficients of 1, x, y and z in the first factor, [32] each.
        quadratic: coefficients of 1, z, xx, yy, zz and xy in the second factor, [32] each.
    """

    linear: list[jax.Array]
    quadratic: list[jax.Array]

    def at(self, x, y, z, *, warp: Warp):
        """Returns the value at a unit direction."""
        first, second = self._factors(x, y, z, warp)
        return first * second

    def with_slopes(self, x, y, z, *, warp: Warp):
        """Returns the value at a unit direction, and its derivatives by the three coordinates."""
        first, second = self._factors(x, y, z, warp)
        _, of_z, of_xx, of_yy, of_zz, of_xy = self.quadratic
        slopes = (
            warp.fma(2 * of_xx, x, of_xy * y),
            warp.fma(2 * of_yy, y, of_xy * x),
            warp.fma(2 * of_zz, z, of_z),
        )
        by_product = [warp.fma(second, a, first * b) for a, b in zip(self.linear[1:], slopes, strict=True)]
        return first * second, by_product

    def _factors(self, x, y, z, warp):
        """Returns the two factors at a unit direction."""
        forms = (x, y, z), (z, x * x, y * y, z * z, x * y)
        return [
            functools.reduce(
                lambda total, pair: warp.fma(*pair, total),
                zip(weights[1:], of_point, strict=True),
                weights[0],
            )
            for weights, of_point in zip((self.linear, self.quadratic), forms, strict=True)
        ]


def basis_table() -> jax.Array:
    """Returns the table that :func:`read_basis` reads; it is an argument of the kernels."""
    table = np.zeros((_GROUP, _NUM_LINEAR + 6), np.float32)
    for row, (linear, quadratic) in zip(table, SH_FACTORS, strict=False):
        row[:] = (*linear, *quadratic)
    return jnp.asarray(table.T.reshape(-1))


def read_basis(table, num_bases: int, active_degree) -> Basis:
    """Reads the basis functions up to the active degree."""
    index = lanes() % _GROUP
    band = 1 + (index >= 3).astype(jnp.int32) + (index >= 8).astype(jnp.int32)
    in_use = (index < num_bases) & (band <= active_degree)
    rows = [load(table, row * _GROUP + index, in_use) for row in range(_NUM_LINEAR + 6)]
    return Basis(rows[:_NUM_LINEAR], rows[_NUM_LINEAR:])


def sum_harmonics(shN, num_bases: int, basis: Basis, direction, base, wanted, warp: Warp) -> list[jax.Array]:
    """Returns three colour channels without the constant part; NaN where a coefficient is not finite.

    Args:
        shN: reference to the coefficients, flat [N, K, 3].
        num_bases: number of coefficients of a channel, K.
        basis: basis functions of the lanes.
        direction: unit vectors from the camera to the lanes' Gaussians, three arrays [32].
        base: row of lane 0's Gaussian.
        wanted: mask of the lanes whose colour is needed; the others get 0.
        warp: warp that the lanes belong to.
    """
    wanted = wanted.astype(jnp.int32)

    def terms_of(nth):
        owner = _owner(nth)
        value_of_basis = basis.at(*(warp.from_lane(value, owner) for value in direction), warp=warp)
        places, exists = _places(base + owner, num_bases)
        exists &= warp.from_lane(wanted, owner) != 0
        return [value_of_basis * load(shN, place, exists) for place in places]

    return _sum_all(terms_of, jnp.max(wanted) * (_GROUP // _AT_ONCE), warp)


class Coefficients(NamedTuple):
    """References to coefficients of all bands but the first, and to their gradients.

    Attributes:
        values: coefficients, flat [N, K, 3].
        gradients: gradients of the coefficients, which are written, flat [N, K, 3].
        num: number of Gaussians, N.
        num_bases: number of coefficients of a channel, K.
    """

    values: Any
    gradients: Any
    num: int
    num_bases: int


def harmonics_gradients(
    shN: Coefficients, basis: Basis, direction, v_color, base, wanted, warp: Warp
) -> list[jax.Array]:
    """Writes the gradients of all coefficients; returns those of the directions.

    Args:
        shN: coefficients and their gradients.
        basis: basis functions of the lanes.
        direction: unit vectors from the camera to the lanes' Gaussians, three arrays [32].
        v_color: cotangents of the colours, three arrays [32]; 0 where a Gaussian is not drawn.
        base: row of lane 0's Gaussian.
        wanted: mask of the lanes whose direction needs a gradient.
        warp: warp that the lanes belong to.
    """
    wanted = wanted.astype(jnp.int32)

    def terms_of(nth):
        owner = _owner(nth)
        at = [warp.from_lane(value, owner) for value in direction]
        v = [warp.from_lane(value, owner) for value in v_color]
        value_of_basis, slopes = basis.with_slopes(*at, warp=warp)
        places, exists = _places(base + owner, shN.num_bases)
        read = exists & (warp.from_lane(wanted, owner) != 0)
        v_basis = zeros()
        for place, v_q in zip(places, v, strict=True):
            v_basis = warp.fma(v_q, load(shN.values, place, read), v_basis)
            store(shN.gradients, place, value_of_basis * v_q, exists & (base + owner < shN.num))
        return [v_basis * slope for slope in slopes]

    return _sum_all(terms_of, _GROUP // _AT_ONCE, warp)


def _owner(nth):
    """Returns the lane whose Gaussian is treated now; each half of the warp treats one Gaussian."""
    return lanes() // _GROUP * _GROUP + nth


def _places(gaussian, num_bases):
    """Returns the places of the coefficients of the lane's basis function, and whether it has any."""
    index = lanes() % _GROUP
    return [(gaussian * num_bases + index) * _RGB + q for q in range(_RGB)], index < num_bases


def _sum_all(terms_of, turns, warp):
    """Returns three sums over the basis functions for each lane's Gaussian; a turn treats four of each half."""

    def some(turn, totals):
        terms = [terms_of(turn * _AT_ONCE + part) for part in range(_AT_ONCE)]
        mine = lanes() % _GROUP // _AT_ONCE == turn
        sums = [_sum_groups(values, warp) for values in zip(*terms, strict=True)]
        return [jnp.where(mine, value, total) for value, total in zip(sums, totals, strict=True)]

    return lax.fori_loop(0, turns, some, [zeros()] * _RGB)


def _sum_groups(values, warp):
    """Sums each of four values over sixteen lanes; the last two bits of a lane's index number the sum it gets."""
    total = warp.exchange(*(warp.exchange(values[k], values[k + 2], 2) for k in range(2)), 1)
    for distance in (4, 8):
        total = total + warp.across(total, distance)
    return total


assert LANES == 2 * _GROUP and _AT_ONCE == 4
