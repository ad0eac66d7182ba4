"""Chooses the number of steps that one compiled call makes."""

from __future__ import annotations

import numpy as np

from splax.strategies.base import Strategy
from splax.training.config import TrainConfig
from splax.training.recovery.rollback import snapshot_due

# Most steps of one compiled call; the progress bar and Ctrl-C wait for its end.
MAX_STEPS = 100
# Time that a call should take, so that the progress bar moves and Ctrl-C does not wait long.
_SECONDS = 2.0
# Calls end at multiples of this number of steps if ``TrainConfig.deterministic``.
_DETERMINISTIC_STEPS = 10


class StepsPerCall:
    """Chooses the number of steps of the next compiled call by the speed of the last call.

    Args:
        config: the run's settings.
        strategy: the run's strategy; no call goes beyond a refinement.
    """

    def __init__(self, config: TrainConfig, strategy: Strategy) -> None:
        self._config, self._strategy = config, strategy
        self._steps = _DETERMINISTIC_STEPS if config.deterministic else 1

    def next_call(self, step: int, end: int) -> int:
        """Number of steps of the call after step ``step``, in a run up to step ``end``."""
        change = self._config.resolution.next_change(step)
        furthest = min(end, step + self._steps, end if change is None else change)
        return next((s for s in range(step + 1, furthest) if self._ends_call(s)), furthest) - step

    def learn(self, steps_per_second: float) -> None:
        """Adapts the next calls to the speed of the last one."""
        if not self._config.deterministic:
            self._steps = int(np.clip(_SECONDS * steps_per_second, 1, MAX_STEPS))

    def _ends_call(self, step: int) -> bool:
        """Whether a call must end after step ``step``, however fast steps are."""
        at_once = self._config.deterministic and step % _DETERMINISTIC_STEPS == 0
        return at_once or snapshot_due(step) or self._strategy.refines_after(step - 1)
