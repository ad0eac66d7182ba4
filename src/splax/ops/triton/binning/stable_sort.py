"""Stable sorts by CUB, of one list or of a batch of them.

XLA sorts a batch with a sorting network, which takes more than half of the time of three views at 1080p. So the
lists of a batch are sorted as one list if their keys leave room for the number of the list, or else one after
the other.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# 16-bit keys sort twice as fast as 32-bit ones.
_KEYS = 2**16
# Up to this number of elements, launching sorts takes longer than sorting.
_FEW = 2**20
# Up to this number, the sorts of a batch are unrolled; more become a loop, or programs would grow with the
# batch.
_MOST_SORTS = 16


def stable_sort(keys: jax.Array, values: jax.Array, bound: int | None = None) -> tuple[jax.Array, jax.Array]:
    """Sorts by the keys; items with equal keys stay in order.

    Args:
        keys: unsigned integers, [M].
        values: values that go with the keys, [M] int32.
        bound: integer above all keys; None if there is no known bound.
    """

    @jax.custom_batching.custom_vmap
    def of_views(keys: jax.Array, values: jax.Array) -> Any:
        return _sort_each(keys, values, bound)

    @of_views.def_vmap
    def _(batch: int, is_batched: Any, *args: jax.Array) -> tuple[Any, tuple[bool, bool]]:
        args = tuple(
            x if batched else jnp.broadcast_to(x, (batch, *x.shape))
            for x, batched in zip(args, is_batched, strict=True)
        )
        # In a batch of batches, too, all lists are numbered.
        lists = of_views(*(x.reshape(-1, x.shape[-1]) for x in args))
        return tuple(x.reshape(batch, -1, x.shape[-1]) for x in lists), (True, True)

    sorted_keys, sorted_values = of_views(keys[None], values[None])
    return sorted_keys[0], sorted_values[0]


def _sort_each(keys, values, bound):
    """Sorts each row, [V, M]."""
    num_lists = len(keys)
    if num_lists == 1:
        sorted_keys, sorted_values = _sort_one(keys[0], values[0])
        return sorted_keys[None], sorted_values[None]
    if bound is not None and num_lists * bound <= _KEYS:
        return _sort_as_one(keys, values, bound)
    if keys.size <= _FEW and num_lists < _KEYS:
        return _sort_twice(keys, values)
    if num_lists > _MOST_SORTS:
        return lax.map(lambda pair: _sort_one(*pair), (keys, values))
    # A loop would run further kernels around each sort: slices, updates, and the condition of the loop.
    each = [_sort_one(*pair) for pair in zip(keys, values, strict=True)]
    return tuple(jnp.stack(lists) for lists in zip(*each, strict=True))


def _sort_one(keys, values):
    return tuple(lax.sort((keys, values), num_keys=1, is_stable=True))


def _sort_as_one(keys, values, bound):
    """Sorts all lists as one, with the number of the list in front of the key."""
    number = jnp.arange(len(keys), dtype=jnp.uint16)[:, None] * jnp.uint16(bound)
    lists = _sort_one((keys.astype(jnp.uint16) + number).reshape(-1), values.reshape(-1))
    sorted_keys, sorted_values = (x.reshape(keys.shape) for x in lists)
    return (sorted_keys - number).astype(keys.dtype), sorted_values


def _sort_twice(keys, values):
    """Sorts all lists as one by the key, then by the number of the list."""
    places = _sort_one(keys.reshape(-1), jnp.arange(keys.size, dtype=jnp.int32))[1]
    places = _sort_one((places // keys.shape[1]).astype(jnp.uint16), places)[1]
    return tuple(x.reshape(-1)[places].reshape(keys.shape) for x in (keys, values))
