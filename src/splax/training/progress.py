"""Reports of a run in progress."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int
from tqdm import tqdm


class StepMetrics(NamedTuple):
    """The report of one step, or of several with a leading axis.

    Attributes:
        loss: loss of the step's view before the update.
        psnr: PSNR of the step's view before the update, dB.
        num_isects: number of (tile, Gaussian) pairs of the view.
        finite: whether the loss, all gradients, and the Params after the step are finite.
        broken: Params whose gradient is not finite, or that became not finite in the step, bool.
    """

    loss: Float[Array, "*steps"]
    psnr: Float[Array, "*steps"]
    num_isects: Int[Array, "*steps"]
    finite: Bool[Array, "*steps"]
    broken: Bool[Array, "*steps params"]

    @classmethod
    def empty(cls, steps: int, params: int) -> StepMetrics:
        """Empty metrics of some steps, to be filled: zeros, all of them finite.

        Args:
            steps: number of steps.
            params: number of the model's Params.
        """
        numbers, counts = jnp.zeros(steps), jnp.zeros(steps, jnp.int32)
        return cls(numbers, numbers, counts, jnp.ones(steps, bool), jnp.zeros((steps, params), bool))


class Progress(NamedTuple):
    """Progress of a run: the argument of callbacks, and an entry of ``Trainer.history`` for each compiled call.

    Attributes:
        step: number of steps made so far.
        loss: mean loss over the steps of the call; NaN before the first call.
        psnr: mean PSNR over the steps of the call, dB; NaN before the first call.
        num_gaussians: number of Gaussians alive at the end of the call.
        num_isects: largest number of (tile, Gaussian) pairs of a step; 0 before the first call.
        seconds: time of training so far, compilation included.
        steps_per_second: speed within the call; 0 before the first call.

    Example:
        >>> import splax
        >>> def report(trainer, progress):  # as in trainer.fit(callbacks=[report])
        ...     print(f"step {progress.step}: {progress.num_gaussians:,} Gaussians, PSNR {progress.psnr:.1f} dB")
        >>> report(None, splax.Progress(100, 0.05, 21.3, 50_000, 400_000, seconds=2.5, steps_per_second=40.0))
        step 100: 50,000 Gaussians, PSNR 21.3 dB
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
        """The progress at the start of a call of ``fit``, before anything is compiled: loss and PSNR are NaN.

        Args:
            step: number of steps that earlier calls of ``fit`` made.
            num_gaussians: number of Gaussians alive.
            seconds: time of training in earlier calls of ``fit``.
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
        """The progress after a compiled call, from the metrics of its ``done`` steps; see the attributes."""
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
    """A progress bar of the steps of a run, with loss, PSNR and number of Gaussians.

    Args:
        start: number of steps made so far.
        end: step at which the bar is full.
        shown: whether to show the bar; None shows it if standard error is a terminal.
    """

    def __init__(self, start: int, end: int, shown: bool | None) -> None:
        disable = None if shown is None else not shown
        super().__init__(total=end, initial=start, unit="step", disable=disable, dynamic_ncols=True)

    def show(self, progress: Progress) -> None:
        """Moves the bar to this progress."""
        self.set_postfix(
            loss=f"{progress.loss:.4f}",
            psnr=f"{progress.psnr:.2f}",
            gaussians=progress.num_gaussians,
            refresh=False,
        )
        self.update(progress.step - self.n)
