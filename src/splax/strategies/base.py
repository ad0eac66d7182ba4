"""What a strategy is: when Gaussians are born, move and die, as pure functions over a fixed number of rows."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from splax.gaussians import Gaussians

Params: TypeAlias = dict[str, Any]
"""The Params of a :class:`splax.Gaussians` by name; every array in it has one row per Gaussian."""

Step: TypeAlias = int | Int[Array, ""]
Length: TypeAlias = float | Float[Array, ""]


class RowPlan(NamedTuple):
    """The plan of one refinement: what every row holds afterwards.

    ``splax.strategies.row_plans.apply_row_plan`` carries it out on the Params and
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
    def nothing(cls, alive: Bool[Array, " n"]) -> RowPlan:
        """The plan that leaves every Gaussian as it is."""
        return cls(jnp.arange(alive.shape[0]), alive, ~alive, {}, {}, alive.sum())


class StepObservation(NamedTuple):
    """What one step of training saw of each Gaussian.

    Attributes:
        grad2d: derivative of the loss by the projected centres, per pixel, [N, 2]. It is summed over the pixels
            of a Gaussian with its signs; with ``absgrad`` without.
        radii: half width and height on the image, pixels, [N, 2]; 0 where the camera did not see it.
        width: of the image, pixels.
        height: of the image, pixels.
    """

    grad2d: Float[Array, "n 2"]
    radii: Array
    width: int
    height: int

    @property
    def visible(self) -> Bool[Array, " n"]:
        """Gaussians that the step's camera saw, [N]."""
        return (self.radii > 0).all(axis=-1)


@dataclasses.dataclass(frozen=True)
class Strategy:
    """Base of all strategies; by itself it keeps the Gaussians that there are.

    A strategy is a frozen dataclass of settings. What it remembers between steps is a pytree, its state,
    every leaf of which has one row per Gaussian. All methods but :meth:`adapt_start`, :meth:`expected_count`,
    :meth:`limited_to` and :meth:`refines_after` run inside jit: at every step :meth:`penalty`, :meth:`update` and
    :meth:`move`; :meth:`refine` after some steps.

    Attributes:
        absgrad: whether ``StepObservation.grad2d`` is in absolute values, see :class:`splax.TileRasterizer`.
    """

    absgrad = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "foresees" in vars(cls):
            raise TypeError(f"{cls.__name__}.foresees is called expected_count now; rename the method.")

    @property
    def limit(self) -> int | None:
        """Number of Gaussians beyond which this strategy does not grow; None: there is none."""
        return None

    def limited_to(self, num: int) -> Strategy:
        """This strategy with growth up to ``num`` Gaussians at most; itself where nothing grows.

        Runs on the host.

        Args:
            num: Gaussians beyond which it must not grow.
        """
        del num
        return self

    def expected_count(self, num: int, steps: int) -> int:
        """Number of Gaussians at the end of a run, where that is known before the run begins; else ``num``.

        On a GPU the run sets aside that many rows at once, since every growth of the rows compiles the step again.
        Runs on the host.

        Args:
            num: number of Gaussians alive at the start.
            steps: number of steps of the run.
        """
        del steps
        return num

    def adapt_start(self, gaussians: Gaussians) -> None:
        """Changes new Gaussians, in place, into those that this strategy starts from; by default it keeps them.

        ``splax train`` calls this method unless the start is a splat file. A :class:`splax.Trainer` does not: it
        trains the Gaussians that it is given. Runs on the host.

        Args:
            gaussians: Gaussians that were not trained yet.
        """
        del gaussians

    def init(self, capacity: int) -> PyTree[Array]:
        """The state at the start, for ``capacity`` rows."""
        del capacity
        return {}

    def grow_state(self, state: PyTree[Array], capacity: int) -> PyTree[Array]:
        """The state for more rows; the new rows are zero."""

        def pad(leaf: Array) -> Array:
            return jnp.pad(leaf, [(0, capacity - leaf.shape[0])] + [(0, 0)] * (leaf.ndim - 1))

        return jax.tree.map(pad, state)

    def penalty(self, params: Params, alive: Bool[Array, " n"]) -> float | Float[Array, ""]:
        """What is added to the loss of every step; differentiated by the Params.

        Args:
            params: of the Gaussians, by name.
            alive: rows that exist, [N].
        """
        del params, alive
        return 0.0

    def update(self, state: PyTree[Array], observation: StepObservation) -> PyTree[Array]:
        """The state after one training step.

        Args:
            state: from the step before.
            observation: what the step saw.
        """
        del observation
        return state

    def move(
        self, params: Params, alive: Bool[Array, " n"], rate: Float[Array, ""], key: PRNGKeyArray
    ) -> Params:
        """The Params after one training step; they were just updated by the optimizer.

        Args:
            params: of the Gaussians, by name.
            alive: rows that exist, [N].
            rate: present learning rate of the means, world units.
            key: source of randomness, another one at every step.
        """
        del alive, rate, key
        return params

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
    ) -> tuple[RowPlan, PyTree[Array]]:
        """Plans one refinement.

        Args:
            params: of the Gaussians, by name.
            alive: rows that exist, [N].
            state: of this strategy.
            step: number of the step just made, counted from 0.
            extent: size of what is photographed, world units; see
                :func:`splax.training.distance.photographed_distance`.
            key: source of randomness.

        Returns:
            The plan, and the state for the rows as they are after it. Both are void if the plan's
            ``num_rows`` exceeds N.
        """
        del params, step, extent, key
        return RowPlan.nothing(alive), state
