"""Reads SOG version 2, the format of PlayCanvas: lossless WebP images and a meta.json, in a zip file or a folder.

The specification is at https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/sog. Images hold a
pixel per Gaussian and property. Colours and scales are entries of codebooks, other coefficients of the colour are
entries of a palette. Files are not trusted: names stay within the folder, and sizes are read and checked before
anything is unpacked.
"""

import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from splax.files.limits import check_expansion, check_regular, read_regular, shorten
from splax.io.quantization import from_smallest_three, logit
from splax.io.splat_arrays import SplatArrays
from splax.ops.spherical_harmonics import num_sh_bases

META = "meta.json"
_MAX_META_BYTES = 1 << 20  # three codebooks of 256 numbers take 15 KB
_MAX_COUNT = 1 << 28
_CODEBOOK = 256
_PALETTE_ROW = 64  # entries of the palette in a row of its image
_FIRST_TAG = 252  # a quaternion's alpha is this number plus the index of its largest component

# A function that reads a file of the SOG by its name.
_Opener = Callable[[str], bytes]


def read_sog(path: Path) -> SplatArrays:
    """Reads a SOG.

    Args:
        path: .sog file, folder of the files of a SOG, or meta.json in such a folder.

    Raises:
        ValueError: if a file is damaged, or of another version.
    """
    folder = path.parent if path.name == META else path
    if folder.is_dir():
        if not (folder / META).is_file():
            raise ValueError(f"is a folder without {META}: it holds no SOG")
        return _read(lambda name: _read_member(folder, name))
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(lambda name: _read_zipped(archive, name, path.stat().st_size))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OverflowError) as error:
        raise ValueError(f"is damaged or no SOG file: {shorten(str(error))}") from error


def _read_member(folder: Path, name: str) -> bytes:
    try:
        return read_regular(folder / name)
    except OSError as error:
        raise ValueError(f"has no readable {shorten(name)}: {error.strerror}") from error


def _read_zipped(archive: zipfile.ZipFile, name: str, archive_size: int) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise ValueError(f"has no {shorten(name)}") from error
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"has {shorten(name)} encrypted or compressed in a way that is not read")
    check_expansion(shorten(name), info.file_size, min(info.compress_size, archive_size))
    with archive.open(info) as member:
        return member.read(info.file_size)


def _read(open_: _Opener) -> SplatArrays:
    meta = _parse_meta(open_(META))
    count = _number(meta, "count", 1, _MAX_COUNT)
    quats = _image(open_, meta, "quats", 0, count)
    sh0 = _image(open_, meta, "sh0", 0, count)
    colors = _numbers(meta, "sh0", "codebook", _CODEBOOK)
    scales = _numbers(meta, "scales", "codebook", _CODEBOOK)
    return SplatArrays(
        means=_unpack_means(open_, meta, count),
        quats=_unpack_quats(quats),
        log_scales=scales[_image(open_, meta, "scales", 0, count)[:, :3]],
        logit_opacities=logit(sh0[:, 3] / np.float32(255)),
        sh0=colors[sh0[:, None, :3]],
        shN=_unpack_sh(open_, meta, count),
        antialiased=meta.get("model") == "antialiased" or meta.get("antialias") is True,
    )


def _unpack_means(open_: _Opener, meta: dict[str, Any], count: int) -> Float32[np.ndarray, "n 3"]:
    """Positions: sign(x) log(|x| + 1) is stored in 16 bits between its least and its greatest value."""
    low, high = (_numbers(meta, "means", key, 3).astype(np.float64) for key in ("mins", "maxs"))
    lower, upper = (_image(open_, meta, "means", i, count)[:, :3].astype(np.uint16) for i in (0, 1))
    logs = low + (high - low) * ((upper << 8 | lower) / 65535)
    return (np.sign(logs) * np.expm1(np.abs(logs))).astype(np.float32)


def _unpack_quats(pixels: UInt8[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n 4"]:
    """Quaternions: the three smallest components of wxyz are stored, and the index of the largest.

    A quaternion is zero where the stored index is not one of the four.
    """
    largest = pixels[:, 3].astype(int) - _FIRST_TAG
    others = pixels[:, :3] / np.float32(127.5) - 1
    quats = from_smallest_three(np.maximum(largest, 0), others)
    quats[largest < 0] = 0
    return quats


def _unpack_sh(open_: _Opener, meta: dict[str, Any], count: int) -> Float32[np.ndarray, "n k 3"]:
    if meta.get("shN") is None:
        return np.zeros((count, 0, 3), np.float32)
    part = _part(meta, "shN")
    bands, entries = _number(part, "bands", 1, 3), _number(part, "count", 1, 1 << 16)
    num = num_sh_bases(bands) - 1
    codebook = _numbers(meta, "shN", "codebook", _CODEBOOK)
    rows = -(-entries // _PALETTE_ROW)
    palette = _image(open_, meta, "shN", 0, rows * _PALETTE_ROW * num, width=_PALETTE_ROW * num)
    palette = codebook[palette[:, :3]].reshape(-1, num, 3)
    pixels = _image(open_, meta, "shN", 1, count).astype(np.uint16)
    labels = pixels[:, 1] << 8 | pixels[:, 0]
    if labels.max() >= entries:
        raise ValueError(f"is damaged: its palette has {entries} entries, a Gaussian asks for {labels.max()}")
    return palette[labels]


def _parse_meta(data: bytes) -> dict[str, Any]:
    if len(data) > _MAX_META_BYTES:
        raise ValueError(f"has a {META} of {len(data):,} bytes; at most {_MAX_META_BYTES:,} are read")
    try:
        meta = json.loads(data)
    except RecursionError as error:
        raise ValueError(f"is damaged: its {META} is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"is damaged: its {META} is not valid json: {error}") from error
    if not isinstance(meta, dict) or meta.get("version") != 2:
        version = shorten(meta.get("version")) if isinstance(meta, dict) else "none"
        raise ValueError(
            f"is no SOG of version 2, the only one that is read: its {META} has version {version}"
        )
    return meta


def _part(meta: dict[str, Any], name: str) -> dict[str, Any]:
    part = meta.get(name)
    if not isinstance(part, dict):
        raise ValueError(f"is damaged: its {META} has no '{name}'")
    return part


def _number(source: dict[str, Any], key: str, low: int, high: int) -> int:
    value = source.get(key)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"is damaged: '{key}' in its {META} must be {low} to {high}, got {shorten(value)}")
    return value


def _numbers(meta: dict[str, Any], name: str, key: str, num: int) -> Float32[np.ndarray, " num"]:
    values = _part(meta, name).get(key)
    if isinstance(values, list) and len(values) == num and all(type(v) in (int, float) for v in values):
        numbers = np.array([v if abs(v) < 1e30 else np.nan for v in values], np.float32)
        if np.isfinite(numbers).all():
            return numbers
    raise ValueError(f"is damaged: '{name}.{key}' in its {META} must be {num} finite numbers")


def _image(
    open_: _Opener, meta: dict[str, Any], name: str, index: int, count: int, width: int | None = None
) -> UInt8[np.ndarray, "n 4"]:
    """Reads pixels of an image of the SOG.

    Args:
        open_: function that reads a file by its name.
        meta: contents of meta.json.
        name: name of the property in ``meta``.
        index: index of the image among the property's files.
        count: number of pixels.
        width: width that the image must have in pixels; None: any.

    Returns:
        The first ``count`` pixels, row by row, RGBA, [count, 4].
    """
    files = _part(meta, name).get("files")
    if not isinstance(files, list) or len(files) <= index or not isinstance(files[index], str):
        raise ValueError(f"is damaged: '{name}.files' in its {META} names no file at place {index}")
    file = files[index]
    if not file or file.startswith(".") or set(file) & set("/\\:\0"):
        raise ValueError(f"is damaged or hostile: {shorten(file)} is no plain file name")
    data = open_(file)
    size = _webp_size(data, file)
    if size[0] * size[1] < count or width not in (None, size[0]):
        raise ValueError(
            f"is damaged: {shorten(file)} has {size[0]} x {size[1]} pixels, too few for {count:,}"
            + (f" in rows of {width}" if width else "")
        )
    check_expansion(shorten(file), 4 * size[0] * size[1], len(data))
    return _decode(data, size, file).reshape(-1, 4)[:count]


def _decode(data: bytes, size: tuple[int, int], file: str) -> UInt8[np.ndarray, "h w 4"]:
    from splax.files.opencv import cv2

    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape[:2] != size[::-1] or pixels.ndim != 3:
        raise ValueError(f"is damaged: {shorten(file)} cannot be decoded")
    rgba = np.full((*pixels.shape[:2], 4), 255, np.uint8)
    rgba[..., :3] = pixels[..., 2::-1]
    if pixels.shape[2] == 4:
        rgba[..., 3] = pixels[..., 3]
    return rgba


def _webp_size(data: bytes, file: str) -> tuple[int, int]:
    """Width and height that a WebP file declares, in pixels (RFC 9649)."""
    if len(data) >= 30 and data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        promised = int.from_bytes(data[4:8], "little") + 8
        if promised > len(data):  # decoders may fill the missing pixels with any values
            raise ValueError(
                f"is truncated: {shorten(file)} promises {promised:,} bytes, it has {len(data):,}"
            )
        match data[12:16]:
            case b"VP8L" if data[20] == 0x2F:
                word = struct.unpack_from("<I", data, 21)[0]
                return (word & 0x3FFF) + 1, (word >> 14 & 0x3FFF) + 1
            case b"VP8X":
                width, height = data[24:27], data[27:30]
                return int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1
    raise ValueError(f"is damaged: {shorten(file)} is no lossless WebP image")
