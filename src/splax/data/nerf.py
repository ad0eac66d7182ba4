"""Scenes of transforms.json, as instant-ngp and nerfstudio write it.

The file lists frames, each with a ``file_path`` and a camera-to-world ``transform_matrix`` with OpenGL axes
(+x right, +y up, +z backward). Here, and only here, the y and z axes are flipped to splax's OpenCV axes.
Intrinsics may stand at the top of the file or in each frame, and are scaled to the stored image where the
file's ``w`` and ``h`` differ from it. World coordinates stay those of the file.

Errors and omissions name the file, the frame, what was found, and what to do.
"""

import os
import posixpath
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from splax.cameras import Camera
from splax.data.distortion import Undistorter
from splax.data.images import ImageError, downscale_image, read_image
from splax.data.intrinsics import Intrinsics, read_intrinsics
from splax.data.json_file import read_json, shorten
from splax.data.scene import Scene, View, split_views

EXTENSIONS = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
ROTATION_TOLERANCE = 1e-3
MAX_LISTED = 40

# file_path as the json has it, and why the frame is left out.
LeftOut = list[tuple[str, str]]

OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0])


class Frame(NamedTuple):
    """A frame of the file whose pose is valid and whose image exists."""

    name: str
    file_path: str
    path: Path
    label: str
    viewmat: Float[np.ndarray, "4 4"]
    entry: dict[str, Any]


def load_transforms(
    json_path: Path, *, downscale: float = 1, test_every: int = 8, white_background: bool = False
) -> Scene:
    """Reads a transforms.json and its images.

    Frames whose image is missing, damaged or outside the folder are left out, with one warning for all.

    Args:
        json_path: the json file; images are looked for relative to its folder, and in ``images/`` there.
        downscale: factor >= 1 by which images are made smaller, by area.
        test_every: every how many-th view, by sorted name, is held out for testing; 0 for none.
        white_background: composite transparent images on white instead of black.

    Raises:
        ValueError: if the file is no such json, a pose or the intrinsics are unusable, no image is usable,
            images differ in size, or ``downscale`` leaves no pixels.
    """
    meta = read_json(json_path)
    entries = meta.get("frames")
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            f"{json_path}: 'frames' must be a list with one entry per photo, got {shorten(entries)}. "
            f"Is it a transforms.json of instant-ngp or nerfstudio?"
        )
    left_out: LeftOut = []
    frames = _find_frames(entries, json_path, left_out)
    load = partial(
        _load_view,
        meta=meta,
        downscale=downscale,
        white_background=white_background,
        undistorter=lru_cache(maxsize=1)(_undistorter),
    )
    views = []
    # OpenCV lets go of the interpreter lock; a few threads keep memory for decoding small.
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for frame, view in zip(frames, pool.map(load, frames), strict=True):
            if isinstance(view, ImageError):
                left_out.append((frame.file_path, str(view)))
            else:
                views.append(view)
    if not views:
        raise ValueError(
            f"{json_path}: none of its {len(entries)} frames has a usable image. {_listed(left_out)} "
            f"Expected image files relative to {json_path.parent}, or in its images/ folder."
        )
    notes = ()
    if left_out:
        notes = (f"{json_path}: {len(left_out)} of {len(entries)} frames left out. {_listed(left_out)}",)
        warnings.warn(notes[0], stacklevel=3)
    train, test = split_views(views, test_every)
    background = (1.0, 1.0, 1.0) if white_background else (0.0, 0.0, 0.0)
    return Scene(train, test, warnings=notes, source=str(json_path), background=background)


def _find_frames(entries: list[Any], json_path: Path, left_out: LeftOut) -> list[Frame]:
    """Frames with a valid pose and an image file, each image once."""
    frames: dict[str, Frame] = {}
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
            path = _find_image(json_path.parent, file_path)
        except ImageError as error:
            left_out.append((file_path, str(error)))
            continue
        name = _view_name(path, json_path.parent)
        if name in frames:
            left_out.append((file_path, "listed more than once"))
        else:
            frames[name] = Frame(name, file_path, path, label, viewmat, entry)
    return list(frames.values())


def _viewmat(matrix: object, label: str) -> Float[np.ndarray, "4 4"]:
    """World-to-camera with OpenCV axes, from a frame's camera-to-world matrix with OpenGL axes."""
    if matrix is None:
        raise ValueError(f"{label}: has no transform_matrix; expected the 4 x 4 camera-to-world matrix.")
    try:
        pose = np.array(matrix, np.float64)
    except (TypeError, ValueError, OverflowError):
        pose = np.empty(0)
    if pose.shape not in ((4, 4), (3, 4)):
        raise ValueError(f"{label}: transform_matrix must be 4 x 4 numbers, got {shorten(matrix)}.")
    if not (np.abs(pose) < 1e30).all():
        raise ValueError(
            f"{label}: transform_matrix holds NaN or infinite numbers. "
            f"Remove the frame or estimate its pose again."
        )
    rotation, position = pose[:3, :3], pose[:3, 3]
    error = np.abs(rotation.T @ rotation - np.eye(3)).max()
    determinant = np.linalg.det(rotation)
    if error > ROTATION_TOLERANCE or determinant < 0:
        raise ValueError(
            f"{label}: the upper left 3 x 3 of transform_matrix must be a rotation; it has determinant "
            f"{determinant:.4g} and |RᵀR - I| up to {error:.2g}. Remove scale and mirroring from the pose."
        )
    if pose.shape[0] == 4 and np.abs(pose[3] - [0, 0, 0, 1]).max() > ROTATION_TOLERANCE:
        raise ValueError(
            f"{label}: the last row of transform_matrix must be 0 0 0 1, got {pose[3].tolist()}. "
            f"Is the matrix transposed?"
        )
    u, _, vt = np.linalg.svd(rotation)  # the nearest exact rotation
    viewmat = np.eye(4)
    viewmat[:3, :3] = OPENGL_TO_OPENCV @ (u @ vt).T
    viewmat[:3, 3] = -viewmat[:3, :3] @ position
    return viewmat


def _find_image(root: Path, file_path: str) -> Path:
    """The image file a frame names, which must lie in the folder ``root``."""
    relative = PurePosixPath(posixpath.normpath(file_path.replace("\\", "/")))
    if relative.is_absolute() or PureWindowsPath(relative).drive or relative.parts[:1] == ("..",):
        raise ImageError("leads out of the dataset's folder; file_path must be relative to the json file")
    candidates = [root / relative, root / "images" / relative]
    if relative.parts[:1] == ("images",):  # the json file lies among the images
        candidates.append(root / relative.relative_to("images"))
    for candidate in candidates:
        for extension in ("", *EXTENSIONS):
            path = candidate.parent / f"{candidate.name}{extension}"
            if os.path.isfile(path):
                return path
    raise ImageError("no such file")


def _view_name(path: Path, root: Path) -> str:
    """Path below ``images/``, or below ``root`` for images elsewhere."""
    name = path.relative_to(root).as_posix()
    return name.removeprefix("images/")


def _load_view(
    frame: Frame,
    *,
    meta: dict[str, Any],
    downscale: float,
    white_background: bool,
    undistorter: Callable[[Intrinsics, int, int], Undistorter],
) -> View | ImageError:
    """Reads, undistorts and downscales one photo; an unusable image is returned as its error."""
    try:
        image = read_image(frame.path, white_background=white_background)
    except ImageError as error:
        return error
    height, width = image.shape[:2]
    intrinsics = read_intrinsics(frame.entry, meta, width=width, height=height, label=frame.label)
    K = intrinsics.K
    if intrinsics.distortion.any():
        try:
            undistort = undistorter(intrinsics, width, height)
        except ValueError as error:
            raise ValueError(f"{frame.label}: {error}") from error
        image, K = undistort(image), undistort.K
    new_width, new_height = int(width // downscale), int(height // downscale)
    if new_width < 1 or new_height < 1:
        raise ValueError(
            f"{frame.label}: downscale {downscale:g} leaves no pixels of an image of {width} x {height}; "
            f"use at most {min(width, height)}."
        )
    image = downscale_image(image, new_width, new_height)
    K = np.diag([new_width / width, new_height / height, 1.0]) @ K
    camera = Camera(
        viewmat=jnp.asarray(frame.viewmat, jnp.float32),
        K=jnp.asarray(K, jnp.float32),
        width=new_width,
        height=new_height,
    )
    return View(image, camera, frame.name)


def _undistorter(intrinsics: Intrinsics, width: int, height: int) -> Undistorter:
    return Undistorter(intrinsics.K, intrinsics.distortion, width, height)


def _listed(left_out: LeftOut) -> str:
    """Reasons with the files they hold for, on one line."""
    reasons: dict[str, list[str]] = {}
    for file_path, reason in left_out:
        reasons.setdefault(reason, []).append(file_path)
    parts = []
    for reason, files in reasons.items():
        listed = ", ".join(shorten(file).strip("'") for file in files[:MAX_LISTED])
        more = f" and {len(files) - MAX_LISTED} more" if len(files) > MAX_LISTED else ""
        parts.append(f"{reason}: {listed}{more}")
    return "; ".join(parts) + "."
