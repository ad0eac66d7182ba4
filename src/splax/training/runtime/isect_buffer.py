"""How large the buffer of (tile, Gaussian) pairs is during a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Int

from splax.cameras import Camera
from splax.devices import DevicePolicy, device_policy
from splax.model import SplatModel
from splax.rasterizer import round_capacity
from splax.scene import View

# Views that are counted at the start.
_SAMPLE = 8


class IsectBuffer:
    """Follows what the views need; each new size compiles the step again.

    Args:
        capacity: pairs that fit at the start; 0 if that is not known yet.
        policy: margins of the buffer; the device's own if None.

    Attributes:
        capacity: pairs that fit.
        peak: most pairs that a step needed since :meth:`follow` was called.
    """

    def __init__(self, capacity: int = 0, policy: DevicePolicy | None = None) -> None:
        self.capacity = capacity
        self.peak = 0
        self._policy = device_policy() if policy is None else policy

    def fit(self, model: SplatModel, views: Sequence[View]) -> None:
        """Sizes the buffer, if that was not done yet, for a sample of views."""
        if self.capacity:
            return
        graphdef, state = nnx.split(model)

        @jax.jit  # one program for each size of images, where each operation by itself would compile one
        def count(state: Any, camera: Camera) -> Int[Array, ""]:
            model = nnx.merge(graphdef, state)
            return model.rasterizer.count_isects(model.gaussians.renderable_only(), camera)

        sample = views[:: max(1, len(views) // _SAMPLE)]
        counts = [count(state, view.camera) for view in sample]
        self.capacity = self._fitting(max(map(int, counts)))

    def grow(self, needed: int) -> None:
        """Makes room for a view that needs more than there is."""
        self.capacity = self._fitting(needed)

    def follow(self, *, compiles: bool) -> None:
        """Gives back a buffer far larger than the most that was needed since the last call.

        Args:
            compiles: whether the step will be compiled anew in any case; then a buffer that soon would be too
                small grows along.
        """
        fitting = self._fitting(self.peak)
        if self._policy.isect_waste * fitting <= self.capacity or (compiles and fitting > self.capacity):
            self.capacity = fitting
        self.peak = 0

    def _fitting(self, needed: int) -> int:
        return round_capacity(max(int(needed * self._policy.isect_margin), self._policy.min_isects))
