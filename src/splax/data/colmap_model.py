"""Reads the files of a COLMAP model: cameras, images and points3D, each as .bin or .txt.

Layout: https://colmap.github.io/format.html. The files ``rigs`` and ``frames`` of COLMAP 4 repeat what images
hold, and are not read. COLMAP has the axes and pixel centres of splax: +x right, +y down, +z forward, world to
camera, the first centre at (0.5, 0.5).

Files are not trusted: counts are checked against the file's size before memory is allocated, and every error
names the file.
"""

import math
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64

from splax.data.colmap_lens import CAMERA_MODEL_NAMES, CAMERA_MODELS, ColmapLens
from splax.data.points import PointCloud, make_point_cloud
from splax.files.limits import shorten

# Folders of models, relative to a dataset's folder or to its ``sparse``, as COLMAP, its image_undistorter and
# nerfstudio have them.
_FOLDERS = ("sparse/0", "sparse", ".", "0", "colmap/sparse/0")
# Most points of an image that are kept.
MAX_IMAGE_POINTS = 4096
_MAX_NAME = 4096
_MAX_LINE = 1 << 24
_POINT_BYTES = 51  # bytes of a 3D point, before its track
_TRACK_BYTES = 8
_OBSERVATION = np.dtype([("position", "<f8", 2), ("point_id", "<i8")])


class ModelImage(NamedTuple):
    """An image of a model.

    Attributes:
        name: name of the image as the file has it; not to be trusted as a path.
        camera_id: key of the model's cameras.
        viewmat: world to camera, [4, 4].
        point_ids: ids of the points that were found in the image, [points], sorted, each once; if there are more
            than :data:`MAX_IMAGE_POINTS`, that many at even steps.
        point_pixels: pixels of the camera at which the points were found, [points, 2]; may not be finite.
    """

    name: str
    camera_id: int
    viewmat: Float[np.ndarray, "4 4"]
    point_ids: Int64[np.ndarray, " points"]
    point_pixels: Float[np.ndarray, "points 2"]


# Name, id of the camera, quaternion (w, x, y, z), translation; for each observation the id of its point, or -1,
# and its pixel.
_ImageRow = tuple[
    str,
    int,
    tuple[float, ...],
    tuple[float, ...],
    Int64[np.ndarray, " observations"],
    Float[np.ndarray, "observations 2"],
]


def find_model(root: Path) -> Path | None:
    """The folder of the model in a dataset's folder; None if there is none."""
    return next((root / folder for folder in _FOLDERS if is_model(root / folder)), None)


def is_model(folder: Path) -> bool:
    """Whether a folder holds a COLMAP model; files of it may be missing."""
    return _find_file(folder, "cameras") is not None


def read_cameras(folder: Path) -> dict[int, ColmapLens]:
    """The cameras of a model, by id.

    Raises:
        ValueError: if the file is missing, damaged, or holds a camera that cannot be used; the message names it.
    """
    path = _file(folder, "cameras")
    rows = _text_cameras(path) if path.suffix == ".txt" else _binary_cameras(path)
    cameras = {}
    for camera_id, model, width, height, params in rows:
        try:
            cameras[camera_id] = ColmapLens(model, params, width, height)
        except ValueError as error:
            raise ValueError(f"{path}: camera {camera_id}: {error}.") from error
    return cameras


def read_images(folder: Path) -> list[ModelImage]:
    """The images of a model with their poses, in the file's order.

    Raises:
        ValueError: if the file is missing or damaged; the message names it.
    """
    path = _file(folder, "images")
    rows = _text_images(path) if path.suffix == ".txt" else _binary_images(path)
    return [
        ModelImage(
            name,
            camera_id,
            _viewmat(quat, translation, f"{path}: image {shorten(name)}"),
            *_points_of_image(ids, pixels),
        )
        for name, camera_id, quat, translation, ids, pixels in rows
    ]


def read_points(folder: Path) -> PointCloud | None:
    """The 3D points of a model with their colours; None if there is no point.

    Raises:
        ValueError: if the file is damaged; the message names it.
    """
    path = _find_file(folder, "points3D")
    if path is None:
        return None
    return _text_points(path) if path.suffix == ".txt" else _binary_points(path)


def _find_file(folder: Path, name: str) -> Path | None:
    candidates = (folder / f"{name}{extension}" for extension in (".bin", ".txt"))
    return next((path for path in candidates if path.is_file()), None)


def _file(folder: Path, name: str) -> Path:
    path = _find_file(folder, name)
    if path is None:
        raise ValueError(
            f"{folder} is no complete COLMAP model: it has no {name}.bin or {name}.txt. Export the model again."
        )
    return path


def _viewmat(quat: tuple[float, ...], translation: tuple[float, ...], label: str) -> Float[np.ndarray, "4 4"]:
    """World to camera, [4, 4], from a quaternion (w, x, y, z) of any length and a translation."""
    norm, t = math.hypot(*quat), np.array(translation)
    if not (np.abs(t) < 1e30).all() or not 1e-6 < norm < 1e6:
        raise ValueError(
            f"{label} has no usable pose: quaternion {list(quat)}, translation {list(translation)}."
        )
    w, x, y, z = np.array(quat) / norm
    viewmat = np.eye(4)
    viewmat[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    viewmat[:3, 3] = t
    return viewmat


def _points_of_image(
    ids: Int64[np.ndarray, " observations"], pixels: Float[np.ndarray, "observations 2"]
) -> tuple[Int64[np.ndarray, " points"], Float[np.ndarray, "points 2"]]:
    """The points that an image observes: their ids, each once, and the pixels where each was first found.

    Args:
        ids: ids of the points of the observations; -1 stands for no point.
        pixels: pixels of the observations.
    """
    found = np.flatnonzero(ids >= 0)
    ids, first = np.unique(ids[found], return_index=True)
    kept = np.arange(len(ids))
    if len(ids) > MAX_IMAGE_POINTS:
        kept = np.linspace(0, len(ids) - 1, MAX_IMAGE_POINTS).astype(np.int64)
    return ids[kept], pixels[found[first[kept]]]


# --- binary -------------------------------------------------------------------------------------------------


class _Cursor:
    """Reads little-endian numbers of a mapped file in order, and never past its end."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.position = data, path, 0

    def read(self, layout: str) -> tuple:
        layout = "<" + layout
        self.require(struct.calcsize(layout))
        values = struct.unpack_from(layout, self.data, self.position)
        self.position += struct.calcsize(layout)
        return values

    def count(self, min_bytes: int) -> int:
        """Reads the number of records that follow, each of at least ``min_bytes`` bytes."""
        (count,) = self.read("Q")
        self.require(count * min_bytes)
        return count

    def records(self, layout: np.dtype) -> np.ndarray:
        """Reads a number of records and then the records, into an array of their own."""
        count = self.count(layout.itemsize)
        records = np.frombuffer(self.data, layout, count, self.position).copy()
        self.position += records.nbytes
        return records

    def name(self) -> str:
        end = self.data.find(b"\0", self.position, self.position + _MAX_NAME)
        if end < 0:
            raise ValueError(f"{self.path} is damaged: a name does not end within {_MAX_NAME} bytes.")
        name = os.fsdecode(self.data[self.position : end])
        self.position = end + 1
        return name

    def require(self, num_bytes: int) -> None:
        if num_bytes > len(self.data) - self.position:
            raise ValueError(
                f"{self.path} is truncated or damaged: byte {self.position} announces {num_bytes} bytes, "
                f"{len(self.data) - self.position} are left. Copy or export it again."
            )


@contextmanager
def _open_binary(path: Path) -> Iterator[_Cursor]:
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ValueError(f"{path} is empty. Copy or export it again.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield _Cursor(data, path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error


def _binary_cameras(path: Path) -> Iterator[tuple[int, str, int, int, tuple[float, ...]]]:
    with _open_binary(path) as cursor:
        for _ in range(cursor.count(24)):
            camera_id, model_id, width, height = cursor.read("iiQQ")
            name = CAMERA_MODEL_NAMES.get(model_id)
            if name not in CAMERA_MODELS:
                # The number of its params is unknown, so the rest of the file cannot be read.
                raise ValueError(f"{path}: camera {camera_id}: {_unsupported(name or f'number {model_id}')}")
            params = cursor.read(f"{CAMERA_MODELS[name].num_params}d")
            yield camera_id, name, width, height, params


def _binary_images(path: Path) -> Iterator[_ImageRow]:
    with _open_binary(path) as cursor:
        for _ in range(cursor.count(73)):
            _, *pose, camera_id = cursor.read("i7di")
            name = cursor.name()
            observations = cursor.records(_OBSERVATION)
            ids, pixels = (
                observations["point_id"].astype(np.int64),
                observations["position"].astype(np.float64),
            )
            yield name, camera_id, tuple(pose[:4]), tuple(pose[4:]), ids, pixels


def _binary_points(path: Path) -> PointCloud | None:
    with _open_binary(path) as cursor:
        starts = np.empty(cursor.count(_POINT_BYTES), np.int64)
        # Not by the methods of the cursor, which are slower: there may be millions of points.
        track_length = struct.Struct("<Q").unpack_from
        for index in range(len(starts)):
            cursor.require(_POINT_BYTES)
            starts[index] = cursor.position
            (length,) = track_length(cursor.data, cursor.position + _POINT_BYTES - 8)
            cursor.position += _POINT_BYTES + length * _TRACK_BYTES
        cursor.require(0)
        # Only the first 35 bytes of each point are needed: id, position, colour.
        data = np.frombuffer(cursor.data, np.uint8)
        rows = data[starts[:, None] + np.arange(35)]
        del data  # a mapped file with a view on it cannot be closed
    positions = np.ascontiguousarray(rows[:, 8:32]).view("<f8").reshape(-1, 3)
    ids = np.ascontiguousarray(rows[:, :8]).view("<i8").ravel()
    return make_point_cloud(positions.astype(np.float64), rows[:, 32:35].copy(), ids.astype(np.int64))


# --- text ---------------------------------------------------------------------------------------------------


def _text_cameras(path: Path) -> Iterator[tuple[int, str, int, int, tuple[float, ...]]]:
    for number, line in _lines(path):
        words = line.split()
        if not words:
            continue
        with _describing(path, number):
            camera_id, model, width, height = int(words[0]), words[1], int(words[2]), int(words[3])
            params = tuple(map(float, words[4:]))
        if model not in CAMERA_MODELS:
            raise ValueError(f"{path}: camera {camera_id}: {_unsupported(shorten(model))}")
        yield camera_id, model, width, height, params


def _text_images(path: Path) -> Iterator[_ImageRow]:
    """Rows of images: each takes two lines, its pose and its observations; the latter may be empty."""
    lines = _lines(path)
    for number, line in lines:
        if not line.strip():
            continue
        with _describing(path, number):
            _, *pose, camera_id, name = line.strip().split(maxsplit=9)
            quat, translation = tuple(map(float, pose[:4])), tuple(map(float, pose[4:]))
            if len(translation) != 3:
                raise ValueError("too few numbers")
            image = name, int(camera_id), quat, translation
        number, line = next(lines, (number, ""))
        with _describing(path, number):
            words = line.split()
            if len(words) % 3:
                raise ValueError("not three numbers for each observation")
            ids = np.array(words[2::3], np.int64)
            pixels = np.array([words[0::3], words[1::3]], np.float64).T
        yield *image, ids, pixels


def _text_points(path: Path) -> PointCloud | None:
    positions, colors, ids = [], [], []
    for number, line in _lines(path):
        words = line.split(maxsplit=8)
        if not words:
            continue
        with _describing(path, number):
            point_id, x, y, z, red, green, blue = words[:7]
            ids.append(np.int64(int(point_id)))
            positions.append((float(x), float(y), float(z)))
            colors.append(bytes((int(red), int(green), int(blue))))
    if not positions:
        return None
    rgb = np.frombuffer(b"".join(colors), np.uint8).reshape(-1, 3)
    return make_point_cloud(np.array(positions), rgb, np.array(ids))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Pairs of a line's number and its text, without comments."""
    try:
        with open(path, "rb") as file:
            number = 0
            while line := file.readline(_MAX_LINE):
                number += 1
                if len(line) == _MAX_LINE:
                    raise ValueError(f"{path} is damaged: line {number} does not end.")
                if not line.startswith(b"#"):
                    yield number, os.fsdecode(line)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error


@contextmanager
def _describing(path: Path, number: int) -> Iterator[None]:
    """Turns errors of reading a line into a ValueError that names the file and the line."""
    try:
        yield
    except (ValueError, IndexError, OverflowError) as error:
        raise ValueError(
            f"{path} is truncated or damaged at line {number}: it is not what COLMAP writes there. "
            f"Copy or export it again."
        ) from error


def _unsupported(model: str) -> str:
    return (
        f"camera model {model} is not supported; expected one of {', '.join(CAMERA_MODELS)}. "
        f"Render the photos to pinhole views first, or estimate the cameras with another model."
    )
