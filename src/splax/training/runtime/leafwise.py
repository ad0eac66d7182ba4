"""Replaces a state by a new one, a group of leaves at a time, so that memory never holds both as a whole."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from splax.training.runtime.compiled import compile_lowered, program_key
from splax.training.state import TrainState

# A leaf with more than this share of the bytes is a group by itself.
_LARGE = 1 / 8

LeafGroup = tuple[int, ...]
"""Indices of some leaves of a state."""


def replace_leafwise(
    change: Callable[[Any], TrainState], state: TrainState, plan: PyTree[Array]
) -> TrainState:
    """``change(plan)``, for a compiled program that overwrites the old state by a new one of the same shapes.

    On a GPU no group of leaves begins before the previous one ends. Without these barriers, XLA would move the
    rows of all arrays of one shape in a single kernel there, which needs memory for all of them in addition to the
    state. XLA for a CPU drops the barriers.

    Args:
        change: function that makes the new state; leaves that it does not change must be those of ``state``.
        state: the old state.
        plan: all other arrays that the new state depends on.
    """
    old, new = jax.tree.leaves(state), jax.tree.leaves(state)
    for group in leaf_groups(state):
        results = jax.tree.leaves(change(plan))
        changed = {index: results[index] for index in group if results[index] is not old[index]}
        plan, changed = jax.lax.optimization_barrier((plan, changed))
        for index, leaf in changed.items():
            new[index] = leaf
    return jax.tree.unflatten(jax.tree.structure(state), new)


class LeafwiseFunction:
    """A function from a state to one of the same structure and other shapes, as several compiled programs.

    Each leaf of the new state may depend on the same leaf of the old one and on the Params, as the slots of an
    optimizer do.

    Args:
        function: function to compile, which takes the state first.
        static_argnames: names of the function's other arguments, which are passed by keyword.
    """

    def __init__(self, function: Callable[..., TrainState], *, static_argnames: tuple[str, ...]) -> None:
        def some_leaves(inside: list[Any], outside: list[Any], *, group: LeafGroup, **static: Any) -> Any:
            leaves = list(outside)
            for index, leaf in zip(group, inside, strict=True):
                leaves[index] = leaf
            result = jax.tree.leaves(function(jax.tree.unflatten(self._structure, leaves), **static))
            return [result[index] for index in group]

        self._jitted = jax.jit(some_leaves, static_argnames=("group", *static_argnames))
        self._structure: Any = None
        self._compiled: dict[Any, list[tuple[LeafGroup, Any]]] = {}

    def compile(self, state: TrainState, **static: Any) -> Callable[[TrainState], TrainState]:
        """The compiled function for states of these shapes; compiles it at the first call.

        A call frees the buffers of the old state, one after the other.
        """
        key = program_key(state, static)
        if key not in self._compiled:
            self._structure = jax.tree.structure(state)
            self._compiled[key] = [
                (group, self._program(group, state, **static)) for group in leaf_groups(state)
            ]
        return functools.partial(_run, self._compiled[key])

    def _program(self, group: LeafGroup, state: TrainState, **static: Any) -> Any:
        return compile_lowered(
            self._jitted.lower(*_apart(group, jax.tree.leaves(state)), group=group, **static)
        )


def leaf_groups(state: TrainState) -> list[LeafGroup]:
    """The groups of leaves in the order in which they are replaced: large leaves alone, all others together.

    Large Params come last, because the optimizer may look at them to begin a slot.
    """
    leaves = jax.tree.leaves(state)
    total, num_params = sum(leaf.nbytes for leaf in leaves), len(jax.tree.leaves(state.params))
    large = [index for index, leaf in enumerate(leaves) if leaf.nbytes > _LARGE * total]
    rest = tuple(index for index in range(len(leaves)) if index not in large)
    slots = [(index,) for index in large if index >= num_params]
    params = [(index,) for index in large if index < num_params]
    return [*slots, rest, *params]


def _run(programs: list[tuple[LeafGroup, Any]], state: TrainState) -> TrainState:
    old, structure = jax.tree.flatten(state)
    new: list[Any] = [None] * len(old)
    for group, program in programs:
        for index, leaf in zip(group, program(*_apart(group, old)), strict=True):
            new[index] = leaf
            _give_back(old[index], leaf)
    return jax.tree.unflatten(structure, new)


def _apart(group: LeafGroup, leaves: list[Any]) -> tuple[list[Any], list[Any]]:
    """The leaves inside the group, and the list of all leaves with None in the places of these."""
    return [leaves[index] for index in group], [
        None if index in group else leaf for index, leaf in enumerate(leaves)
    ]


def _give_back(old: Any, new: Any) -> None:
    """Frees the old array, unless the new one has the same memory because nothing changed."""
    if old is new or old.is_deleted() or jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
        return
    if old.unsafe_buffer_pointer() != new.unsafe_buffer_pointer():
        old.delete()
