"""What reading and writing splat files of any format has in common: errors, repairs, one warning of them."""

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

# A format's reader raises ValueError without the file's name, as the rest of a sentence.
Reader: TypeAlias = Callable[[Path], SplatArrays]
# A format's writer returns notes of what of the Gaussians it could not hold.
Writer: TypeAlias = Callable[[BinaryIO, SplatArrays], list[str]]

# An opacity of exactly 1 (or 0) has an infinite logit: sigmoid(15) is 1 - 3e-7.
_MAX_LOGIT = 15.0
# A scale of zero, as flat Gaussians have in some files, is e^-20 = 2e-9 instead.
_MIN_LOG_SCALE = -20.0


def load_with(path: str | os.PathLike[str], reader: Reader, cls: type[G]) -> G:
    """Reads a file into an object of ``cls``.

    Raises:
        ValueError: as :func:`read_with`, or if ``cls`` needs a Param that the file lacks.
    """
    arrays = read_with(path, reader)
    try:
        return to_gaussians(arrays, cls)
    except ValueError as error:
        raise ValueError(f"{path} {error}.") from error


def read_with(path: str | os.PathLike[str], reader: Reader) -> SplatArrays:
    """Reads a file and repairs what it holds, with one warning.

    Raises:
        ValueError: if the file cannot be read, is damaged, or holds no Gaussians.
    """
    try:
        with np.errstate(all="ignore"):  # what leaves float32 becomes infinite, and its row is left out
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
    """Writes a file, whole or not at all, with one warning of what was left out.

    Raises:
        ValueError: if there is nothing to write, or the file cannot be written.
    """
    usable, notes = _repair(arrays)
    if usable.num == 0:
        raise ValueError(f"there is nothing to save: of {arrays.num} Gaussians alive, none is finite.")
    # What leaves float32 is clipped, as all that is beyond a format's range.
    with atomic_write(path) as temporary, temporary.open("wb") as file, np.errstate(over="ignore"):
        notes += writer(file, usable)
    _warn(path, notes)


@np.errstate(invalid="ignore", over="ignore")  # a signalling NaN; a sum of large numbers
def _repair(arrays: SplatArrays) -> tuple[SplatArrays, list[str]]:
    """What can be drawn of the arrays, and a note on each thing that was done.

    Infinite logits are clamped, scales of zero raised, quaternions of zero become the identity (as in 3DGS
    itself); other rows that are not finite are dropped. Non-unit quaternions are rotations all the same.
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
    suspects = np.flatnonzero(quats[:, 0] == 0)  # few; to ask all four of every row takes ten times as long
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
        if not np.isfinite(value.sum()):  # rarely; a sum takes no memory, and shows every NaN and infinity
            rows &= np.isfinite(value).all(axis=tuple(range(1, value.ndim)))
    return rows


def _warn(path: str | os.PathLike[str], notes: list[str]) -> None:
    """One warning of everything that was done to a file's Gaussians."""
    if notes:
        warnings.warn(f"{path}: {'; '.join(notes)}.", stacklevel=4)
