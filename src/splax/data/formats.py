"""Datasets of every format, which are distinguished by their files.

A new format is a file with ``find`` and ``load``, and one line in :data:`FORMATS`.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from splax.data.blender import find_blender, is_split_file, load_blender
from splax.data.colmap import find_colmap, load_colmap
from splax.data.layout import EXTENSIONS, VIDEOS, is_hidden
from splax.data.llff import find_llff, load_llff
from splax.data.rgbd import find_rgbd, load_rgbd
from splax.data.scene_builder import CACHE_BYTES, ReadOptions
from splax.data.transforms import find_transforms, load_transforms
from splax.scene import Scene


class DatasetFormat(NamedTuple):
    """A kind of dataset.

    Attributes:
        find: function that returns the file or folder to read for the path that a user gives, or None if the path
            is no dataset of this format.
        load: function that reads the file or folder that ``find`` returned.
        files: names of the files that ``find`` looks for, for people to read.
    """

    find: Callable[[Path], Path | None]
    load: Callable[[Path, ReadOptions], Scene]
    files: str


# The formats are tried in this order: some folders hold several of them.
FORMATS = {
    "transforms": DatasetFormat(find_transforms, load_transforms, "transforms.json"),
    "blender": DatasetFormat(find_blender, load_blender, "transforms_train.json"),
    "colmap": DatasetFormat(
        find_colmap, load_colmap, "cameras.bin or .txt in sparse/0, sparse or the folder itself"
    ),
    "llff": DatasetFormat(find_llff, load_llff, "poses_bounds.npy"),
    "rgbd": DatasetFormat(
        find_rgbd, load_rgbd, "color/ or rgb/, depth/, and trajectory.log or groundtruth.txt"
    ),
}


def load_dataset(
    path: str | os.PathLike[str],
    dataset_type: str | None = None,
    downscale: float = 1,
    test_every: int = 8,
    *,
    white_background: bool = False,
    cache_bytes: int = CACHE_BYTES,
) -> Scene:
    """Reads posed photos from disk.

    The formats are ``"transforms"`` (a transforms.json of instant-ngp or nerfstudio), ``"blender"``
    (NeRF-synthetic), ``"colmap"``, ``"llff"`` and ``"rgbd"`` (Open3D and TUM). Photos are undistorted. Views whose
    image, mask or depth image cannot be used are left out; one warning names them, and ``Scene.warnings`` holds
    it.

    Args:
        path: folder of the dataset, its ``images`` folder, or the file that describes it.
        dataset_type: name of the format; None: it is found out from the files.
        downscale: factor >= 1 by which images are made smaller, by averaging areas; need not be whole.
        test_every: step between held out views, sorted by name and starting with the first; 0 holds out none.
            Ignored if the dataset has test views of its own.
        white_background: whether to composite transparent images on white instead of black; the colour becomes
            ``Scene.background``.
        cache_bytes: bytes of decoded photos that are kept in memory. If all photos fit, they are decoded now.
            Otherwise each photo is decoded when its pixels are read, and damage that its header does not show is
            found only then.

    Returns:
        The scene, with uint8 images, and with cameras in the world of the file.

    Raises:
        ValueError: if no usable scene is left; the message names the file, what was found, and what to do.

    Example:
        >>> import json, pathlib, tempfile
        >>> import cv2
        >>> import numpy as np
        >>> import splax
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     frames = []
        ...     for i in range(3):
        ...         _ = cv2.imwrite(f"{folder}/{i}.png", np.full((12, 16, 3), 50 * i, np.uint8))
        ...         frames.append({"file_path": f"{i}.png", "transform_matrix": np.eye(4).tolist()})
        ...     meta = {"camera_angle_x": 1.0, "frames": frames}
        ...     _ = pathlib.Path(folder, "transforms.json").write_text(json.dumps(meta))
        ...     scene = splax.load_dataset(folder, downscale=2, test_every=3)
        >>> scene.dataset_type, [view.name for view in scene.train], [view.name for view in scene.test]
        ('transforms', ['1.png', '2.png'], ['0.png'])
        >>> scene.train[0].image.shape
        (6, 8, 3)
    """
    if dataset_type not in (None, *FORMATS):
        supported = ", ".join(map(repr, FORMATS))
        raise ValueError(
            f"Unknown dataset_type {dataset_type!r}; supported: {supported}, or None to find out."
        )
    if not (math.isfinite(downscale) and downscale >= 1):
        raise ValueError(f"downscale must be a number of at least 1, got {downscale!r}.")
    if cache_bytes < 0:
        raise ValueError(f"cache_bytes must be 0 or more, got {cache_bytes!r}.")
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"No such folder: {path}. Expected a folder with photos and their cameras.")
    options = ReadOptions(downscale, test_every, white_background, cache_bytes)
    names = FORMATS if dataset_type is None else (dataset_type,)
    if dataset_type is None and is_split_file(path):  # read alone, it would lose the other split
        names = ("blender", *FORMATS)
    for name in names:
        found = FORMATS[name].find(path)
        if found is not None:
            return FORMATS[name].load(found, options)
    raise ValueError(_not_found(path, dataset_type))


def _not_found(path: Path, dataset_type: str | None) -> str:
    """Text of the error for a path without a dataset: what was looked for, what is there, and what to do."""
    names = FORMATS if dataset_type is None else (dataset_type,)
    looked_for = "; ".join(f"{name}: {FORMATS[name].files}" for name in names)
    text = f"{path} is not a dataset that splax reads. Looked for {looked_for}."
    if path.suffix.lower() in VIDEOS:
        return (
            f"{path} is a video: make a dataset of it first with splax.make_dataset({str(path)!r}, 'DATA')."
        )
    if not path.is_dir():
        return text
    if dataset_type is not None:
        others = [name for name in FORMATS if FORMATS[name].find(path) is not None]
        return f"{text} But it is one of type {' and '.join(map(repr, others))}." if others else text
    children = sorted(folder for folder in path.iterdir() if folder.is_dir() and not is_hidden(folder))
    below = [folder.name for folder in children if any(f.find(folder) is not None for f in FORMATS.values())]
    if below:
        return f"{text} There is one in {', '.join(below[:5])}: give that folder."
    num_photos = sum(
        1 for folder in (path, path / "images") for file in _files(folder) if file.suffix in EXTENSIONS
    )
    if num_photos:
        return (
            f"{text} It holds {num_photos} photos without cameras: estimate those first with "
            f"splax.make_dataset({str(path)!r}, 'DATA'), and give that folder."
        )
    return text


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [file for file in folder.iterdir() if file.is_file() and not is_hidden(file)]
