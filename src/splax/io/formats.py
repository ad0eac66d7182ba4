"""Splat files of every kind, told apart by their names."""

import functools
import os
from pathlib import Path
from typing import TypeVar

from splax.gaussians import Gaussians
from splax.io.compressed_ply import write_compressed_ply
from splax.io.ply import load_ply, read_ply, write_ply
from splax.io.sog import META, read_sog
from splax.io.splat import read_splat, write_splat
from splax.io.splat_arrays import SplatArrays, from_gaussians
from splax.io.splat_files import Reader, Writer, load_with, read_with, write_with
from splax.io.spz import check_version, read_spz, write_spz

G = TypeVar("G", bound=Gaussians)

_READ = ".ply, .compressed.ply, .splat, .spz and .sog, or a folder with SOG's meta.json"
_WRITTEN = ".ply, .compressed.ply, .splat and .spz"


def load_splats(path: str | os.PathLike[str], cls: type[G] = Gaussians) -> G:
    """Reads a splat file: 3DGS or compressed .ply, .splat, .spz, .sog or the folder of an unpacked SOG.

    Infinite opacity logits are clamped to 15 and other values that cannot be drawn repaired, or their rows left
    out, with one warning that counts them.

    Args:
        path: the file; its name says which format it is.
        cls: what to make. Params that a PLY of ``save_splats`` holds for a subclass go to its constructor as
            keyword arguments; one that its constructor does not name is left out with a warning.

    Raises:
        ImportError: if the file is an SPZ of version 4 and zstandard is not installed.
        ValueError: if the file cannot be read, is damaged, or holds no Gaussians.
    """
    reader = _reader_of(Path(path))
    if reader is read_ply:  # the only format with Params of a subclass
        return load_ply(path, cls)
    return load_with(path, reader, cls)


def save_splats(
    path: str | os.PathLike[str], gaussians: Gaussians, *, antialiased: bool = False, spz_version: int = 3
) -> None:
    """Writes the Gaussians that are alive as .ply, .compressed.ply, .splat or .spz, by the file's name.

    The file is whole or absent. What a format cannot hold, and rows that are not finite, are left out with one
    warning that says so. A .ply keeps everything, Params of a subclass too.

    Args:
        path: the file.
        gaussians: what to write.
        antialiased: note in the file that they were trained with ``TileRasterizer(antialiased=True)``.
        spz_version: 2, 3 or 4 of .spz; 4 needs zstandard.

    Raises:
        ImportError: for version 4 of SPZ without zstandard.
        ValueError: if there is nothing to write, or the file cannot be written.
    """
    write_with(path, from_gaussians(gaussians, antialiased=antialiased), _writer_of(Path(path), spz_version))


def read_splats(path: str | os.PathLike[str]) -> SplatArrays:
    """As :func:`load_splats`, but numpy arrays, with every Param and what the file says of itself.

    Raises:
        ImportError: if the file is an SPZ of version 4 and zstandard is not installed.
        ValueError: if the file cannot be read, is damaged, or holds no Gaussians.
    """
    return read_with(path, _reader_of(Path(path)))


def write_splats(path: str | os.PathLike[str], arrays: SplatArrays, *, spz_version: int = 3) -> None:
    """As :func:`save_splats`, of numpy arrays.

    Raises:
        ImportError: for version 4 of SPZ without zstandard.
        ValueError: if there is nothing to write, or the file cannot be written.
    """
    write_with(path, arrays, _writer_of(Path(path), spz_version))


def convert(
    source: str | os.PathLike[str], out: str | os.PathLike[str], *, spz_version: int = 3
) -> SplatArrays:
    """Writes what ``source`` holds to ``out``, each in the format of its name; returns it.

    Raises:
        ImportError: for version 4 of SPZ without zstandard.
        ValueError: if one cannot be read, or the other not written.
    """
    writer = _writer_of(Path(out), spz_version)  # fails before the work, not after
    arrays = read_splats(source)
    write_with(out, arrays, writer)
    return arrays


def _reader_of(path: Path) -> Reader:
    path = path.expanduser()
    if path.name == META or path.is_dir():
        return read_sog
    readers: dict[str, Reader] = {".ply": read_ply, ".splat": read_splat, ".spz": read_spz, ".sog": read_sog}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} is of no known kind by its name: splat files that are read are {_READ}.")
    return readers[path.suffix.lower()]


def _writer_of(path: Path, spz_version: int) -> Writer:
    name = path.name.lower()
    if name.endswith(".compressed.ply"):
        return write_compressed_ply
    writers: dict[str, Writer] = {".ply": write_ply, ".splat": write_splat}
    if name.endswith(".spz"):
        return functools.partial(write_spz, version=check_version(spz_version))
    if path.suffix.lower() not in writers:
        raise ValueError(
            f"{path} cannot be written: by its name, splat files that are written are {_WRITTEN}."
        )
    return writers[path.suffix.lower()]
