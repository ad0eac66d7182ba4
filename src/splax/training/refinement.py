"""Carries out refinements on the host's side: compiles them, and grows the rows where there are too few."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Bool

from splax.strategies.base import Strategy
from splax.training.errors import NoGaussianError
from splax.training.parts import InParts
from splax.training.programs import Programs
from splax.training.room import Room, room_of_device
from splax.training.state import TrainState, grow, plan, refine
from splax.training.stopwatch import Stopwatch


class Outcome(NamedTuple):
    """What a refinement came to.

    Attributes:
        state: the new one; None if it needs more rows than there are. The one of before if it would break Params.
        num_rows: rows that it needs.
        broken: which Params it would make NaN or infinite.
    """

    state: TrainState | None
    num_rows: int
    broken: Bool[np.ndarray, " params"]


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
        self._strategy, self._tx, self._extent, self._growth = strategy, tx, np.float32(extent), growth
        self._stopwatch = stopwatch
        self._room = (room_of_device() if room is None else room).rows
        self._plan = Programs(plan, static_argnames="strategy")
        self._refine = InParts(refine, in_place=True, static_argnames=("tx",))
        self._grow = InParts(grow, in_place=False, static_argnames=("capacity", "strategy", "tx"))

    def __call__(self, state: TrainState) -> Outcome:
        """What a refinement makes of the state; it takes its place, the old one's buffers are given back.

        Raises:
            NoGaussianError: if no Gaussian would be left alive.
        """
        with self._stopwatch.part("compile"):
            program = self._plan.compile(state, self._extent, strategy=self._strategy)
        with self._stopwatch.part("refine"):
            planned = program(state, self._extent)
            needed, leaves_one, broken = jax.device_get(
                (planned.num_rows, planned.leaves_one, planned.broken)
            )
        if needed > state.capacity:
            return Outcome(None, int(needed), broken)
        if not leaves_one:
            raise NoGaussianError(
                f"pruning after step {int(state.step) - 1} left no Gaussian alive. The model holds the state "
                "before it. More or smaller initial Gaussians, or a lower prune_opacity, may help."
            )
        if broken.any():
            return Outcome(state, int(needed), broken)
        args = state, planned.surgery, planned.strategy_state
        with self._stopwatch.part("compile"):
            program = self._refine.compile(*args, tx=self._tx)
        with self._stopwatch.part("refine"):
            return Outcome(program(*args), int(needed), broken)

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
