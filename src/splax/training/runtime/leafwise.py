"""Makes a new state out of an old one a part at a time, so that the two never lie whole beside each other."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from splax.training.runtime.compiled import compile_lowered, program_key
from splax.training.state import TrainState

# A leaf with more than this share of the bytes is a part by itself.
_LARGE = 1 / 8

Part = tuple[int, ...]
"""Leaves of a state, by their places."""


def in_turn(change: Callable[[Any], TrainState], state: TrainState, plan: PyTree[Array]) -> TrainState:
    """``change(plan)``, for a compiled program that puts the new state in place of the old, of like shapes.

    No part begins before the last one ends, on a GPU. Left to itself XLA moves the rows of all arrays of one shape
    in a single kernel there, and so needs memory for all of them beside the state. On a CPU barriers are dropped.

    Args:
        change: makes the new state; what it does not change must be the very leaves of ``state``.
        state: the old one.
        plan: all else that the new one depends on.
    """
    old, new = jax.tree.leaves(state), jax.tree.leaves(state)
    for part in parts_of(state):
        made = jax.tree.leaves(change(plan))
        changed = {index: made[index] for index in part if made[index] is not old[index]}
        plan, changed = jax.lax.optimization_barrier((plan, changed))
        for index, leaf in changed.items():
            new[index] = leaf
    return jax.tree.unflatten(jax.tree.structure(state), new)


class InParts:
    """A function from a state to one of the same structure and other shapes, as several compiled programs.

    Leaf by leaf the new state may depend on that leaf of the old one and on its Params, as an optimizer's slots
    do.

    Args:
        function: takes the state first.
        static_argnames: of its other arguments, given by keyword.
    """

    def __init__(self, function: Callable[..., TrainState], *, static_argnames: tuple[str, ...]) -> None:
        def some_leaves(chosen: list[Any], others: list[Any], *, part: Part, **static: Any) -> Any:
            leaves = list(others)
            for index, leaf in zip(part, chosen, strict=True):
                leaves[index] = leaf
            result = jax.tree.leaves(function(jax.tree.unflatten(self._structure, leaves), **static))
            return [result[index] for index in part]

        self._jitted = jax.jit(some_leaves, static_argnames=("part", *static_argnames))
        self._structure: Any = None
        self._compiled: dict[Any, list[tuple[Part, Any]]] = {}

    def compile(self, state: TrainState, **static: Any) -> Callable[[TrainState], TrainState]:
        """What is to be called with such a state; compiled now if that was not done.

        A call gives back the buffers of the state, one after the other.
        """
        key = program_key(state, static)
        if key not in self._compiled:
            self._structure = jax.tree.structure(state)
            self._compiled[key] = [(part, self._program(part, state, **static)) for part in parts_of(state)]
        return functools.partial(_run, self._compiled[key])

    def _program(self, part: Part, state: TrainState, **static: Any) -> Any:
        return compile_lowered(self._jitted.lower(*_apart(part, jax.tree.leaves(state)), part=part, **static))


def parts_of(state: TrainState) -> list[Part]:
    """The parts of a state in the order in which they are replaced: large leaves by themselves, all others in one.

    Large Params come last, because the optimizer may look at them to begin a slot.
    """
    leaves = jax.tree.leaves(state)
    total, num_params = sum(leaf.nbytes for leaf in leaves), len(jax.tree.leaves(state.params))
    large = [index for index, leaf in enumerate(leaves) if leaf.nbytes > _LARGE * total]
    rest = tuple(index for index in range(len(leaves)) if index not in large)
    slots = [(index,) for index in large if index >= num_params]
    params = [(index,) for index in large if index < num_params]
    return [*slots, rest, *params]


def _run(programs: list[tuple[Part, Any]], state: TrainState) -> TrainState:
    old, structure = jax.tree.flatten(state)
    new: list[Any] = [None] * len(old)
    for part, program in programs:
        for index, leaf in zip(part, program(*_apart(part, old)), strict=True):
            new[index] = leaf
            _give_back(old[index], leaf)
    return jax.tree.unflatten(structure, new)


def _apart(part: Part, leaves: list[Any]) -> tuple[list[Any], list[Any]]:
    """The leaves of the part, and all with those left out."""
    return [leaves[index] for index in part], [
        None if index in part else leaf for index, leaf in enumerate(leaves)
    ]


def _give_back(old: Any, new: Any) -> None:
    """Frees the old array, unless the new one is the same memory, as where nothing changed."""
    if old is new or old.is_deleted() or jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
        return
    if old.unsafe_buffer_pointer() != new.unsafe_buffer_pointer():
        old.delete()
