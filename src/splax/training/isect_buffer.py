"""How large the buffer of (tile, Gaussian) pairs is during a run."""

from __future__ import annotations

from collections.abc import Sequence

from splax.data.scene import View
from splax.model import SplatModel
from splax.rasterizer import round_capacity

# Room beyond what was counted.
_MARGIN = 1.25
# Views that are counted at the start.
_SAMPLE = 8


class IsectBuffer:
    """Follows what the views need; each new size compiles the step again.

    Attributes:
        capacity: rows; 0: not known yet.
        peak: most rows that a step needed since :meth:`shrink` was called.
    """

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self.peak = 0

    def fit(self, model: SplatModel, views: Sequence[View]) -> None:
        """Sizes the buffer, if that was not done yet, for a sample of views."""
        if self.capacity:
            return
        gaussians = model.gaussians.drawable()
        sample = views[:: max(1, len(views) // _SAMPLE)]
        counts = [int(model.rasterizer.count_isects(gaussians, view.camera)) for view in sample]
        self.capacity = _with_margin(max(counts))

    def grow(self, needed: int) -> None:
        """Makes room for a view that needs more rows than there are."""
        self.capacity = _with_margin(needed)

    def shrink(self) -> None:
        """Gives back a buffer far larger than the most that was needed since the last call."""
        fitting = _with_margin(self.peak)
        if 2 * fitting <= self.capacity:
            self.capacity = fitting
        self.peak = 0


def _with_margin(needed: int) -> int:
    return round_capacity(int(needed * _MARGIN))
