"""Reads the corrections that a run learned: a .npy file for each, with a row for each training view."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from splax.corrections.base import Correction
from splax.corrections.bilateral_grid import BilateralGrid
from splax.corrections.exposure import Exposure
from splax.corrections.intrinsics import IntrinsicsRefinement
from splax.corrections.poses import PoseRefinement
from splax.files.npy import read_npy


class _Kind(NamedTuple):
    """A kind of correction that can be made from its file.

    Attributes:
        make: function that makes the correction from its Params, [V, ...].
        row: shape of a row of the Params; None stands for any length.
        shared: whether a single row may stand for all views.
    """

    make: Callable[[np.ndarray], Correction]
    row: tuple[int | None, ...]
    shared: bool = False


# In the order in which `splax train` applies them.
_KINDS = {
    Exposure.name: _Kind(lambda _: Exposure(), (3, 4)),
    BilateralGrid.name: _Kind(
        lambda grids: BilateralGrid(*reversed(grids.shape[1:4])), (None, None, None, 3, 4)
    ),
    PoseRefinement.name: _Kind(lambda _: PoseRefinement(), (6,)),
    IntrinsicsRefinement.name: _Kind(
        lambda rows: IntrinsicsRefinement(shared=len(rows) == 1), (4,), shared=True
    ),
}


def read_corrections(folder: Path, num_views: int) -> dict[str, tuple[Correction, np.ndarray]]:
    """Reads the corrections that the folder has.

    Args:
        folder: folder of the files.
        num_views: number of training views that the dataset has.

    Returns:
        Each correction and its Params, [V, ...], by the correction's name.

    Raises:
        ValueError: if a file is damaged, or belongs to another number of training views.
    """
    paths = {name: folder / f"{name}.npy" for name in _KINDS}
    return {name: _read(path, _KINDS[name], num_views) for name, path in paths.items() if path.is_file()}


def _read(path: Path, kind: _Kind, num_views: int) -> tuple[Correction, np.ndarray]:
    wanted = " x ".join(["V", *("N" if length is None else str(length) for length in kind.row)])
    try:
        values = read_npy(path)
        fits = values.ndim == 1 + len(kind.row) and all(
            length in (None, found) for length, found in zip(kind.row, values.shape[1:], strict=True)
        )
        if not fits or values.dtype.kind != "f" or not np.isfinite(values).all():
            raise ValueError(f"holds {values.dtype} {list(values.shape)}; expected {wanted} finite floats")
        correction = kind.make(values)
    except ValueError as error:
        raise ValueError(f"{path} {error}. Train again, or remove it.") from error
    if len(values) != num_views and not (kind.shared and len(values) == 1):
        raise ValueError(
            f"{path} was learned from {len(values)} training views, and the data has {num_views}. Give the photos "
            "of the run by --data, or remove the file to draw views without it."
        )
    return correction, values.astype(np.float32)
