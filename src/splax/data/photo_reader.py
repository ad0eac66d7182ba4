"""Reads the photos of a dataset: first their headers, which decide the camera, later their pixels.

Decoding also undistorts and downscales the image, and its mask and depth image in the same way.
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

# Undistorters that are kept: each of them takes eight bytes per pixel.
_MAX_UNDISTORTERS = 2
# No image is as large as this, in pixels: a larger coordinate is a damaged number.
_FAR_PIXEL = 1e7


class Photo(NamedTuple):
    """A photo on disk and the camera that took it.

    Attributes:
        name: name of the view, unique in the dataset.
        path: image file.
        viewmat: world to camera, OpenCV axes, [4, 4].
        lens: function that returns the lens for an image stored at (width, height) pixels; may raise ValueError.
        label: text for errors that names the dataset's file and the entry.
        size: width and height in pixels of the image that the dataset describes; None if it does not state them.
        downscaled: smaller copy of the image, which may be read instead of ``path``; None if there is none.
        mask: file of the mask, or None.
        depth: file of the depth image, or None.
        depth_unit: world units per stored number of ``depth``.
        points: surface points that the photo shows, and their pixels in an image of ``size``, or of the stored
            size if ``size`` is None.
        time: time at which the photo was taken, in the unit of the dataset; None if the dataset does not state it.
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
        photo: photo that was opened.
        path: image file to decode: that of the photo, or its smaller copy.
        size: width and height of that image in pixels.
        lens: lens that took the image, for an image of ``size``.
        camera: pinhole camera of the view.
        has_alpha: whether some pixels may be transparent.
        point_pixels: pixels of the view that show the photo's points, [P, 2]; NaN where unknown.
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
        """Most memory that the view's pixels take, in bytes."""
        bytes_each = 3 + self.has_alpha + (self.photo.mask is not None) + 4 * (self.photo.depth is not None)
        return self.camera.width * self.camera.height * bytes_each


class PhotoReader:
    """Reads the photos of one dataset. Several threads may use one reader.

    Args:
        downscale: factor >= 1 by which images are made smaller, by averaging areas.
        white_background: whether to composite transparent images on white instead of black.
    """

    def __init__(self, downscale: float, white_background: bool) -> None:
        self.downscale = downscale
        self.white_background = white_background
        self._inner_intrinsics = lru_cache(maxsize=4)(undistorted_intrinsics)
        self._undistorter = lru_cache(maxsize=_MAX_UNDISTORTERS)(Undistorter)

    def open(self, photo: Photo) -> OpenedPhoto:
        """Reads the headers of a photo's files.

        Raises:
            ImageError: if a file of the photo cannot be used.
            ValueError: if its lens cannot be used, or ``downscale`` leaves no pixels.
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
            # Pixels of the dataset's image become pixels of the decoded image, then of the undistorted and
            # downscaled one.
            pixels = _usable_pixels(photo.points.pixels) * (np.array(size) / (photo.size or size))
            pixels = undistort_pixels(lens, K, pixels) * (np.array([width, height]) / size)
            pixels = _usable_pixels(pixels).astype(np.float32)
        return OpenedPhoto(photo, path, size, lens, camera, has_alpha, pixels)

    def decode(self, opened: OpenedPhoto) -> Pixels:
        """Reads, undistorts and downscales the pixels of a photo.

        Raises:
            ImageError: if a file cannot be decoded, or the mask leaves no pixel.
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
        """The image to decode, its size, whether it has alpha, and the factor by which to downscale it.

        The smaller copy is used if there is one and it is smaller by exactly the factor that is asked for.
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
                f"there is only a copy in {photo.path.parent.name}, which is not smaller by that factor"
            )
        header = read_image_header(photo.path)
        return photo.path, decoded_size(header, photo.size), header.has_alpha, self.downscale

    def _read(self, path: Path, photo: Photo) -> DecodedImage:
        return read_image(path, size=photo.size, white_background=self.white_background)


def _usable_pixels(pixels: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 2"]:
    """The pixels, with NaN where a coordinate is larger than any image."""
    usable = (np.abs(pixels) < _FAR_PIXEL).all(axis=1, keepdims=True)  # NaN compares as false
    return np.where(usable, pixels, np.nan)


def _check_header(path: Path, size: tuple[int, int], what: str) -> None:
    """Raises ImageError if a mask or depth image has another aspect ratio than the photo."""
    try:
        header = read_image_header(path)
    except ImageError as error:
        raise ImageError(f"its {what} {error}") from error
    _check_shape((header.width, header.height), size, what)


def _fitted(path: Path, read: Callable[[Path], np.ndarray], size: tuple[int, int], what: str) -> np.ndarray:
    """A mask or depth image, resized to the size of its photo."""
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
