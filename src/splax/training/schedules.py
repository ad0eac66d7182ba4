"""What a run does when: where the curriculum of colour begins."""

from __future__ import annotations

import numpy as np

from splax.gaussians import Gaussians


def used_sh_degree(gaussians: Gaussians) -> int:
    """Highest degree with a coefficient that is not zero: 0 for new Gaussians, more for a splat from a file."""
    used = np.flatnonzero(np.asarray((gaussians.shN[...] != 0).any(axis=(0, 2))))
    return int((used[-1] + 1) ** 0.5) if used.size else 0
