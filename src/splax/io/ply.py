"""Gaussians as PLY files in the layout of 3DGS (Kerbl et al. 2023), which other viewers open.

One float32 property per number: log scales, opacity logits, quaternions wxyz, and colour coefficients with
``f_rest`` channel-major (all of red, then green, then blue). Params that a subclass adds follow as
``name_0, name_1, ...``; a header comment ``splax param NAME SHAPE`` keeps their shape.
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
    """Where a PLY property lies in a row of a Param."""

    property: str
    param: str
    entry: tuple[int, ...]


def load_ply(path: str | os.PathLike[str], cls: type[G] = Gaussians) -> G:
    """Reads a 3DGS PLY file: ascii or binary, properties in any order, of any numeric type.

    A compressed PLY of PlayCanvas is read as well. Values that cannot be drawn are treated as by
    :func:`splax.load_splats`.

    Args:
        path: the file, of whatever name.
        cls: what to make. Params that ``save_ply`` noted for a subclass go to its constructor as keyword
            arguments, and one that it does not name is left out with a warning;
            :class:`~splax.gaussians.Gaussians` itself ignores them, and other properties.

    Raises:
        ValueError: if the file cannot be read, is damaged, or holds no Gaussians of SH degree 0 to 3.
    """
    return load_with(path, functools.partial(read_ply, cls=cls), cls)


def save_ply(path: str | os.PathLike[str], gaussians: Gaussians, *, antialiased: bool = False) -> None:
    """Writes the Gaussians that are alive, with every Param, as float32; normals are zero.

    The file is whole or absent. Rows that are not finite are left out, with one warning.

    Args:
        path: the file.
        gaussians: what to write.
        antialiased: note in the file that they were trained with ``TileRasterizer(antialiased=True)``.

    Raises:
        ValueError: if there is nothing to write, or the file cannot be written.
    """
    write_with(path, from_gaussians(gaussians, antialiased=antialiased), write_ply)


def write_ply(file: BinaryIO, arrays: SplatArrays) -> list[str]:
    """Writes every Param as float32, binary little endian; normals are zero. Nothing is left out.

    Raises:
        ValueError: if a Param of a subclass takes a name of the layout, or the header grows too large.
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
        raise ValueError(f"Params {sorted(extras)} take names that the PLY layout has already; rename them.")
    comments = antialiased_comments(arrays.antialiased)
    comments += [" ".join([_COMMENT, name, *map(str, shape)]) for name, shape in extras.items()]
    write_elements(file, {"vertex": blocks}, comments)
    return []


def read_ply(path: Path, cls: type[Gaussians] | None = None) -> SplatArrays:
    """Reads a 3DGS PLY file, or a compressed one: ascii or binary, properties in any order, of any type.

    Args:
        path: the file.
        cls: read only the Params of a subclass that its constructor takes, and warn of others; Gaussians itself
            ignores them. None: read all.

    Raises:
        ValueError: if it is damaged, or holds no Gaussians of SH degree 0 to 3.
    """
    check_regular(path)
    with path.open("rb") as file:
        header = read_ply_header(file)
        compressed = is_compressed_ply(header)
        params = unpack_compressed_ply(file, header) if compressed else _read_params(file, header, path, cls)
    standard = {name: params.pop(name) for name in _standard_shapes(0)}
    return SplatArrays(**standard, extras=params, antialiased=is_antialiased(header.comments))


def _standard_shapes(sh_degree: int) -> dict[str, tuple[int, ...]]:
    """Shape of a row of each Param of Gaussians."""
    return {
        "means": (3,),
        "sh0": (1, 3),
        "shN": (num_sh_bases(sh_degree) - 1, 3),
        "logit_opacities": (),
        "log_scales": (3,),
        "quats": (4,),
    }


def _standard_columns(sh_degree: int) -> list[_Column]:
    """The layout of 3DGS, in its order."""
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
    """Every Param of the file that ``cls`` takes, [rows, ...] float32."""
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
    by_entry = sorted(columns, key=lambda column: column.entry)  # as a row of a Param lies in memory
    places = {
        name: np.array([names.index(c.property) for c in by_entry if c.param == name], np.intp)
        for name in params
    }

    def scatter(rows: slice, chunk: Any) -> None:
        if (matrix := as_matrix(chunk)) is not None:  # three times faster than column by column
            for name, value in params.items():
                out = value.reshape(len(value), -1)[rows]
                np.take(matrix, places[name], axis=1, out=out, mode="clip")
            return
        with np.errstate(all="ignore"):  # as the caller has it, but that holds in its own thread only
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
    """Params noted in the header that the constructor of ``cls``, a subclass, takes by name."""
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
