"""Finds the files of a view in the folder of its dataset: the image, its smaller copy and its mask.

Names that files hold are not trusted: a name that leads out of the dataset's folder is refused.
"""

import os
import posixpath
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from splax.files.image_header import ImageError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".3gp")


def relative_path(name: str) -> PurePosixPath:
    """A name that a file holds, as a path below the dataset's folder.

    Raises:
        ImageError: if the name is absolute, leads out of the folder, or is the folder itself.
    """
    relative = PurePosixPath(posixpath.normpath(name.replace("\\", "/")))
    outside = relative.is_absolute() or PureWindowsPath(relative).drive or relative.parts[:1] == ("..",)
    if outside or "\0" in name:
        raise ImageError("leads out of the dataset's folder; names must be relative to it")
    if not relative.name:  # with an extension added, it would be a file next to the folder
        raise ImageError("names no file")
    return relative


def first_file(candidates: Iterable[Path], extensions: tuple[str, ...] = ("", *EXTENSIONS)) -> Path | None:
    """The first of the candidates, each with all extensions added in turn, that is a file; None if none is."""
    for candidate in candidates:
        for extension in extensions:
            path = candidate.parent / f"{candidate.name}{extension}"
            if os.path.isfile(path):
                return path
    return None


def find_mask(root: Path, name: PurePosixPath) -> Path | None:
    """The mask in the folder ``masks`` for the image ``name`` below ``images``; None if there is none.

    The mask has the image's name, with another extension or with one added (``a.jpg.png``, as COLMAP names it).
    """
    if not os.path.isdir(root / "masks"):  # the usual case; this one check saves trying many names
        return None
    path = root / "masks" / name
    return first_file([path, path.with_suffix("")])


def find_downscaled(root: Path, name: PurePosixPath, downscale: float) -> Path | None:
    """The copy of an image in ``images_2``, ``images_4`` and so on, for a whole ``downscale`` above 1; or None."""
    if downscale == 1 or downscale != int(downscale):
        return None
    path = root / f"images_{int(downscale)}" / name
    return first_file([path, path.with_suffix("")])


def downscaled_hint(root: Path) -> str:
    """The end of an error about missing images: the folders of smaller copies in ``root``; empty if none."""
    copies = [
        folder.name for folder in root.glob("images_*") if folder.name[7:].isdecimal() and folder.is_dir()
    ]
    listed = ", ".join(sorted(copies, key=lambda name: int(name[7:])))
    return f" There are smaller copies in {listed}: downscale by that number." if copies else ""


def is_hidden(path: Path) -> bool:
    """Whether a name begins with a dot, as that of ``._a.png`` does, which macOS writes next to ``a.png``."""
    return path.name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """The image files in a folder, sorted by name, without hidden ones.

    Raises:
        ValueError: if the folder cannot be read; the message names it.
    """
    try:
        return sorted(
            path
            for path in folder.iterdir()
            if path.suffix in EXTENSIONS and not is_hidden(path) and path.is_file()
        )
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror}.") from error
