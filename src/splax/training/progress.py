"""What a run reports while it goes on."""

from __future__ import annotations

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
    """What callbacks are told, and what ``Trainer.history`` keeps: one stretch of steps.

    Attributes:
        step: steps made so far.
        loss: mean over the stretch.
        psnr: mean over the stretch, dB.
        num_gaussians: alive at its end.
        num_isects: largest number of (tile, Gaussian) pairs in the stretch.
        seconds: of training so far, compilation included.
        steps_per_second: within the stretch.
    """

    step: int
    loss: float
    psnr: float
    num_gaussians: int
    num_isects: int
    seconds: float
    steps_per_second: float

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
