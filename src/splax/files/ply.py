"""PLY files as containers: a text header that names properties, then rows of numbers.

:mod:`splax.io.ply` knows which properties Gaussians have. Files are not trusted: the size of the header is
bounded, and counts are checked against the file's size before memory is allocated.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float32

from splax.files.limits import shorten

_MAX_HEADER_BYTES = 1 << 18
CHUNK_BYTES = 1 << 21  # small enough for the cache of a processor, large enough that threads are worth it
# numpy releases the interpreter lock; more threads than these would wait for memory.
_THREADS = min(4, os.cpu_count() or 1)

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_WRITTEN = {"f4": "float", "u4": "uint", "u1": "uchar"}
_BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_END = re.compile(rb"^end_header[ \t]*\r?\n", re.MULTILINE)
_MAX_LINE = 1 << 20


@dataclass
class PlyElement:
    """Rows of one kind.

    Attributes:
        name: name of the element.
        count: number of rows.
        properties: numpy type, without byte order, of each property by name.
        has_lists: whether a property is a list, which is not read.
    """

    name: str
    count: int
    properties: dict[str, str] = field(default_factory=dict)
    has_lists: bool = False


class PlyBlock(NamedTuple):
    """Properties that follow each other in a file.

    Attributes:
        properties: names of the properties.
        values: values of the properties, [rows, ...], of any stride; a row's numbers are in the order of the
            names.
    """

    properties: Sequence[str]
    values: np.ndarray


@dataclass
class PlyHeader:
    """The header of a PLY file.

    Attributes:
        byte_order: ``"<"`` or ``">"`` for binary files; empty for text.
        elements: elements in the order of the file.
        comments: comments, one for each comment line.
        size: size of the header in bytes.
    """

    byte_order: str
    elements: list[PlyElement]
    comments: list[str]
    size: int


def read_ply_header(file: BinaryIO) -> PlyHeader:
    """Reads the header of a PLY file that was opened at its beginning.

    Raises:
        ValueError: if the file has no PLY header, or one that is larger than 256 KiB.
    """
    data = file.read(_MAX_HEADER_BYTES)
    if not re.match(rb"ply[ \t]*\r?\n", data):
        raise ValueError("is not a PLY file: it does not begin with 'ply'")
    end = _END.search(data)
    if end is None:
        raise ValueError(f"is not a usable PLY file: no 'end_header' in its first {_MAX_HEADER_BYTES} bytes")
    header = PlyHeader("?", [], [], end.end())
    for line in data[: end.start()].decode("utf-8", "replace").splitlines()[1:]:
        _read_header_line(header, line.split())
    if header.byte_order == "?":
        raise ValueError("is not a usable PLY file: its header has no 'format' line")
    return header


def _read_header_line(header: PlyHeader, words: list[str]) -> None:
    match words:
        case [] | ["obj_info", *_]:
            pass
        case ["comment", *text]:
            header.comments.append(" ".join(text))
        case ["format", name, "1.0"] if name in _BYTE_ORDERS:
            header.byte_order = _BYTE_ORDERS[name]
        case ["element", name, count] if count.isascii() and count.isdigit() and len(count) <= 15:
            header.elements.append(PlyElement(name, int(count)))
        case ["property", "list", _, _, _] if header.elements:
            header.elements[-1].has_lists = True
        case ["property", kind, name] if kind in _TYPES and header.elements:
            if name in header.elements[-1].properties:
                raise ValueError(f"names the property {shorten(name)} twice in its header")
            header.elements[-1].properties[name] = _TYPES[kind]
        case _:
            raise ValueError(f"has a header line that is no PLY: {shorten(' '.join(words))}")


def read_rows(file: BinaryIO, header: PlyHeader, element: PlyElement) -> Iterator[tuple[slice, Any]]:
    """Reads the rows of an element in chunks.

    Args:
        file: file opened for reading.
        header: header of the file.
        element: one of the header's elements.

    Returns:
        An iterator of chunks: the indices of its rows, and a mapping from the name of each property to its values.

    Raises:
        ValueError: if the file is too short, is damaged, or an element before this one or itself has lists.
    """
    before = header.elements[: header.elements.index(element)]
    for other in (*before, element):
        if other.has_lists:
            raise ValueError(f"has lists in its element {shorten(other.name)}; only fixed sizes are read")
    binary = bool(header.byte_order)
    # A number in a text file takes at least two bytes, as a separator follows it.
    row_bytes = [
        _row_type(e, header).itemsize if binary else 2 * len(e.properties) for e in (*before, element)
    ]
    start = header.size + sum(e.count * size for e, size in zip(before, row_bytes, strict=False))
    needed = start + element.count * row_bytes[-1] - (not binary)
    size = os.fstat(file.fileno()).st_size
    if size < needed:
        raise ValueError(f"is truncated: its header promises at least {needed} bytes, it has {size}")
    if binary:
        file.seek(start)
        return _read_binary(file, _row_type(element, header), element.count)
    file.seek(header.size)
    return _read_text(file, sum(e.count for e in before), element)


def for_each_chunk(chunks: Iterator[tuple[slice, Any]], use: Callable[[slice, Any], None]) -> None:
    """Calls a function for each chunk of :func:`read_rows`, in several threads.

    Args:
        chunks: chunks, as :func:`read_rows` yields them.
        use: function of the indices of the rows and of the chunk.
    """
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                item = next(chunks, None)
            if item is None:
                return
            use(*item)

    with ThreadPoolExecutor(_THREADS) as pool:
        for worker in [pool.submit(work) for _ in range(_THREADS)]:
            worker.result()


def as_matrix(chunk: Any) -> Float32[np.ndarray, "rows properties"] | None:
    """A chunk of :func:`read_rows` as one array, [rows, properties].

    Returns:
        A view of the chunk; None unless all its properties are float32 in this machine's byte order.
    """
    if not isinstance(chunk, np.ndarray) or not chunk.dtype.names:
        return None
    if any(kind != np.float32 for kind, _ in chunk.dtype.fields.values()):
        return None
    return chunk.view(np.float32).reshape(len(chunk), -1)


def _row_type(element: PlyElement, header: PlyHeader) -> np.dtype:
    return np.dtype([(name, header.byte_order + kind) for name, kind in element.properties.items()])


def _read_binary(file: BinaryIO, dtype: np.dtype, count: int) -> Iterator[tuple[slice, Any]]:
    for rows in _chunks(count, dtype.itemsize):
        data = file.read((rows.stop - rows.start) * dtype.itemsize)
        yield rows, np.frombuffer(data, dtype, count=rows.stop - rows.start)


def _read_text(file: BinaryIO, skip: int, element: PlyElement) -> Iterator[tuple[slice, Any]]:
    for _ in range(skip):
        if not file.readline(_MAX_LINE):
            raise ValueError("is truncated")
    # A number takes 64 bytes as a Python float and as text.
    for rows in _chunks(element.count, 64 * len(element.properties)):
        try:
            table = [
                list(map(float, file.readline(_MAX_LINE).split())) for _ in range(rows.stop - rows.start)
            ]
        except ValueError as error:  # its message holds the whole word, which may be long
            raise ValueError(f"is damaged: {shorten(error)}") from error
        if any(len(row) != len(element.properties) for row in table):
            raise ValueError(
                f"is damaged: not every {shorten(element.name)} has {len(element.properties)} numbers"
            )
        yield rows, dict(zip(element.properties, np.array(table).T, strict=True))


def _chunks(count: int, row_bytes: int) -> Iterator[slice]:
    """Slices of all rows; each but the last holds as many rows as fit into a chunk."""
    size = max(1, CHUNK_BYTES // max(1, row_bytes))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def write_elements(file: BinaryIO, elements: Mapping[str, Sequence[PlyBlock]], comments: list[str]) -> None:
    """Writes a binary little-endian PLY file.

    Args:
        file: file opened for writing.
        elements: blocks of each element, in the order of the file. All values of an element are of one type,
            float32, uint32 or uint8, and have the same number of rows.
        comments: comments for the header, one line each.

    Raises:
        ValueError: if the header would be larger than readers accept.
    """
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {c}" for c in comments)]
    for name, blocks in elements.items():
        kind = _WRITTEN[blocks[0].values.dtype.str[1:]]
        lines.append(f"element {name} {len(blocks[0].values)}")
        lines += [f"property {kind} {p}" for block in blocks for p in block.properties]
    header = "\n".join([*lines, "end_header", ""]).encode()
    if len(header) > _MAX_HEADER_BYTES:
        num = max(sum(len(block.properties) for block in blocks) for blocks in elements.values())
        raise ValueError(f"{num} properties per row are more than a PLY header of 256 KiB can name")
    file.write(header)
    for blocks in elements.values():
        _write_rows(file, blocks)


def _write_rows(file: BinaryIO, blocks: Sequence[PlyBlock]) -> None:
    """Writes the rows of all blocks, interleaved.

    Each thread interleaves a chunk of rows; while one thread writes, others interleave theirs.
    """
    parts = {str(i): _rows_as_items(block.values) for i, block in enumerate(blocks)}
    row = np.dtype([(name, part.dtype.newbyteorder("<"), part.shape[1:]) for name, part in parts.items()])
    start = file.tell()
    turn = threading.Lock()

    def write(rows: slice) -> None:
        chunk = np.empty(rows.stop - rows.start, row)
        for name, part in parts.items():
            chunk[name] = part[rows]
        with turn:
            file.seek(start + rows.start * row.itemsize)
            file.write(chunk.view(np.uint8).data)

    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(write, _chunks(len(blocks[0].values), row.itemsize)):
            pass  # raises the errors of the threads
    file.seek(0, os.SEEK_END)  # the last chunk of the file may not have been written last


def _rows_as_items(values: np.ndarray) -> np.ndarray:
    """Each row as one item of raw bytes, which is copied about twice as fast as its numbers.

    Returns:
        A view of the values, [rows]; or the values themselves if a row is not contiguous or its byte order has to
        change.
    """
    if not values[:1].flags.c_contiguous or values.dtype != values.dtype.newbyteorder("<"):
        return values
    table = values.reshape(len(values), -1)
    return table.view(f"V{table[:1].nbytes}")[:, 0]


def antialiased_comments(antialiased: bool) -> list[str]:
    """Comments that mark Gaussians as antialiased, as Brush and splat-transform write them; none for others."""
    return ["SplatRenderMode: mip"] * antialiased


def is_antialiased(comments: list[str]) -> bool:
    """Whether comments mark the Gaussians as antialiased, as Brush or Postshot (``antialiased 1``) write it."""
    words = [" ".join(comment.lower().split()) for comment in comments]
    return "splatrendermode: mip" in words or "antialiased 1" in words
