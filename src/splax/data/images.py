"""Photos, masks and depth images from disk: PNG and JPEG of any depth, and depth as .npy.

The files are not trusted: their declared size is read and checked before anything is decoded.
"""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8, UInt16

from splax.data.exif import orientation, turn
from splax.data.lens import same_shape
from splax.data.npy_file import read_npy

MAX_PIXELS = 1 << 28  # 268 megapixels, more than any camera takes
MAX_BYTES = 1 << 30
# What a small file may unpack to, and a large one for each of its bytes: no photo expands a hundredfold, but flat
# masks do a thousandfold.
SMALL_BYTES = 1 << 27
MAX_EXPANSION = 128

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# By colour type, as OpenCV decodes them: grey, RGB, palette, grey and alpha, RGBA.
_PNG_CHANNELS = {b"\0": 1, b"\2": 3, b"\3": 3, b"\4": 4, b"\6": 4}
# Start-of-frame markers of JPEG hold the size: C0 to CF but DHT (C4), JPG (C8) and DAC (CC).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class ImageError(ValueError):
    """A file that is not a usable image; the message says why, without the file's name."""


class Picture(NamedTuple):
    """What an image file holds.

    Attributes:
        image: uint8 RGB on a background, [H, W, 3].
        alpha: how opaque each pixel is, uint8 [H, W]; None if all are.
    """

    image: UInt8[np.ndarray, "h w 3"]
    alpha: UInt8[np.ndarray, "h w"] | None


def read_image(
    path: Path, *, size: tuple[float, float] | None = None, white_background: bool = False
) -> Picture:
    """Reads a PNG or JPEG file.

    Grey images become RGB, 16 bits are cut to 8, transparent pixels (straight alpha) are composited on
    black or white. The rotation noted in EXIF is ignored, as structure-from-motion tools do, unless only
    the rotated image has the shape of ``size``.

    Args:
        path: the file.
        size: width and height of the images that the camera belongs to, up to a scale, if known.
        white_background: composite transparent pixels on white instead of black.

    Raises:
        ImageError: if the file cannot be read, is not PNG or JPEG, is damaged or absurdly large.
    """
    data = _read_bytes(path)
    pixels = _decode(data)
    height, width = pixels.shape[:2]
    if size is not None and not same_shape((width, height), size) and same_shape((height, width), size):
        pixels = turn(pixels, orientation(data))
    return Picture(to_rgb(pixels, white_background=white_background), _alpha(pixels))


def read_mask(path: Path) -> Bool[np.ndarray, "h w"]:
    """Reads a mask, [H, W]: true where the image is bright, that is from 128 up, or from 1 in files of 0 and 1.

    Raises:
        ImageError: as :func:`read_image`.
    """
    grey = to_rgb(_decode(_read_bytes(path))).max(axis=-1)
    return grey > (0 if grey.max() <= 1 else 127)


def read_depth(path: Path, unit: float) -> Float32[np.ndarray, "h w"]:
    """Reads a depth image, [H, W]: stored numbers times ``unit``; 0 where nothing was measured.

    Args:
        path: a grey PNG of 8 or 16 bits, or a .npy file of numbers [H, W] or [H, W, 1].
        unit: world units per stored number.

    Raises:
        ImageError: if the file cannot be read, is damaged or of another kind.
    """
    if path.suffix.lower() == ".npy":
        try:
            depth = read_npy(path)
        except ValueError as error:
            raise ImageError(str(error)) from error
        depth = depth[..., 0] if depth.ndim == 3 and depth.shape[-1] == 1 else depth
    else:
        depth = _decode(_read_bytes(path))
    if depth.ndim != 2 or depth.size == 0:
        raise ImageError(f"must be one number per pixel, got shape {list(depth.shape)}")
    with np.errstate(all="ignore"):
        depth = depth.astype(np.float32) * np.float32(unit)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def _decode(data: bytes) -> UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w *c"]:
    """Pixels as stored, in OpenCV's order of channels."""
    import cv2

    width, height = image_size(data)
    if width * height > MAX_PIXELS:
        raise ImageError(f"declares {width} x {height} pixels; at most {MAX_PIXELS:,} are read")
    if width * height * _pixel_bytes(data) > max(SMALL_BYTES, MAX_EXPANSION * len(data)):
        raise ImageError(f"declares {width} x {height} pixels, too many for its {len(data):,} bytes")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError("is damaged: OpenCV cannot decode it") from error
    if pixels is None or pixels.shape[:2] != (height, width):
        raise ImageError("is damaged: OpenCV cannot decode it")
    return np.asarray(pixels)


def to_rgb(
    pixels: UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w *c"], *, white_background: bool = False
) -> UInt8[np.ndarray, "h w 3"]:
    """Grey, BGR or BGRA of 8 or 16 bits, as OpenCV decodes them, to uint8 RGB.

    Args:
        pixels: [H, W], [H, W, 3] or [H, W, 4].
        white_background: composite transparent pixels on white instead of black.
    """
    pixels = _to_bytes(pixels)
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
    import cv2

    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def downscale_mask(
    mask: Bool[np.ndarray, "h w"], width: int, height: int
) -> Bool[np.ndarray, "height width"]:
    """True where the whole area of a new pixel is."""
    import cv2

    if mask.shape == (height, width):
        return mask
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(share) > 1 - 1e-4


def resize_nearest(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """Takes the old pixel under the centre of each new one; for what must not be averaged."""
    rows = ((np.arange(height) + 0.5) * values.shape[0] / height).astype(np.intp)
    columns = ((np.arange(width) + 0.5) * values.shape[1] / width).astype(np.intp)
    return values[rows[:, None], columns]


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height that a PNG or JPEG file declares, without decoding it.

    Raises:
        ImageError: if the bytes are neither, or no whole file.
    """
    try:
        if data.startswith(_PNG_SIGNATURE):
            width, height = _png_size(data)
        elif data.startswith(b"\xff\xd8"):
            width, height = _jpeg_size(data)
        else:
            raise ImageError("is neither a PNG nor a JPEG image")
    except (struct.error, IndexError) as error:
        raise ImageError("is damaged: it ends within the header") from error
    if width == 0 or height == 0:
        raise ImageError(f"declares {width} x {height} pixels")
    return width, height


def _png_size(data: bytes) -> tuple[int, int]:
    position = len(_PNG_SIGNATURE)
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        if position + 12 + length > len(data):
            # OpenCV 5 would take as much memory as the chunk claims.
            raise ImageError("is damaged: a part of it is longer than the file")
        if kind == b"IEND":
            return struct.unpack_from(">II", data, 16)
        position += 12 + length


def _pixel_bytes(data: bytes) -> int:
    """Memory that a pixel takes once decoded, for a file whose header was read."""
    if not data.startswith(_PNG_SIGNATURE):
        return 3
    depth, color = data[24:25], data[25:26]
    return _PNG_CHANNELS.get(color, 4) * (2 if depth == b"\x10" else 1)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    position = 2
    while True:
        if data[position] != 0xFF:
            raise ImageError("is damaged: no JPEG frame header")
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 5)
            # Some decoders paint what is missing grey and say nothing.
            if data.find(b"\xff\xd9", position) < 0:
                raise ImageError("is damaged: the JPEG data ends too early")
            return width, height
        # Every other segment before the frame tells its length.
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ImageError(f"is {size / 2**30:.1f} GiB; at most {MAX_BYTES // 2**30} GiB are read")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from error
