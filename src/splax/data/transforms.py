"""Reads datasets of transforms.json, as instant-ngp and nerfstudio write it.

The file lists frames. Each has a ``file_path`` and a camera-to-world ``transform_matrix`` with OpenGL axes (+x
right, +y up, +z backward), and may have a ``mask_path`` and a ``depth_file_path``. Here, and only here, the y and
z axes are flipped to splax's OpenCV axes. Intrinsics are stated at the top of the file or in each frame. They are
scaled to the stored image if the file's ``w`` and ``h`` differ from its size. World coordinates stay those of the
file. ``applied_transform`` states how they were made from COLMAP's; it is needed only for the points of a COLMAP
model next to the file. The points of ``ply_file_path`` are in the file's own world.

A frame may state its ``time`` (D-NeRF, dynamic datasets of nerfstudio), a number in any unit. Unless all frames
do, times are ignored with a warning.

Errors and warnings name the file, the frame, what was found, and what to do.
"""

import math
import os
from collections import ChainMap
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float

from splax.data.colmap_model import find_model, read_points
from splax.data.decode import decoded_size
from splax.data.intrinsics import read_lens, stated_size
from splax.data.layout import EXTENSIONS, find_downscaled, find_mask, first_file, relative_path
from splax.data.photo_reader import Photo
from splax.data.points import PointCloud, make_point_cloud, read_ply_points
from splax.data.poses import OPENGL, to_viewmat
from splax.data.scene_builder import LeftOut, ReadOptions, build_scene
from splax.data.stated_split import split_of_file
from splax.files.image_header import ImageError, read_image_header
from splax.files.json import read_json, read_number
from splax.files.limits import shorten
from splax.scene import Scene

_NAME = "transforms.json"
# Depth images of nerfstudio are in millimetres, unless the file states another unit.
_DEPTH_UNIT = 1e-3


def find_transforms(path: Path) -> Path | None:
    """The transforms.json for ``path``: the file itself, or in or above a folder of images; None if none."""
    if path.is_file():
        return path if path.suffix.lower() == ".json" else None
    folders = [path, path / "images"]
    if path.name.startswith("images"):
        folders.append(path.absolute().parent)
    return next((folder / _NAME for folder in folders if (folder / _NAME).is_file()), None)


def load_transforms(json_path: Path, options: ReadOptions) -> Scene:
    """Reads a transforms.json and its images.

    Frames whose image is missing, damaged or outside the folder are left out, with one warning for all of them.
    Images are searched for relative to the file's folder and in its ``images/``; masks also in its ``masks/``.

    Args:
        json_path: path of the json file.
        options: options for reading the images.

    Raises:
        ValueError: if the file is no transforms.json, a pose or the intrinsics are unusable, no image is usable,
            the point cloud is damaged, or ``downscale`` leaves no pixels.
    """
    left_out: LeftOut = []
    notes: list[str] = []
    meta, photos = read_frames(json_path, options, left_out)
    applied = read_applied_transform(meta, json_path)
    points = read_scene_points(meta, applied, json_path, notes)
    train, test = split_of_file(meta, photos, json_path, left_out, notes)
    return build_scene(
        train,
        options,
        source=json_path,
        dataset_type="transforms",
        left_out=left_out,
        test_photos=test,
        points=points,
        applied_transform=applied,
        notes=notes,
    )


def read_frames(
    json_path: Path, options: ReadOptions, left_out: LeftOut
) -> tuple[dict[str, Any], list[Photo]]:
    """Reads the frames of a transforms.json.

    Args:
        json_path: path of the json file.
        options: options for reading the images.
        left_out: list to which frames without a usable image file are appended.

    Returns:
        The top-level object of the file, and the frames that have an image file, each image once.

    Raises:
        ValueError: if the file is no transforms.json, or a pose is unusable.
    """
    meta = read_json(json_path)
    entries = meta.get("frames")
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            f"{json_path}: 'frames' must be a list with one entry per photo, got {shorten(entries)}. "
            f"Is it a transforms.json of instant-ngp or nerfstudio?"
        )
    photos: dict[str, Photo] = {}
    for index, entry in enumerate(entries):
        label = f"{json_path}: frame {index}"
        if not isinstance(entry, dict):
            raise ValueError(f"{label} must be a json object, got {shorten(entry)}.")
        file_path = entry.get("file_path")
        if not isinstance(file_path, str) or not file_path:
            raise ValueError(f"{label}: file_path must name an image file, got {shorten(file_path)}.")
        label = f"{label} ({shorten(file_path)})"
        viewmat = _viewmat(entry.get("transform_matrix"), label)
        try:
            photo = _make_photo(entry, meta, json_path.parent, viewmat, label, options)
        except ImageError as error:
            left_out.append((file_path, str(error)))
            continue
        if photo.name in photos:
            left_out.append((file_path, "listed more than once"))
        else:
            photos[photo.name] = photo
    return meta, list(photos.values())


def _make_photo(
    entry: dict[str, Any],
    meta: dict[str, Any],
    root: Path,
    viewmat: Float[np.ndarray, "4 4"],
    label: str,
    options: ReadOptions,
) -> Photo:
    """One frame with the files that it names.

    Raises:
        ImageError: if one of the files is missing or outside the folder.
    """
    path, name = _find_image(root, entry["file_path"], options.downscale)
    downscaled = find_downscaled(root, name, options.downscale)
    both = ChainMap(entry, meta)
    if path == downscaled and stated_size(both, label) is None:
        # The lens is that of the whole image, of which there is only the copy.
        width, height = decoded_size(read_image_header(path), None)
        entry = {**entry, "w": width * options.downscale, "h": height * options.downscale}
        both = ChainMap(entry, meta)
    return Photo(
        name=name.as_posix(),
        path=path,
        viewmat=viewmat,
        lens=partial(read_lens, entry=entry, meta=meta, label=label),
        label=label,
        size=stated_size(both, label),
        downscaled=downscaled,
        mask=_named_file(root, entry, "mask_path") or find_mask(root, name),
        depth=_named_file(root, entry, "depth_file_path"),
        depth_unit=_depth_unit(both, label),
        time=_time(entry, label),
    )


def _find_image(root: Path, file_path: str, downscale: float) -> tuple[Path, PurePosixPath]:
    """The image file of a frame, or its smaller copy if that is all there is; and the name of its view.

    Raises:
        ImageError: if there is no such file, or it is outside the folder.
    """
    relative = relative_path(file_path)
    candidates = [root / relative, root / "images" / relative]
    if relative.parts[:1] == ("images",):  # the json file may be among the images
        candidates.append(root / relative.relative_to("images"))
    path = first_file(candidates)
    if path is not None:
        return path, _view_name(relative_path(path.relative_to(root).as_posix()))
    name = _view_name(relative)
    path = find_downscaled(root, name, downscale)
    if path is None:
        raise ImageError("no such file")
    return path, name if name.suffix in EXTENSIONS else name.with_name(f"{name.name}{path.suffix}")


def _view_name(relative: PurePosixPath) -> PurePosixPath:
    """The name of the view of an image: its path below the dataset's folder, or below ``images`` there."""
    below_images = relative.parts[0] == "images" and len(relative.parts) > 1
    return relative.relative_to("images") if below_images else relative


def _named_file(root: Path, source: dict[str, Any], key: str) -> Path | None:
    """The file that an optional key names; None if the key is absent.

    Raises:
        ImageError: if there is no such file, or it is outside the folder.
    """
    name = source.get(key)
    if name is None:
        return None
    if not isinstance(name, str):
        raise ImageError(f"its {key} must name a file, got {shorten(name)}")
    try:
        path = first_file([root / relative_path(name)], extensions=("",))
    except ImageError as error:
        raise ImageError(f"its {key} {error}") from error
    if path is None:
        raise ImageError(f"its {key} is no file")
    return path


def _depth_unit(both: Mapping[str, Any], label: str) -> float:
    unit = read_number(both, "depth_unit_scale_factor", label, default=_DEPTH_UNIT)
    if not unit > 0:
        raise ValueError(f"{label}: depth_unit_scale_factor must be positive, got {unit:g}.")
    return unit


def _time(entry: Mapping[str, Any], label: str) -> float | None:
    """Time at which the frame was taken; None if the frame does not state it."""
    cure = "Correct it, or take time out of all frames."
    time = read_number(entry, "time", label, default=math.nan, cure=cure)
    return None if math.isnan(time) else time


def _viewmat(matrix: object, label: str) -> Float[np.ndarray, "4 4"]:
    """World to camera with OpenCV axes, [4, 4], from a frame's camera-to-world matrix with OpenGL axes."""
    if matrix is None:
        raise ValueError(f"{label}: has no transform_matrix; expected the 4 x 4 camera-to-world matrix.")
    label = f"{label}: transform_matrix"
    return to_viewmat(_read_matrix(matrix, label), OPENGL, label)


def _read_matrix(matrix: object, label: str) -> Float[np.ndarray, "rows 4"]:
    """The numbers of a matrix in the file, [4, 4] or [3, 4]."""
    try:
        values = np.array(matrix, np.float64)
    except (TypeError, ValueError, OverflowError):
        values = np.empty(0)
    if values.shape not in ((4, 4), (3, 4)):
        raise ValueError(f"{label} must be 4 x 4 numbers, got {shorten(matrix)}.")
    return values


def read_applied_transform(meta: dict[str, Any], json_path: Path) -> Float[np.ndarray, "4 4"] | None:
    """The transform that nerfstudio applied to COLMAP's world, [4, 4]; None if the file states none."""
    applied = meta.get("applied_transform")
    if applied is None:
        return None
    matrix = np.eye(4)
    matrix[:3] = _read_matrix(applied, f"{json_path}: applied_transform")[:3]
    return matrix


def read_scene_points(
    meta: dict[str, Any], applied: Float[np.ndarray, "4 4"] | None, json_path: Path, notes: list[str]
) -> PointCloud | None:
    """The points of ``ply_file_path``, or else of a COLMAP model next to the file; None if there is neither.

    Args:
        meta: top-level object of the file.
        applied: transform from COLMAP's world to that of the file, [4, 4], or None.
        json_path: path of the file.
        notes: list to which warnings are appended: if ``ply_file_path`` does not exist, and about colours.
    """
    root, name = json_path.parent, meta.get("ply_file_path")
    if name is not None:
        if not isinstance(name, str):
            raise ValueError(f"{json_path}: ply_file_path must name a file, got {shorten(name)}.")
        try:
            path = root / relative_path(name)
        except ImageError as error:
            raise ValueError(f"{json_path}: ply_file_path {error}.") from error
        if os.path.isfile(path):  # false, not an error, for a name that is too long
            return read_ply_points(path, notes)
        notes.append(f"ply_file_path {shorten(name)} is no file; the scene has no points.")
        return None
    model = find_model(root)
    # Without the transform it is unknown whether both are in one world.
    if applied is None or model is None:
        return None
    points = read_points(model)
    if points is None:
        return None
    return make_point_cloud(points.positions @ applied[:3, :3].T + applied[:3, 3], points.colors)
