"""Settings of a training run."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from splax.corrections.base import Correction
from splax.losses.regularizers import Regularizers
from splax.training.optimizers import LearningRates
from splax.training.photos.resolution import CoarseToFine


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Settings of a run, apart from the strategy's. Defaults are those of Kerbl et al. 2023 unless noted.

    Attributes:
        steps: length of the run in steps; schedules refer to it.
        ssim_weight: share of 1 - SSIM in the loss, in [0, 1]; the rest is the mean absolute error (L1).
        sh_degree_every: steps after which one more band of spherical harmonics comes into use, up to the degree
            that the model has coefficients for; 0 uses all bands from the start.
        background: colour behind everything, RGB in [0, 1]; None takes the scene's colour. Photos with
            transparent pixels are put on it. ``"random"`` takes a new colour for each training step, for the
            rendering and the photo, so that Gaussians do not fill transparent areas; scores are computed on the
            scene's colour.
        learning_rates: learning rate of each Param.
        corrections: corrections for differences between photos that the scene itself does not have, such as
            exposure; they are learned together with the model. See :mod:`splax.corrections`.
        regularizers: terms of the loss that depend on the Gaussians alone.
        resolution: schedule of the photos' size. By default all steps compare photos of full size.
        depth_weight: weight of the error of inverse depth, where views have depth (``View.depth``) or surface
            points (``View.points``); 0 ignores depth. gsplat uses 0.01.
        batch_size: number of views whose mean gradient makes one update of the model. A step still renders one
            view, so there is an update every ``batch_size`` steps. Adam's learning rates grow with the square root
            of ``batch_size``.
        decay_after: steps after which learning rates halve every ``decay_after / 3`` steps; None keeps them
            constant. The means are excepted, because they have a schedule of their own. Long runs at full rates
            keep fitting details that only single photos show (docs/quality.md).
        guard: whether to hold some training views back for a while, to find out how many Gaussians the photos
            determine and for how long training helps; see :mod:`splax.training.guard`. The guard does nothing for
            fewer than 8 views or 1,000 steps.
        seed: seed of the order of the views and of densification.
        photo_bytes: device memory for photos, in bytes; None takes a share of the free memory. Photos that need
            more are sent while training runs; the result is the same.
        growth: factor by which rows and buffers grow when they are full, in (1, 4]. Each growth compiles the step
            again.
        deterministic: whether to end compiled calls at steps that do not depend on the time that steps take, so
            that ``Trainer.history`` too is the same in every run. On a CPU the model is the same in any case; on a
            GPU the rasterizer and XLA must be deterministic too, see ``docs/training.md``.
        progress: whether to show a progress bar; None shows it if standard error is a terminal.

    Raises:
        ValueError: if a value is out of range.

    Example:
        >>> import splax
        >>> config = splax.TrainConfig(steps=3000, background="random", corrections=(splax.Exposure(),))
        >>> config.steps, config.ssim_weight, config.background
        (3000, 0.2, 'random')
        >>> splax.TrainConfig(steps=0)
        Traceback (most recent call last):
        ValueError: TrainConfig steps must be at least 1, got 0.
    """

    steps: int = 7000
    ssim_weight: float = 0.2
    sh_degree_every: int = 1000
    background: tuple[float, float, float] | Literal["random"] | None = None
    learning_rates: LearningRates = dataclasses.field(default_factory=LearningRates)
    corrections: tuple[Correction, ...] = ()
    regularizers: Regularizers = dataclasses.field(default_factory=Regularizers)
    resolution: CoarseToFine = dataclasses.field(default_factory=CoarseToFine)
    depth_weight: float = 0.0
    batch_size: int = 1
    decay_after: int | None = 12_000
    guard: bool = True
    seed: int = 0
    photo_bytes: int | None = None
    growth: float = 1.5
    deterministic: bool = False
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"TrainConfig steps must be at least 1, got {self.steps}.")
        if not 0 <= self.depth_weight < math.inf:
            raise ValueError(
                f"TrainConfig depth_weight must be 0 or more and finite, got {self.depth_weight}."
            )
        if not 1 <= self.batch_size <= self.steps:
            raise ValueError(f"TrainConfig batch_size must lie in [1, steps], got {self.batch_size}.")
        if not 0 <= self.ssim_weight <= 1:
            raise ValueError(f"TrainConfig ssim_weight must lie in [0, 1], got {self.ssim_weight}.")
        if self.sh_degree_every < 0:
            raise ValueError(f"TrainConfig sh_degree_every must be 0 or more, got {self.sh_degree_every}.")
        if self.decay_after is not None and self.decay_after < 1:
            raise ValueError(f"TrainConfig decay_after must be None or at least 1, got {self.decay_after}.")
        if self.photo_bytes is not None and self.photo_bytes < 0:
            raise ValueError(f"TrainConfig photo_bytes must be 0 or more, got {self.photo_bytes}.")
        if not 1 < self.growth <= 4:
            raise ValueError(f"TrainConfig growth must lie in (1, 4], got {self.growth}.")
        if isinstance(self.background, str):
            is_valid = self.background == "random"
        else:
            is_valid = self.background is None or (
                len(self.background) == 3 and all(0 <= c <= 1 for c in self.background)
            )
        if not is_valid:
            raise ValueError(
                f"TrainConfig background must be RGB in [0, 1] or 'random', got {self.background}."
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"TrainConfig seed must lie in [0, 2^32), got {self.seed}.")
