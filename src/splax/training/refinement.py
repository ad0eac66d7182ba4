"""Carries out refinements on the host's side: compiles them, and grows the rows where there are too few."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int

from splax.strategies.base import Strategy
from splax.training.errors import NoGaussianError
from splax.training.runtime.compiled import Programs
from splax.training.runtime.device_policy import Room, room_of_device
from splax.training.runtime.leafwise import InParts, in_turn
from splax.training.runtime.stopwatch import Stopwatch
from splax.training.state import TrainState, grow, plan, refine

# Fields of a TrainState that a refinement may change.
_MOVING = ("params", "rest", "opt_state", "strategy_state")


class Outcome(NamedTuple):
    """What a refinement came to. It is carried out only if there are rows enough and none of the rest forbids it.

    Attributes:
        num_rows: rows that it needs; if they are more than there are, they have to be made first.
        leaves_one: whether a Gaussian would be alive after it.
        broken: which Params it would make NaN or infinite.
    """

    num_rows: int
    leaves_one: bool
    broken: Bool[np.ndarray, " params"]

    def check(self, step: int) -> None:
        """Raises a NoGaussianError, which names the step before, if no Gaussian would be left alive."""
        if not self.leaves_one:
            raise NoGaussianError(
                f"pruning after step {step} left no Gaussian alive. The model holds the state before it. "
                "More or smaller initial Gaussians, or a lower prune_opacity, may help."
            )


class Refinement:
    """Densifies and prunes as a strategy says.

    Args:
        strategy: what it does.
        tx: the optimizer, whose slots follow.
        extent: size of the scene, world units.
        growth: factor by which rows grow when they are full.
        stopwatch: told of the time it takes.
        room: rows to set aside; by default the device's.
    """

    def __init__(
        self,
        strategy: Strategy,
        tx: optax.GradientTransformation,
        *,
        extent: float,
        growth: float,
        stopwatch: Stopwatch,
        room: Room | None = None,
    ) -> None:
        self._strategy, self._tx, self._extent, self._growth = strategy, tx, float(extent), growth
        self._stopwatch = stopwatch
        self._room = (room_of_device() if room is None else room).rows
        self._refine = Programs(
            _refined, static_argnames=("extent", "strategy", "tx"), donate_argnames="moving"
        )
        self._grow = InParts(grow, static_argnames=("capacity", "strategy", "tx"))

    def __call__(self, state: TrainState) -> tuple[TrainState, Outcome]:
        """The state after a refinement, in place of this one; as it is if that cannot be carried out.

        One program plans it, carries it out if it can be, and tells that: the host does nothing in between.
        """
        static = {"extent": self._extent, "strategy": self._strategy, "tx": self._tx}
        moving, staying = moving_and_staying(state)
        with self._stopwatch.part("compile"):
            program = self._refine.compile(moving, staying, **static)
        with self._stopwatch.part("refine"):
            moving, told = program(moving, staying)
            num_rows, leaves_one, *broken = jax.device_get(told).tolist()
        return state._replace(**moving), Outcome(num_rows, bool(leaves_one), np.array(broken, bool))

    def with_rows(self, state: TrainState, needed: int) -> TrainState:
        """The same state with as many rows as are needed, and some more, in place of this one."""
        return self._grown(state, self._with_room(needed, state.capacity))

    def prepared(self, state: TrainState, steps: int) -> TrainState:
        """The state at the start of a run of so many steps, with room for what they will add, in place of this."""
        rows = self.rows_prepared(state, steps)
        return state if rows == state.capacity else self._grown(state, rows)

    def rows_prepared(self, state: TrainState, steps: int) -> int:
        """Rows that :meth:`prepared` gives it."""
        if int(state.step) > 0 or not any(map(self._strategy.refines_after, range(steps))):
            return state.capacity
        # Where nothing is set aside, on a CPU, what is foreseen is not either.
        foreseen = self._strategy.foresees(state.num_alive, steps) if self._room else 0
        if max(state.num_alive + self._room, foreseen) <= state.capacity:
            return state.capacity
        return max(state.capacity, self._with_room(foreseen, state.capacity))

    def shapes(self, state: TrainState, capacity: int) -> TrainState:
        """Shapes that the state would have in so many rows."""
        return jax.eval_shape(lambda state: grow(state, capacity, self._strategy, self._tx), state)

    def _grown(self, state: TrainState, capacity: int) -> TrainState:
        """The same state in more rows."""
        static = {"capacity": capacity, "strategy": self._strategy, "tx": self._tx}
        with self._stopwatch.part("compile"):
            program = self._grow.compile(state, **static)
        with self._stopwatch.part("refine"):
            return program(state)

    def _with_room(self, needed: int, capacity: int) -> int:
        """Rows to grow to: some more than are needed, but not more than there can be Gaussians."""
        more = max(int(capacity * self._growth), capacity + self._room)
        return max(needed, min(more, self._strategy.limit or more))


def moving_and_staying(state: TrainState) -> tuple[dict[str, Any], TrainState]:
    """What a refinement may change, and the state without that.

    JAX's fast way of calling compiled programs is for plain results: the random key, for one, is not.
    """
    moving = {name: getattr(state, name) for name in _MOVING}
    return moving, state._replace(**dict.fromkeys(_MOVING))


def _refined(
    moving: dict[str, Any],
    staying: TrainState,
    extent: float,
    strategy: Strategy,
    tx: optax.GradientTransformation,
) -> tuple[dict[str, Any], Int[Array, " facts"]]:
    """What a refinement makes of it, and the facts of its plan in one array, so that the host waits but once."""
    state = staying._replace(**moving)
    planned = plan(state, extent, strategy)
    scalars = jnp.array([planned.num_rows, planned.leaves_one], jnp.int32)
    told = jnp.concatenate([scalars, planned.broken], dtype=jnp.int32)
    new = in_turn(functools.partial(refine, state, tx=tx), state, planned.unless_void(state))
    return moving_and_staying(new)[0], told
