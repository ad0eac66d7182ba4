"""Searches in ascending integers, inside kernels."""

import jax.numpy as jnp
from jax import lax

from splax.ops.triton.lanes.warp import LANES, Warp, full, lanes, load


def lower_bounds(value_at, low, high, longest: int, targets: list) -> list:
    """Returns the first index in [low, high) whose value is not below each target; ``high`` if there is none.

    Each lane searches for several targets at once, so that loads for one do not wait for those of another.

    Args:
        value_at: ascending integers, as a function of the indices and of the mask of lanes that need a value.
        low: first index of each lane's range, [32].
        high: end of each lane's range, [32].
        longest: largest length of a range.
        targets: targets of each lane, arrays [32].
    """

    def halve(_, bounds):
        middles = [low + ((high - low) >> 1) for low, high in bounds]
        values = [
            value_at(middle, low < high).astype(jnp.int32)
            for middle, (low, high) in zip(middles, bounds, strict=True)
        ]
        halves = []
        for value, target, middle, (low, high) in zip(values, targets, middles, bounds, strict=True):
            below = (value < target) & (low < high)
            halves.append((jnp.where(below, middle + 1, low), jnp.where(below, high, middle)))
        return halves

    bounds = [(low, high)] * len(targets)
    return [low for low, _ in lax.fori_loop(0, int(longest).bit_length(), halve, bounds)]


def shared_lower_bound(values, length: int, target, warp: Warp, end=None):
    """Returns the first index whose value is not below a target that all lanes share; ``length`` if there is none.

    The lanes look at 32 places at once, so four or five loads wait for each other instead of twenty.

    Args:
        values: reference to ascending integers.
        length: number of values.
        target: the target, in all lanes.
        warp: warp that the lanes belong to.
        end: number of values that count, in all lanes, at most ``length``; None for ``length``. If it is given, it
            is returned where no value among the first ``end`` fits.
    """
    low, size, end = full(0), length, length if end is None else end
    while size > 0:
        step = -(-size // LANES)
        last = low + (lanes() + 1) * step - 1  # of each lane's share
        below = load(values, last, last < end) < target
        num_below = lax.population_count(warp.ballot(below & (last < end)))
        low, size = low + num_below * step, step if step > 1 else 0
    return low
