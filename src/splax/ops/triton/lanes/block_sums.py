"""Sums of a kernel's blocks, as a later kernel needs them: of all blocks before its own, and of all.

XLA's cumsum is two or three launches, which take longer than each program takes to add up some hundred sums.
"""

import jax
import jax.numpy as jnp
from jax import lax

from splax.ops.triton.lanes.warp import LANES, load

# All programs read all sums: with more blocks than this a cumsum costs less.
_MOST_BLOCKS = 1024
# Sums loaded before the first is used, 8 a lane.
_AT_ONCE = 8 * LANES


def combine(sums: jax.Array) -> jax.Array:
    """Prepares the sums of all blocks, [B] int32, for :func:`before_and_total`."""
    return sums if sums.shape[0] <= _MOST_BLOCKS else jnp.cumsum(sums, dtype=jnp.int32)


def before_and_total(combined, block):
    """Inside a kernel: returns the sum of the blocks before ``block``, and that of all; both may wrap around."""
    num = combined.shape[0]
    if num > _MOST_BLOCKS:
        return jnp.where(block > 0, combined[jnp.maximum(block - 1, 0)], 0), combined[num - 1]

    def add(index, values, sums):
        before, total = sums
        return before + jnp.where(index < block, values, 0), total + values

    zero = jnp.zeros(_AT_ONCE, jnp.int32)
    before, total = _fold(combined, add, (zero, zero))
    return jnp.sum(before), jnp.sum(total)


def sum_all(values):
    """Inside a kernel: returns the sum of a flat array."""
    return jnp.sum(_fold(values, lambda _, some, total: total + some, jnp.zeros(_AT_ONCE, values.dtype)))


def _fold(array, add, start):
    """Calls ``add(index, values, state)`` for all of a flat array, with zeros behind its end."""

    def turn(nth, state):
        index = nth * _AT_ONCE + lax.iota(jnp.int32, _AT_ONCE)
        return add(index, load(array, index, index < array.shape[0]), state)

    return lax.fori_loop(0, -(-array.shape[0] // _AT_ONCE), turn, start)
