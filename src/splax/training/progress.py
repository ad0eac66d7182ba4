"""What a run reports while it goes on."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from tqdm import tqdm


class StepMetrics(NamedTuple):
    """What one step reports.

    Attributes:
        loss: of the step's view, before the update.
        psnr: of the step's view, dB.
        num_isects: (tile, Gaussian) pairs of the view.
        finite: whether loss and gradients were, and the Params after the step.
        broken: Params whose gradient was not, or that were not after the step.
    """

    loss: Float[Array, "*steps"]
    psnr: Float[Array, "*steps"]
    num_isects: Int[Array, "*steps"]
    finite: Bool[Array, "*steps"]
    broken: Bool[Array, "*steps params"]

    @classmethod
    def empty(cls, steps: int, params: int) -> StepMetrics:
        """Room for the metrics of some steps; all is well.

        Args:
            steps: how many.
            params: how many Params there are.
        """
        numbers, counts = jnp.zeros(steps), jnp.zeros(steps, jnp.int32)
        return cls(numbers, numbers, counts, jnp.ones(steps, bool), jnp.zeros((steps, params), bool))


class Progress(NamedTuple):
    """How far a run is: the argument of callbacks, and an entry of ``Trainer.history`` for each compiled call.

    Attributes:
        step: number of steps made so far.
        loss: mean loss over the steps of the call; NaN before the first call.
        psnr: mean PSNR over the steps of the call, dB; NaN before the first call.
        num_gaussians: number of Gaussians alive at the end of the call.
        num_isects: largest number of (tile, Gaussian) pairs of a step; 0 before the first call.
        seconds: time of training so far, compilation included.
        steps_per_second: speed within the call; 0 before the first call.
    """

    step: int
    loss: float
    psnr: float
    num_gaussians: int
    num_isects: int
    seconds: float
    steps_per_second: float

    @classmethod
    def at_start(cls, step: int, num_gaussians: int, seconds: float) -> Progress:
        """The progress before the first step of a call of ``fit``: loss and PSNR are NaN, nothing is compiled.

        Args:
            step: number of steps made before.
            num_gaussians: number of Gaussians alive.
            seconds: time of training before.
        """
        return cls(step, math.nan, math.nan, num_gaussians, 0, seconds, 0.0)

    @classmethod
    def of(
        cls,
        metrics: StepMetrics,
        step: int,
        done: int,
        num_gaussians: int,
        seconds: float,
        steps_per_second: float,
    ) -> Progress:
        """That of a stretch, from the metrics of its ``done`` steps; see the attributes."""
        return cls(
            step=step,
            loss=float(metrics.loss[:done].mean()),
            psnr=float(metrics.psnr[:done].mean()),
            num_gaussians=num_gaussians,
            num_isects=int(metrics.num_isects[:done].max()),
            seconds=seconds,
            steps_per_second=steps_per_second,
        )


class ProgressBar(tqdm):
    """The steps of a run, and how it goes.

    Args:
        start: steps made so far.
        end: steps there are to be.
        shown: whether there is a bar; None: if standard error is a terminal.
    """

    def __init__(self, start: int, end: int, shown: bool | None) -> None:
        disable = None if shown is None else not shown
        super().__init__(total=end, initial=start, unit="step", disable=disable, dynamic_ncols=True)

    def show(self, progress: Progress) -> None:
        """Brings the bar up to date."""
        self.set_postfix(
            loss=f"{progress.loss:.4f}",
            psnr=f"{progress.psnr:.2f}",
            gaussians=progress.num_gaussians,
            refresh=False,
        )
        self.update(progress.step - self.n)
