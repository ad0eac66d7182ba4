"""Searches in ascending integers, inside kernels."""

import jax.numpy as jnp
from jax import lax

from splax.ops.triton.lanes.warp import LANES, Warp, full, lanes, load


def lower_bounds(value_at, low, high, longest: int, targets: list) -> list:
    """First index in [low, high) whose value is not below each target; ``high`` if there is none.

    Several targets a lane at once: loads of one do not wait for those of another.

    Args:
        value_at: ascending integers, as a function of the index and of where it is wanted.
        low: begin of each lane's range.
        high: end of each lane's range.
        longest: no range is longer.
        targets: what each lane looks for.
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
    """First index whose value is not below a target that all lanes share; ``length`` if there is none.

    If only the first ``end`` values count, that is given, in place of ``length``, if there is none among them.
    Lanes look at 32 places at once, so four or five loads wait for each other and not twenty.
    """
    low, size, end = full(0), length, length if end is None else end
    while size > 0:
        step = -(-size // LANES)
        last = low + (lanes() + 1) * step - 1  # of each lane's share
        below = load(values, last, last < end) < target
        num_below = lax.population_count(warp.ballot(below & (last < end)))
        low, size = low + num_below * step, step if step > 1 else 0
    return low
