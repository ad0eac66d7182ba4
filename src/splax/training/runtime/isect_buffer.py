"""The size of the buffer of (tile, Gaussian) pairs during a run."""

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

# Number of views whose pairs are counted at the start.
_SAMPLE = 8


class IsectBuffer:
    """The size of the intersection buffer, adapted to the views; each new size compiles the step again.

    Args:
        capacity: number of pairs that fit at the start; 0 if it is not known yet.
        policy: policy with the margins of the buffer; the device's own if None.

    Attributes:
        capacity: number of pairs that fit.
        peak: largest number of pairs that a step needed since the last call of :meth:`follow`.
    """

    def __init__(self, capacity: int = 0, policy: DevicePolicy | None = None) -> None:
        self.capacity = capacity
        self.peak = 0
        self._policy = device_policy() if policy is None else policy

    def fit(self, model: SplatModel, views: Sequence[View]) -> None:
        """Sizes the buffer for a sample of views, unless it has a size already."""
        if self.capacity:
            return
        graphdef, state = nnx.split(model)

        @jax.jit  # one program for each size of images; without jit each operation would compile its own
        def count(state: Any, camera: Camera) -> Int[Array, ""]:
            model = nnx.merge(graphdef, state)
            return model.rasterizer.count_isects(model.gaussians.renderable_only(), camera)

        sample = views[:: max(1, len(views) // _SAMPLE)]
        counts = [count(state, view.camera) for view in sample]
        self.capacity = self._fitting(max(map(int, counts)))

    def grow(self, needed: int) -> None:
        """Enlarges the buffer for a view that has ``needed`` pairs, more than fit."""
        self.capacity = self._fitting(needed)

    def follow(self, *, compiles: bool) -> None:
        """Shrinks the buffer if it is far larger than any step needed since the last call of this method.

        Args:
            compiles: whether the step will be compiled again in any case. Then a buffer that would soon be too
                small grows too.
        """
        fitting = self._fitting(self.peak)
        if self._policy.isect_waste * fitting <= self.capacity or (compiles and fitting > self.capacity):
            self.capacity = fitting
        self.peak = 0

    def _fitting(self, needed: int) -> int:
        return round_capacity(max(int(needed * self._policy.isect_margin), self._policy.min_isects))
