"""One entry to scenes on disk: finds the format and calls its reader."""

import math
import os
from pathlib import Path

from splax.data.nerf import load_transforms
from splax.data.scene import Scene

TRANSFORMS = "transforms.json"
DATASET_TYPES = ("nerf",)


def load_dataset(
    path: str | os.PathLike[str],
    dataset_type: str | None = None,
    downscale: float = 1,
    test_every: int = 8,
    *,
    white_background: bool = False,
) -> Scene:
    """Reads posed photos from disk.

    A folder with a ``transforms.json`` (instant-ngp, nerfstudio) is understood. Frames whose image cannot
    be used are left out, with one warning that names them; it is kept in ``Scene.warnings``.

    Args:
        path: the folder with transforms.json, its ``images`` folder, or the json file itself.
        dataset_type: ``"nerf"``, or None to find out.
        downscale: factor >= 1 by which images are made smaller, by area; need not be whole.
        test_every: every how many-th view, by sorted name and from the first, is held out; 0 for none.
        white_background: composite transparent images on white instead of black; becomes
            ``Scene.background``.

    Returns:
        The scene, with uint8 images and cameras in the frame of the file.

    Raises:
        ValueError: on anything that leaves no usable scene; the message names the file, what was found,
            and what to do.
    """
    if dataset_type == "colmap":
        raise ValueError(
            "dataset_type 'colmap': COLMAP models are read in a later version of splax. Supported now: "
            "'nerf' (transforms.json); nerfstudio's ns-process-data or instant-ngp's colmap2nerf.py write "
            "one from a COLMAP model."
        )
    if dataset_type not in (None, *DATASET_TYPES):
        supported = ", ".join(map(repr, DATASET_TYPES))
        raise ValueError(
            f"Unknown dataset_type {dataset_type!r}; supported: {supported}, or None to find out."
        )
    if not (math.isfinite(downscale) and downscale >= 1):
        raise ValueError(f"downscale must be a number of at least 1, got {downscale!r}.")
    return load_transforms(
        find_transforms(Path(path).expanduser()),
        downscale=downscale,
        test_every=test_every,
        white_background=white_background,
    )


def find_transforms(path: Path) -> Path:
    """The transforms.json that a user means by ``path``.

    Raises:
        ValueError: if there is none; says what is there instead.
    """
    if path.is_file():
        if path.suffix.lower() != ".json":
            raise ValueError(f"{path} is not a dataset: expected a folder with {TRANSFORMS}, or that file.")
        return path
    if not path.is_dir():
        raise ValueError(f"No such folder: {path}. Expected a folder with {TRANSFORMS} and its images.")
    folders = [path, path / "images"]
    if path.name.startswith("images"):
        folders.append(path.absolute().parent)
    for folder in folders:
        if (folder / TRANSFORMS).is_file():
            return folder / TRANSFORMS
    raise ValueError(f"{path} has no {TRANSFORMS}. {_hint(path)}")


def _hint(path: Path) -> str:
    """What to do about a folder without transforms.json, from what lies in it."""
    if (path / "transforms_train.json").is_file():
        return (
            f"It has a Blender-style transforms_train.json: splits in several files are read in a later "
            f"version. Give {path / 'transforms_train.json'} itself to load that file alone."
        )
    if (path / "sparse").is_dir() or (path / "cameras.bin").is_file() or (path / "cameras.txt").is_file():
        return (
            "It looks like a COLMAP model, which a later version of splax reads. Until then convert it with "
            "nerfstudio's ns-process-data or instant-ngp's colmap2nerf.py."
        )
    below = sorted(folder.parent.name for folder in path.glob(f"*/{TRANSFORMS}"))
    if below:
        return f"There is one in {', '.join(below[:5])}: give that folder."
    return "Write one with nerfstudio's ns-process-data or instant-ngp's colmap2nerf.py."
