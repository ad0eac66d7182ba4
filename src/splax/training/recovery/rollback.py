"""Keeps the state that a run goes back to after a value became NaN or a compiled call failed half way."""

from __future__ import annotations

import jax.numpy as jnp

from splax.devices import device_policy
from splax.training.recovery.snapshot import Snapshot
from splax.training.state import TrainState

# Factor of all updates after a run went back.
_BACK_OFF = 0.5


def snapshot_due(step: int) -> bool:
    """Whether the state is copied after ``step`` steps."""
    return step % device_policy().snapshot_steps == 0


class Rollback:
    """Keeps the last good state on the host."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._step = -1

    def keep(self, state: TrainState) -> None:
        """Copies a good state, which replaces the one kept before, unless both are of the same step."""
        step = int(state.step)
        if self._snapshot is None or step != self._step:
            self._snapshot, self._step = Snapshot.take(state), step

    def keep_if_due(self, state: TrainState) -> None:
        """Copies a good state if none is kept, or if a copy is due at its step."""
        if self._snapshot is None or snapshot_due(int(state.step)):
            self.keep(state)

    def forget(self) -> None:
        """Drops the state that is kept."""
        self._snapshot = None

    def go_back(self, state: TrainState, *, spoiled: bool) -> tuple[TrainState, bool]:
        """The last good state.

        Args:
            state: the present state.
            spoiled: whether the present state holds a value that is not finite.

        Returns:
            The state, and whether the run may continue with it. It may the first time, with smaller updates.
        """
        assert self._snapshot is not None
        if float(state.step_scale) < 1:
            return self._snapshot.state() if spoiled else state, False
        state = self._snapshot.state()._replace(step_scale=jnp.asarray(_BACK_OFF, jnp.float32))
        self._snapshot = Snapshot.take(state)
        return state, True

    def recover(self, state: TrainState) -> TrainState:
        """The state, or the kept one if a compiled call failed half way and used up the buffers of the state."""
        if self._snapshot is not None and state.is_broken:
            return self._snapshot.state()
        return state
