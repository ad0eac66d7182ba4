"""Putting depth without a scale into world units: a scale and a shift, whatever share of the data is wrong.

Networks that see one photo know inverse depth up to a scale and a shift (Ranftl et al. 2020, "Towards Robust
Monocular Depth Estimation"). Both follow from pixels of known depth, by least median of squares (Rousseeuw 1984)
and then least squares over those that fit: up to half of the known depths may be wrong.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Pairs of pixels that are tried: of 300, one is right with near certainty even if half of all pixels are wrong.
_TRIALS = 300
# Residuals up to this many robust standard deviations fit (Rousseeuw).
_FITTING = 2.5
_MAD_TO_SIGMA = 1.4826
# Pixels of known depth that the two numbers are found from, at least and at most.
_MIN_PIXELS, _MAX_PIXELS = 20, 5_000


class ScaleShift(NamedTuple):
    """``1 / depth = scale * value + shift``.

    Attributes:
        scale: positive, in 1 / world units.
        shift: likewise.
    """

    scale: float
    shift: float


def fit_scale_shift(
    values: Float[np.ndarray, " n"], inverse_depths: Float[np.ndarray, " n"], seed: int = 0
) -> ScaleShift | None:
    """The scale and shift that put relative inverse depth into world units; None if none does.

    Args:
        values: relative inverse depth, larger is nearer.
        inverse_depths: 1 / z of the same pixels, world units; up to half of them may be wrong.
        seed: of the pairs that are tried.
    """
    usable = np.isfinite(values) & np.isfinite(inverse_depths)
    values, inverse_depths = values[usable].astype(np.float64), inverse_depths[usable].astype(np.float64)
    if len(values) < _MIN_PIXELS:
        return None
    rng = np.random.default_rng(seed)
    if len(values) > _MAX_PIXELS:
        rows = rng.choice(len(values), _MAX_PIXELS, replace=False)
        values, inverse_depths = values[rows], inverse_depths[rows]
    first, second = rng.integers(len(values), size=(2, _TRIALS))
    run = values[second] - values[first]
    steep = np.abs(run) > 1e-9 * (1 + np.abs(values).max())
    scales = (inverse_depths[second] - inverse_depths[first])[steep] / run[steep]
    shifts = inverse_depths[first][steep] - scales * values[first][steep]
    scales, shifts = scales[scales > 0], shifts[scales > 0]
    if not len(scales):
        return None
    medians = [
        np.median(np.abs(scale * values + shift - inverse_depths))
        for scale, shift in zip(scales, shifts, strict=True)
    ]
    best = int(np.argmin(medians))
    residuals = np.abs(scales[best] * values + shifts[best] - inverse_depths)
    fits = residuals <= _FITTING * _MAD_TO_SIGMA * medians[best] + 1e-12
    design = np.stack([values[fits], np.ones(fits.sum())], axis=-1)
    scale, shift = np.linalg.lstsq(design, inverse_depths[fits], rcond=None)[0]
    return ScaleShift(float(scale), float(shift)) if scale > 0 else None
