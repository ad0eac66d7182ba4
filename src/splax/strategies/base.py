"""What a strategy is: when Gaussians are born, move and die, as pure functions over a fixed number of rows."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

Params: TypeAlias = dict[str, Any]
"""The Params of a :class:`splax.Gaussians` by name; every array in it has one row per Gaussian."""

Step: TypeAlias = int | Int[Array, ""]
Length: TypeAlias = float | Float[Array, ""]


class Surgery(NamedTuple):
    """The plan of one refinement: what every row holds afterwards.

    ``splax.strategies.ops.apply_surgery`` carries it out on the Params and
    ``splax.training.optimizers.move_slots`` on the optimizer's state.

    Attributes:
        source: the row that each row's content comes from, [N] int.
        alive: rows that exist afterwards, [N] bool.
        fresh: rows whose optimizer slots start anew, [N] bool; the dead ones among them, so they stay still.
        values: new values of some Params, by name, [N, ...]; the other Params are gathered by ``source``.
        reset: Params whose optimizer slots start anew in every row, by name, where the scalar is true.
        num_rows: Gaussians alive afterwards, scalar int. If it exceeds N the plan is void: grow the number
            of rows to at least this and plan again, with the strategy's state of before.
    """

    source: Int[Array, " n"]
    alive: Bool[Array, " n"]
    fresh: Bool[Array, " n"]
    values: dict[str, Array]
    reset: dict[str, Bool[Array, ""]]
    num_rows: Int[Array, ""]

    @classmethod
    def nothing(cls, alive: Bool[Array, " n"]) -> Surgery:
        """The plan that leaves every Gaussian as it is."""
        return cls(jnp.arange(alive.shape[0]), alive, ~alive, {}, {}, alive.sum())


@dataclasses.dataclass(frozen=True)
class Strategy:
    """Base of all strategies; by itself it keeps the Gaussians that there are.

    A strategy is a frozen dataclass of settings. What it remembers between steps is a pytree, its state,
    every leaf of which has one row per Gaussian. All methods but :meth:`refines_after` run inside jit.
    """

    def init(self, capacity: int) -> PyTree[Array]:
        """The state at the start, for ``capacity`` rows."""
        del capacity
        return {}

    def grow_state(self, state: PyTree[Array], capacity: int) -> PyTree[Array]:
        """The state for more rows; the new rows are zero."""

        def pad(leaf: Array) -> Array:
            return jnp.pad(leaf, [(0, capacity - leaf.shape[0])] + [(0, 0)] * (leaf.ndim - 1))

        return jax.tree.map(pad, state)

    def update(
        self,
        state: PyTree[Array],
        grad2d: Float[Array, "n 2"],
        visible: Bool[Array, " n"],
        width: int,
        height: int,
    ) -> PyTree[Array]:
        """The state after one training step.

        Args:
            state: from the step before.
            grad2d: derivative of the loss by the projected centres, per pixel, [N, 2].
            visible: Gaussians that the step's camera saw, [N].
            width: of the image, pixels.
            height: of the image, pixels.
        """
        del grad2d, visible, width, height
        return state

    def refines_after(self, step: int) -> bool:
        """Whether :meth:`refine` is due after this step, counted from 0. Runs on the host."""
        del step
        return False

    def refine(
        self,
        params: Params,
        alive: Bool[Array, " n"],
        state: PyTree[Array],
        step: Step,
        extent: Length,
        key: PRNGKeyArray,
    ) -> tuple[Surgery, PyTree[Array]]:
        """Plans one refinement.

        Args:
            params: of the Gaussians, by name.
            alive: rows that exist, [N].
            state: of this strategy.
            step: number of the step just made, counted from 0.
            extent: size of the scene, world units.
            key: source of randomness.

        Returns:
            The plan, and the state for the rows as they are after it. Both are void if the plan's
            ``num_rows`` exceeds N.
        """
        del params, step, extent, key
        return Surgery.nothing(alive), state
