"""The split that a transforms.json states: which of its frames are trained on, and which are held out.

nerfstudio writes lists of file names, ``train_filenames``, ``val_filenames`` and ``test_filenames``. A list may
spell a file in another way than the frame that it means: with backslashes, with ``./`` or ``images/`` in front, or
without the extension.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from splax.data.layout import EXTENSIONS, relative_path
from splax.data.photo_reader import Photo
from splax.data.scene_builder import LeftOut
from splax.files.image_header import ImageError
from splax.files.limits import shorten

_HELD_OUT = ("test_filenames", "val_filenames")
_TRAINED_ON = "train_filenames"
_MAX_LISTED = 5


def split_of_file(
    meta: dict[str, Any], photos: list[Photo], json_path: Path, left_out: LeftOut, notes: list[str]
) -> tuple[list[Photo], list[Photo] | None]:
    """The training photos and the test photos that the file states; None if it states no test photos.

    Test photos are those of ``test_filenames``, or else of ``val_filenames``. If there is a ``train_filenames``,
    training photos that it does not name are left out.

    Args:
        meta: top-level object of the file.
        photos: photos of the frames that have an image file.
        json_path: path of the file, for errors.
        left_out: frames without a usable image file. The lists may name them.
        notes: list to which a warning is appended for each list that names files of no frame.

    Raises:
        ValueError: if a list is no list of file names, or no photo is left to train on.
    """
    names = {key: _file_names(meta, key, json_path) for key in (*_HELD_OUT, _TRAINED_ON)}
    named = {key: _named_photos(names[key], key, photos, left_out, notes) for key in names}
    key = next((key for key in _HELD_OUT if named[key]), None)
    if key is None:
        return photos, None
    held_out, trained_on = named[key], named[_TRAINED_ON]
    train = [photo for photo in photos if photo.name not in held_out]
    train = [photo for photo in train if not trained_on or photo.name in trained_on]
    if not train:
        raise ValueError(
            f"{json_path}: no frame is left to train on: {key} names {len(held_out)} of its {len(photos)} frames, "
            f"and {_TRAINED_ON} names none of the others. Take frames out of {key}."
        )
    return train, [photo for photo in photos if photo.name in held_out]


def _file_names(meta: dict[str, Any], key: str, json_path: Path) -> list[str]:
    names = meta.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{json_path}: {key} must be a list of file names, got {shorten(names)}.")
    return names


def _named_photos(
    names: Sequence[str], key: str, photos: Sequence[Photo], left_out: LeftOut, notes: list[str]
) -> set[str]:
    """Names of the photos that a list names.

    Args:
        names: file names of the list.
        key: name of the list.
        photos: photos of the frames that have an image file.
        left_out: frames without a usable image file.
        notes: list to which a warning is appended if a name belongs to no frame.
    """
    by_name = {photo.name: photo.name for photo in photos}
    by_stem: dict[str, set[str]] = {}
    for photo in photos:
        by_stem.setdefault(_stem(photo.name), set()).add(photo.name)
    unusable = {_spelling(file_path) for file_path, _ in left_out}
    unusable |= {_stem(name) for name in unusable}
    found: set[str] = set()
    unknown = []
    for name in names:
        spelling = _spelling(name)
        if spelling in by_name:
            found.add(spelling)
        elif spelling in by_stem:
            found |= by_stem[spelling]
        elif spelling not in unusable and _stem(spelling) not in unusable:
            unknown.append(name)
    if unknown:
        listed = ", ".join(shorten(name) for name in unknown[:_MAX_LISTED])
        more = f" and {len(unknown) - _MAX_LISTED} more" if len(unknown) > _MAX_LISTED else ""
        notes.append(
            f"{len(unknown)} of the {len(names)} names in {key} belong to no frame: {listed}{more}. "
            "Write them as file_path is written in the frames."
        )
    return found


def _spelling(name: str) -> str:
    """A file name as views spell it: a path below ``images``, with slashes; the name itself if it is unusable."""
    try:
        return relative_path(name).as_posix().removeprefix("images/")
    except ImageError:
        return name


def _stem(name: str) -> str:
    """The name without the extension of an image."""
    extension = next((extension for extension in EXTENSIONS if name.endswith(extension)), "")
    return name.removesuffix(extension)
