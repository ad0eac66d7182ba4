"""SPZ files as containers: a header and streams of bytes, in gzip (versions 2 and 3) or zstd (version 4).

:mod:`splax.io.spz` knows the meaning of the bytes. Files are not trusted: the size of unpacked data is bounded by
what the header declares, and that is bounded by the size of the file.
"""

import io
import math
import struct
import zlib
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt8

from splax.files.limits import check_expansion, shorten

MAX_DEGREE = 4
_MAGIC, _GZIP = b"NGSP", b"\x1f\x8b"
_HEADER = struct.Struct("<4sIIBBBB")  # the last byte is reserved; in version 4 it counts the streams
_HEADER_V4 = struct.Struct("<4sIIBBBBI12x")  # the last number is the offset of the table of streams
_TABLE_ROW = struct.Struct("<QQ")  # stored and unpacked size, bytes
_EXTENSION = struct.Struct("<II")  # type and size, bytes
_HAS_EXTENSIONS = 2
_MAX_EXTENSION_BYTES = 1 << 16
_LEVEL_V4 = 12


class SpzHeader(NamedTuple):
    """The header of an SPZ file.

    Attributes:
        version: version of the format, 2 to 4.
        num: number of Gaussians.
        sh_degree: degree of the colour's spherical harmonics.
        fractional_bits: bits of positions after the binary point.
        flags: bits that mark properties of the file.
    """

    version: int
    num: int
    sh_degree: int
    fractional_bits: int
    flags: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the streams of bytes by name, in the order of the file."""
        shapes = {
            "positions": (self.num, 3, 3),
            "alphas": (self.num,),
            "colors": (self.num, 3),
            "scales": (self.num, 3),
            "rotations": (self.num, 3 if self.version == 2 else 4),
            "sh": (self.num, (self.sh_degree + 1) ** 2 - 1, 3),
        }
        return {name: shape for name, shape in shapes.items() if math.prod(shape)}


class SpzStreams(NamedTuple):
    """The contents of an SPZ file.

    Attributes:
        header: header of the file.
        arrays: bytes of each stream by name, of the shapes of :meth:`SpzHeader.shapes`.
        extensions: bytes of each extension record by type.
    """

    header: SpzHeader
    arrays: dict[str, UInt8[np.ndarray, "..."]]
    extensions: dict[int, bytes]


def read_streams(data: bytes) -> SpzStreams:
    """Unpacks the bytes of an SPZ file.

    Raises:
        ImportError: if the file needs zstandard, which is not installed.
        ValueError: if the file is damaged, or of a version other than 2 to 4.
    """
    if data[:2] == _GZIP:
        return _read_gzip(data)
    if data[:4] == _MAGIC:
        return _read_zstd(data)
    raise ValueError(f"is no SPZ file: expected gzip or 'NGSP' at its beginning, found {data[:4]!a}")


def write_streams(file: BinaryIO, header: SpzHeader, arrays: dict[str, UInt8[np.ndarray, "..."]]) -> None:
    """Packs and writes an SPZ file of ``header.version``.

    Args:
        file: file opened for writing.
        header: header of the file.
        arrays: bytes of each stream by name, of the shapes of :meth:`SpzHeader.shapes`.

    Raises:
        ImportError: if the version needs zstandard, which is not installed.
    """
    fields = (_MAGIC, *header)
    chunks = [np.ascontiguousarray(arrays[name]).data.cast("B") for name in header.shapes()]
    if header.version < 4:
        packer = zlib.compressobj(wbits=31)
        for chunk in (_HEADER.pack(*fields, 0), *chunks):
            file.write(packer.compress(chunk))
        file.write(packer.flush())
        return
    packer = _zstandard().ZstdCompressor(level=_LEVEL_V4)
    packed = [packer.compress(chunk) for chunk in chunks]
    file.write(_HEADER_V4.pack(*fields, len(packed), _HEADER_V4.size))
    for chunk, stored in zip(chunks, packed, strict=True):
        file.write(_TABLE_ROW.pack(len(stored), len(chunk)))
    file.writelines(packed)


def _read_gzip(data: bytes) -> SpzStreams:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        start = unpacker.decompress(data, _HEADER.size)
        header, _ = _parse(_HEADER, start)
        total = _checked_size(header, len(data))
        body = unpacker.decompress(unpacker.unconsumed_tail, total)
        if len(body) < total:
            raise ValueError(f"is truncated: its header promises {total:,} bytes, found {len(body):,}")
        # Reads to the end, where gzip's checksum is. Data that follows is bounded, in case it is a bomb.
        rest = unpacker.decompress(unpacker.unconsumed_tail, _MAX_EXTENSION_BYTES)
    except zlib.error as error:
        raise ValueError(f"is damaged: its gzip data does not unpack ({error})") from error
    if not unpacker.eof and len(rest) < _MAX_EXTENSION_BYTES:
        raise ValueError("is truncated: its gzip data has no end")
    sizes = [math.prod(shape) for shape in header.shapes().values()]
    ends = np.cumsum(sizes)
    parts = [body[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    return _streams(header, parts, rest)


def _read_zstd(data: bytes) -> SpzStreams:
    header, (num_streams, table) = _parse(_HEADER_V4, data)
    _checked_size(header, len(data))
    start = table + num_streams * _TABLE_ROW.size
    if not _HEADER_V4.size <= table or start > len(data):
        raise ValueError(f"is truncated: its table of streams ends at byte {start:,}, it has {len(data):,}")
    rows = [_TABLE_ROW.unpack_from(data, table + i * _TABLE_ROW.size) for i in range(num_streams)]
    rows = [row for row in rows if row[1]]
    expected = [math.prod(shape) for shape in header.shapes().values()]
    if (promised := [unpacked for _, unpacked in rows]) != expected:
        raise ValueError(
            f"is damaged: by its header its streams should unpack to {expected} bytes, "
            f"its table has {shorten(promised)}"
        )
    needed = start + sum(stored for stored, _ in rows)
    if needed > len(data):
        raise ValueError(f"is truncated: its table promises {needed:,} bytes, it has {len(data):,}")
    parts = []
    for stored, unpacked in rows:
        parts.append(_unpack_zstd(data[start : start + stored], unpacked))
        start += stored
    return _streams(header, parts, data[_HEADER_V4.size : table])


def _unpack_zstd(stored: bytes, size: int) -> bytes:
    zstandard = _zstandard()
    # A stream is read, since decompress() trusts the size that the frame declares. The window is bounded too.
    unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    try:
        with unpacker.stream_reader(io.BytesIO(stored)) as reader:
            data = reader.read(size + 1)
    except zstandard.ZstdError as error:
        raise ValueError(f"is damaged: its zstd data does not unpack ({error})") from error
    if len(data) != size:
        found = f"{len(data):,}" if len(data) < size else "more"
        raise ValueError(f"is damaged: a zstd stream should unpack to {size:,} bytes, found {found}")
    return data


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise ImportError("SPZ version 4 needs zstandard: pip install zstandard") from error
    return zstandard


def _parse(layout: struct.Struct, data: bytes) -> tuple[SpzHeader, tuple[int, ...]]:
    """The header, and the fields that follow the part that all versions share."""
    if len(data) < layout.size:
        raise ValueError(f"is truncated: expected a header of {layout.size} bytes, found {len(data)}")
    magic, *fields = layout.unpack_from(data)
    header = SpzHeader(*fields[:5])
    if magic != _MAGIC:
        raise ValueError(f"is no SPZ file: expected 'NGSP' in its header, found {magic!a}")
    versions = (4,) if layout is _HEADER_V4 else (2, 3)
    if header.version not in versions:
        raise ValueError(
            f"is an SPZ file of version {header.version} in {'zstd' if versions == (4,) else 'gzip'}; read are "
            "versions 2 and 3 in gzip, and 4 in zstd"
        )
    if header.num == 0:
        raise ValueError("holds no Gaussians: its header counts 0")
    if header.sh_degree > MAX_DEGREE:
        raise ValueError(f"is damaged: SH degree {header.sh_degree}; SPZ has 0 to {MAX_DEGREE}")
    return header, tuple(fields[5:])


def _checked_size(header: SpzHeader, stored: int) -> int:
    total = sum(math.prod(shape) for shape in header.shapes().values())
    check_expansion("its header", total, stored)
    return total


def _streams(header: SpzHeader, parts: list[bytes], records: bytes) -> SpzStreams:
    shapes = header.shapes()
    arrays = {
        n: np.frombuffer(part, np.uint8).reshape(shapes[n]) for n, part in zip(shapes, parts, strict=True)
    }
    return SpzStreams(header, arrays, _parse_extensions(records) if header.flags & _HAS_EXTENSIONS else {})


def _parse_extensions(records: bytes) -> dict[int, bytes]:
    extensions = {}
    at = 0
    while at + _EXTENSION.size <= len(records):
        kind, size = _EXTENSION.unpack_from(records, at)
        at += _EXTENSION.size
        extensions[kind] = records[at : at + size]
        at += size
    return extensions
