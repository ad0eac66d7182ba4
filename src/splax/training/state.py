"""Everything that decides how a run goes on, as one pytree."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int, PRNGKeyArray, PyTree

from splax.corrections.base import CorrectionsState
from splax.strategies.base import Strategy
from splax.strategies.ops import apply_surgery
from splax.training.optimizers import GAUSSIANS, grow_slots, move_slots


class TrainState(NamedTuple):
    """State of a run between two steps.

    Attributes:
        params: the model's Params, a nested dict; the Gaussians' lie under ``"gaussians"``.
        rest: the model's other Variables, a nested dict.
        opt_state: of the optimizer.
        strategy_state: of the strategy; one row per Gaussian.
        corrections: of the corrections, what they learned and their optimizers' state.
        step: steps made, int32 scalar.
        key: source of all randomness in the run.
    """

    params: dict[str, Any]
    rest: dict[str, Any]
    opt_state: optax.OptState
    strategy_state: PyTree[Array]
    corrections: CorrectionsState
    step: Int[Array, ""]
    key: PRNGKeyArray

    @property
    def alive(self) -> Array:
        """Rows that exist, [N] bool."""
        return self.rest[GAUSSIANS]["alive"]

    @property
    def capacity(self) -> int:
        """Rows, alive or not."""
        return self.alive.shape[0]

    def replace_model(self, model: nnx.Module) -> TrainState:
        """This state with the Variables of ``model``."""
        _, params, rest = nnx.split(model, nnx.Param, ...)
        return self._replace(params=nnx.to_pure_dict(params), rest=nnx.to_pure_dict(rest))


def init_state(
    model: nnx.Module,
    tx: optax.GradientTransformation,
    strategy: Strategy,
    corrections: CorrectionsState,
    seed: int,
) -> TrainState:
    """State at the start of a run."""
    _, params, rest = nnx.split(model, nnx.Param, ...)
    params, rest = nnx.to_pure_dict(params), nnx.to_pure_dict(rest)
    return TrainState(
        params=params,
        rest=rest,
        opt_state=tx.init(params),
        strategy_state=strategy.init(rest[GAUSSIANS]["alive"].shape[0]),
        corrections=corrections,
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key(seed),
    )


def refine(
    state: TrainState, extent: Any, strategy: Strategy, tx: optax.GradientTransformation
) -> tuple[TrainState, Int[Array, ""]]:
    """Carries out one refinement after the step just made.

    Returns:
        The new state, and the rows that it needs. If they are more than there are, the state is void: grow and
        call again with the old one.
    """
    last_step = state.step - 1
    key = jax.random.fold_in(state.key, last_step)
    gaussians = state.params[GAUSSIANS]
    surgery, strategy_state = strategy.refine(
        gaussians, state.alive, state.strategy_state, last_step, extent, key
    )
    params = state.params | {GAUSSIANS: apply_surgery(surgery, gaussians)}
    refined = state._replace(
        params=params,
        rest=_with_alive(state.rest, surgery.alive),
        opt_state=move_slots(tx, state.opt_state, params, surgery),
        strategy_state=strategy_state,
    )
    return refined, surgery.num_rows


def grow(
    state: TrainState, capacity: int, strategy: Strategy, tx: optax.GradientTransformation
) -> TrainState:
    """The same state in more rows; the new rows are dead."""

    def pad(x: Array) -> Array:
        return jnp.pad(x, [(0, capacity - x.shape[0])] + [(0, 0)] * (x.ndim - 1))

    gaussians = jax.tree.map(pad, state.params[GAUSSIANS])
    return state._replace(
        opt_state=grow_slots(tx, state.opt_state, state.params, capacity),
        params=state.params | {GAUSSIANS: gaussians},
        rest=_with_alive(state.rest, pad(state.alive)),
        strategy_state=strategy.grow_state(state.strategy_state, capacity),
    )


def _with_alive(rest: dict[str, Any], alive: Array) -> dict[str, Any]:
    return rest | {GAUSSIANS: rest[GAUSSIANS] | {"alive": alive}}
