"""Gaussians as PLY files in the layout of 3DGS (Kerbl et al. 2023), which other viewers open.

One float32 property per number: log scales, opacity logits, quaternions wxyz, and colour coefficients with
``f_rest`` channel-major (all of red, then green, then blue). Params that a subclass adds follow as
``name_0, name_1, ...``; a header comment ``splax param NAME SHAPE`` keeps their shape.
"""

import inspect
import math
import os
import warnings
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool

from splax.gaussians import Gaussians
from splax.io.files import atomic_write
from splax.io.ply_format import Header, read_header, read_rows, shorten, write_binary
from splax.ops.spherical_harmonics import MAX_SH_DEGREE, num_sh_bases

G = TypeVar("G", bound=Gaussians)

# An opacity of exactly 1 (or 0) has an infinite logit: sigmoid(15) is 1 - 3e-7.
MAX_LOGIT = 15.0
_NORMALS = ("nx", "ny", "nz")
_COMMENT = "splax param"


class Column(NamedTuple):
    """Where a PLY property lies in a row of a Param."""

    property: str
    param: str
    entry: tuple[int, ...]


def save_ply(path: str | os.PathLike[str], gaussians: Gaussians) -> None:
    """Writes the Gaussians that are alive, with every Param, as float32; normals are zero.

    The file is whole or absent. Rows that are not finite are left out, with one warning.

    Raises:
        ValueError: if there is nothing to write, or the file cannot be written.
    """
    params = _rows_to_save(gaussians)
    num = len(params["means"])
    sh_degree = gaussians.sh_degree
    extras = {n: p.shape[1:] for n, p in params.items() if n not in _standard_shapes(sh_degree)}
    columns = [*_standard_columns(sh_degree), *_extra_columns(extras)]
    properties = {c.property: params[c.param][(slice(None), *c.entry)] for c in columns}
    if len(properties) != len(columns) or properties.keys() & set(_NORMALS):
        raise ValueError(f"Params {sorted(extras)} take names that the PLY layout has already; rename them.")
    position = {name: properties.pop(name) for name in ("x", "y", "z")}
    normals = dict.fromkeys(_NORMALS, np.broadcast_to(np.float32(0), num))
    comments = [" ".join([_COMMENT, name, *map(str, shape)]) for name, shape in extras.items()]
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        write_binary(file, "vertex", num, position | normals | properties, comments)


def load_ply(path: str | os.PathLike[str], cls: type[G] = Gaussians) -> G:
    """Reads a 3DGS PLY file: ascii or binary, properties in any order, of any numeric type.

    Rows that are not finite are dropped and infinite opacity logits clamped to 15, each with one warning.

    Args:
        path: the file.
        cls: what to make. Params that ``save_ply`` noted for a subclass go to its constructor as keyword
            arguments; :class:`~splax.gaussians.Gaussians` itself ignores them, and other properties.

    Raises:
        ValueError: if the file cannot be read, is damaged, or holds no Gaussians of SH degree 0 to 3.
    """
    try:
        with Path(path).expanduser().open("rb") as file:
            params = _read_params(file, cls)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ValueError(f"{path} {error}.") from error
    params = _drop_unusable(params, path)
    return cls(**{name: jnp.asarray(value) for name, value in params.items()})


def _rows_to_save(gaussians: Gaussians) -> dict[str, np.ndarray]:
    """Every Param, [rows, ...] float32, without the rows that are dead or not finite."""
    params = {}
    alive = np.asarray(gaussians.alive[...])
    for path, param in nnx.to_flat_state(nnx.state(gaussians, nnx.Param)):
        name, value = ".".join(map(str, path)), np.asarray(param[...])
        if len(path) != 1 or value.shape[:1] != alive.shape:
            raise ValueError(
                f"Param {name} of shape {value.shape} has no row per Gaussian, so a PLY file cannot hold it; "
                "keep it outside Gaussians, e.g. in the SplatModel."
            )
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is left out
            params[name] = value.astype(np.float32, copy=False)
    keep = alive & _finite_rows(params)
    num, total = keep.sum(), alive.sum()
    if num == 0:
        raise ValueError(f"there is nothing to save: of {total} Gaussians alive, none is finite.")
    if num < total:
        warnings.warn(f"{total - num} of {total} Gaussians are not finite and were not saved.", stacklevel=3)
    return params if keep.all() else {name: value[keep] for name, value in params.items()}


def _finite_rows(params: dict[str, np.ndarray]) -> Bool[np.ndarray, " n"]:
    return np.logical_and.reduce(
        [np.isfinite(value).all(axis=tuple(range(1, value.ndim))) for value in params.values()]
    )


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


def _standard_columns(sh_degree: int) -> list[Column]:
    """The layout of 3DGS, in its order."""
    bases = num_sh_bases(sh_degree) - 1
    return [
        *(Column(axis, "means", (i,)) for i, axis in enumerate("xyz")),
        *(Column(f"f_dc_{i}", "sh0", (0, i)) for i in range(3)),
        *(Column(f"f_rest_{i}", "shN", (i % bases, i // bases)) for i in range(3 * bases)),
        Column("opacity", "logit_opacities", ()),
        *(Column(f"scale_{i}", "log_scales", (i,)) for i in range(3)),
        *(Column(f"rot_{i}", "quats", (i,)) for i in range(4)),
    ]


def _extra_columns(shapes: dict[str, tuple[int, ...]]) -> list[Column]:
    columns = []
    for name, shape in shapes.items():
        for i, index in enumerate(np.ndindex(shape)):
            columns.append(Column(f"{name}_{i}" if shape else name, name, index))
    return columns


def _read_params(file: BinaryIO, cls: type[Gaussians]) -> dict[str, np.ndarray]:
    """Every Param of the file that ``cls`` takes, [rows, ...] float32."""
    header = read_header(file)
    vertex = next((e for e in header.elements if e.name == "vertex"), None)
    if vertex is None:
        raise ValueError("has no element 'vertex': it holds no Gaussians")
    sh_degree = _sh_degree_of(vertex.properties)
    extras = _extra_shapes(header.comments, len(vertex.properties), cls)
    columns = [*_standard_columns(sh_degree), *_extra_columns(extras)]
    _check_properties(header, vertex.properties, columns)
    if vertex.count == 0:
        raise ValueError("holds no Gaussians: its element 'vertex' has 0 rows")
    chunks = read_rows(file, header, vertex)
    shapes = _standard_shapes(sh_degree) | extras
    params = {name: np.empty((vertex.count, *shape), np.float32) for name, shape in shapes.items()}
    with np.errstate(over="ignore"):  # doubles beyond float32 become infinite, and are dropped
        for rows, chunk in chunks:
            for column in columns:
                params[column.param][(rows, *column.entry)] = chunk[column.property]
    return params


def _sh_degree_of(properties: dict[str, str]) -> int:
    num = sum(name.startswith("f_rest_") for name in properties)
    sizes = [3 * (num_sh_bases(degree) - 1) for degree in range(MAX_SH_DEGREE + 1)]
    if num not in sizes:
        raise ValueError(
            f"has {num} f_rest properties; SH degrees 0 to {MAX_SH_DEGREE} have {', '.join(map(str, sizes))}"
        )
    return sizes.index(num)


def _check_properties(header: Header, properties: dict[str, str], columns: list[Column]) -> None:
    missing = next((c.property for c in columns if c.property not in properties), None)
    if missing is None:
        return
    problem = f"holds no 3DGS Gaussians: element 'vertex' has no property {shorten(missing)}"
    if any(e.name == "chunk" for e in header.elements):
        problem += "; it is a compressed PLY of PlayCanvas, which is not read: export it as a plain PLY"
    elif {"x", "y", "z"} <= properties.keys() and not any(name.startswith("rot_") for name in properties):
        problem += "; it looks like a plain point cloud: Gaussians.from_points takes its points"
    raise ValueError(problem)


def _extra_shapes(comments: list[str], limit: int, cls: type[Gaussians]) -> dict[str, tuple[int, ...]]:
    """Params noted in the header that the constructor of ``cls``, a subclass, takes by name."""
    required, accepted = _own_arguments(cls)
    shapes = {}
    for comment in comments:
        match comment.removeprefix(_COMMENT + " ").split():
            case [name, *sizes] if comment.startswith(_COMMENT + " ") and name in accepted:
                if len(sizes) > 7 or not all(s.isascii() and s.isdigit() and len(s) < 6 for s in sizes):
                    raise ValueError(f"has a damaged comment: {shorten(comment)}")
                shapes[name] = tuple(map(int, sizes))
                if math.prod(shapes[name]) > limit:
                    raise ValueError(f"has fewer properties than its comment says: {shorten(comment)}")
    if missing := sorted(required - shapes.keys()):
        raise ValueError(f"holds no Param '{missing[0]}', which {cls.__name__} needs; load it as Gaussians")
    return shapes


def _own_arguments(cls: type[Gaussians]) -> tuple[set[str], set[str]]:
    """Names that the constructors below Gaussians require, and all that they take."""
    base = inspect.signature(Gaussians.__init__).parameters
    required, accepted = set(), set()
    for ancestor in cls.__mro__:
        if ancestor is Gaussians:
            break
        if "__init__" not in vars(ancestor):
            continue
        for name, argument in inspect.signature(ancestor.__init__).parameters.items():
            if name in base or argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
                continue
            accepted.add(name)
            if ancestor is cls and argument.default is argument.empty:
                required.add(name)
    return required, accepted


def _drop_unusable(params: dict[str, np.ndarray], path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Clamps infinite logits, then drops the rows that are not finite."""
    logits = params["logit_opacities"]
    if num := np.isinf(logits).sum():
        np.copyto(logits, np.copysign(MAX_LOGIT, logits), where=np.isinf(logits))
        warnings.warn(
            f"{path}: {num} opacities of exactly 0 or 1 were clamped to logits of {MAX_LOGIT:g}.",
            stacklevel=3,
        )
    finite = _finite_rows(params)
    if not finite.any():
        raise ValueError(f"{path} holds no usable Gaussians: not one of its {len(finite)} rows is finite.")
    if num := (~finite).sum():
        warnings.warn(
            f"{path}: {num} of {len(finite)} Gaussians are not finite and were dropped.", stacklevel=3
        )
    return params if finite.all() else {name: value[finite] for name, value in params.items()}
