"""Decodes photos, masks and depth images: PNG and JPEG files of 8 or 16 bits, and .npy files of depth.

The files are not trusted: the size that they declare is checked before anything is decoded.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8, UInt16

from splax.data.colmap_lens import same_aspect_ratio
from splax.files.exif import turn
from splax.files.image_header import ImageError, ImageHeader, parse_image_header, read_bytes
from splax.files.npy import read_npy


class DecodedImage(NamedTuple):
    """The pixels of an image file.

    Attributes:
        image: RGB pixels, composited on a background, uint8 [H, W, 3].
        alpha: opacity of each pixel, uint8 [H, W]; None if all pixels are opaque.
    """

    image: UInt8[np.ndarray, "h w 3"]
    alpha: UInt8[np.ndarray, "h w"] | None


def read_image(
    path: Path, *, size: tuple[float, float] | None = None, white_background: bool = False
) -> DecodedImage:
    """Reads a PNG or JPEG file.

    Grey images become RGB, 16 bits are cut to 8, and transparent pixels (straight alpha) are composited on black
    or white. The rotation that EXIF notes is ignored, as structure-from-motion tools ignore it, unless only the
    rotated image has the aspect ratio of ``size``.

    Args:
        path: file to read.
        size: width and height of the images that the camera belongs to, up to a scale; None if unknown.
        white_background: whether to composite transparent pixels on white instead of black.

    Raises:
        ImageError: if the file cannot be read, is neither PNG nor JPEG, is damaged, or is too large.
    """
    data = read_bytes(path)
    header, pixels = parse_image_header(data), _decode(data)
    if size is not None and _is_to_be_turned(header, size):
        pixels = turn(pixels, header.orientation)
    return DecodedImage(_to_rgb(pixels, white_background=white_background), _alpha(pixels))


def decoded_size(header: ImageHeader, size: tuple[float, float] | None) -> tuple[int, int]:
    """Width and height that :func:`read_image` makes of a file with this header."""
    if size is not None and _is_to_be_turned(header, size):
        return header.turned_size
    return header.width, header.height


def _is_to_be_turned(header: ImageHeader, size: tuple[float, float]) -> bool:
    stored = header.width, header.height
    return not same_aspect_ratio(stored, size) and same_aspect_ratio((header.height, header.width), size)


def read_mask(path: Path) -> Bool[np.ndarray, "h w"]:
    """Reads a mask, [H, W]: true where the image is at least 128, or at least 1 if the file holds only 0 and 1.

    Raises:
        ImageError: if the file cannot be read, is neither PNG nor JPEG, is damaged, or is too large.
    """
    grey = _to_rgb(_decode(read_bytes(path))).max(axis=-1)
    return grey > (0 if grey.max() <= 1 else 127)


def read_depth(path: Path, unit: float) -> Float32[np.ndarray, "h w"]:
    """Reads a depth image in world units, [H, W]; 0 where nothing was measured.

    Args:
        path: grey PNG file of 8 or 16 bits, or .npy file of numbers [H, W] or [H, W, 1].
        unit: world units per stored number.

    Raises:
        ImageError: if the file cannot be read, is damaged, or holds something else.
    """
    if path.suffix.lower() == ".npy":
        try:
            depth = read_npy(path)
        except ValueError as error:
            raise ImageError(str(error)) from error
        depth = depth[..., 0] if depth.ndim == 3 and depth.shape[-1] == 1 else depth
    else:
        depth = _decode(read_bytes(path))
    if depth.ndim != 2 or depth.size == 0:
        raise ImageError(f"must hold one number per pixel, got shape {list(depth.shape)}")
    with np.errstate(all="ignore"):
        depth = depth.astype(np.float32) * np.float32(unit)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def _decode(data: bytes) -> UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w *c"]:
    """The pixels of an image file as they are stored, with the channels in OpenCV's order."""
    from splax.files.opencv import cv2

    header = parse_image_header(data)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError("is damaged: OpenCV cannot decode it") from error
    if pixels is None or pixels.shape[:2] != (header.height, header.width):
        raise ImageError("is damaged: OpenCV cannot decode it")
    return np.asarray(pixels)


def _to_rgb(
    pixels: UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w *c"], *, white_background: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Converts pixels as OpenCV decodes them to uint8 RGB.

    Args:
        pixels: grey [H, W], BGR [H, W, 3] or BGRA [H, W, 4] pixels of 8 or 16 bits.
        white_background: whether to composite transparent pixels on white instead of black.
    """
    from splax.files.opencv import cv2

    pixels = _to_bytes(pixels)
    if pixels.ndim == 3 and pixels.shape[-1] == 3:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    rgb = pixels[..., 2::-1]
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        backdrop = 255 * (1 - alpha) if white_background else 0
        rgb = np.rint(rgb * alpha + backdrop).astype(np.uint8)
    return np.ascontiguousarray(rgb)


def _to_bytes(pixels: UInt8[np.ndarray, "*n"] | UInt16[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n"]:
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else np.asarray(pixels, np.uint8)


def _alpha(
    pixels: UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w *c"],
) -> UInt8[np.ndarray, "h w"] | None:
    if pixels.ndim == 2 or pixels.shape[-1] < 4:
        return None
    alpha = _to_bytes(np.ascontiguousarray(pixels[..., 3]))
    return None if (alpha == 255).all() else alpha


def downscale_image(
    image: UInt8[np.ndarray, "h w *c"], width: int, height: int
) -> UInt8[np.ndarray, "height width *c"]:
    """Averages the image over the area of each new pixel."""
    from splax.files.opencv import cv2

    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def downscale_mask(
    mask: Bool[np.ndarray, "h w"], width: int, height: int
) -> Bool[np.ndarray, "height width"]:
    """Makes a mask smaller: a new pixel is true where its whole area is."""
    from splax.files.opencv import cv2

    if mask.shape == (height, width):
        return mask
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(share) > 1 - 1e-4


def resize_nearest(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resizes values that must not be averaged: each new pixel is the old one under its centre."""
    rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(np.intp)
    return values[rows[:, None], columns]
