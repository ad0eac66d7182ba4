"""Reads and writes .splat files, the format of antimatter15/splat.

A Gaussian takes 32 bytes: position and linear scale as float32, RGBA and the quaternion wxyz as bytes. The format
has no header and no view-dependent colour.
"""

from pathlib import Path
from typing import BinaryIO

import numpy as np

from splax.files.limits import read_regular
from splax.io.quantization import logit, sigmoid, to_bytes, unit_quats
from splax.io.splat_arrays import SplatArrays, extras_left_out
from splax.ops.spherical_harmonics import rgb_to_sh0, sh0_to_rgb

_ROW = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])


def read_splat(path: Path) -> SplatArrays:
    """Reads a .splat file.

    Raises:
        ValueError: if the file's size is no multiple of 32 bytes; the format has nothing else to check.
    """
    data = read_regular(path)
    if len(data) % _ROW.itemsize:
        raise ValueError(
            f"is truncated or no .splat file: expected a multiple of {_ROW.itemsize} bytes, found {len(data)}"
        )
    rows = np.frombuffer(data, _ROW)
    rgba = rows["rgba"] / np.float32(255)
    return SplatArrays(
        means=rows["means"].astype(np.float32),
        quats=(rows["quats"].astype(np.float32) - 128) / 128,
        log_scales=np.log(rows["scales"]).astype(np.float32, copy=False),
        logit_opacities=logit(rgba[:, 3]),
        sh0=rgb_to_sh0(rgba[:, None, :3]),
        shN=np.zeros((len(rows), 0, 3), np.float32),
    )


def write_splat(file: BinaryIO, arrays: SplatArrays) -> list[str]:
    """Writes a .splat file.

    Args:
        file: file opened for writing.
        arrays: Gaussians to write.

    Returns:
        A note for each thing that the format cannot hold.
    """
    rows = np.empty(arrays.num, _ROW)
    rgb = sh0_to_rgb(arrays.sh0[:, 0])
    rows["means"] = arrays.means
    # Clipped so that the scales are float32 numbers, of which the largest is about e^88.
    rows["scales"] = np.exp(np.clip(arrays.log_scales, -80, 80))
    rows["rgba"][:, :3] = to_bytes(rgb * 255)
    rows["rgba"][:, 3] = to_bytes(sigmoid(arrays.logit_opacities) * 255)
    rows["quats"] = to_bytes(unit_quats(arrays.quats) * 128 + 128)
    file.write(rows.view(np.uint8).data)
    notes = extras_left_out(arrays)
    if arrays.sh_degree:
        notes.append(f"view-dependent colour (SH degree {arrays.sh_degree}) was left out: .splat has none")
    if num := int(((rgb < 0) | (rgb > 1)).any(axis=1).sum()):
        notes.append(f"the colours of {num:,} Gaussians were clipped to [0, 1]")
    if arrays.antialiased:
        notes.append("the mark that they are antialiased was left out: .splat has none")
    return notes
