"""Point clouds: the known surface points of a scene, and the .ply files that datasets keep them in."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64, UInt8

from splax.files.ply import read_ply_header, read_rows


class PointCloud(NamedTuple):
    """Surface points in world coordinates.

    Attributes:
        positions: positions of the points, float32 [P, 3], all finite.
        colors: RGB colours of the points, uint8 [P, 3], or None.
        ids: ids by which the tracks of photos name the points, [P], or None.
    """

    positions: Float[np.ndarray, "points 3"]
    colors: UInt8[np.ndarray, "points 3"] | None
    ids: Int64[np.ndarray, " points"] | None = None


def make_point_cloud(
    positions: Float[np.ndarray, "points 3"],
    colors: UInt8[np.ndarray, "points 3"] | None,
    ids: Int64[np.ndarray, " points"] | None = None,
) -> PointCloud | None:
    """The points whose positions are finite in float32; None if there is none.

    Args:
        positions: positions of the points, [P, 3].
        colors: RGB colours of the points, uint8 [P, 3], or None.
        ids: ids of the points, [P], or None.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # signalling NaNs would warn
        positions = positions.astype(np.float32)
    usable = np.isfinite(positions).all(axis=-1)
    if not usable.any():
        return None
    return PointCloud(positions[usable], *(None if x is None else x[usable] for x in (colors, ids)))


def read_ply_points(path: Path) -> PointCloud | None:
    """The vertices of a .ply file, with colours if it has ``red green blue`` (as bytes, or floats of 0 to 1).

    Raises:
        ValueError: if the file cannot be read, is damaged or holds no positions; the message names it.
    """
    try:
        # Numbers that are not finite need no warning here: make_point_cloud leaves them out.
        with open(path, "rb") as file, np.errstate(over="ignore", invalid="ignore"):
            header = read_ply_header(file)
            vertices = next((e for e in header.elements if e.name == "vertex"), None)
            if vertices is None or not {"x", "y", "z"} <= vertices.properties.keys():
                raise ValueError("has no vertices with x, y and z")
            rgb = [name for name in ("red", "green", "blue") if name in vertices.properties]
            chunks = read_rows(file, header, vertices)  # checks the count against the file's size
            positions = np.empty((vertices.count, 3))
            colors = np.empty((vertices.count, 3), np.uint8) if len(rgb) == 3 else None
            for rows, columns in chunks:
                positions[rows] = np.stack([columns[name] for name in "xyz"], axis=-1)
                if colors is not None:
                    values = np.stack([columns[name] for name in rgb], axis=-1).astype(np.float64)
                    values *= 255 if vertices.properties["red"].startswith("f") else 1
                    colors[rows] = np.nan_to_num(np.rint(values)).clip(0, 255)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"{path} {error}.") from error
    return make_point_cloud(positions, colors)
