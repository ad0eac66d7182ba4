"""Makes a dataset of photos whose cameras are unknown, or of a video."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from splax.capture.frames import write_sharp_frames
from splax.capture.structure_from_motion import Reconstruction, estimate_cameras, require_pycolmap
from splax.data.layout import EXTENSIONS, VIDEOS, find_mask, is_hidden, list_images
from splax.files.image_header import ImageError, read_image_header

# With fewer registered photos than this, there are too few to train on and to hold out.
_MIN_REGISTERED = 3
_REPORT = "process.json"
_MODEL = Path("sparse") / "0"


class DatasetReport(NamedTuple):
    """The dataset that was made.

    Attributes:
        out: folder of the dataset.
        num_photos: number of photos or frames that were used.
        model: reconstruction, that is the cameras and points that were found.
    """

    out: Path
    num_photos: int
    model: Reconstruction


def make_dataset(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    num_frames: int = 150,
    min_registered: float = 0.3,
    one_camera: bool | None = None,
    max_size: int = 1600,
    progress: bool | None = None,
) -> DatasetReport:
    """Makes a dataset for :func:`splax.load_dataset` of photos without cameras, or of a video.

    Structure from motion with pycolmap finds cameras and points, on the CPU. It takes minutes with 50 photos and
    hours with hundreds, as every photo is compared with every other photo. The dataset consists of a COLMAP model
    and of copies of the photos. The copies are not changed: ``load_dataset`` undistorts them at any size. The
    folder appears when all work is done.

    Args:
        source: folder of PNG or JPEG files, or a video. Masks in the folder's ``masks/`` are copied.
        out: folder to make; must be empty or absent.
        num_frames: number of frames to take from a video: it is divided into that many equal parts, and the
            sharpest frame of each part is taken.
        min_registered: least share of the photos whose cameras must be found, in [0, 1].
        one_camera: whether one camera took all photos at one zoom; None assumes it where all photos have one size.
        max_size: longer side, in pixels, to which photos are reduced for finding cameras; the copies are not made
            smaller.
        progress: whether to show progress bars; None shows them only on a terminal.

    Returns:
        The folder of the dataset, the number of photos, and the cameras that were found.

    Raises:
        ImportError: if pycolmap is not installed.
        ValueError: if ``source`` does not exist, there are too few photos or frames, too few cameras are found,
            ``out`` is in use, or an option is out of range.

    Example:
        Making a dataset takes minutes, so only an error is shown here.

        >>> import splax
        >>> report = splax.make_dataset("no/such/folder", "dataset")
        Traceback (most recent call last):
        ValueError: no/such/folder: no such file or folder; expected a folder of photos, or a video.
    """
    source, out = Path(source).expanduser(), Path(out).expanduser()
    _check_options(source, out, num_frames, min_registered, max_size)
    require_pycolmap()
    with _whole_folder(out) as folder:
        images = folder / "images"
        images.mkdir()
        if is_video := source.is_file():
            write_sharp_frames(source, images, num_frames, progress=progress)
        else:
            _copy_photos(source, folder)
        sizes = {path.name: _size(path) for path in list_images(images)}
        one_camera = _is_one_camera(source, list(sizes.values()), one_camera)
        scratch = folder / "scratch"
        for made in (folder / _MODEL, scratch):
            made.mkdir(parents=True)
        model = estimate_cameras(
            images,
            list(sizes),
            folder / _MODEL,
            scratch,
            is_video=is_video,
            one_camera=one_camera,
            max_size=max_size,
            progress=progress,
        )
        shutil.rmtree(scratch)
        _check_model(model, source, len(sizes), min_registered)
        assert model is not None
        report = {"source": str(source.absolute()), "photos": len(sizes), **model._asdict()}
        (folder / _REPORT).write_text(json.dumps(report, indent=2) + "\n")
    return DatasetReport(out, len(sizes), model)


def _check_number(source: Path, num: int) -> None:
    if num < _MIN_REGISTERED:
        raise ValueError(
            f"{source} has {num} usable {'frames' if source.is_file() else 'photos'}; cameras can be estimated "
            f"from {_MIN_REGISTERED} or more that show the same things from several places."
        )


def _is_one_camera(source: Path, sizes: Sequence[tuple[int, int]], wanted: bool | None) -> bool:
    """Whether photos of these sizes are treated as photos of one camera.

    Raises:
        ValueError: if there are too few photos, or ``wanted`` is true although their sizes differ.
    """
    _check_number(source, len(sizes))
    num_sizes = len(set(sizes))
    if wanted and num_sizes > 1:
        raise ValueError(
            f"{source}: photos of one camera at one zoom have one size, but these have {num_sizes} sizes; "
            "pass one_camera=None, so that it is found out."
        )
    return num_sizes == 1 if wanted is None else wanted


def _check_options(source: Path, out: Path, num_frames: int, min_registered: float, max_size: int) -> None:
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder; expected a folder of photos, or a video.")
    if source.is_file() and source.suffix.lower() in (extension.lower() for extension in EXTENSIONS):
        raise ValueError(f"{source} is a single photo; give the folder of all photos, or a video.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already, and is not replaced; choose another folder, or remove it.")
    if num_frames < _MIN_REGISTERED:
        raise ValueError(f"num_frames must be at least {_MIN_REGISTERED}, got {num_frames}.")
    if not 0 <= min_registered <= 1:
        raise ValueError(f"min_registered must lie in [0, 1], got {min_registered}.")
    if max_size < 100:
        raise ValueError(f"max_size must be at least 100 pixels, got {max_size}.")


def _copy_photos(source: Path, folder: Path) -> None:
    """Copies the photos that can be used, and their masks."""
    photos = list_images(source)
    if not photos and (source / "images").is_dir():
        photos = list_images(source / "images")
    if not photos:
        others = sorted({path.suffix for path in source.iterdir() if path.suffix and not is_hidden(path)})
        found = f"; there are {', '.join(others[:8])}" if others else ""
        if any(suffix.lower() in VIDEOS for suffix in others):
            found += ": for a video give the file"
        raise ValueError(f"{source} has no photos: expected PNG or JPEG files{found}.")
    left_out = []
    for photo in photos:
        try:
            read_image_header(photo)
        except ImageError as error:
            left_out.append(f"{photo.name} {error}")
            continue
        shutil.copyfile(photo, folder / "images" / photo.name)
        mask = find_mask(source, PurePosixPath(photo.name))
        if mask is not None:
            (folder / "masks").mkdir(exist_ok=True)
            shutil.copyfile(mask, folder / "masks" / mask.name)
    if left_out:
        listed = "; ".join(left_out[:10])
        warnings.warn(f"{source}: {len(left_out)} of {len(photos)} photos left out: {listed}.", stacklevel=4)


def _size(path: Path) -> tuple[int, int]:
    header = read_image_header(path)
    return header.width, header.height


def _check_model(model: Reconstruction | None, source: Path, num_photos: int, min_registered: float) -> None:
    found = 0 if model is None else model.num_images
    if found < max(_MIN_REGISTERED, min_registered * num_photos):
        raise ValueError(
            f"{source}: cameras were found for {found} of {num_photos} photos, too few. Photos should be sharp, "
            "show textured things that do not move, overlap by half or more, and be taken from different places."
        )


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """Yields a folder next to ``out``; it is renamed to ``out`` at the end, or removed on an error."""
    temporary = out.absolute().with_name(f".splax-{secrets.token_hex(6)}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, out)
    except OSError as error:
        raise ValueError(f"{out} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
