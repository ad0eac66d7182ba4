"""One entry to scenes on disk: finds the format and calls its reader."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from splax.data.blender import find_blender, load_blender
from splax.data.colmap import find_colmap, load_colmap
from splax.data.layout import EXTENSIONS, VIDEOS
from splax.data.llff import find_llff, load_llff
from splax.data.rgbd import find_rgbd, load_rgbd
from splax.data.scene_builder import CACHE_BYTES, ReadOptions
from splax.data.transforms import find_transforms, load_transforms
from splax.scene import Scene


class Format(NamedTuple):
    """A kind of dataset.

    Attributes:
        find: the file or folder to read, from the path that a user gives; None if there is none.
        load: reads what ``find`` found.
        files: what is looked for, for people.
    """

    find: Callable[[Path], Path | None]
    load: Callable[[Path, ReadOptions], Scene]
    files: str


# In the order in which they are looked for: some folders hold several.
FORMATS = {
    "transforms": Format(find_transforms, load_transforms, "transforms.json"),
    "blender": Format(find_blender, load_blender, "transforms_train.json"),
    "colmap": Format(
        find_colmap, load_colmap, "cameras.bin or .txt in sparse/0, sparse or the folder itself"
    ),
    "llff": Format(find_llff, load_llff, "poses_bounds.npy"),
    "rgbd": Format(find_rgbd, load_rgbd, "color/ or rgb/, depth/, and trajectory.log or groundtruth.txt"),
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

    Understands ``"transforms"`` (a transforms.json of instant-ngp or nerfstudio), ``"blender"`` (NeRF-synthetic),
    ``"colmap"``, ``"llff"`` and ``"rgbd"`` (Open3D and TUM). Lens distortion is taken out. Views whose image, mask
    or depth image cannot be used are left out, with one warning that names them; it is kept in
    ``Scene.warnings``.

    Args:
        path: the dataset's folder, its ``images`` folder, or the file that describes it.
        dataset_type: name of the format, or None to find out.
        downscale: factor >= 1 by which images are made smaller, by area; need not be whole.
        test_every: every how many-th view, by sorted name and from the first, is held out; 0 for none. Ignored
            where the dataset has test views of its own.
        white_background: composite transparent images on white instead of black; becomes
            ``Scene.background``.
        cache_bytes: of decoded photos that are kept in memory. If all fit they are decoded now; else each is
            decoded when it is looked at, and damage that its header does not show is found then.

    Returns:
        The scene, with uint8 images and cameras in the frame of the file.

    Raises:
        ValueError: on anything that leaves no usable scene; the message names the file, what was found,
            and what to do.
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
    for name in FORMATS if dataset_type is None else (dataset_type,):
        found = FORMATS[name].find(path)
        if found is not None:
            return FORMATS[name].load(found, options)
    raise ValueError(_not_found(path, dataset_type))


def _not_found(path: Path, dataset_type: str | None) -> str:
    """What was looked for, and what to do, from what lies there."""
    names = FORMATS if dataset_type is None else (dataset_type,)
    looked_for = "; ".join(f"{name}: {FORMATS[name].files}" for name in names)
    text = f"{path} is not a dataset that splax reads. Looked for {looked_for}."
    if path.suffix.lower() in VIDEOS:
        return f"{path} is a video: make a dataset of it first with `splax process {path} --out DATA`."
    if not path.is_dir():
        return text
    if dataset_type is not None:
        others = [name for name in FORMATS if FORMATS[name].find(path) is not None]
        return f"{text} But it is one of type {' and '.join(map(repr, others))}." if others else text
    children = sorted(folder for folder in path.iterdir() if folder.is_dir())
    below = [folder.name for folder in children if any(f.find(folder) is not None for f in FORMATS.values())]
    if below:
        return f"{text} There is one in {', '.join(below[:5])}: give that folder."
    num_photos = sum(
        1 for folder in (path, path / "images") for file in _files(folder) if file.suffix in EXTENSIONS
    )
    if num_photos:
        return (
            f"{text} It holds {num_photos} photos without cameras: estimate those first with "
            f"`splax process {path} --out DATA`, and give that folder."
        )
    return text


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
