"""Splat files of every format, which are distinguished by their names.

A new format is a file with its reader and writer, and one line in :data:`FORMATS`.
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from splax.gaussians import Gaussians
from splax.io.compressed_ply import write_compressed_ply
from splax.io.ply import read_ply, write_ply
from splax.io.sog import META, read_sog
from splax.io.splat import read_splat, write_splat
from splax.io.splat_arrays import SplatArrays, from_gaussians
from splax.io.splat_files import Writer, load_with, read_with, write_with
from splax.io.spz import check_version, read_spz, write_spz

G = TypeVar("G", bound=Gaussians)

_NO_OPTIONS: Mapping[str, Callable[[Any], Any]] = {}


class SplatFormat(NamedTuple):
    """A kind of splat file.

    Attributes:
        suffix: end of the names of such files, in lower case. Where several fit a name, the longest one counts.
        read: function that reads a file; see :data:`splax.io.splat_files.Reader`.
        write: function that writes a file, see :data:`splax.io.splat_files.Writer`; its keyword arguments are the
            options. None: splax does not write the format.
        options: name of each option of ``write``, with a function that returns the value to use, or raises
            ValueError.
        folder_file: name of the file that a folder of this format holds; None: the format has no folders.
        keeps_params: whether files keep the Params of a subclass; then ``read`` takes the class as ``cls``.
    """

    suffix: str
    read: Callable[..., SplatArrays]
    write: Callable[..., list[str]] | None = None
    options: Mapping[str, Callable[[Any], Any]] = _NO_OPTIONS
    folder_file: str | None = None
    keeps_params: bool = False


FORMATS = (
    SplatFormat(".ply", read_ply, write_ply, keeps_params=True),
    SplatFormat(".compressed.ply", read_ply, write_compressed_ply, keeps_params=True),
    SplatFormat(".splat", read_splat, write_splat),
    SplatFormat(".spz", read_spz, write_spz, {"spz_version": check_version}),
    SplatFormat(".sog", read_sog, folder_file=META),
)


def load_splats(path: str | os.PathLike[str], cls: type[G] = Gaussians) -> G:
    """Reads a splat file: 3DGS or compressed .ply, .splat, .spz, .sog or the folder of an unpacked SOG.

    Infinite opacity logits are clamped to 15. Other values that cannot be drawn are repaired, or their rows left
    out. One warning counts all of these.

    Args:
        path: file to read; its name says which format it has.
        cls: class of the object to make. Params that a PLY of :func:`save_splats` holds for a subclass go to the
            constructor as keyword arguments; a Param that it does not name is left out with a warning.

    Raises:
        ImportError: if the file is an SPZ of version 4 and zstandard is not installed.
        ValueError: if the file cannot be read, is damaged, or holds no Gaussians.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> import splax
        >>> points = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.5]])
        >>> gaussians = splax.Gaussians.from_points(points, jnp.ones((3, 3)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     splax.save_splats(f"{folder}/scene.spz", gaussians)
        ...     loaded = splax.load_splats(f"{folder}/scene.spz")
        >>> loaded.means[...].tolist()
        [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.5]]
    """
    format_ = _format_to_read(Path(path))
    reader = functools.partial(format_.read, cls=cls) if format_.keeps_params else format_.read
    return load_with(path, reader, cls)


def save_splats(
    path: str | os.PathLike[str], gaussians: Gaussians, *, antialiased: bool = False, **options: Any
) -> None:
    """Writes the Gaussians that are alive as .ply, .compressed.ply, .splat or .spz, by the file's name.

    The file is whole or absent. Rows that are not finite, and what a format cannot hold, are left out; one warning
    says so. A .ply keeps everything, Params of a subclass too.

    Args:
        path: file to write.
        gaussians: Gaussians to write.
        antialiased: whether to note in the file that they were trained with ``TileRasterizer(antialiased=True)``.
        **options: options of single formats; other formats ignore them. ``spz_version`` is the version of an .spz
            file: 2, 3 (default) or 4, which needs zstandard.

    Raises:
        ImportError: if version 4 of SPZ is asked for and zstandard is not installed.
        TypeError: if no format has an option of that name.
        ValueError: if there is nothing to write, the file cannot be written, or an option is out of range.

    Example:
        >>> import os, tempfile
        >>> import jax.numpy as jnp
        >>> import splax
        >>> gaussians = splax.Gaussians.from_points(jnp.eye(3), jnp.eye(3), sh_degree=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     splax.save_splats(f"{folder}/scene.splat", gaussians)
        ...     print(os.path.getsize(f"{folder}/scene.splat"), "bytes")
        96 bytes
    """
    arrays = from_gaussians(gaussians, antialiased=antialiased)
    write_with(path, arrays, _writer_of(Path(path), options))


def read_splats(path: str | os.PathLike[str]) -> SplatArrays:
    """Reads a splat file as :func:`load_splats` does, into numpy arrays: every Param, and what the file declares.

    Args:
        path: file to read; its name says which format it has.

    Raises:
        ImportError: if the file is an SPZ of version 4 and zstandard is not installed.
        ValueError: if the file cannot be read, is damaged, or holds no Gaussians.
    """
    return read_with(path, _format_to_read(Path(path)).read)


def write_splats(path: str | os.PathLike[str], arrays: SplatArrays, **options: Any) -> None:
    """Writes numpy arrays as :func:`save_splats` writes Gaussians.

    Args:
        path: file to write.
        arrays: Gaussians to write.
        **options: options of single formats, as :func:`save_splats` takes them.

    Raises:
        ImportError: if version 4 of SPZ is asked for and zstandard is not installed.
        TypeError: if no format has an option of that name.
        ValueError: if there is nothing to write, the file cannot be written, or an option is out of range.
    """
    write_with(path, arrays, _writer_of(Path(path), options))


def convert(source: str | os.PathLike[str], out: str | os.PathLike[str], **options: Any) -> SplatArrays:
    """Writes the Gaussians of one splat file to another, each in the format of its name.

    Args:
        source: file to read.
        out: file to write.
        **options: options of single formats, as :func:`save_splats` takes them.

    Returns:
        The Gaussians that were read.

    Raises:
        ImportError: if version 4 of SPZ is asked for and zstandard is not installed.
        TypeError: if no format has an option of that name.
        ValueError: if ``source`` cannot be read, ``out`` cannot be written, or an option is out of range.
    """
    writer = _writer_of(Path(out), options)  # fails before the work, not after
    arrays = read_splats(source)
    write_with(out, arrays, writer)
    return arrays


def _format_to_read(path: Path) -> SplatFormat:
    path = path.expanduser()
    if (folder_format := _format_of_folder(path)) is not None:
        return folder_format
    found = _format_of_name(path, FORMATS)
    if found is None:
        raise ValueError(
            f"{path} is of no known kind by its name: splat files that are read are {_suffixes(FORMATS)}, or a "
            f"folder with {' or '.join(format_.folder_file or '' for format_ in _folder_formats())}."
        )
    return found


def _writer_of(path: Path, options: Mapping[str, Any]) -> Writer:
    """The writer of the format that a name asks for, with the options that this format has.

    Raises:
        TypeError: if no format has an option of that name.
        ValueError: if the name is that of no format that is written, or an option is out of range.
    """
    written = [format_ for format_ in FORMATS if format_.write is not None]
    known = {name for format_ in written for name in format_.options}
    if unknown := sorted(options.keys() - known):
        raise TypeError(f"No splat format has an option {unknown[0]!r}; expected one of {sorted(known)}.")
    found = _format_of_name(path, written)
    if found is None or found.write is None:
        raise ValueError(
            f"{path} cannot be written: by its name, splat files that are written are {_suffixes(written)}."
        )
    checked = {name: check(options[name]) for name, check in found.options.items() if name in options}
    return functools.partial(found.write, **checked)


def _format_of_name(path: Path, formats: Iterable[SplatFormat]) -> SplatFormat | None:
    """The format with the longest suffix that the name ends with."""
    fitting = [format_ for format_ in formats if path.name.lower().endswith(format_.suffix)]
    return max(fitting, key=lambda format_: len(format_.suffix), default=None)


def _format_of_folder(path: Path) -> SplatFormat | None:
    """The format that keeps its files in a folder, if ``path`` is such a folder, or the file that it must hold."""
    candidates = list(_folder_formats())
    by_name = next((format_ for format_ in candidates if path.name == format_.folder_file), None)
    if by_name is not None or not path.is_dir():
        return by_name
    # A folder without any of the files is read as the first format, whose error says what is missing.
    return next((f for f in candidates if (path / (f.folder_file or "")).is_file()), candidates[0])


def _folder_formats() -> Iterator[SplatFormat]:
    return (format_ for format_ in FORMATS if format_.folder_file is not None)


def _suffixes(formats: Sequence[SplatFormat]) -> str:
    """Suffixes in one phrase: ".a, .b and .c"."""
    *others, last = (format_.suffix for format_ in formats)
    return f"{', '.join(others)} and {last}"
