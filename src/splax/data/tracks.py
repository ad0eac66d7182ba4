"""The surface points that each photo shows, and their pixels, from the tracks of structure from motion."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64

from splax.data.points import PointCloud


class PhotoPoints(NamedTuple):
    """Surface points that a photo shows.

    Attributes:
        positions: positions of the points in world coordinates, [P, 3].
        pixels: pixels of the photo that show the points, [P, 2].
    """

    positions: Float32[np.ndarray, "k 3"]
    pixels: Float[np.ndarray, "k 2"]


def points_of_photos(
    points: PointCloud | None,
    observations: Iterable[tuple[Int64[np.ndarray, " points"], Float[np.ndarray, "points 2"]]],
) -> Iterator[PhotoPoints | None]:
    """The points that each photo shows; None for a photo that shows none of them.

    Args:
        points: point cloud of the scene, with ids.
        observations: ids of the points that each photo shows, [K], and their pixels, [K, 2]. Ids that no point has
            are left out.
    """
    if points is None or points.ids is None:
        yield from (None for _ in observations)
        return
    order = np.argsort(points.ids, kind="stable")
    known = points.ids[order]
    for ids, pixels in observations:
        places = np.searchsorted(known, ids).clip(max=len(known) - 1)
        there = known[places] == ids
        found = order[places[there]]
        yield PhotoPoints(points.positions[found], pixels[there]) if len(found) else None
