"""Reads and writes SPZ, the compressed format of Niantic, versions 2 to 4.

The description of the format is at https://github.com/nianticlabs/spz. Positions are 24-bit fixed-point numbers;
log scales, opacities and colours are bytes; quaternions are xyzw. The axes are right, up, back (RUB), while PLY
and splax have right, down, forward. Version 2 stores x, y, z of the quaternions in bytes, later versions store
their smallest three components in 10 bits each.
"""

import math
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32, UInt8

from splax.files.limits import read_regular
from splax.io.axes import flip_axes
from splax.io.quantization import from_smallest_three, logit, sigmoid, smallest_three, to_bytes, unit_quats
from splax.io.splat_arrays import SplatArrays, extras_left_out
from splax.io.spz_streams import SpzHeader, read_streams, write_streams
from splax.ops.spherical_harmonics import MAX_SH_DEGREE, num_sh_bases

_VERSIONS = (2, 3, 4)
_ANTIALIASED = 1
_RUB = (1, -1, -1)  # signs of the axes relative to splax's
_COORDINATE_SYSTEM = 0xADBE0003
_SH0_SCALE = 0.15  # a byte of colour is 255 (0.15 sh0 + 0.5), so it covers more than [0, 1]
_LOG_SCALE_STEPS, _LOG_SCALE_MIN = 16, -10
_FRACTIONAL_BITS = 12
_STEPS_PER_GAUSSIAN = 8
_SH_STEP = (8, 16)  # steps, of 256, for degree 1 and for higher degrees: the defaults of Niantic's library


def read_spz(path: Path) -> SplatArrays:
    """Reads an SPZ file; degree 4 of its colour is left out, with a warning.

    Raises:
        ImportError: if the file is of version 4 and zstandard is not installed.
        ValueError: if the file is damaged.
    """
    header, streams, extensions = read_streams(read_regular(path))
    signs = _axes(extensions[_COORDINATE_SYSTEM]) if _COORDINATE_SYSTEM in extensions else _RUB
    if header.sh_degree > MAX_SH_DEGREE:
        warnings.warn(
            f"{path}: SH degree {header.sh_degree} was cut to {MAX_SH_DEGREE}, the highest of splax.",
            stacklevel=5,
        )
    num_bases = min(num_sh_bases(header.sh_degree), num_sh_bases(MAX_SH_DEGREE)) - 1
    sh = streams.get("sh", np.zeros((header.num, 0, 3), np.uint8))[:, :num_bases]
    rotations = streams["rotations"]
    xyzw = _unpack_first_three(rotations) if header.version == 2 else _unpack_smallest_three(rotations)
    arrays = SplatArrays(
        means=_unpack_positions(streams["positions"], header.fractional_bits),
        quats=np.roll(xyzw, 1, axis=1),
        log_scales=streams["scales"] / np.float32(_LOG_SCALE_STEPS) + np.float32(_LOG_SCALE_MIN),
        logit_opacities=logit(streams["alphas"] / np.float32(255)),
        sh0=((streams["colors"] / np.float32(255) - np.float32(0.5)) / np.float32(_SH0_SCALE))[:, None],
        shN=(sh.astype(np.float32) - 128) / 128,
        antialiased=bool(header.flags & _ANTIALIASED),
    )
    return flip_axes(arrays, signs)


def write_spz(file: BinaryIO, arrays: SplatArrays, spz_version: int = 3) -> list[str]:
    """Writes an SPZ file.

    Args:
        file: file opened for writing.
        arrays: Gaussians to write.
        spz_version: version of the format: 2, 3 or 4.

    Returns:
        A note for each thing that the format cannot hold.

    Raises:
        ImportError: if the version is 4 and zstandard is not installed.
        ValueError: if the version is not 2, 3 or 4.
    """
    arrays = flip_axes(arrays, _RUB)
    bits = _choose_fractional_bits(arrays)
    xyzw = np.roll(unit_quats(arrays.quats), -1, axis=1)
    header = SpzHeader(
        check_version(spz_version), arrays.num, arrays.sh_degree, bits, _ANTIALIASED * arrays.antialiased
    )
    log_scales = (arrays.log_scales - _LOG_SCALE_MIN) * _LOG_SCALE_STEPS
    colors = (arrays.sh0[:, 0] * np.float32(_SH0_SCALE) + np.float32(0.5)) * 255
    streams = {
        "positions": _pack_positions(arrays.means, bits),
        "alphas": to_bytes(sigmoid(arrays.logit_opacities) * 255),
        "colors": to_bytes(colors),
        "scales": to_bytes(log_scales),
        "rotations": _pack_first_three(xyzw) if spz_version == 2 else _pack_smallest_three(xyzw),
        "sh": _pack_sh(arrays.shN),
    }
    write_streams(file, header, streams)
    return _notes(arrays, bits, log_scales=log_scales, sh0=colors)


def check_version(version: int) -> int:
    """Returns the version of SPZ, if it can be written.

    Raises:
        ValueError: if the version is not 2, 3 or 4.
    """
    if version not in _VERSIONS:
        raise ValueError(f"SPZ has versions 2, 3 and 4, got {version}; choose one of these.")
    return version


def _axes(payload: bytes) -> tuple[int, int, int]:
    """Signs of the axes that a coordinate system extension states, relative to splax's axes."""
    system = int.from_bytes(payload[:4], "little")
    if system == 0:  # unspecified
        return _RUB
    if not 1 <= system <= 8:
        raise ValueError(f"has axes of a kind that is not read: coordinate system {system}; expected 1 to 8")
    right, up, forward = (bool((system - 1) >> bit & 1) for bit in range(3))
    return (1 if right else -1, -1 if up else 1, 1 if forward else -1)


def _choose_fractional_bits(arrays: SplatArrays) -> int:
    """Bits of positions after the binary point: 12, as in Niantic's library, which is a step of 1/4096.

    There are more bits if Gaussians are smaller than a few steps (a scene in small units), and fewer if the
    position of the farthest Gaussian would not fit.
    """
    farthest = max(float(np.abs(arrays.means).max()), 1e-30)
    fit = 23 - math.frexp(farthest)[1]  # farthest < 2^exponent
    size = float(np.median(arrays.log_scales.max(axis=1)))
    wanted = math.ceil(math.log2(_STEPS_PER_GAUSSIAN) - size / math.log(2))
    return max(0, min(fit, max(wanted, _FRACTIONAL_BITS), 24))


def _pack_positions(means: Float32[np.ndarray, "n 3"], bits: int) -> UInt8[np.ndarray, "n 3 3"]:
    top = (1 << 23) - 1
    fixed = np.rint(np.clip(np.ldexp(means.astype(np.float64), bits), -top, top)).astype("<i4")
    return fixed.view(np.uint8).reshape(-1, 3, 4)[..., :3]


def _unpack_positions(stored: UInt8[np.ndarray, "n 3 3"], bits: int) -> Float32[np.ndarray, "n 3"]:
    padded = np.zeros((*stored.shape[:2], 4), np.uint8)
    padded[..., 1:] = stored
    fixed = padded.view("<i4")[..., 0] >> 8  # the shift keeps the sign
    return np.ldexp(fixed.astype(np.float32), -bits)


def _pack_first_three(xyzw: Float32[np.ndarray, "n 4"]) -> UInt8[np.ndarray, "n 3"]:
    sign = np.where(xyzw[:, 3:] < 0, np.float32(-1), np.float32(1))  # readers compute w as a positive number
    return to_bytes((sign * xyzw[:, :3] + 1) * np.float32(127.5))


def _unpack_first_three(stored: UInt8[np.ndarray, "n 3"]) -> Float32[np.ndarray, "n 4"]:
    xyz = stored / np.float32(127.5) - 1
    w = np.sqrt(np.maximum(0, 1 - (xyz**2).sum(axis=1, keepdims=True)))
    return np.concatenate([xyz, w], axis=1)


def _pack_smallest_three(xyzw: Float32[np.ndarray, "n 4"]) -> UInt8[np.ndarray, "n 4"]:
    """Words with the index of the largest component in 2 bits, and a sign and 9 bits for each other one."""
    largest, others = smallest_three(xyzw)
    words = largest.astype("<u4")
    for value in others.T:
        size = np.minimum(np.rint(np.abs(value) * 511), 511).astype(np.uint32)
        words = (words << 10) | ((value < 0).astype(np.uint32) << 9) | size
    return words.astype("<u4").view(np.uint8).reshape(-1, 4)


def _unpack_smallest_three(stored: UInt8[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n 4"]:
    words = np.ascontiguousarray(stored).view("<u4")[:, 0]
    fields = np.stack([words >> 20, words >> 10, words], axis=1)
    others = (fields & 511).astype(np.float32) / 511
    others = np.where(fields & 512, -others, others)
    return from_smallest_three((words >> 30).astype(int), others)


def _pack_sh(shN: Float32[np.ndarray, "n k 3"]) -> UInt8[np.ndarray, "n k 3"]:
    """Coefficients as bytes in coarse steps, which compress better; zero stays exactly zero."""
    steps = np.array([_SH_STEP[i >= 3] for i in range(shN.shape[1])], int)[:, None]
    fine = np.rint(np.clip(shN, -2, 2) * 128).astype(int) + 128
    return np.clip((fine + steps // 2) // steps * steps, 0, 255).astype(np.uint8)


def _notes(arrays: SplatArrays, bits: int, **stored: Float32[np.ndarray, "n 3"]) -> list[str]:
    notes = extras_left_out(arrays)
    if bits < _FRACTIONAL_BITS:
        farthest = np.abs(arrays.means).max()
        notes.append(
            f"positions were rounded to 1/{2**bits}, since the farthest Gaussian is at {farthest:.3g}"
        )
    for name, values in stored.items():
        if num := int(((values < -0.5) | (values > 255.5)).any(axis=1).sum()):
            notes.append(f"{name} of {num:,} Gaussians were clipped to the range of SPZ")
    if num := int((np.abs(arrays.shN) > 1).any(axis=(1, 2)).sum()):
        notes.append(f"shN of {num:,} Gaussians were clipped to [-1, 1]")
    return notes
