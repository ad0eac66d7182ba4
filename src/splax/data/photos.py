"""From posed photos on disk to a Scene; what readers of all formats share.

A reader finds out where photos lie and which cameras took them. Here they are decoded, undistorted and made
smaller, with their masks and depth images; photos that cannot be used are left out, and named.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from splax.cameras import Camera
from splax.data.distortion import Undistorter
from splax.data.images import (
    ImageError,
    Picture,
    downscale_image,
    downscale_mask,
    read_depth,
    read_image,
    read_mask,
    resize_nearest,
)
from splax.data.json_file import shorten
from splax.data.lens import Lens, same_shape
from splax.data.points import Points
from splax.data.scene import Scene, View, split_views

MAX_LISTED = 40

# An image as its file has it, and why it is left out.
LeftOut = list[tuple[str, str]]


class Options(NamedTuple):
    """How photos are read.

    Attributes:
        downscale: factor >= 1 by which images are made smaller, by area.
        test_every: every how many-th view, by sorted name, is held out for testing; 0 for none. Formats with
            test views of their own ignore it.
        white_background: composite transparent images on white instead of black.
    """

    downscale: float = 1
    test_every: int = 8
    white_background: bool = False


class Photo(NamedTuple):
    """A photo on disk and the camera that took it.

    Attributes:
        name: of the view; unique.
        path: the image file.
        viewmat: world to camera, OpenCV axes, [4, 4].
        lens: the lens for an image stored at (width, height) pixels; may raise ValueError.
        label: names the dataset's file and the entry in errors.
        size: width and height of the images that the file speaks of, if it says so.
        small: a copy of the image that ``downscale`` may make use of.
        mask: the mask's file.
        depth: the depth image's file.
        depth_unit: world units per stored number of ``depth``.
    """

    name: str
    path: Path
    viewmat: Float[np.ndarray, "4 4"]
    lens: Callable[[int, int], Lens]
    label: str
    size: tuple[float, float] | None = None
    small: Path | None = None
    mask: Path | None = None
    depth: Path | None = None
    depth_unit: float = 1e-3


def fixed_lens(camera: Lens, label: str) -> Callable[[int, int], Lens]:
    """For :attr:`Photo.lens`: one camera, scaled to the image; its errors begin with ``label``."""

    def lens(width: int, height: int) -> Lens:
        try:
            return camera.resized(width, height)
        except ValueError as error:
            raise ValueError(f"{label}: {error}.") from error

    return lens


class _Pixels(NamedTuple):
    """What one photo holds, all of one size."""

    image: UInt8[np.ndarray, "h w 3"]
    alpha: UInt8[np.ndarray, "h w"] | None
    mask: Bool[np.ndarray, "h w"] | None
    depth: Float32[np.ndarray, "h w"] | None

    def apply(self, image: Callable, mask: Callable, depth: Callable) -> "_Pixels":
        return _Pixels(
            image(self.image),
            None if self.alpha is None else image(self.alpha),
            None if self.mask is None else mask(self.mask),
            None if self.depth is None else depth(self.depth),
        )


def read_scene(
    photos: Sequence[Photo],
    options: Options,
    *,
    source: Path,
    dataset_type: str,
    left_out: LeftOut,
    test_photos: Sequence[Photo] | None = None,
    points: Points | None = None,
    notes: Sequence[str] = (),
) -> Scene:
    """Reads photos and makes a Scene of them.

    Args:
        photos: all of them, or those for training if ``test_photos`` is given.
        options: how to read them.
        source: the file that describes the dataset; named in errors.
        dataset_type: name of the format.
        left_out: what the reader has left out already; images that cannot be used are added.
        test_photos: those held out, where the dataset says so itself.
        points: known surface points.
        notes: further things that people should know.

    Raises:
        ValueError: if a lens is unusable, no image is usable, or ``downscale`` leaves no pixels.
    """
    total = len(photos) + len(test_photos or ()) + len(left_out)
    train = _read_views(photos, options, left_out)
    test = _read_views(test_photos or (), options, left_out)
    if not train:
        raise ValueError(
            f"{source}: none of its {total} frames has a usable image. {_listed(left_out)} "
            f"Expected image files relative to {source.parent}, or in its images/ folder."
        )
    notes = [f"{source}: {note}" for note in notes]
    if left_out:
        notes.append(f"{source}: {len(left_out)} of {total} frames left out. {_listed(left_out)}")
    for note in notes:
        warnings.warn(note, stacklevel=4)
    if test_photos is None:
        train, test = split_views(train, options.test_every)
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
    )


def _read_views(photos: Sequence[Photo], options: Options, left_out: LeftOut) -> list[View]:
    undistorter = lru_cache(maxsize=4)(Undistorter)

    def read(photo: Photo) -> View | ImageError:
        try:
            return _read_view(photo, options, undistorter)
        except ImageError as error:
            return error

    views = []
    # OpenCV lets go of the interpreter lock; a few threads keep memory for decoding small.
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for photo, view in zip(photos, pool.map(read, photos), strict=True):
            if isinstance(view, ImageError):
                left_out.append((photo.name, str(view)))
            else:
                views.append(view)
    return views


def _read_view(photo: Photo, options: Options, undistorter: Callable[[Lens], Undistorter]) -> View:
    """Reads, undistorts and downscales one photo.

    Raises:
        ImageError: if its files cannot be used.
        ValueError: if its lens cannot.
    """
    pixels, downscale = _read_pixels(photo, options)
    height, width = pixels.image.shape[:2]
    lens = photo.lens(width, height)
    K = lens.K
    if not lens.is_pinhole:
        try:
            undistort = undistorter(lens)
        except ValueError as error:
            raise ValueError(f"{photo.label}: {error}") from error
        pixels, K = pixels.apply(undistort.image, undistort.mask, undistort.depth), undistort.K
    size = int(width // downscale), int(height // downscale)
    if min(size) < 1:
        raise ValueError(
            f"{photo.label}: downscale {downscale:g} leaves no pixels of an image of {width} x {height}; "
            f"use at most {min(width, height)}."
        )
    pixels = pixels.apply(
        lambda image: downscale_image(image, *size),
        lambda mask: downscale_mask(mask, *size),
        lambda depth: resize_nearest(depth, *size),
    )
    if pixels.mask is not None and not pixels.mask.any():
        raise ImageError("its mask leaves no pixel")
    camera = Camera(
        viewmat=jnp.asarray(photo.viewmat, jnp.float32),
        K=jnp.asarray(np.diag([size[0] / width, size[1] / height, 1.0]) @ K, jnp.float32),
        width=size[0],
        height=size[1],
    )
    image, alpha, mask, depth = pixels
    return View(image, camera, photo.name, mask=mask, depth=depth, alpha=alpha)


def _read_pixels(photo: Photo, options: Options) -> tuple[_Pixels, float]:
    """The files of a photo, all at the size of the image, and what is left of the downscaling."""
    picture, downscale = _read_small(photo, options), 1.0
    if picture is None and photo.path == photo.small:
        raise ImageError(f"there is only a copy in {photo.path.parent.name}, not of that part of the size")
    if picture is None:
        picture = read_image(photo.path, size=photo.size, white_background=options.white_background)
        downscale = options.downscale
    size = picture.image.shape[1], picture.image.shape[0]
    mask = depth = None
    if photo.mask is not None:
        mask = _fitted(photo.mask, read_mask, size, "mask")
    if photo.depth is not None:
        depth = _fitted(photo.depth, lambda path: read_depth(path, photo.depth_unit), size, "depth image")
    return _Pixels(picture.image, picture.alpha, mask, depth), downscale


def _read_small(photo: Photo, options: Options) -> Picture | None:
    """The smaller copy, if there is one and it is exactly as much smaller as is asked for."""
    if photo.small is None or photo.size is None:
        return None
    picture = read_image(photo.small, size=photo.size, white_background=options.white_background)
    exact = np.array(photo.size) / options.downscale
    # Programs round sizes up, down or to the nearest.
    return picture if (np.abs(np.array(picture.image.shape[1::-1]) - exact) < 1).all() else None


def _fitted(path: Path, read: Callable[[Path], np.ndarray], size: tuple[int, int], what: str) -> np.ndarray:
    """A mask or depth image at the size of its photo."""
    try:
        values = read(path)
    except ImageError as error:
        raise ImageError(f"its {what} {error}") from error
    if values.shape == size[::-1]:
        return values
    if not same_shape((values.shape[1], values.shape[0]), size):
        raise ImageError(
            f"its {what} is {values.shape[1]} x {values.shape[0]}, the image {size[0]} x {size[1]}"
        )
    return resize_nearest(values, *size)


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
