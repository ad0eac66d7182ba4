"""Which surface points each photo shows and where, from the tracks of structure from motion."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64

from splax.data.points import PointCloud


class SeenPoints(NamedTuple):
    """Surface points that a photo shows.

    Attributes:
        positions: in world coordinates, [P, 3].
        pixels: where it shows them, [P, 2].
    """

    positions: Float32[np.ndarray, "k 3"]
    pixels: Float[np.ndarray, "k 2"]


def points_seen(
    points: PointCloud | None, seen: Iterable[tuple[Int64[np.ndarray, " seen"], Float[np.ndarray, "seen 2"]]]
) -> Iterator[SeenPoints | None]:
    """The points that each photo shows; None for a photo that shows none of them.

    Args:
        points: of the scene, with ids.
        seen: ids of points for each photo, and where it shows them; those of no point are left out.
    """
    if points is None or points.ids is None:
        yield from (None for _ in seen)
        return
    order = np.argsort(points.ids, kind="stable")
    known = points.ids[order]
    for ids, pixels in seen:
        places = np.searchsorted(known, ids).clip(max=len(known) - 1)
        there = known[places] == ids
        found = order[places[there]]
        yield SeenPoints(points.positions[found], pixels[there]) if len(found) else None
