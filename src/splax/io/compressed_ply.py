"""Compressed PLY files of PlayCanvas: 16 bytes per Gaussian, in chunks of 256 that store ranges of values.

The layout is that of SuperSplat and splat-transform. The element ``chunk`` holds the least and the greatest
position, log scale and colour of each chunk. ``vertex`` holds four 32-bit words per Gaussian: position and scale
in 11, 10 and 11 bits, the smallest three components of the quaternion wxyz in 10 bits each, colour and opacity in
8 bits each. ``sh`` holds the other coefficients of the colour in 8 bits each.
"""

from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32, UInt32

from splax.files.ply import PlyBlock, PlyElement, PlyHeader, antialiased_comments, read_rows, write_elements
from splax.io.quantization import (
    from_smallest_three,
    logit,
    sigmoid,
    smallest_three,
    to_bytes,
    unit_quats,
)
from splax.io.splat_arrays import SplatArrays, extras_left_out
from splax.ops.spherical_harmonics import rgb_to_sh0, sh0_to_rgb

_CHUNK = 256
_WORDS = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_POSITION, _SCALE, _COLOR = "xyz", ("scale_x", "scale_y", "scale_z"), "rgb"
_BITS = (11, 10, 11)
_SH_RANGE = 8  # coefficients lie in [-4, 4]
_LOG_SCALE_RANGE = 20  # other writers of the format clip log scales to this range


def is_compressed_ply(header: PlyHeader) -> bool:
    """Whether a PLY file is a compressed one."""
    return any(e.name == "vertex" and _WORDS[0] in e.properties for e in header.elements)


def unpack_compressed_ply(file: BinaryIO, header: PlyHeader) -> dict[str, np.ndarray]:
    """Reads every Param of a compressed file, float32 [rows, ...].

    Args:
        file: file opened for reading.
        header: header of the file.

    Raises:
        ValueError: if the file is damaged.
    """
    elements = {element.name: element for element in header.elements}
    vertex, sh = elements["vertex"], elements.get("sh")
    colored = _check(header, elements.get("chunk"), vertex, sh)
    names = (*_POSITION, *_SCALE, *(_COLOR if colored else ()))
    low = _read_columns(file, header, elements["chunk"], [f"min_{name}" for name in names], np.float32)
    high = _read_columns(file, header, elements["chunk"], [f"max_{name}" for name in names], np.float32)
    words = _read_columns(file, header, vertex, _WORDS, np.uint32)
    position, rotation, scale, color = words.T
    of_row = np.arange(vertex.count) // _CHUNK

    def spread(unit: Float32[np.ndarray, "n 3"], first: int) -> Float32[np.ndarray, "n 3"]:
        columns = slice(first, first + 3)
        return low[of_row, columns] * (1 - unit) + high[of_row, columns] * unit

    rgba = _split(color, (8, 8, 8, 8))
    return {
        "means": spread(_split(position, _BITS), 0),
        "log_scales": spread(_split(scale, _BITS), 3),
        "quats": from_smallest_three((rotation >> 30).astype(int), _split(rotation, (10, 10, 10)) * 2 - 1),
        "logit_opacities": logit(rgba[:, 3]),
        "sh0": rgb_to_sh0(spread(rgba[:, :3], 6) if colored else rgba[:, :3])[:, None],
        "shN": _unpack_sh(file, header, sh, vertex.count),
    }


def _check(header: PlyHeader, chunk: PlyElement | None, vertex: PlyElement, sh: PlyElement | None) -> bool:
    """Checks the elements of a file, and returns whether chunks store ranges of colours.

    Raises:
        ValueError: if the elements are not those of the format.
    """
    if chunk is None:
        raise ValueError("is no compressed PLY file of PlayCanvas: it has no element 'chunk'")
    if not header.byte_order:
        raise ValueError("is a compressed PLY file as text, which is not read; expected a binary one")
    ranges = {f"{end}_{name}" for end in ("min", "max") for name in (*_POSITION, *_SCALE)}
    colors = {f"{end}_{name}" for end in ("min", "max") for name in _COLOR}
    colored = bool(colors & chunk.properties.keys())  # older files have no ranges of colours
    missing = (ranges | colors if colored else ranges) - chunk.properties.keys()
    missing |= {word for word in _WORDS if vertex.properties.get(word) != "u4"}
    if missing:
        raise ValueError(f"is no compressed PLY file of PlayCanvas: it has no {sorted(missing)[0]}")
    if vertex.count == 0:
        raise ValueError("holds no Gaussians: its element 'vertex' has 0 rows")
    if chunk.count != -(-vertex.count // _CHUNK):
        raise ValueError(
            f"is damaged: {vertex.count} Gaussians need {-(-vertex.count // _CHUNK)} chunks of {_CHUNK}, "
            f"its header has {chunk.count}"
        )
    if sh and (
        sh.count != vertex.count or sh.properties != dict.fromkeys(_sh_names(len(sh.properties)), "u1")
    ):
        raise ValueError("is damaged: its element 'sh' is not 0, 9, 24 or 45 f_rest bytes for each Gaussian")
    return colored


def _sh_names(num: int) -> list[str]:
    return [f"f_rest_{i}" for i in range(num)] if num in (0, 9, 24, 45) else ["none"]


def _read_columns(
    file: BinaryIO, header: PlyHeader, element: PlyElement, names: Sequence[str], dtype: type
) -> np.ndarray:
    """Reads some properties of an element, [rows, len(names)]."""
    chunks = read_rows(file, header, element)  # checks the size of the file before memory is allocated
    columns = np.empty((element.count, len(names)), dtype)
    for rows, values in chunks:
        for i, name in enumerate(names):
            columns[rows, i] = values[name]
    return columns


def _unpack_sh(
    file: BinaryIO, header: PlyHeader, sh: PlyElement | None, count: int
) -> Float32[np.ndarray, "n k 3"]:
    if sh is None or not sh.properties:
        return np.empty((count, 0, 3), np.float32)
    stored = _read_columns(file, header, sh, _sh_names(len(sh.properties)), np.uint8)
    unit = (np.arange(256, dtype=np.float32) + np.float32(0.5)) / 256
    unit[0], unit[255] = 0, 1  # as other readers of the format do
    values = ((unit - np.float32(0.5)) * _SH_RANGE)[stored]
    return values.reshape(count, 3, -1).swapaxes(1, 2)


def _split(words: UInt32[np.ndarray, " n"], bits: tuple[int, ...]) -> Float32[np.ndarray, "n k"]:
    """Splits words into fields, as numbers in [0, 1]; the last field has the lowest bits.

    Args:
        words: 32-bit words, [n].
        bits: number of bits of each field.
    """
    fields = np.empty((len(words), len(bits)), np.float32)
    shift = 0
    for i, width in reversed([*enumerate(bits)]):
        fields[:, i] = (words >> shift) & (2**width - 1)
        fields[:, i] /= 2**width - 1
        shift += width
    return fields


def _join(unit: Float32[np.ndarray, "n k"], bits: tuple[int, ...]) -> UInt32[np.ndarray, " n"]:
    """Inverse of :func:`_split`."""
    words = np.zeros(len(unit), np.uint32)
    for i, width in enumerate(bits):
        top = 2**width - 1
        words = (words << width) | np.rint(np.clip(unit[:, i] * top, 0, top)).astype(np.uint32)
    return words


def write_compressed_ply(file: BinaryIO, arrays: SplatArrays) -> list[str]:
    """Writes a compressed PLY file.

    The rows are sorted in Morton order, so that the 256 Gaussians of a chunk are close together.

    Args:
        file: file opened for writing.
        arrays: Gaussians to write.

    Returns:
        A note for each thing that the format cannot hold.
    """
    arrays = arrays.take(morton_order(arrays.means))
    position, table = _pack_range(arrays.means, _POSITION)
    log_scales = np.clip(arrays.log_scales, -_LOG_SCALE_RANGE, _LOG_SCALE_RANGE)
    scale, scale_table = _pack_range(log_scales, _SCALE)
    color, color_table = _pack_range(sh0_to_rgb(arrays.sh0[:, 0]), _COLOR)
    largest, others = smallest_three(unit_quats(arrays.quats))
    rgba = np.concatenate([color, sigmoid(arrays.logit_opacities)[:, None]], axis=1)
    rotation = (largest.astype(np.uint32) << 30) | _join(others / 2 + np.float32(0.5), (10, 10, 10))
    words = [_join(position, _BITS), rotation, _join(scale, _BITS), _join(rgba, (8, 8, 8, 8))]
    elements = {
        "chunk": [*table, *scale_table, *color_table],
        "vertex": [PlyBlock([name], column) for name, column in zip(_WORDS, words, strict=True)],
    }
    if num := arrays.shN.shape[1]:
        stored = to_bytes(np.floor((arrays.shN / _SH_RANGE + np.float32(0.5)) * 256))
        elements["sh"] = [PlyBlock(_sh_names(3 * num), stored.swapaxes(1, 2))]
    write_elements(file, elements, antialiased_comments(arrays.antialiased))
    return _clipped(arrays, log_scales)


def _pack_range(
    values: Float32[np.ndarray, "n 3"], names: Sequence[str]
) -> tuple[Float32[np.ndarray, "n 3"], list[PlyBlock]]:
    """The values as shares, in [0, 1], of the range of their chunk, [n, 3], and the blocks of these ranges."""
    missing = -len(values) % _CHUNK
    chunks = np.pad(values, [(0, missing), (0, 0)], mode="edge").reshape(-1, _CHUNK, 3)
    low, high = chunks.min(axis=1), chunks.max(axis=1)
    width = np.maximum(high.astype(np.float64) - low, np.finfo(np.float64).tiny)
    unit = ((chunks - low[:, None].astype(np.float64)) / width[:, None]).astype(np.float32)
    table = [
        PlyBlock([f"min_{name}" for name in names], low),
        PlyBlock([f"max_{name}" for name in names], high),
    ]
    return unit.reshape(-1, 3)[: len(values)], table


def _clipped(arrays: SplatArrays, log_scales: Float32[np.ndarray, "n 3"]) -> list[str]:
    notes = extras_left_out(arrays)
    if num := int((arrays.log_scales != log_scales).any(axis=1).sum()):
        notes.append(f"the scales of {num:,} Gaussians were clipped to e^-20 to e^20")
    if num := int((np.abs(arrays.shN) > _SH_RANGE / 2).any(axis=(1, 2)).sum()):
        notes.append(f"the SH coefficients of {num:,} Gaussians were clipped to [-4, 4]")
    return notes


def morton_order(means: Float32[np.ndarray, "n 3"]) -> np.ndarray:
    """Indices that sort points along a Morton curve, which keeps neighbours together, [n]."""
    low, high = means.min(axis=0).astype(np.float64), means.max(axis=0).astype(np.float64)
    cells = ((means - low) / np.maximum(high - low, np.finfo(np.float64).tiny) * 1023).astype(np.uint32)
    code = np.zeros(len(means), np.uint32)
    for bit in range(10):
        for axis in range(3):
            code |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    return np.argsort(code, kind="stable")
