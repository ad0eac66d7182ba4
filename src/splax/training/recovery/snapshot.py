"""States of a run as plain arrays on the host, to go back to and to save in checkpoints."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path
from jaxtyping import PyTree, Shaped

from splax.training.state import TrainState

Arrays = dict[str, Shaped[np.ndarray, "*shape"]]


class Snapshot(NamedTuple):
    """A copy of a state on the host.

    Attributes:
        arrays: arrays of the state, by their path in the state.
        like: shapes and dtypes of the state.
    """

    arrays: Arrays
    like: TrainState

    @classmethod
    def take(cls, state: TrainState) -> Snapshot:
        """Copies a state; later changes to the state do not change the copy."""
        return cls(to_arrays(state), shapes_of(state))

    def state(self) -> TrainState:
        """The state, on the device again."""
        return to_state(self.arrays, self.like)


def shapes_of(state: TrainState) -> TrainState:
    """The state with shapes and dtypes instead of arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)


def to_arrays(state: PyTree) -> Arrays:
    """Copies of all arrays on the host, by their path in the state; random keys become arrays of numbers."""
    leaves = tree_flatten_with_path(state)[0]
    for _, leaf in leaves:
        if not _is_key(leaf):
            leaf.copy_to_host_async()  # all copies start before the first is waited for
    return {keystr(path): _to_host(leaf) for path, leaf in leaves}


def to_state(arrays: Arrays, like: Any) -> Any:
    """The inverse of :func:`to_arrays`.

    Args:
        arrays: arrays of a state, by their path in the state.
        like: a state of the same shapes, or its :func:`shapes_of`.
    """
    leaves, structure = tree_flatten_with_path(like)
    return jax.tree.unflatten(structure, [_to_device(arrays[keystr(path)], leaf) for path, leaf in leaves])


def array_shapes(like: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each array that :func:`to_arrays` makes of a state like this, by the array's path."""
    described = {}
    for path, leaf in tree_flatten_with_path(like)[0]:
        data = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        described[keystr(path)] = (tuple(data.shape), str(data.dtype))
    return described


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(leaf: Any) -> np.ndarray:
    data = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    # An array on a CPU is copied: numpy would share the buffer, and the next step writes to it. From another
    # device numpy gets a copy in any case.
    on_cpu = any(device.platform == "cpu" for device in data.devices())
    return np.array(data) if on_cpu else np.asarray(data)


def _to_device(array: np.ndarray, like: Any) -> jax.Array:
    device = jnp.array(array)  # a copy, for the same reason
    return jax.random.wrap_key_data(device) if _is_key(like) else device
