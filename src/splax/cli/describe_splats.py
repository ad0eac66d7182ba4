"""Describes a splat file in words, for ``splax info``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from splax.files.ply import read_ply_header
from splax.io.compressed_ply import is_compressed_ply
from splax.io.formats import FORMATS, read_splats
from splax.io.quantization import sigmoid
from splax.io.sog import META
from splax.io.splat_arrays import SplatArrays


def is_splat_file(path: Path) -> bool:
    """Whether a path is that of a splat file by its name, or of a folder that holds an unpacked one."""
    folder_files = {kind.folder_file for kind in FORMATS if kind.folder_file is not None}
    if path.is_dir():
        return any((path / name).is_file() for name in folder_files)
    return path.name in folder_files or path.name.lower().endswith(tuple(kind.suffix for kind in FORMATS))


def describe_splats(path: Path) -> str:
    """Describes a splat file in a few lines for people.

    Args:
        path: the file, or the folder of an unpacked SOG.

    Raises:
        ImportError: if the file is an SPZ of version 4 and zstandard is not installed.
        ValueError: if the file cannot be read, is damaged, or holds no Gaussians.
    """
    arrays = read_splats(path)
    num_bytes = _num_bytes(path)
    low, middle, high = np.quantile(np.exp(arrays.log_scales), [0.01, 0.5, 0.99])
    opacities = sigmoid(arrays.logit_opacities)
    lines = [
        f"file       {path}",
        f"format     {_format(path)}",
        f"size       {num_bytes / 1e6:.2f} MB, {num_bytes / arrays.num:.1f} bytes for each Gaussian",
        f"gaussians  {arrays.num:,}",
        f"SH degree  {arrays.sh_degree}",
        f"drawn      {_drawn(arrays)}",
        f"bounds     {_bounds(arrays.means)}",
        f"most       {_bounds(np.quantile(arrays.means, [0.05, 0.95], axis=0))}, 90 % along each axis",
        f"scales     median {middle:.3g}, nearly all from {low:.3g} to {high:.3g}",
        f"opacities  median {np.median(opacities):.3g}; {np.mean(opacities < 0.05):.1%} are below 0.05",
        f"Params     {_extras(arrays)}",
    ]
    return "\n".join(lines)


def _format(path: Path) -> str:
    if path.is_dir() or path.name == META:
        return "SOG, unpacked"
    if path.suffix.lower() != ".ply":
        return path.suffix.lower()
    with path.expanduser().open("rb") as file:
        return "compressed .ply of PlayCanvas" if is_compressed_ply(read_ply_header(file)) else "3DGS .ply"


def _num_bytes(path: Path) -> int:
    """Bytes of a file, or of the files of an unpacked SOG."""
    folder = path.parent if path.name == META else path
    if folder.is_dir():
        return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return path.expanduser().stat().st_size


def _drawn(arrays: SplatArrays) -> str:
    return "antialiased: TileRasterizer(antialiased=True)" if arrays.antialiased else "not antialiased"


def _bounds(points: np.ndarray) -> str:
    """Least and greatest coordinates of points, [N, 3]."""
    low, high = (", ".join(f"{value:.3f}" for value in corner) for corner in (points.min(0), points.max(0)))
    return f"({low}) to ({high})"


def _extras(arrays: SplatArrays) -> str:
    """The Params that a subclass of Gaussians added, with the shape of a row."""
    named = [f"{name} {list(value.shape[1:])}" for name, value in arrays.extras.items()]
    return f"{', '.join(named)} in addition to those of Gaussians" if named else "those of Gaussians"
