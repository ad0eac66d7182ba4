"""Which training views are next to a view that was held out: by time in a sequence of photos, else by place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

_EXTENSION = re.compile(r"\.[A-Za-z]\w*$")
_NUMBERED = re.compile(r"^(.*?)(\d+)(\D*)$", re.ASCII | re.DOTALL)
# Numbers with more digits are no count of photos.
_MAX_DIGITS = 15


class Neighbors(NamedTuple):
    """Training views, and how much each of them says about another view.

    Attributes:
        indices: numbers of training views, [k].
        weights: not negative, of sum 1, [k].
    """

    indices: Int[np.ndarray, " k"]
    weights: Float[np.ndarray, " k"]

    def average(self, rows: Float[Array | np.ndarray, "views ..."]) -> Float[np.ndarray, "1 ..."]:
        """The weighted mean of their rows, as one row."""
        rows = np.asarray(rows)
        mean = np.tensordot(self.weights, rows[self.indices].astype(np.float64), axes=1)
        return mean[None].astype(rows.dtype)


class Neighborhood(NamedTuple):
    """Where the training views lie.

    Attributes:
        kind: ``"time"`` or ``"place"``.
        training: numbers of photos [V, 1], or camera centres in world units [V, 3].
    """

    kind: Literal["time", "place"]
    training: Float[np.ndarray, "views axes"]

    @classmethod
    def of(cls, training: Mapping[str, Float[np.ndarray, " 3"]], names: Iterable[str]) -> Neighborhood:
        """By time if all views form one sequence, else by place.

        Args:
            training: camera centres of the training views by name.
            names: of the views that were held out.
        """
        numbers = sequence_numbers([*training, *names])
        if numbers is None:
            return cls("place", np.stack([*training.values()]).astype(np.float64))
        return cls("time", np.array([[numbers[name]] for name in training], np.float64))

    def around(self, name: str, position: Float[np.ndarray, " 3"]) -> Neighbors:
        """Neighbours of a view that was held out, of this name and with its camera there."""
        if self.kind == "place":
            return by_place(self.training, position)
        numbers = sequence_numbers([name])
        assert numbers is not None  # its name was among those that decided the kind
        return by_time(self.training[:, 0], numbers[name])

    def without(self, index: int) -> Neighbors:
        """Neighbours of a training view among the others."""
        others = np.delete(np.arange(len(self.training)), index)
        place = self.training[index]
        found = (
            by_time(self.training[others, 0], place[0])
            if self.kind == "time"
            else by_place(self.training[others], place)
        )
        return found._replace(indices=others[found.indices])


def sequence_numbers(names: Iterable[str]) -> dict[str, int] | None:
    """The numbers of photos whose names differ in one number only, by name; None if they are no sequence.

    A name without its extension is taken as prefix, digits, suffix; the digits are the last ones in it.
    """
    parts = {name: _NUMBERED.match(_EXTENSION.sub("", name)) for name in names}
    found = {name: match.groups() for name, match in parts.items() if match is not None}
    patterns = {(prefix, suffix) for prefix, _, suffix in found.values()}
    if len(found) < len(parts) or len(patterns) != 1:
        return None
    if any(len(digits) > _MAX_DIGITS for _, digits, _ in found.values()):
        return None
    numbers = {name: int(digits) for name, (_, digits, _) in found.items()}
    return numbers if len(set(numbers.values())) == len(numbers) else None


def by_time(numbers: Float[np.ndarray, " views"], number: float) -> Neighbors:
    """The nearest below and above, for linear interpolation; at an end of the sequence the nearest alone."""
    below, above = numbers <= number, numbers >= number
    if not (below.any() and above.any()):
        return Neighbors(np.array([np.abs(numbers - number).argmin()]), np.ones(1))
    low = int(np.where(below, numbers, -np.inf).argmax())
    high = int(np.where(above, numbers, np.inf).argmin())
    if low == high:
        return Neighbors(np.array([low]), np.ones(1))
    share = (number - numbers[low]) / (numbers[high] - numbers[low])
    return Neighbors(np.array([low, high]), np.array([1 - share, share]))


def by_place(positions: Float[np.ndarray, "views 3"], position: Float[np.ndarray, " 3"]) -> Neighbors:
    """The two nearest, with weights inversely proportional to their distances; one in the very place alone."""
    distances = np.linalg.norm(positions - position, axis=1)
    nearest = np.argsort(distances, kind="stable")[:2]
    if distances[nearest[0]] == 0:
        return Neighbors(nearest[:1], np.ones(1))
    weights = 1 / distances[nearest]
    return Neighbors(nearest, weights / weights.sum())


def everyone(num_views: int) -> Neighbors:
    """All training views alike: their average is the mean."""
    return Neighbors(np.arange(num_views), np.full(num_views, 1 / num_views))


def only(index: int) -> Neighbors:
    """One training view."""
    return Neighbors(np.array([index]), np.ones(1))


def errors_of_prediction(
    neighborhood: Neighborhood, average: Callable[[Neighbors], Float[np.ndarray, " n"]]
) -> tuple[float, float]:
    """How well training views are predicted by their neighbours, and by the mean of all the others.

    Leave-one-out: each view in turn is predicted from the rest.

    Args:
        neighborhood: where the training views lie; at least two.
        average: what was learned, averaged over training views; linear in their weights.

    Returns:
        Sums of squared errors: of the neighbours' prediction, and of the mean's.
    """
    num = len(neighborhood.training)
    mean = average(everyone(num))
    by_neighbors = by_mean = 0.0
    for index in range(num):
        own = average(only(index))
        by_neighbors += float(((own - average(neighborhood.without(index))) ** 2).sum())
        # Of the mean without the view itself, which is this factor farther from it.
        by_mean += float(((own - mean) ** 2).sum()) * (num / (num - 1)) ** 2
    return by_neighbors, by_mean


def describe_choice(kind: str, by_neighbors: float, otherwise: float, name: str) -> str:
    """Which of two predictions is used, and why, for people.

    Args:
        kind: of the neighbourhood.
        by_neighbors: squared error of the neighbours' prediction.
        otherwise: of the other one.
        name: of the other one.
    """
    if otherwise == 0:
        return f"{name}, which all training views have"
    times = f"{by_neighbors / otherwise:.2f} times its squared error"
    ratio = f"on training views left out in turn, neighbours have {times}"
    if by_neighbors < otherwise:
        return f"neighbours by {kind}, not {name}: {ratio}"
    return f"{name}, not neighbours by {kind}: {ratio}"
