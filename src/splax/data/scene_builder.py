"""Builds a Scene of posed photos on disk, for the readers of all formats.

A reader finds the files of the photos and the cameras that took them. This module makes views of them. Photos that
cannot be used are left out, and a warning names them.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from splax.data.colmap_lens import ColmapLens
from splax.data.layout import downscaled_hint
from splax.data.lazy_view import LazyView, PixelCache, Pixels
from splax.data.photo_reader import OpenedPhoto, Photo, PhotoReader
from splax.data.points import PointCloud
from splax.files.image_header import ImageError
from splax.files.limits import shorten
from splax.scene import Scene, View, far_off_note, split_views

# Bytes of decoded photos that are kept in memory.
CACHE_BYTES = 2 << 30
_MAX_LISTED = 40

# Photos that are left out: the name of each as its dataset has it, and the reason.
LeftOut = list[tuple[str, str]]


class ReadOptions(NamedTuple):
    """Options for reading the photos of a dataset.

    Attributes:
        downscale: factor >= 1 by which images are made smaller, by averaging areas.
        test_every: step between held out views, sorted by name; 0 holds out none. Formats with test views of their
            own ignore it.
        white_background: whether to composite transparent images on white instead of black.
        cache_bytes: bytes of decoded photos that are kept in memory.
    """

    downscale: float = 1
    test_every: int = 8
    white_background: bool = False
    cache_bytes: int = CACHE_BYTES


def fixed_lens(camera: ColmapLens, label: str) -> Callable[[int, int], ColmapLens]:
    """A function for :attr:`Photo.lens` that scales one camera to the size of the image.

    Args:
        camera: lens for images of the size that the dataset states.
        label: text that errors begin with; it names the dataset's file and the entry.
    """

    def lens(width: int, height: int) -> ColmapLens:
        try:
            return camera.resize(width, height)
        except ValueError as error:
            raise ValueError(f"{label}: {error}.") from error

    return lens


def build_scene(
    photos: Sequence[Photo],
    options: ReadOptions,
    *,
    source: Path,
    dataset_type: str,
    left_out: LeftOut,
    test_photos: Sequence[Photo] | None = None,
    points: PointCloud | None = None,
    applied_transform: Float[np.ndarray, "4 4"] | None = None,
    notes: Sequence[str] = (),
) -> Scene:
    """Reads photos and makes a Scene of them.

    Args:
        photos: all photos, or the training photos if ``test_photos`` is given.
        options: options for reading them.
        source: file that describes the dataset; errors name it.
        dataset_type: name of the format.
        left_out: photos that the reader has left out already. Photos that cannot be used are appended.
        test_photos: held out photos, if the dataset itself says which these are; None: the options say it.
        points: known surface points, or None.
        applied_transform: transform that the dataset states, [4, 4]; see :class:`splax.Scene`.
        notes: further warnings, one sentence each.

    Raises:
        ValueError: if a lens is unusable, no image is usable, or ``downscale`` leaves no pixels.
    """
    photos, test_photos, of_times = _with_times(photos, test_photos)
    total = len(photos) + len(test_photos or ()) + len(left_out)
    cache = PixelCache(options.cache_bytes)
    train = _read_views(photos, options, cache, left_out)
    test = _read_views(test_photos or (), options, cache, left_out)
    if not train:
        raise ValueError(
            f"{source}: none of its {total} frames has a usable image. {_listed(left_out)} "
            f"Expected image files relative to {source.parent}, or in its images/ folder."
            f"{downscaled_hint(source.parent)}"
        )
    notes = [f"{source}: {note}" for note in (*notes, *of_times)]
    if left_out:
        notes.append(f"{source}: {len(left_out)} of {total} frames left out. {_listed(left_out)}")
    if test_photos is None:
        train, test = split_views(train, options.test_every)
    if far_off := far_off_note(train):
        notes.append(f"{source}: {far_off}")
    for note in notes:
        warnings.warn(note, stacklevel=4)
    background = (1.0, 1.0, 1.0) if options.white_background else (0.0, 0.0, 0.0)
    return Scene(
        train,
        test,
        points=None if points is None else points.positions,
        point_colors=None if points is None else points.colors,
        warnings=tuple(notes),
        source=str(source),
        background=background,
        dataset_type=dataset_type,
        applied_transform=applied_transform,
    )


def _with_times(
    photos: Sequence[Photo], test_photos: Sequence[Photo] | None
) -> tuple[Sequence[Photo], Sequence[Photo] | None, list[str]]:
    """The photos, either all with a time or all without one, and the warnings about it."""
    each = [*photos, *(test_photos or ())]
    times = {photo.time for photo in each if photo.time is not None}
    missing = [photo.name for photo in each if photo.time is None]
    if times and missing:
        photos = [photo._replace(time=None) for photo in photos]
        if test_photos is not None:
            test_photos = [photo._replace(time=None) for photo in test_photos]
        note = (
            f"{len(missing)} of {len(each)} frames state no time, such as {shorten(missing[0])}; "
            "all times are ignored. Give each frame a time."
        )
        return photos, test_photos, [note]
    if len({np.float32(time) for time in times}) < len(times):
        note = (
            f"times from {min(times):.17g} to {max(times):.17g} are so near to each other that some are equal in "
            "float32; count them from the first frame."
        )
        return photos, test_photos, [note]
    return photos, test_photos, []


def _read_views(
    photos: Sequence[Photo], options: ReadOptions, cache: PixelCache, left_out: LeftOut
) -> list[View]:
    """Views of the photos that can be used.

    If the pixels of all photos fit into the cache, they are decoded now; otherwise only headers are read.
    """
    reader = PhotoReader(options.downscale, options.white_background)

    def decode(opened: OpenedPhoto) -> Pixels:
        return cache.get(opened.photo.name, lambda: reader.decode(opened))

    # OpenCV releases the interpreter lock. Only a few threads decode, so that decoding takes little memory.
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        opened = [photo for _, photo in _usable(pool, reader.open, photos, photos, left_out)]
        if cache.nbytes + sum(photo.nbytes for photo in opened) <= cache.limit:
            names = [photo.photo for photo in opened]
            opened = [photo for photo, _ in _usable(pool, decode, opened, names, left_out)]
    return [_make_view(photo, decode) for photo in opened]


def _usable(
    pool: ThreadPoolExecutor,
    read: Callable[[Any], Any],
    items: Sequence[Any],
    photos: Sequence[Photo],
    left_out: LeftOut,
) -> list[tuple[Any, Any]]:
    """Pairs of an item and the result of ``read`` for it; items that cannot be read are left out.

    Args:
        pool: threads that call ``read``.
        read: function that raises ImageError for an item that cannot be used.
        items: arguments for ``read``.
        photos: photo that each item belongs to.
        left_out: list to which the photos that cannot be used are appended.
    """

    def attempt(item: Any) -> Any:
        try:
            return read(item)
        except ImageError as error:
            return error

    results = list(zip(items, photos, pool.map(attempt, items), strict=True))
    left_out += [(photo.name, str(result)) for _, photo, result in results if isinstance(result, ImageError)]
    return [(item, result) for item, _, result in results if not isinstance(result, ImageError)]


def _make_view(opened: OpenedPhoto, decode: Callable[[OpenedPhoto], Pixels]) -> View:
    photo = opened.photo

    def source() -> Pixels:
        try:
            return decode(opened)
        except ImageError as error:
            raise ValueError(f"{opened.path}: the photo {error}. Replace it, or take it out.") from error

    return LazyView.on_disk(
        opened.camera,
        photo.name,
        source,
        has_alpha=opened.has_alpha,
        has_mask=photo.mask is not None,
        has_depth=photo.depth is not None,
        points=None if photo.points is None else photo.points.positions,
        point_pixels=opened.point_pixels,
    )


def _listed(left_out: LeftOut) -> str:
    """One line that names each reason for leaving out photos, and the photos that it applies to."""
    reasons: dict[str, list[str]] = {}
    for file_path, reason in left_out:
        reasons.setdefault(reason, []).append(file_path)
    parts = []
    for reason, files in reasons.items():
        listed = ", ".join(shorten(file).strip("'") for file in files[:_MAX_LISTED])
        more = f" and {len(files) - _MAX_LISTED} more" if len(files) > _MAX_LISTED else ""
        parts.append(f"{reason}: {listed}{more}")
    return "; ".join(parts) + "."
