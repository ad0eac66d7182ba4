"""Point clouds: the known surface points of a scene, and the .ply files that datasets keep them in."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64, UInt8

from splax.data.point_colors import find_colors, to_bytes
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


def read_ply_points(path: Path, notes: list[str] | None = None) -> PointCloud | None:
    """The vertices of a .ply file, with their colours; :mod:`splax.data.point_colors` has the names and ranges.

    Args:
        path: file to read.
        notes: list to which warnings about the colours are appended, one sentence each; None: they are issued.

    Raises:
        ValueError: if the file cannot be read, is damaged or holds no positions; the message names it.
    """
    found: list[str] = []
    try:
        # Numbers that are not finite need no warning here: make_point_cloud leaves them out.
        with open(path, "rb") as file, np.errstate(over="ignore", invalid="ignore"):
            header = read_ply_header(file)
            vertices = next((e for e in header.elements if e.name == "vertex"), None)
            if vertices is None or not {"x", "y", "z"} <= vertices.properties.keys():
                raise ValueError("has no vertices with x, y and z")
            properties = find_colors(vertices.properties, found)
            chunks = read_rows(file, header, vertices)  # checks the count against the file's size
            positions = np.empty((vertices.count, 3))
            values = None if properties is None else np.empty((vertices.count, 3), properties.stored_type)
            for rows, columns in chunks:
                positions[rows] = np.stack([columns[name] for name in "xyz"], axis=-1)
                if properties is not None and values is not None:
                    chunk = np.stack([columns[name] for name in properties.names], axis=-1)
                    if values.dtype == np.uint8 and chunk.dtype != np.uint8:  # the numbers of a text file
                        chunk = np.nan_to_num(np.rint(chunk)).clip(0, 255)
                    values[rows] = chunk
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"{path} {error}.") from error
    colors = None if properties is None or values is None else to_bytes(values, properties, found)
    for note in found:
        if notes is None:
            warnings.warn(f"{path}: {note}", stacklevel=2)
        else:
            notes.append(f"{path.name}: {note}")
    return make_point_cloud(positions, colors)
