"""The state of a run: all arrays that its next steps depend on, as one pytree."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from splax.corrections.base import CorrectionsState
from splax.strategies.base import RowPlan, Strategy
from splax.strategies.row_plans import apply_row_plan, spread_rows, take_rows
from splax.training.optimizers import GAUSSIANS, grow_slots, move_slots


class TrainState(NamedTuple):
    """State of a run between two steps.

    Attributes:
        params: the model's Params, a nested dict; the Gaussians' lie under ``"gaussians"``.
        rest: the model's other Variables, a nested dict.
        opt_state: the optimizer's state.
        strategy_state: the strategy's state; every leaf has one row per Gaussian.
        corrections: the Params of the corrections and their optimizers' states.
        step: number of steps made, int32 scalar.
        key: source of all randomness in the run.
        step_scale: factor of all updates, the corrections' included, float32 scalar; 1 unless the run went back.
    """

    params: dict[str, Any]
    rest: dict[str, Any]
    opt_state: optax.OptState
    strategy_state: PyTree[Array]
    corrections: CorrectionsState
    step: Int[Array, ""]
    key: PRNGKeyArray
    step_scale: Float[Array, ""]

    @property
    def alive(self) -> Array:
        """Whether each row holds a Gaussian, [N] bool."""
        return self.rest[GAUSSIANS]["alive"]

    @property
    def num_alive(self) -> int:
        """Number of rows that hold a Gaussian.

        The host counts them: on the device each capacity would compile a program.
        """
        return int(np.count_nonzero(np.asarray(self.alive)))

    @property
    def capacity(self) -> int:
        """Number of rows, alive or not."""
        return self.alive.shape[0]

    @property
    def is_broken(self) -> bool:
        """Whether a call that failed half way has taken some of the state's buffers."""
        return any(leaf.is_deleted() for leaf in jax.tree.leaves(self))

    def taken_from(self, model: nnx.Module) -> TrainState:
        """This state with the Variables of ``model``, which a user may have changed.

        The Variables are copied, since training reuses the buffers of a state.

        Args:
            model: the model that the state was made for.

        Raises:
            ValueError: if an array of the model changed its shape.
        """
        _, params, rest = nnx.split(model, nnx.Param, ...)
        state = self._replace(params=nnx.to_pure_dict(params), rest=nnx.to_pure_dict(rest))
        if jax.tree.map(jnp.shape, (state.params, state.rest)) != jax.tree.map(
            jnp.shape, (self.params, self.rest)
        ):
            raise ValueError(
                "the model's arrays changed shape since this Trainer was made; make a new Trainer."
            )
        params, rest = copied((state.params, state.rest))
        return state._replace(params=params, rest=rest)

    def give_to(self, model: nnx.Module) -> None:
        """Writes copies of all Params and other Variables into ``model``, because the next steps reuse buffers."""
        nnx.update(model, *copied((self.params, self.rest)))


@jax.jit
def copied(tree: Any) -> Any:
    """Copies of all arrays, made by one program, which compiles faster than a program for each shape."""
    return jax.tree.map(jnp.copy, tree)


def init_state(
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
    strategy: Strategy,
    corrections: CorrectionsState,
    seed: int,
) -> TrainState:
    """State at the start of a run.

    Args:
        model: the model to train.
        optimizer: the optimizer of the model's Params.
        strategy: the strategy of densification.
        corrections: Params of the corrections, and the states of their optimizers.
        seed: seed of all randomness in the run.
    """
    _, params, rest = nnx.split(model, nnx.Param, ...)
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    return TrainState(
        params=params,
        rest=rest,
        opt_state=_with_own_buffers(optimizer.init(params), params),
        strategy_state=_with_own_buffers(strategy.init(rest[GAUSSIANS]["alive"].shape[0]), rest),
        corrections=corrections,
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key(seed),
        step_scale=jnp.ones((), jnp.float32),
    )


def _with_own_buffers(tree: PyTree[Array], neighbors: PyTree[Array]) -> PyTree[Array]:
    """The arrays of ``tree``, copied where ``neighbors`` hold the same array or ``tree`` holds it twice.

    Training reuses every buffer. An optimizer may begin with the Params themselves, as averages of Params do, or
    with one array of zeros for two slots; so may a strategy.
    """
    used_ids = {id(leaf) for leaf in jax.tree.leaves(neighbors)}

    def own(leaf: Array) -> Array:
        if id(leaf) in used_ids:
            return jnp.copy(leaf)
        used_ids.add(id(leaf))
        return leaf

    return jax.tree.map(own, tree)


class Refinement(NamedTuple):
    """A refinement that is planned but not carried out.

    Attributes:
        row_plan: the plan for the rows of the Gaussians.
        strategy_state: the strategy's state after the refinement.
        num_rows: number of rows that the refinement needs, int scalar. If the state has fewer, the refinement is
            void: grow the rows and plan again.
        leaves_one: whether at least one Gaussian is alive after the refinement, bool scalar.
        broken: Params that would hold a NaN or an infinity afterwards, bool, in the order of :func:`param_names`.
    """

    row_plan: RowPlan
    strategy_state: PyTree[Array]
    num_rows: Int[Array, ""]
    leaves_one: Bool[Array, ""]
    broken: Bool[Array, " params"]

    def unless_void(self, state: TrainState) -> Refinement:
        """The same refinement, or one that leaves every row as it is if this one cannot be carried out."""
        ok = (self.num_rows <= state.capacity) & self.leaves_one & ~self.broken.any()
        nothing = self.row_plan._replace(
            source=jnp.arange(state.capacity),
            alive=state.alive,
            fresh=jnp.zeros_like(state.alive),
            values={name: state.params[GAUSSIANS][name] for name in self.row_plan.values},
            reset=dict.fromkeys(self.row_plan.reset, False),
        )
        row_plan, strategy_state = jax.tree.map(
            lambda new, old: jnp.where(ok, new, old),
            (self.row_plan, self.strategy_state),
            (nothing, state.strategy_state),
        )
        return self._replace(row_plan=row_plan, strategy_state=strategy_state)


def param_names(params: dict[str, Any]) -> list[str]:
    """Names of the leaves of a model's Params, in the order of ``jax.tree.leaves``."""
    paths = (path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0])
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]


def newly_broken(before: PyTree[Array], after: PyTree[Array]) -> Bool[Array, " leaves"]:
    """Whether each leaf holds a value that was finite before and is NaN or infinite after, bool."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return jnp.array([(jnp.isfinite(old) & ~jnp.isfinite(new)).any() for old, new in pairs], bool)


def plan_refinement(state: TrainState, extent: Any, strategy: Strategy) -> Refinement:
    """Plans one refinement after the step that was made last.

    Args:
        state: the state after that step.
        extent: extent of the scene, world units.
        strategy: the strategy of densification.
    """
    last_step = state.step - 1
    key = jax.random.fold_in(state.key, last_step)
    gaussians = state.params[GAUSSIANS]
    row_plan, strategy_state = strategy.refine(
        gaussians, state.alive, state.strategy_state, last_step, extent, key
    )
    # Each row is compared with the row that it is made from; dead rows may hold anything.
    parents = jax.tree.map(lambda x: take_rows(x, row_plan.source), gaussians)
    children = jax.tree.map(
        lambda x, old: jnp.where(spread_rows(row_plan.alive, x), x, old),
        apply_row_plan(row_plan, gaussians),
        parents,
    )
    broken = newly_broken(state.params | {GAUSSIANS: parents}, state.params | {GAUSSIANS: children})
    return Refinement(row_plan, strategy_state, row_plan.num_rows, row_plan.alive.any(), broken)


def carry_out(
    state: TrainState, refinement: Refinement, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state after a refinement."""
    row_plan = refinement.row_plan
    params = state.params | {GAUSSIANS: apply_row_plan(row_plan, state.params[GAUSSIANS])}
    return state._replace(
        params=params,
        rest=_with_alive(state.rest, row_plan.alive),
        opt_state=move_slots(optimizer, state.opt_state, params, row_plan),
        strategy_state=refinement.strategy_state,
    )


def grow(
    state: TrainState, capacity: int, strategy: Strategy, optimizer: optax.GradientTransformation
) -> TrainState:
    """The same state with ``capacity`` rows; the new rows are dead."""

    def pad(x: Array) -> Array:
        return jnp.pad(x, [(0, capacity - x.shape[0])] + [(0, 0)] * (x.ndim - 1))

    gaussians = jax.tree.map(pad, state.params[GAUSSIANS])
    return state._replace(
        opt_state=grow_slots(optimizer, state.opt_state, state.params, capacity),
        params=state.params | {GAUSSIANS: gaussians},
        rest=_with_alive(state.rest, pad(state.alive)),
        strategy_state=strategy.grow_state(state.strategy_state, capacity),
    )


def _with_alive(rest: dict[str, Any], alive: Array) -> dict[str, Any]:
    return rest | {GAUSSIANS: rest[GAUSSIANS] | {"alive": alive}}
