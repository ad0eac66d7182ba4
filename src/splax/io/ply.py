"""Reads and writes Gaussians as PLY files in the layout of 3DGS (Kerbl et al. 2023), which other viewers open.

Each number is a float32 property: log scales, opacity logits, quaternions wxyz, and colour coefficients, of which
``f_rest`` is channel-major (all of red, then green, then blue). Params that a subclass adds follow as ``name_0``,
``name_1`` and so on; a header comment ``splax param NAME SHAPE`` keeps their shape.
"""

import functools
import math
import os
import warnings
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from splax.files.limits import check_regular, shorten
from splax.files.ply import (
    PlyBlock,
    PlyHeader,
    antialiased_comments,
    as_matrix,
    for_each_chunk,
    is_antialiased,
    read_ply_header,
    read_rows,
    write_elements,
)
from splax.gaussians import Gaussians
from splax.io.compressed_ply import is_compressed_ply, unpack_compressed_ply
from splax.io.splat_arrays import SplatArrays, accepted_params, empty_array, from_gaussians
from splax.io.splat_files import load_with, write_with
from splax.ops.spherical_harmonics import MAX_SH_DEGREE, num_sh_bases

G = TypeVar("G", bound=Gaussians)

_NORMALS = ("nx", "ny", "nz")
_COMMENT = "splax param"


class _Column(NamedTuple):
    """A PLY property, and its place in a row of a Param.

    Attributes:
        property: name of the property.
        param: name of the Param.
        entry: index in a row of the Param.
    """

    property: str
    param: str
    entry: tuple[int, ...]


def load_ply(path: str | os.PathLike[str], cls: type[G] = Gaussians) -> G:
    """Reads a 3DGS PLY file: text or binary, with properties in any order and of any numeric type.

    A compressed PLY file of PlayCanvas is read as well. Values that cannot be drawn are repaired or left out, as
    :func:`splax.load_splats` does.

    Args:
        path: file to read, of any name.
        cls: class of the object to make. Params that ``save_ply`` noted for a subclass go to the constructor as
            keyword arguments; a Param that it does not name is left out with a warning.
            :class:`~splax.gaussians.Gaussians` itself ignores such Params, and other properties.

    Raises:
        ValueError: if the file cannot be read, is damaged, or holds no Gaussians of SH degree 0 to 3.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> import splax
        >>> points = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.5]])
        >>> gaussians = splax.Gaussians.from_points(points, sh_degree=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     splax.save_ply(f"{folder}/scene.ply", gaussians)
        ...     loaded = splax.load_ply(f"{folder}/scene.ply")
        >>> loaded.means[...].tolist(), loaded.sh_degree
        ([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.5]], 1)
    """
    return load_with(path, functools.partial(read_ply, cls=cls), cls)


def save_ply(path: str | os.PathLike[str], gaussians: Gaussians, *, antialiased: bool = False) -> None:
    """Writes the Gaussians that are alive, with every Param, as float32; normals are zero.

    The file is whole or absent. Rows that are not finite are left out, with one warning.

    Args:
        path: file to write.
        gaussians: Gaussians to write.
        antialiased: whether to note in the file that they were trained with ``TileRasterizer(antialiased=True)``.

    Raises:
        ValueError: if there is nothing to write, or the file cannot be written.

    Example:
        >>> import os, tempfile
        >>> import jax.numpy as jnp
        >>> import splax
        >>> gaussians = splax.Gaussians.from_points(jnp.eye(3), sh_degree=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     splax.save_ply(f"{folder}/scene.ply", gaussians)
        ...     os.listdir(folder)
        ['scene.ply']
    """
    write_with(path, from_gaussians(gaussians, antialiased=antialiased), write_ply)


def write_ply(file: BinaryIO, arrays: SplatArrays) -> list[str]:
    """Writes every Param as float32, binary little-endian; normals are zero. Nothing is left out.

    Args:
        file: file opened for writing.
        arrays: Gaussians to write.

    Returns:
        No notes, as the format holds everything.

    Raises:
        ValueError: if a Param of a subclass has a name of the layout, or the header grows too large.
    """
    extras = {name: value.shape[1:] for name, value in arrays.extras.items()}
    columns = [*_standard_columns(arrays.sh_degree), *_extra_columns(extras)]
    values = arrays.params | {"shN": arrays.shN.swapaxes(1, 2)}
    blocks = [
        PlyBlock([column.property for column in of_param], values[name])
        for name, of_param in groupby(columns, key=lambda column: column.param)
    ]
    blocks.insert(1, PlyBlock(_NORMALS, np.broadcast_to(np.zeros(3, np.float32), (arrays.num, 3))))
    names = [name for block in blocks for name in block.properties]
    if len(set(names)) != len(names):
        raise ValueError(f"Params {sorted(extras)} have names that the PLY layout uses already; rename them.")
    comments = antialiased_comments(arrays.antialiased)
    comments += [" ".join([_COMMENT, name, *map(str, shape)]) for name, shape in extras.items()]
    write_elements(file, {"vertex": blocks}, comments)
    return []


def read_ply(path: Path, cls: type[Gaussians] | None = None) -> SplatArrays:
    """Reads a 3DGS PLY file, or a compressed one: text or binary, with properties in any order and of any type.

    Args:
        path: file to read.
        cls: class whose constructor says which Params of a subclass are read; a warning names the others, which
            Gaussians itself ignores. None: all Params are read.

    Raises:
        ValueError: if the file is damaged, or holds no Gaussians of SH degree 0 to 3.
    """
    check_regular(path)
    with path.open("rb") as file:
        header = read_ply_header(file)
        compressed = is_compressed_ply(header)
        params = unpack_compressed_ply(file, header) if compressed else _read_params(file, header, path, cls)
    standard = {name: params.pop(name) for name in _standard_shapes(0)}
    return SplatArrays(**standard, extras=params, antialiased=is_antialiased(header.comments))


def _standard_shapes(sh_degree: int) -> dict[str, tuple[int, ...]]:
    """The shape of a row of each Param of Gaussians, by name."""
    return {
        "means": (3,),
        "sh0": (1, 3),
        "shN": (num_sh_bases(sh_degree) - 1, 3),
        "logit_opacities": (),
        "log_scales": (3,),
        "quats": (4,),
    }


def _standard_columns(sh_degree: int) -> list[_Column]:
    """The properties of the layout of 3DGS, in its order."""
    bases = num_sh_bases(sh_degree) - 1
    return [
        *(_Column(axis, "means", (i,)) for i, axis in enumerate("xyz")),
        *(_Column(f"f_dc_{i}", "sh0", (0, i)) for i in range(3)),
        *(_Column(f"f_rest_{i}", "shN", (i % bases, i // bases)) for i in range(3 * bases)),
        _Column("opacity", "logit_opacities", ()),
        *(_Column(f"scale_{i}", "log_scales", (i,)) for i in range(3)),
        *(_Column(f"rot_{i}", "quats", (i,)) for i in range(4)),
    ]


def _extra_columns(shapes: dict[str, tuple[int, ...]]) -> list[_Column]:
    columns = []
    for name, shape in shapes.items():
        for i, index in enumerate(np.ndindex(shape)):
            columns.append(_Column(f"{name}_{i}" if shape else name, name, index))
    return columns


def _read_params(
    file: BinaryIO, header: PlyHeader, path: Path, cls: type[Gaussians] | None
) -> dict[str, np.ndarray]:
    """Every Param of the file that ``cls`` takes, float32 [rows, ...]."""
    vertex = next((e for e in header.elements if e.name == "vertex"), None)
    if vertex is None:
        raise ValueError("has no element 'vertex': it holds no Gaussians")
    sh_degree = _sh_degree_of(vertex.properties)
    extras = _extra_shapes(header.comments, len(vertex.properties), path, cls)
    columns = [*_standard_columns(sh_degree), *_extra_columns(extras)]
    _check_properties(vertex.properties, columns)
    if vertex.count == 0:
        raise ValueError("holds no Gaussians: its element 'vertex' has 0 rows")
    chunks = read_rows(file, header, vertex)
    shapes = _standard_shapes(sh_degree) | extras
    params = {name: empty_array((vertex.count, *shape)) for name, shape in shapes.items()}

    names = list(vertex.properties)
    by_entry = sorted(columns, key=lambda column: column.entry)  # the order of a row of a Param in memory
    places = {
        name: np.array([names.index(c.property) for c in by_entry if c.param == name], np.intp)
        for name in params
    }

    def scatter(rows: slice, chunk: Any) -> None:
        if (matrix := as_matrix(chunk)) is not None:  # three times faster than each column on its own
            for name, value in params.items():
                out = value.reshape(len(value), -1)[rows]
                np.take(matrix, places[name], axis=1, out=out, mode="clip")
            return
        with np.errstate(all="ignore"):  # the caller's errstate holds only in its own thread
            for column in columns:
                params[column.param][(rows, *column.entry)] = chunk[column.property]

    for_each_chunk(chunks, scatter)
    return params


def _sh_degree_of(properties: dict[str, str]) -> int:
    num = sum(name.startswith("f_rest_") for name in properties)
    sizes = [3 * (num_sh_bases(degree) - 1) for degree in range(MAX_SH_DEGREE + 1)]
    if num not in sizes:
        raise ValueError(
            f"has {num} f_rest properties; SH degrees 0 to {MAX_SH_DEGREE} have {', '.join(map(str, sizes))}"
        )
    return sizes.index(num)


def _check_properties(properties: dict[str, str], columns: list[_Column]) -> None:
    missing = next((c.property for c in columns if c.property not in properties), None)
    if missing is None:
        return
    problem = f"holds no 3DGS Gaussians: element 'vertex' has no property {shorten(missing)}"
    if {"x", "y", "z"} <= properties.keys() and not any(name.startswith("rot_") for name in properties):
        problem += "; it looks like a plain point cloud: Gaussians.from_points takes its points"
    raise ValueError(problem)


def _extra_shapes(
    comments: list[str], limit: int, path: Path, cls: type[Gaussians] | None
) -> dict[str, tuple[int, ...]]:
    """Shapes of the Params that header comments note, of those that the constructor of ``cls`` takes.

    Args:
        comments: comments of the header.
        limit: number of properties of the file, which bounds the size of a Param.
        path: path of the file, for the warning.
        cls: class to make; None: all Params are taken.
    """
    noted = {
        words[0]: words[1:] for c in comments if c.startswith(_COMMENT + " ") if (words := c.split()[2:])
    }
    wanted = noted.keys() - _standard_shapes(0).keys()
    if cls is not None:
        wanted &= accepted_params(cls, wanted)
        if cls is not Gaussians and (skipped := sorted(noted.keys() - wanted)):
            warnings.warn(
                f"{path}: Params {shorten(', '.join(skipped))} were left out: the constructor of "
                f"{cls.__name__} does not name them.",
                stacklevel=7,
            )
    shapes = {}
    for name in [name for name in noted if name in wanted]:
        sizes, comment = noted[name], " ".join([_COMMENT, name, *noted[name]])
        if len(sizes) > 7 or not all(s.isascii() and s.isdigit() and len(s) < 6 for s in sizes):
            raise ValueError(f"has a damaged comment: {shorten(comment)}")
        shapes[name] = tuple(map(int, sizes))
        if math.prod(shapes[name]) > limit:
            raise ValueError(f"has fewer properties than its comment says: {shorten(comment)}")
    return shapes
