"""Strategies decide when Gaussians are born, move and die: pure functions over a fixed number of rows."""

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

    ``splax.strategies.row_plans.apply_row_plan`` carries the plan out on the Params, and
    ``splax.training.optimizers.move_slots`` on the optimizer's state.

    Attributes:
        source: row that each row's content comes from, [N] int.
        alive: rows that exist afterwards, [N] bool.
        fresh: rows whose optimizer slots are set to their initial values, [N] bool. Dead rows are among them, so
            that the optimizer does not move what they hold.
        values: new values of some Params, by name, [N, ...]; the other Params are gathered by ``source``.
        reset: scalar bool for some Params, by name: where it is true, the optimizer slots of that Param are set
            to their initial values in every row.
        num_rows: number of Gaussians alive afterwards, scalar int. If it exceeds N, the plan must not be carried
            out: grow the number of rows to at least this number, and plan again with the strategy's earlier state.

    Example:
        >>> import jax.numpy as jnp
        >>> import splax
        >>> unchanged = splax.RowPlan.nothing(jnp.array([True, True, False]))
        >>> unchanged.source.tolist(), int(unchanged.num_rows)
        ([0, 1, 2], 2)
        >>> copied = unchanged._replace(  # the last row, which was free, gets a copy of the first
        ...     source=jnp.array([0, 1, 0]), alive=jnp.ones(3, bool), num_rows=jnp.array(3)
        ... )
        >>> opacities = jnp.array([0.5, 0.25, 0.0])
        >>> opacities[copied.source].tolist()
        [0.5, 0.25, 0.5]
        >>> copied.fresh.tolist()
        [False, False, True]
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
        grad2d: derivative of the loss by the projected centres, loss per pixel, [N, 2]. It is the sum of what each
            pixel of the Gaussian contributes; with ``absgrad`` the sum of the absolute values.
        radii: half width and half height of each Gaussian on the image, pixels, [N, 2]; 0 for a Gaussian that the
            camera did not see.
        width: width of the image, pixels.
        height: height of the image, pixels.

    Example:
        >>> import jax.numpy as jnp
        >>> import splax
        >>> grad2d, radii = jnp.zeros((2, 2)), jnp.array([[3, 4], [0, 0]])
        >>> observation = splax.StepObservation(grad2d, radii, width=640, height=480)
        >>> observation.visible.tolist()
        [True, False]
    """

    grad2d: Float[Array, "n 2"]
    radii: Array
    width: int
    height: int

    @property
    def visible(self) -> Bool[Array, " n"]:
        """Gaussians that the step's camera saw, [N] bool."""
        return (self.radii > 0).all(axis=-1)


@dataclasses.dataclass(frozen=True)
class Strategy:
    """Base of all strategies; used itself, it keeps the Gaussians as they are.

    A strategy is a frozen dataclass of settings. It remembers things between steps in its state: a pytree, every
    leaf of which has one row per Gaussian. All methods but :meth:`adapt_start`, :meth:`expected_count`,
    :meth:`limited_to` and :meth:`refines_after` run inside jit: at every step :meth:`penalty`, :meth:`update` and
    :meth:`move`; :meth:`refine` after some steps.

    Attributes:
        absgrad: whether to sum ``StepObservation.grad2d`` in absolute values, see :class:`splax.TileRasterizer`.

    Example:
        A strategy of your own that removes transparent Gaussians after every tenth step:

        >>> import dataclasses
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import splax
        >>> @dataclasses.dataclass(frozen=True)
        ... class RemoveTransparent(splax.Strategy):
        ...     min_opacity: float = 0.01
        ...
        ...     def refines_after(self, step):
        ...         return step % 10 == 9
        ...
        ...     def refine(self, params, alive, state, step, extent, key):
        ...         opaque = jax.nn.sigmoid(params["logit_opacities"]) >= self.min_opacity
        ...         return splax.RowPlan.nothing(alive & opaque), state
        >>> strategy = RemoveTransparent()
        >>> params, alive = {"logit_opacities": jnp.array([2.0, -8.0, 0.0])}, jnp.ones(3, bool)
        >>> row_plan, state = strategy.refine(params, alive, strategy.init(3), 9, 1.0, jax.random.key(0))
        >>> row_plan.alive.tolist(), int(row_plan.num_rows)
        ([True, False, True], 2)
    """

    absgrad = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "foresees" in vars(cls):
            raise TypeError(f"{cls.__name__}.foresees is called expected_count now; rename the method.")

    @property
    def limit(self) -> int | None:
        """Number of Gaussians beyond which this strategy adds none; None if it has no limit."""
        return None

    def limited_to(self, num: int) -> Strategy:
        """A strategy like this one that adds no Gaussians beyond ``num``; this one itself if it never adds any.

        Runs on the host.

        Args:
            num: number of Gaussians beyond which none is added.
        """
        del num
        return self

    def expected_count(self, num: int, steps: int) -> int:
        """Number of Gaussians at the end of a run, if the strategy knows it before the run begins; else ``num``.

        On a GPU the run sets aside that many rows at its start, because every growth of the rows compiles the step
        again. Runs on the host.

        Args:
            num: number of Gaussians alive at the start.
            steps: number of steps of the run.
        """
        del steps
        return num

    def adapt_start(self, gaussians: Gaussians) -> None:
        """Changes new Gaussians, in place, into those that this strategy starts from; by default it keeps them.

        The command line calls this method unless the start is a splat file. A :class:`splax.Trainer` does not: it
        trains the Gaussians that it is given. Runs on the host.

        Args:
            gaussians: Gaussians that were not trained yet.
        """
        del gaussians

    def init(self, capacity: int) -> PyTree[Array]:
        """The state at the start of a run, for ``capacity`` rows."""
        del capacity
        return {}

    def grow_state(self, state: PyTree[Array], capacity: int) -> PyTree[Array]:
        """The state with more rows; the new rows are zero.

        Args:
            state: state of this strategy, one row per Gaussian.
            capacity: number of rows afterwards.
        """

        def pad(leaf: Array) -> Array:
            return jnp.pad(leaf, [(0, capacity - leaf.shape[0])] + [(0, 0)] * (leaf.ndim - 1))

        return jax.tree.map(pad, state)

    def penalty(self, params: Params, alive: Bool[Array, " n"]) -> float | Float[Array, ""]:
        """A term that is added to the loss of every step and differentiated by the Params.

        Args:
            params: Params of the Gaussians, by name, one row each.
            alive: rows that exist, [N] bool.
        """
        del params, alive
        return 0.0

    def update(self, state: PyTree[Array], observation: StepObservation) -> PyTree[Array]:
        """The state after one training step.

        Args:
            state: state after the step before.
            observation: gradients and radii that the step saw.
        """
        del observation
        return state

    def move(
        self, params: Params, alive: Bool[Array, " n"], rate: Float[Array, ""], key: PRNGKeyArray
    ) -> Params:
        """The Params moved once more, after the optimizer's update of every step; by default not at all.

        Args:
            params: Params of the Gaussians as the optimizer left them, by name, one row each.
            alive: rows that exist, [N] bool.
            rate: present learning rate of the means, world units.
            key: source of randomness, a different key at every step.
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
            params: Params of the Gaussians, by name, one row each.
            alive: rows that exist, [N] bool.
            state: state of this strategy.
            step: number of the step just made, counted from 0.
            extent: size of what is photographed, world units; see
                :func:`splax.training.photographed_distance.photographed_distance`.
            key: source of randomness.

        Returns:
            The plan, and the strategy's state for the rows as they are after the plan. Neither may be used if the
            plan's ``num_rows`` exceeds N.
        """
        del params, step, extent, key
        return RowPlan.nothing(alive), state
