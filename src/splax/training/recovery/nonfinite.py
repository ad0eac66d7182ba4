"""What went wrong in a stretch of steps, in words."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool

from splax.training.progress import StepMetrics
from splax.training.state import param_names


class Problem(NamedTuple):
    """Something that is not finite.

    Attributes:
        place: of the step in its stretch.
        text: what it is, but for the step.
        spoiled: whether the state is no longer good, as the step was made.
    """

    place: int
    text: str
    spoiled: bool


def find_problem(metrics: StepMetrics, done: int, isect_capacity: int, params: Any) -> Problem | None:
    """Looks for what is not finite among the metrics of a stretch.

    Args:
        metrics: of the steps made, and of one that could not be made.
        done: how many were made.
        isect_capacity: rows of the buffer; an image that did not fit tells nothing.
        params: the model's Params, for their names.
    """
    if done and not metrics.finite[done - 1]:
        place, spoiled, what = done - 1, True, "after the update"
    elif (
        done < len(metrics.finite) and not metrics.finite[done] and metrics.num_isects[done] <= isect_capacity
    ):
        place, spoiled, what = done, False, "by its gradient"
    else:
        return None
    bad = name_params(metrics.broken[place], params) or "none"
    return Problem(place, f"loss {metrics.loss[place]}, Params {what}: {bad}", spoiled)


def name_params(chosen: Bool[np.ndarray, " params"] | Bool[Array, " params"], params: Any) -> str:
    """Names of some Params, in the order of their leaves."""
    return ", ".join(name for name, bad in zip(param_names(params), np.asarray(chosen), strict=True) if bad)
