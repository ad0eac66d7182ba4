"""Photos of a dataset: first their headers, which decide the camera, and when they are needed their pixels.

Decoding undistorts and makes smaller, and the mask and the depth image go along.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from splax.cameras import Camera
from splax.data.colmap_lens import ColmapLens, same_aspect_ratio
from splax.data.decode import (
    DecodedImage,
    decoded_size,
    downscale_image,
    downscale_mask,
    read_depth,
    read_image,
    read_mask,
    resize_nearest,
)
from splax.data.distortion import Undistorter, undistort_pixels, undistorted_intrinsics
from splax.data.lazy_view import Pixels
from splax.data.tracks import PhotoPoints
from splax.files.image_header import ImageError, read_image_header

# Undistorters kept: each holds eight bytes for a pixel.
_MAX_UNDISTORTERS = 2
# No image is as large: beyond this a place in it is a damaged number.
_FAR_PIXEL = 1e7


class Photo(NamedTuple):
    """A photo on disk and the camera that took it.

    Attributes:
        name: of the view; unique.
        path: the image file.
        viewmat: world to camera, OpenCV axes, [4, 4].
        lens: the lens for an image stored at (width, height) pixels; may raise ValueError.
        label: names the dataset's file and the entry in errors.
        size: width and height of the images that the file speaks of, if it says so.
        downscaled: a copy of the image that ``downscale`` may make use of.
        mask: the mask's file.
        depth: the depth image's file.
        depth_unit: world units per stored number of ``depth``.
        points: surface points that it shows, and where, in pixels of an image of ``size`` or else of its own.
        time: when it was taken, in the unit of the dataset; None if the file does not say.
    """

    name: str
    path: Path
    viewmat: Float[np.ndarray, "4 4"]
    lens: Callable[[int, int], ColmapLens]
    label: str
    size: tuple[float, float] | None = None
    downscaled: Path | None = None
    mask: Path | None = None
    depth: Path | None = None
    depth_unit: float = 1e-3
    points: PhotoPoints | None = None
    time: float | None = None


class OpenedPhoto(NamedTuple):
    """A photo whose header was read.

    Attributes:
        photo: which.
        path: the image to decode: the photo's own or the smaller copy.
        size: width and height of that image.
        lens: that took it.
        camera: the pinhole camera of the view.
        has_alpha: whether some pixels may be transparent.
        point_pixels: where the view shows the photo's points, [P, 2]; NaN where it cannot be said.
    """

    photo: Photo
    path: Path
    size: tuple[int, int]
    lens: ColmapLens
    camera: Camera
    has_alpha: bool
    point_pixels: Float32[np.ndarray, "points 2"] | None = None

    @property
    def nbytes(self) -> int:
        """Memory that the view's pixels take at most."""
        bytes_each = 3 + self.has_alpha + (self.photo.mask is not None) + 4 * (self.photo.depth is not None)
        return self.camera.width * self.camera.height * bytes_each


class PhotoReader:
    """Reads the photos of one dataset; may be used by several threads.

    Args:
        downscale: factor >= 1 by which images are made smaller, by area.
        white_background: composite transparent images on white instead of black.
    """

    def __init__(self, downscale: float, white_background: bool) -> None:
        self.downscale = downscale
        self.white_background = white_background
        self._inner_intrinsics = lru_cache(maxsize=4)(undistorted_intrinsics)
        self._undistorter = lru_cache(maxsize=_MAX_UNDISTORTERS)(Undistorter)

    def open(self, photo: Photo) -> OpenedPhoto:
        """Reads the headers of a photo's files.

        Raises:
            ImageError: if its files cannot be used.
            ValueError: if its lens cannot, or ``downscale`` leaves no pixels.
        """
        path, size, has_alpha, downscale = self._open_image(photo)
        for file, what in ((photo.mask, "mask"), (photo.depth, "depth image")):
            if file is not None and file.suffix.lower() != ".npy":
                _check_header(file, size, what)
        lens = photo.lens(*size)
        K = lens.K
        if not lens.is_pinhole:
            try:
                K = self._inner_intrinsics(lens)
            except ValueError as error:
                raise ValueError(f"{photo.label}: {error}") from error
        width, height = int(size[0] // downscale), int(size[1] // downscale)
        if min(width, height) < 1:
            raise ValueError(
                f"{photo.label}: downscale {downscale:g} leaves no pixels of an image of {size[0]} x {size[1]}; "
                f"use at most {min(size)}."
            )
        camera = Camera(
            viewmat=jnp.asarray(photo.viewmat, jnp.float32),
            K=jnp.asarray(np.diag([width / size[0], height / size[1], 1.0]) @ K, jnp.float32),
            width=width,
            height=height,
            time=photo.time,
        )
        pixels = None
        if photo.points is not None:
            # Of the model's image, then of the one that is decoded, undistorted, and made smaller.
            pixels = _usable_pixels(photo.points.pixels) * (np.array(size) / (photo.size or size))
            pixels = undistort_pixels(lens, K, pixels) * (np.array([width, height]) / size)
            pixels = _usable_pixels(pixels).astype(np.float32)
        return OpenedPhoto(photo, path, size, lens, camera, has_alpha, pixels)

    def decode(self, opened: OpenedPhoto) -> Pixels:
        """Reads, undistorts and downscales.

        Raises:
            ImageError: if a file cannot be decoded, or the mask leaves nothing.
        """
        photo = opened.photo
        decoded = self._read(opened.path, photo)
        if decoded.image.shape[1::-1] != opened.size:
            raise ImageError(f"has another size than when the dataset was opened, {opened.size}")
        mask = depth = None
        if photo.mask is not None:
            mask = _fitted(photo.mask, read_mask, opened.size, "mask")
        if photo.depth is not None:
            unit = photo.depth_unit
            depth = _fitted(photo.depth, lambda path: read_depth(path, unit), opened.size, "depth image")
        pixels = Pixels(decoded.image, decoded.alpha, mask, depth)
        if not opened.lens.is_pinhole:
            undistort = self._undistorter(opened.lens)
            pixels = pixels.apply(undistort.image, undistort.mask, undistort.depth)
        size = opened.camera.width, opened.camera.height
        pixels = pixels.apply(
            lambda image: downscale_image(image, *size),
            lambda mask: downscale_mask(mask, *size),
            lambda depth: resize_nearest(depth, *size),
        )
        if pixels.mask is not None and not pixels.mask.any():
            raise ImageError("its mask leaves no pixel")
        return pixels

    def _open_image(self, photo: Photo) -> tuple[Path, tuple[int, int], bool, float]:
        """The image to decode, its size, whether it has alpha, and what is left of the downscaling.

        The smaller copy is taken if there is one, exactly as much smaller as is asked for.
        """
        if photo.downscaled is not None and photo.size is not None:
            header = read_image_header(photo.downscaled)
            size = decoded_size(header, photo.size)
            exact = np.array(photo.size) / self.downscale
            # Programs round sizes up, down or to the nearest.
            if (np.abs(np.array(size) - exact) < 1).all():
                return photo.downscaled, size, header.has_alpha, 1.0
        if photo.path == photo.downscaled:
            raise ImageError(
                f"there is only a copy in {photo.path.parent.name}, not of that part of the size"
            )
        header = read_image_header(photo.path)
        return photo.path, decoded_size(header, photo.size), header.has_alpha, self.downscale

    def _read(self, path: Path, photo: Photo) -> DecodedImage:
        return read_image(path, size=photo.size, white_background=self.white_background)


def _usable_pixels(pixels: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 2"]:
    """NaN for places where no image reaches."""
    usable = (np.abs(pixels) < _FAR_PIXEL).all(axis=1, keepdims=True)  # false of NaN
    return np.where(usable, pixels, np.nan)


def _check_header(path: Path, size: tuple[int, int], what: str) -> None:
    """Refuses a mask or depth image of another shape than the photo."""
    try:
        header = read_image_header(path)
    except ImageError as error:
        raise ImageError(f"its {what} {error}") from error
    _check_shape((header.width, header.height), size, what)


def _fitted(path: Path, read: Callable[[Path], np.ndarray], size: tuple[int, int], what: str) -> np.ndarray:
    """A mask or depth image at the size of its photo."""
    try:
        values = read(path)
    except ImageError as error:
        raise ImageError(f"its {what} {error}") from error
    if values.shape == size[::-1]:
        return values
    _check_shape((values.shape[1], values.shape[0]), size, what)
    return resize_nearest(values, *size)


def _check_shape(found: tuple[int, int], size: tuple[int, int], what: str) -> None:
    if found != size and not same_aspect_ratio(found, size):
        raise ImageError(f"its {what} is {found[0]} x {found[1]}, the image {size[0]} x {size[1]}")
