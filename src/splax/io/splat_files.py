"""The parts of reading and writing splat files that all formats share: errors, repairs, one warning."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Bool

from splax.files.atomic import atomic_write
from splax.gaussians import Gaussians
from splax.io.splat_arrays import SplatArrays, to_gaussians

G = TypeVar("G", bound=Gaussians)

# A function that reads a file of one format. The message of its ValueError is the rest of a sentence that begins
# with the file's name.
Reader: TypeAlias = Callable[[Path], SplatArrays]
# A function that writes a file of one format. It returns a note for each thing that the format cannot hold.
Writer: TypeAlias = Callable[[BinaryIO, SplatArrays], list[str]]

# Logit for an opacity of exactly 1 (or, with its sign changed, 0), whose logit is infinite: sigmoid(15)
# is 1 - 3e-7.
_MAX_LOGIT = 15.0
# Log scale for a scale of zero, which flat Gaussians have in some files: e^-20 is 2e-9.
_MIN_LOG_SCALE = -20.0


def load_with(path: str | os.PathLike[str], reader: Reader, cls: type[G]) -> G:
    """Reads a splat file into an object of ``cls``, and repairs its values, with one warning.

    Args:
        path: file to read.
        reader: reader of the file's format.
        cls: class of the object to make.

    Raises:
        ValueError: if the file cannot be read, is damaged, holds no Gaussians, or lacks a Param that ``cls``
            needs.
    """
    arrays = read_with(path, reader)
    try:
        return to_gaussians(arrays, cls)
    except ValueError as error:
        raise ValueError(f"{path} {error}.") from error


def read_with(path: str | os.PathLike[str], reader: Reader) -> SplatArrays:
    """Reads a splat file into arrays, and repairs its values, with one warning.

    Args:
        path: file to read.
        reader: reader of the file's format.

    Raises:
        ValueError: if the file cannot be read, is damaged, or holds no Gaussians.
    """
    try:
        # Numbers too large for float32 become infinite, and their rows are left out.
        with np.errstate(all="ignore"):
            arrays = reader(Path(path).expanduser())
        if arrays.num == 0:
            raise ValueError("holds no Gaussians")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise ValueError(f"{path} {error}.") from error
    usable, notes = _repair(arrays)
    if usable.num == 0:
        raise ValueError(f"{path} holds no usable Gaussians: not one of its {arrays.num} rows is finite.")
    _warn(path, notes)
    return usable


def write_with(path: str | os.PathLike[str], arrays: SplatArrays, writer: Writer) -> None:
    """Writes a splat file, whole or not at all, with one warning of what was left out.

    Args:
        path: file to write.
        arrays: Gaussians to write.
        writer: writer of the file's format.

    Raises:
        ValueError: if there is nothing to write, or the file cannot be written.
    """
    usable, notes = _repair(arrays)
    if usable.num == 0:
        raise ValueError(f"there is nothing to save: of {arrays.num} Gaussians alive, none is finite.")
    # Numbers too large for float32 are clipped, like all numbers outside of a format's range.
    with atomic_write(path) as temporary, temporary.open("wb") as file, np.errstate(over="ignore"):
        notes += writer(file, usable)
    _warn(path, notes)


@np.errstate(invalid="ignore", over="ignore")  # for signalling NaNs, and for sums of large numbers
def _repair(arrays: SplatArrays) -> tuple[SplatArrays, list[str]]:
    """The Gaussians of the arrays that can be drawn, and a note for each thing that was done.

    Infinite logits are clamped, scales of zero are raised, and quaternions of zero become the identity (as in 3DGS
    itself). Other rows that are not finite are left out. Quaternions of other lengths than 1 are valid rotations.
    """
    notes = []
    logits, log_scales, quats = arrays.logit_opacities, arrays.log_scales, arrays.quats
    if num := int((infinite := np.isinf(logits)).sum()):
        logits = np.where(infinite, np.copysign(np.float32(_MAX_LOGIT), logits), logits)
        notes.append(f"{num:,} opacities of exactly 0 or 1 were clamped to logits of {_MAX_LOGIT:g}")
    if (zero := log_scales == -np.inf).any():
        log_scales = np.where(zero, np.float32(_MIN_LOG_SCALE), log_scales)
        notes.append(
            f"{int(zero.any(axis=1).sum()):,} Gaussians with a scale of zero got e^{_MIN_LOG_SCALE:g}"
        )
    # Few rows: checking all components of all rows takes ten times longer.
    suspects = np.flatnonzero(quats[:, 0] == 0)
    if len(zero := suspects[~quats[suspects].any(axis=1)]):
        quats = quats.copy()
        quats[zero] = [1, 0, 0, 0]
        notes.append(f"{len(zero):,} Gaussians with a quaternion of zero got the identity")
    if notes:
        arrays = arrays.replace(logit_opacities=logits, log_scales=log_scales, quats=quats)
    finite = _finite_rows(arrays)
    if num := int((~finite).sum()):
        notes.append(f"{num:,} of {arrays.num:,} Gaussians are not finite and were left out")
        arrays = arrays.take(finite)
    return arrays, notes


def _finite_rows(arrays: SplatArrays) -> Bool[np.ndarray, " n"]:
    rows = np.ones(arrays.num, bool)
    for value in arrays.params.values():
        # Rarely true. A sum takes no memory, and every NaN and infinity shows in it.
        if not np.isfinite(value.sum()):
            rows &= np.isfinite(value).all(axis=tuple(range(1, value.ndim)))
    return rows


def _warn(path: str | os.PathLike[str], notes: list[str]) -> None:
    """One warning of everything that was done to a file's Gaussians."""
    if notes:
        warnings.warn(f"{path}: {'; '.join(notes)}.", stacklevel=4)
