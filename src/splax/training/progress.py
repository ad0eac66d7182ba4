"""What a run reports while it goes on."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int


class StepMetrics(NamedTuple):
    """What one step reports.

    Attributes:
        loss: of the step's view, before the update.
        psnr: of the step's view, dB.
        num_isects: (tile, Gaussian) pairs of the view.
        finite: whether loss and gradients were.
    """

    loss: Float[Array, "*steps"]
    psnr: Float[Array, "*steps"]
    num_isects: Int[Array, "*steps"]
    finite: Bool[Array, "*steps"]


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
