"""The host's side of refinements: compiles them, carries them out, and adds rows where there are too few."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int

from splax.devices import DevicePolicy, device_policy
from splax.strategies.base import Strategy
from splax.training.errors import NoGaussianError
from splax.training.runtime.compiled import CompiledFunction
from splax.training.runtime.leafwise import LeafwiseFunction, replace_leafwise
from splax.training.runtime.stopwatch import Stopwatch
from splax.training.state import TrainState, carry_out, grow, plan_refinement

# Fields of a TrainState that a refinement may change.
_CHANGING = ("params", "rest", "opt_state", "strategy_state")


class Outcome(NamedTuple):
    """Result of a refinement.

    The refinement was carried out if there are enough rows, a Gaussian stays alive and no Param breaks.

    Attributes:
        num_rows: number of rows that the refinement needs; if the state has fewer, they have to grow first.
        leaves_one: whether at least one Gaussian would be alive afterwards.
        broken: Params that would hold a NaN or an infinity, bool.
    """

    num_rows: int
    leaves_one: bool
    broken: Bool[np.ndarray, " params"]

    def check(self, step: int) -> None:
        """Checks that a Gaussian stays alive.

        Args:
            step: number of the step that the refinement follows, for the message.

        Raises:
            NoGaussianError: if no Gaussian would be left alive.
        """
        if not self.leaves_one:
            raise NoGaussianError(
                f"pruning after step {step} left no Gaussian alive. The model holds the state before it. "
                "More or smaller initial Gaussians, or a lower prune_opacity, may help."
            )


class Refiner:
    """Densifies and prunes as a strategy says.

    Args:
        strategy: the plan of each refinement.
        optimizer: the optimizer, whose slots follow the rows.
        extent: size of the scene, world units.
        growth: factor by which rows grow when they are full.
        stopwatch: measures the time of compiling and refining.
        policy: rows to set aside; the device's own if None.
    """

    def __init__(
        self,
        strategy: Strategy,
        optimizer: optax.GradientTransformation,
        *,
        extent: float,
        growth: float,
        stopwatch: Stopwatch,
        policy: DevicePolicy | None = None,
    ) -> None:
        self._strategy, self._optimizer, self._extent, self._growth = (
            strategy,
            optimizer,
            float(extent),
            growth,
        )
        self._stopwatch = stopwatch
        self._spare_rows = (device_policy() if policy is None else policy).spare_rows
        self._refine = CompiledFunction(
            _refined, static_argnames=("extent", "strategy", "optimizer"), donate_argnames="changing"
        )
        self._grow = LeafwiseFunction(grow, static_argnames=("capacity", "strategy", "optimizer"))

    def __call__(self, state: TrainState) -> tuple[TrainState, Outcome]:
        """The state after a refinement, or the same state if it cannot be carried out. Uses up ``state``.

        One program plans the refinement, carries it out if possible and returns the facts about it, so that the
        device never waits for the host in between.
        """
        static = {"extent": self._extent, "strategy": self._strategy, "optimizer": self._optimizer}
        changing, unchanged = split_fields(state)
        with self._stopwatch.part("compile"):
            program = self._refine.compile(changing, unchanged, **static)
        with self._stopwatch.part("refine"):
            changing, facts = program(changing, unchanged)
            num_rows, leaves_one, *broken = jax.device_get(facts).tolist()
        return state._replace(**changing), Outcome(num_rows, bool(leaves_one), np.array(broken, bool))

    def with_rows(self, state: TrainState, needed: int) -> TrainState:
        """The same state with at least ``needed`` rows. Uses up the buffers of ``state``."""
        return self._grown(state, self._with_spare(needed, state.capacity))

    def prepared(self, state: TrainState, steps: int) -> TrainState:
        """The state at the start of a run, with rows for the Gaussians that ``steps`` steps will add.

        Uses up the buffers of ``state``.
        """
        rows = self.rows_prepared(state, steps)
        return state if rows == state.capacity else self._grown(state, rows)

    def rows_prepared(self, state: TrainState, steps: int) -> int:
        """Number of rows that :meth:`prepared` gives the state."""
        if int(state.step) > 0 or not any(map(self._strategy.refines_after, range(steps))):
            return state.capacity
        # A device without spare rows gets no rows for the expected count either.
        expected = self._strategy.expected_count(state.num_alive, steps) if self._spare_rows else 0
        if max(state.num_alive + self._spare_rows, expected) <= state.capacity:
            return state.capacity
        return max(state.capacity, self._with_spare(expected, state.capacity))

    def shapes(self, state: TrainState, capacity: int) -> TrainState:
        """Shapes that the state would have with ``capacity`` rows."""
        return jax.eval_shape(lambda state: grow(state, capacity, self._strategy, self._optimizer), state)

    def _grown(self, state: TrainState, capacity: int) -> TrainState:
        """The same state with ``capacity`` rows."""
        static = {"capacity": capacity, "strategy": self._strategy, "optimizer": self._optimizer}
        with self._stopwatch.part("compile"):
            program = self._grow.compile(state, **static)
        with self._stopwatch.part("refine"):
            return program(state)

    def _with_spare(self, needed: int, capacity: int) -> int:
        """Number of rows to grow to: more than are needed, but no more than the strategy's limit."""
        more = max(int(capacity * self._growth), capacity + self._spare_rows)
        return max(needed, min(more, self._strategy.limit or more))


def split_fields(state: TrainState) -> tuple[dict[str, Any], TrainState]:
    """The fields that a refinement may change, by name, and the state without them.

    JAX calls a compiled program faster if its results are plain arrays, which the random key is not.
    """
    changing = {name: getattr(state, name) for name in _CHANGING}
    return changing, state._replace(**dict.fromkeys(_CHANGING))


def _refined(
    changing: dict[str, Any],
    unchanged: TrainState,
    extent: float,
    strategy: Strategy,
    optimizer: optax.GradientTransformation,
) -> tuple[dict[str, Any], Int[Array, " facts"]]:
    """The changed fields after a refinement, and its facts in one array, so that the host waits only once."""
    state = unchanged._replace(**changing)
    refinement = plan_refinement(state, extent, strategy)
    scalars = jnp.array([refinement.num_rows, refinement.leaves_one], jnp.int32)
    facts = jnp.concatenate([scalars, refinement.broken], dtype=jnp.int32)
    new = replace_leafwise(
        functools.partial(carry_out, state, optimizer=optimizer), state, refinement.unless_void(state)
    )
    return split_fields(new)[0], facts
