"""Reads datasets of depth cameras: folders of colour and depth images with a trajectory, of Open3D and TUM.

Open3D: ``color/``, ``depth/`` (16 bits, millimetres), ``trajectory.log`` (or another .log file) with a line of
three numbers and a 4 x 4 camera-to-world matrix for each frame, and a json file with ``intrinsic_matrix``, column
by column. The first of the three is the number of the frame, which names of images hold too.

TUM RGB-D: ``rgb/``, ``depth/`` (16 bits, 5000 for each metre), ``groundtruth.txt`` with lines ``time tx ty tz qx
qy qz qw``, camera to world. File names are times in seconds; each image is joined to the nearest depth image and
the nearest pose within 20 ms. The format has no intrinsics, so they are read from a json file of Open3D.

Both formats have OpenCV's axes, and count pixels from the centre of the first one: half a pixel is added to cx and
cy.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from splax.data.colmap_lens import ColmapLens
from splax.data.layout import find_mask, list_images
from splax.data.numbered_files import JoinError, fit_numbers, join_by_number, number_columns
from splax.data.photo_reader import Photo
from splax.data.poses import OPENCV, to_viewmat
from splax.data.scene_builder import LeftOut, ReadOptions, build_scene, fixed_lens
from splax.files.json import read_json
from splax.files.limits import shorten
from splax.scene import Scene

_COLOR_FOLDERS = ("color", "rgb", "image")
_DEPTH_FOLDER = "depth"
_LOGS = ("trajectory.log", "odometry.log")
_TUM_TRAJECTORY = "groundtruth.txt"
_MAX_BYTES = 1 << 28
_OPEN3D_UNIT = 1e-3
_TUM_UNIT = 1 / 5000
_TUM_TOLERANCE = 0.02  # seconds
_MAX_LISTED = 10


class _Frame(NamedTuple):
    color: Path
    depth: Path | None
    pose: Float[np.ndarray, "4 4"]


def find_rgbd(path: Path) -> Path | None:
    """The trajectory of a folder with colour and depth images, or the file ``path`` itself; None if none."""
    if path.is_file():
        return path if path.name in (*_LOGS, _TUM_TRAJECTORY) else None
    if not (path / _DEPTH_FOLDER).is_dir() or _color_folder(path) is None:
        return None
    names = (*_LOGS, _TUM_TRAJECTORY, *sorted(file.name for file in path.glob("[!.]*.log")))
    return next((path / name for name in names if (path / name).is_file()), None)


def load_rgbd(trajectory: Path, options: ReadOptions) -> Scene:
    """Reads colour and depth images with their poses.

    Args:
        trajectory: .log file of Open3D, or ``groundtruth.txt`` of TUM.
        options: options for reading the images.

    Raises:
        ValueError: if the trajectory or the intrinsics are missing or damaged, or no image is usable.
    """
    root = trajectory.parent
    folder = _color_folder(root)
    if folder is None:
        raise ValueError(
            f"{root} has no folder of colour images; expected one of {', '.join(_COLOR_FOLDERS)}."
        )
    is_tum = trajectory.name == _TUM_TRAJECTORY
    lens, label = _read_intrinsics(root)
    left_out: LeftOut = []
    notes: list[str] = []
    frames = _tum_frames if is_tum else _open3d_frames
    photos = [
        Photo(
            name=frame.color.name,
            path=frame.color,
            viewmat=to_viewmat(frame.pose, OPENCV, f"{trajectory}: the pose of {frame.color.name}"),
            lens=fixed_lens(lens, label),
            label=f"{trajectory}: image {frame.color.name}",
            size=(lens.width, lens.height),
            mask=find_mask(root, PurePosixPath(frame.color.name)),
            depth=frame.depth,
            depth_unit=_TUM_UNIT if is_tum else _OPEN3D_UNIT,
        )
        for frame in frames(trajectory, list_images(folder), left_out, notes)
    ]
    return build_scene(
        photos, options, source=trajectory, dataset_type="rgbd", left_out=left_out, notes=notes
    )


def _color_folder(root: Path) -> Path | None:
    return next((root / name for name in _COLOR_FOLDERS if (root / name).is_dir()), None)


def _open3d_frames(
    trajectory: Path, colors: list[Path], left_out: LeftOut, notes: list[str]
) -> Iterator[_Frame]:
    """Frames of Open3D: the number in an image's name is that of its pose, and of its depth image."""
    poses = _read_log(trajectory)
    depths = list_images(trajectory.parent / _DEPTH_FOLDER)
    try:
        ids = join_by_number(colors, poses, depths) if poses else [None] * len(colors)
    except JoinError as error:
        raise ValueError(
            f"{trajectory} has {len(poses)} poses, but there are {len(colors)} images in {_parent(colors)}, "
            f"{error}. Take out poses and images that belong to nothing, or name each image by its pose's number."
        ) from error
    unused = sorted(poses.keys() - set(ids))
    if unused:
        listed = ", ".join(map(str, unused[:_MAX_LISTED])) + (", ..." if len(unused) > _MAX_LISTED else "")
        notes.append(f"{len(unused)} of its {len(poses)} poses belong to no image: {listed}.")
    depth_of = _join_depths(colors, depths)
    for color, number in zip(colors, ids, strict=True):
        if number is None:
            left_out.append((color.name, "has no pose"))
        else:
            yield _Frame(color, depth_of.get(color), poses[number])


def _join_depths(colors: list[Path], depths: list[Path]) -> dict[Path, Path]:
    """The depth image of each colour image that has one: by name, by number, or by order if the counts are equal.

    Raises:
        ValueError: if neither names nor numbers join the images, and the counts differ.
    """
    by_stem = {path.stem: path for path in depths}
    joined = {color: by_stem[color.stem] for color in colors if color.stem in by_stem}
    if not depths or 2 * len(joined) > min(len(colors), len(depths)):
        return joined
    try:
        for numbers in number_columns(depths):
            ids = fit_numbers(colors, numbers)
            if ids is not None:
                by_number = dict(zip(numbers, depths, strict=True))
                pairs = zip(colors, ids, strict=True)
                return {color: by_number[number] for color, number in pairs if number is not None}
        if len(depths) != len(colors):
            raise JoinError("and neither names nor numbers say which belong together")
    except JoinError as error:
        raise ValueError(
            f"There are {len(colors)} images in {_parent(colors)}, but {len(depths)} depth images in "
            f"{_parent(depths)}, {error}. Name each depth image as its colour image."
        ) from error
    return dict(zip(colors, depths, strict=True))


def _parent(paths: list[Path]) -> str:
    """The folder of some files, for errors."""
    return str(paths[0].parent) if paths else "the folder of colour images"


def _read_log(path: Path) -> dict[int, Float[np.ndarray, "4 4"]]:
    """The poses of a .log file, by the number of the frame."""
    rows = _read_table(path)
    if len(rows) % 5 or any(len(row) != (4 if index % 5 else 3) for index, row in enumerate(rows)):
        raise ValueError(
            f"{path} is truncated or no trajectory: expected for each frame a line of 3 whole numbers and 4 lines "
            f"of 4 numbers, got {len(rows)} lines."
        )
    return {int(rows[start][0]): np.array(rows[start + 1 : start + 5]) for start in range(0, len(rows), 5)}


def _tum_frames(
    trajectory: Path, colors: list[Path], left_out: LeftOut, notes: list[str]
) -> Iterator[_Frame]:
    """Frames of TUM: each image with the depth image and the pose that are nearest in time."""
    rows = _read_table(trajectory)
    if not rows or any(len(row) != 8 for row in rows):
        raise ValueError(f"{trajectory} is damaged: expected lines of 8 numbers, time tx ty tz qx qy qz qw.")
    table = np.array(rows)
    depths = list_images(trajectory.parent / _DEPTH_FOLDER)
    depth_times = np.array([_time(path) for path in depths])
    for color in colors:
        pose, depth = _nearest(table[:, 0], _time(color)), _nearest(depth_times, _time(color))
        if pose is None:
            left_out.append((color.name, "has no pose within 20 ms"))
            continue
        matrix, quat = np.eye(4), table[pose, 4:]
        if not 0.5 < np.linalg.norm(quat) < 2:
            raise ValueError(f"{trajectory}: quaternion {quat.tolist()} is not of length 1.")
        matrix[:3, :3] = Rotation.from_quat(quat).as_matrix()
        matrix[:3, 3] = table[pose, 1:4]
        yield _Frame(color, None if depth is None else depths[depth], matrix)


def _time(path: Path) -> float:
    try:
        return float(path.stem)
    except ValueError as error:
        raise ValueError(f"{path} must be named by its time in seconds, as TUM's sequences are.") from error


def _nearest(times: Float[np.ndarray, " n"], time: float) -> int | None:
    if not len(times):
        return None
    index = int(np.abs(times - time).argmin())
    return index if abs(times[index] - time) <= _TUM_TOLERANCE else None


def _read_table(path: Path) -> list[list[float]]:
    """The numbers of a text file, line by line, without comments and empty lines."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path} is larger than {_MAX_BYTES >> 20} MiB: is it a trajectory?")
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        try:
            row = [float(word) for word in line.split()]
        except ValueError as error:
            raise ValueError(f"{path} is damaged at line {number}: expected numbers.") from error
        if not all(abs(value) < 1e30 for value in row):
            raise ValueError(f"{path} holds NaN or infinite numbers at line {number}.")
        rows.append(row)
    return rows


def _read_intrinsics(root: Path) -> tuple[ColmapLens, str]:
    """The camera of Open3D's json file, and the file's path for errors."""
    for path in sorted(root.glob("[!.]*.json")):
        meta = read_json(path)
        if "intrinsic_matrix" not in meta:
            continue
        numbers = [meta.get("width"), meta.get("height"), meta["intrinsic_matrix"]]
        try:
            width, height = int(numbers[0]), int(numbers[1])
            fx, _, _, skew, fy, _, cx, cy, _ = map(float, numbers[2])
            if skew != 0:
                raise ValueError(f"skew is not supported, got {skew:g}")
            return ColmapLens("PINHOLE", (fx, fy, cx + 0.5, cy + 0.5), width, height), str(path)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"{path} is no camera of Open3D: expected width, height and intrinsic_matrix of 9 numbers, column "
                f"by column; got {shorten(numbers)}."
            ) from error
    raise ValueError(
        f"{root} has no json file with intrinsic_matrix. Write one as Open3D does: width, height, and "
        f'"intrinsic_matrix": [fx, 0, 0, 0, fy, 0, cx, cy, 1].'
    )
