"""Settings of a run."""

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
    """Settings of a run, apart from the strategy's (Kerbl et al. 2023 unless noted).

    Attributes:
        steps: length of the run; schedules refer to it.
        ssim_weight: share of 1 - SSIM in the loss, the rest is L1.
        sh_degree_every: steps after which one more band of spherical harmonics comes into use, from those that
            the model has coefficients of; 0: all at once.
        background: colour behind everything, RGB in [0, 1]; None takes the scene's. Photos with
            transparent pixels are put on it. ``"random"``: a new one for each step of training, for the
            rendering and the photo, so that what is transparent stays empty; scores are on the scene's.
        learning_rates: of each Param.
        corrections: what photos differ by although the scene does not, learned along with it; see
            :mod:`splax.corrections`.
        regularizers: terms of the loss that look at the Gaussians alone.
        resolution: small photos first; by default all steps compare whole photos.
        depth_weight: of the error of inverse depth, where views have depth (``View.depth``) or points that
            they show (``View.points``); 0: not used. gsplat takes 0.01.
        batch_size: views whose mean gradient makes one update of the model. A step shows one view all the same,
            so there is an update every ``batch_size`` steps; Adam's rates grow with the square root.
        decay_after: steps after which the learning rates of all Params but the means, which have a schedule of
            their own, halve every third of that number; None: they stay as they are. Long runs at full rates go on
            fitting what single photos show (docs/quality.md).
        guard: whether some training views are held back for a while, to find out how many Gaussians the photos
            bear and how long training helps; see :mod:`splax.training.guard`. It does nothing for fewer than 8
            views or 1,000 steps.
        seed: of the order of views and of densification.
        photo_bytes: device memory for photos. If they need more, they are sent while training goes on; the result
            is the same. None: a share of what is free.
        growth: factor by which rows and buffers grow when they are full. Each growth compiles anew.
        deterministic: whether compiled calls end at steps that do not depend on the time they take, so that also
            ``Trainer.history`` is the same at every run. The model is that on a CPU anyway; on a GPU the
            rasterizer must be deterministic too, and XLA: see ``docs/training.md``.
        progress: whether to show a progress bar; None: if standard error is a terminal.

    Raises:
        ValueError: on a value out of range.
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
            known = self.background == "random"
        else:
            known = self.background is None or (
                len(self.background) == 3 and all(0 <= c <= 1 for c in self.background)
            )
        if not known:
            raise ValueError(
                f"TrainConfig background must be RGB in [0, 1] or 'random', got {self.background}."
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"TrainConfig seed must lie in [0, 2^32), got {self.seed}.")
