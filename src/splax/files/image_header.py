"""Reads the headers of PNG and JPEG files, without decoding the pixels.

The files are not trusted: the size that they declare is checked before anything is decoded.
"""

import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from splax.files.exif import orientation

_MAX_PIXELS = 1 << 28  # 268 megapixels, more than any camera takes
_MAX_BYTES = 1 << 30
# Bytes that a small file may unpack to, and those that a large file may unpack to for each of its bytes. No photo
# expands a hundredfold, but flat masks expand a thousandfold.
_SMALL_BYTES = 1 << 27
_MAX_EXPANSION = 128

# Bytes that are read of a large file, at its beginning and at its end.
_END_BYTES = 1 << 16
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
# Channels by colour type, as OpenCV decodes them: grey, RGB, palette, grey and alpha, RGBA.
_PNG_CHANNELS = {b"\0": 1, b"\2": 3, b"\3": 3, b"\4": 4, b"\6": 4}
# Start-of-frame markers of JPEG, which hold the size: C0 to CF except DHT (C4), JPG (C8) and DAC (CC).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_END = b"\xff\xd9"


class ImageError(ValueError):
    """A file is not a usable image. The message says why, as the rest of a sentence that begins with the file."""


class ImageHeader(NamedTuple):
    """The size and kind of pixels that an image file declares.

    Attributes:
        width: width of the stored image in pixels.
        height: height of the stored image in pixels.
        orientation: orientation that EXIF notes, 1 to 8; see :func:`splax.files.exif.turn`.
        has_alpha: whether there may be transparent pixels.
    """

    width: int
    height: int
    orientation: int
    has_alpha: bool

    @property
    def turned_size(self) -> tuple[int, int]:
        """Width and height of the upright image in pixels."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_image_header(path: Path) -> ImageHeader:
    """Reads the header of a PNG or JPEG file; of a large file, only the beginning and the end are read.

    Raises:
        ImageError: if the file cannot be read, is neither PNG nor JPEG, ends too early, or is too large.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(_END_BYTES)
            file.seek(max(0, size - _END_BYTES))
            tail = file.read(_END_BYTES)
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from error
    if size > len(head) and (_PNG_END if head.startswith(_PNG_SIGNATURE) else _JPEG_END) in tail:
        with suppress(ImageError):
            return parse_image_header(head, size)
    # The file is small, has much data before its size, or has data after its end.
    return parse_image_header(read_bytes(path))


def parse_image_header(data: bytes, size: int | None = None) -> ImageHeader:
    """Reads the header of a PNG or JPEG file from its bytes.

    Args:
        data: bytes of the file, or of its beginning if ``size`` is given.
        size: size of the file in bytes; None if ``data`` is the whole file.

    Raises:
        ImageError: if the bytes are neither PNG nor JPEG, end too early, or declare an image that is too large.
    """
    try:
        if data.startswith(_PNG_SIGNATURE):
            width, height = _png_size(data, whole=size is None)
        elif data.startswith(b"\xff\xd8"):
            width, height = _jpeg_size(data, whole=size is None)
        else:
            raise ImageError("is neither a PNG nor a JPEG image")
    except (struct.error, IndexError) as error:
        raise ImageError("is damaged: it ends within the header") from error
    size = len(data) if size is None else size
    if width == 0 or height == 0:
        raise ImageError(f"declares {width} x {height} pixels")
    if width * height > _MAX_PIXELS:
        raise ImageError(f"declares {width} x {height} pixels; at most {_MAX_PIXELS:,} are read")
    if width * height * _pixel_bytes(data) > max(_SMALL_BYTES, _MAX_EXPANSION * size):
        raise ImageError(f"declares {width} x {height} pixels, too many for its {size:,} bytes")
    has_alpha = data.startswith(_PNG_SIGNATURE) and (data[25:26] in (b"\4", b"\6") or b"tRNS" in data)
    return ImageHeader(width, height, orientation(data), has_alpha)


def read_bytes(path: Path) -> bytes:
    """All bytes of an image file.

    Raises:
        ImageError: if the file cannot be read, or is too large.
    """
    try:
        size = os.stat(path).st_size
        if size > _MAX_BYTES:
            raise ImageError(f"is {size / 2**30:.1f} GiB; at most {_MAX_BYTES // 2**30} GiB are read")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read ({error.strerror})") from error


def _png_size(data: bytes, *, whole: bool) -> tuple[int, int]:
    position = len(_PNG_SIGNATURE)
    while whole:
        length, kind = struct.unpack_from(">I4s", data, position)
        if position + 12 + length > len(data):
            # OpenCV 5 would allocate as much memory as the chunk claims to have.
            raise ImageError("is damaged: a part of it is longer than the file")
        if kind == b"IEND":
            break
        position += 12 + length
    return struct.unpack_from(">II", data, 16)


def _pixel_bytes(data: bytes) -> int:
    """Memory that a decoded pixel takes, in bytes."""
    if not data.startswith(_PNG_SIGNATURE):
        return 3
    depth, color = data[24:25], data[25:26]
    return _PNG_CHANNELS.get(color, 4) * (2 if depth == b"\x10" else 1)


def _jpeg_size(data: bytes, *, whole: bool) -> tuple[int, int]:
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
            # Some decoders fill missing pixels with grey and report nothing.
            if whole and data.find(_JPEG_END, position) < 0:
                raise ImageError("is damaged: the JPEG data ends too early")
            return width, height
        # Every other segment before the frame states its length.
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]
