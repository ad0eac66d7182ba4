"""Training views that are next to a held-out view: by time in a sequence of photos, else by place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

_EXTENSION = re.compile(r"\.[A-Za-z]\w*$")
_NUMBERED = re.compile(r"^(.*?)(\d+)(\D*)$", re.ASCII | re.DOTALL)
# Largest number of digits in a number that counts photos.
_MAX_DIGITS = 15


class Neighbors(NamedTuple):
    """Training views next to another view, and the weight of each of them.

    Attributes:
        indices: numbers of training views, [k] int.
        weights: weights of these views, not negative, of sum 1, [k].
    """

    indices: Int[np.ndarray, " k"]
    weights: Float[np.ndarray, " k"]

    def average(self, rows: Float[Array | np.ndarray, "views ..."]) -> Float[np.ndarray, "1 ..."]:
        """The weighted mean of the neighbours' rows, as one row, [1, ...].

        Args:
            rows: one row for each training view, [V, ...].
        """
        rows = np.asarray(rows)
        mean = np.tensordot(self.weights, rows[self.indices].astype(np.float64), axes=1)
        return mean[None].astype(rows.dtype)


class Neighborhood(NamedTuple):
    """Times or places of the training views.

    Attributes:
        kind: ``"time"`` or ``"place"``, by which views are neighbours.
        training: numbers of the photos, [V, 1], or camera centres in world units, [V, 3].
    """

    kind: Literal["time", "place"]
    training: Float[np.ndarray, "views axes"]

    @classmethod
    def of(cls, training: Mapping[str, Float[np.ndarray, " 3"]], names: Iterable[str]) -> Neighborhood:
        """The neighbourhood by time if the names of all views form one sequence, else by place.

        Args:
            training: camera centres of the training views, world units, by name.
            names: names of the held-out views.
        """
        numbers = sequence_numbers([*training, *names])
        if numbers is None:
            return cls("place", np.stack([*training.values()]).astype(np.float64))
        return cls("time", np.array([[numbers[name]] for name in training], np.float64))

    def around(self, name: str, position: Float[np.ndarray, " 3"]) -> Neighbors:
        """Neighbours of a held-out view.

        Args:
            name: name of the view, one of those that the neighbourhood was made of.
            position: centre of the view's camera, world units, [3].
        """
        if self.kind == "place":
            return by_place(self.training, position)
        numbers = sequence_numbers([name])
        assert numbers is not None  # the name was among those that decided the kind
        return by_time(self.training[:, 0], numbers[name])

    def without(self, index: int) -> Neighbors:
        """Neighbours of the training view of this number among the other training views."""
        others = np.delete(np.arange(len(self.training)), index)
        place = self.training[index]
        found = (
            by_time(self.training[others, 0], place[0])
            if self.kind == "time"
            else by_place(self.training[others], place)
        )
        return found._replace(indices=others[found.indices])


def sequence_numbers(names: Iterable[str]) -> dict[str, int] | None:
    """The numbers of photos, by name, if the names differ in one number only; None if they form no sequence.

    A name without its extension is read as a prefix, digits and a suffix, where the digits are the last ones in
    it.
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
    """The nearest views below and above, for linear interpolation; beyond the ends, the nearest view alone.

    Args:
        numbers: numbers of the training views' photos, [V].
        number: number of the other view's photo.
    """
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
    """The two nearest views, with weights inversely proportional to their distances.

    A view in the same place as the other one is its only neighbour.

    Args:
        positions: camera centres of the training views, world units, [V, 3].
        position: camera centre of the other view, world units, [3].
    """
    distances = np.linalg.norm(positions - position, axis=1)
    nearest = np.argsort(distances, kind="stable")[:2]
    if distances[nearest[0]] == 0:
        return Neighbors(nearest[:1], np.ones(1))
    weights = 1 / distances[nearest]
    return Neighbors(nearest, weights / weights.sum())


def everyone(num_views: int) -> Neighbors:
    """All training views with equal weights: their average is the mean."""
    return Neighbors(np.arange(num_views), np.full(num_views, 1 / num_views))


def only(index: int) -> Neighbors:
    """The training view of this number alone."""
    return Neighbors(np.array([index]), np.ones(1))


def errors_of_prediction(
    neighborhood: Neighborhood, average: Callable[[Neighbors], Float[np.ndarray, " n"]]
) -> tuple[float, float]:
    """Errors of predicting training views by their neighbours, and by the mean of all others.

    Each view in turn is left out and predicted from the other views.

    Args:
        neighborhood: times or places of at least two training views.
        average: function that averages learned numbers over training views, [n]; linear in the weights.

    Returns:
        The sums of squared errors of the neighbours' prediction, and of the mean's.
    """
    num = len(neighborhood.training)
    mean = average(everyone(num))
    by_neighbors = by_mean = 0.0
    for index in range(num):
        own = average(only(index))
        by_neighbors += float(((own - average(neighborhood.without(index))) ** 2).sum())
        # The mean without the view itself is farther from the view than the mean of all, by this factor.
        by_mean += float(((own - mean) ** 2).sum()) * (num / (num - 1)) ** 2
    return by_neighbors, by_mean


def describe_choice(kind: str, by_neighbors: float, otherwise: float, name: str) -> str:
    """A sentence that says which of two predictions is used, and why.

    Args:
        kind: kind of the neighbourhood, ``"time"`` or ``"place"``.
        by_neighbors: squared error of the neighbours' prediction.
        otherwise: squared error of the other prediction.
        name: name of the other prediction.
    """
    if otherwise == 0:
        return f"{name}, which all training views have"
    times = f"{by_neighbors / otherwise:.2f} times its squared error"
    ratio = f"on training views left out in turn, neighbours have {times}"
    if by_neighbors < otherwise:
        return f"neighbours by {kind}, not {name}: {ratio}"
    return f"{name}, not neighbours by {kind}: {ratio}"
