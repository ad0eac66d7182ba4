"""Finds the first value that is not finite in the metrics of a compiled call, and names it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool

from splax.training.progress import StepMetrics
from splax.training.state import param_names


class NonFiniteStep(NamedTuple):
    """A step with a loss, a gradient or a Param that is not finite.

    Attributes:
        place: index of the step within the compiled call.
        text: loss and Params concerned, for people; the step's number is not part of it.
        spoiled: whether the step was made, so that the state is no longer good.
    """

    place: int
    text: str
    spoiled: bool


def find_nonfinite_step(
    metrics: StepMetrics, done: int, isect_capacity: int, params: Any
) -> NonFiniteStep | None:
    """The step of a compiled call that is not finite; None if all are.

    Args:
        metrics: metrics of the steps made, and of one step that could not be made.
        done: number of steps made.
        isect_capacity: rows of the intersection buffer; the metrics of an image that did not fit mean nothing.
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
    return NonFiniteStep(place, f"loss {metrics.loss[place]}, Params {what}: {bad}", spoiled)


def name_params(chosen: Bool[np.ndarray, " params"] | Bool[Array, " params"], params: Any) -> str:
    """Names of some Params, in the order of their leaves."""
    return ", ".join(name for name, bad in zip(param_names(params), np.asarray(chosen), strict=True) if bad)
