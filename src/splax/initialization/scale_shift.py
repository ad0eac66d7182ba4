"""Fits the scale and the shift that put relative inverse depth into world units, robustly.

Networks that see one photo know inverse depth up to a scale and a shift (Ranftl et al. 2020, "Towards Robust
Monocular Depth Estimation"). Both are fitted to pixels of known depth, first by least median of squares (Rousseeuw
1984), then by least squares over the pixels that fit. Up to half of the known depths may be wrong.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# Pairs of pixels to try: among 300, one pair is right almost certainly, even if half of all pixels are wrong.
_TRIALS = 300
# Residuals up to this many robust standard deviations fit (Rousseeuw).
_FITTING = 2.5
_MAD_TO_SIGMA = 1.4826
# Least and largest number of pixels of known depth that the two numbers are fitted to.
_MIN_PIXELS, _MAX_PIXELS = 20, 5_000


class ScaleShift(NamedTuple):
    """The two numbers of ``1 / depth = scale * value + shift``.

    Attributes:
        scale: factor of the relative inverse depth, positive, in 1 / world units.
        shift: number that is added, in 1 / world units.
    """

    scale: float
    shift: float


def fit_scale_shift(
    values: Float[np.ndarray, " n"], inverse_depths: Float[np.ndarray, " n"], seed: int = 0
) -> ScaleShift | None:
    """Fits the scale and the shift that put relative inverse depth into world units.

    Args:
        values: relative inverse depth of pixels, larger is nearer, [n].
        inverse_depths: 1 / z of the same pixels in 1 / world units, [n]; up to half of them may be wrong.
        seed: seed for choosing the pairs of pixels to try.

    Returns:
        The scale and the shift; None if there are too few pixels, or no positive scale fits.
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
