"""What a run does when: the order of views, and where the curriculum of colour begins."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from splax.gaussians import Gaussians


def view_order(num_views: int, steps: int, seed: int) -> Int[np.ndarray, " steps"]:
    """The view of each step: every view once, in random order, then anew. A prefix does not depend on steps."""
    rng = np.random.default_rng(seed)
    epochs = [rng.permutation(num_views) for _ in range(steps // num_views + 1)]
    return np.concatenate(epochs)[:steps].astype(np.int32)


def used_sh_degree(gaussians: Gaussians) -> int:
    """Highest degree with a coefficient that is not zero: 0 for new Gaussians, more for a splat from a file."""
    used = np.flatnonzero(np.asarray((gaussians.shN[...] != 0).any(axis=(0, 2))))
    return int((used[-1] + 1) ** 0.5) if used.size else 0
