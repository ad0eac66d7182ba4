"""What a training gives, whatever method made it, and its scores."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from splax.metrics.image import psnr, ssim
from splax.scene import View

Strategy = Literal["default", "mcmc", "none"]


class Mark(NamedTuple):
    """A moment of a run.

    Attributes:
        step: steps made so far.
        seconds: that they took, the device idle at the end; without preparing and compiling.
    """

    step: int
    seconds: float


class Peak(NamedTuple):
    """Most device memory in use during a run, photos included.

    Attributes:
        megabytes: above what was in use before.
        is_bound: whether it was less than that, since an earlier run of the process needed more.
    """

    megabytes: float
    is_bound: bool = False


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """One run.

    Attributes:
        marks: moments of the run, the last one at its end.
        total_seconds: of the run with everything: photos sent to the device, and programs compiled.
        num_gaussians: at the end.
        peak: memory; None where that is not known.
        images: the test views as rendered, each [H, W, 3] in [0, 1].
    """

    marks: tuple[Mark, ...]
    total_seconds: float
    num_gaussians: int
    peak: Peak | None
    images: list[np.ndarray]

    @property
    def seconds(self) -> float:
        """Of all steps, without preparing and compiling."""
        return self.marks[-1].seconds

    @property
    def steps_per_second(self) -> float:
        """Median over the steps of the rate at the time, densification included."""
        steps, seconds = (np.diff(column, prepend=0) for column in zip(*self.marks, strict=True))
        return float(np.median(np.repeat(steps / seconds, steps)))


class Scores(NamedTuple):
    """Means over the test views; NaN without any."""

    psnr: float
    ssim: float


def score(images: Sequence[Float[np.ndarray, "h w 3"]], views: Sequence[View]) -> Scores:
    """Compares renderings, not rounded, with the 8-bit photos / 255; masked pixels do not count."""
    scores = []
    for image, view in zip(images, views, strict=True):
        pair = jnp.asarray(image), jnp.asarray(view.image, jnp.float32) / 255
        mask = jnp.asarray(view.mask) if view.has_mask else None
        scores.append((float(psnr(*pair, mask)), float(ssim(*pair, mask))))
    return Scores(*map(float, np.mean(scores, axis=0))) if scores else Scores(float("nan"), float("nan"))
