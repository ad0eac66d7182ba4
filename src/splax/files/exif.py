"""The orientation that EXIF notes: how to turn and mirror stored pixels to show the photo upright.

Structure-from-motion tools ignore it (COLMAP 4.2 does). Whether it applies follows from the size of the camera.
"""

import struct

import numpy as np

_TAG = 0x0112
_MAX_ENTRIES = 512


def orientation(data: bytes) -> int:
    """The orientation of a JPEG or PNG file, 1 to 8; 1 (as stored) if it has none or a damaged one."""
    try:
        value = _tiff_orientation(_exif_block(data))
    except (struct.error, IndexError):
        return 1
    return value if 1 <= value <= 8 else 1


def turn(pixels: np.ndarray, value: int) -> np.ndarray:
    """Stored pixels as they look upright.

    Args:
        pixels: stored pixels, [H, W, ...].
        value: orientation, 1 to 8; 5 to 8 swap width and height.
    """
    if value >= 5:
        pixels = pixels.swapaxes(0, 1)
    if value in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if value in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _exif_block(data: bytes) -> bytes:
    """The bytes of the TIFF structure that holds EXIF; empty if there is none."""
    if data.startswith(b"\x89PNG"):
        position = 8
        while position + 8 <= len(data):
            length, kind = struct.unpack_from(">I4s", data, position)
            if kind == b"eXIf":
                return data[position + 8 : position + 8 + length]
            if kind in (b"IDAT", b"IEND"):
                return b""
            position += 12 + length
        return b""
    position = 2
    while data[position] == 0xFF and data[position + 1] not in (0xDA, 0xD9):
        length = struct.unpack_from(">H", data, position + 2)[0]
        if data[position + 1] == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0":
            return data[position + 10 : position + 2 + length]
        position += 2 + length
    return b""


def _tiff_orientation(block: bytes) -> int:
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    start = struct.unpack_from(order + "I", block, 4)[0]
    count = struct.unpack_from(order + "H", block, start)[0]
    for index in range(min(count, _MAX_ENTRIES)):
        tag, kind = struct.unpack_from(order + "HH", block, start + 2 + 12 * index)
        if tag == _TAG and kind == 3:  # a 16-bit number, stored in the entry itself
            return struct.unpack_from(order + "H", block, start + 10 + 12 * index)[0]
    return 1
