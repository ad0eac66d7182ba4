"""Which surface points each photo shows, from the tracks of structure from motion."""

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float32, Int64

from splax.data.points import Points


def points_seen(
    points: Points | None, seen: Iterable[Int64[np.ndarray, " seen"]]
) -> Iterator[Float32[np.ndarray, "k 3"] | None]:
    """Positions of the points that each photo shows; None for a photo that shows none of them.

    Args:
        points: of the scene, with ids.
        seen: ids of points for each photo; those that there are no points of are left out.
    """
    if points is None or points.ids is None:
        yield from (None for _ in seen)
        return
    order = np.argsort(points.ids, kind="stable")
    known = points.ids[order]
    for ids in seen:
        places = np.searchsorted(known, ids).clip(max=len(known) - 1)
        found = order[places[known[places] == ids]]
        yield points.positions[found] if len(found) else None
