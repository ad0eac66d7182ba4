"""Joins files to numbered things, such as the poses of a trajectory, by the numbers in the files' names.

A position in a sorted list says nothing once a file is missing, or one too many is there: every later file would
get the pose of another. So the order joins only where the numbers say nothing and the counts are equal.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

_NUMBER = re.compile(r"[0-9]+")
# Programs count from 0 or from 1: what may be added to ids that begin with the key, besides nothing.
_OTHER_SHIFTS = {0: (1,), 1: (-1,)}


class JoinError(ValueError):
    """Files that cannot be joined. The text is the end of a sentence that has named both counts."""


def join_by_number(
    files: Sequence[Path], ids: Collection[int], others: Sequence[Path] = ()
) -> list[int | None]:
    """The id that belongs to each file; None for files without one.

    The number in a file's name is the id, or the id plus one or minus one if the two are counted from different
    numbers.

    Args:
        files: files, sorted by name.
        ids: ids that the files may have, each once.
        others: files of the same frames, which may show numbers that ``files`` lack.

    Raises:
        JoinError: if the numbers fit in two ways, or if they do not fit and the counts differ.
    """
    joined = fit_numbers(files, ids, others)
    if joined is not None:
        return joined
    if len(files) == len(ids):
        return list(sorted(ids))
    raise JoinError("and the numbers in their names do not say which belong together")


def fit_numbers(
    files: Sequence[Path], ids: Collection[int], others: Sequence[Path] = ()
) -> list[int | None] | None:
    """What :func:`join_by_number` returns, or None if no number in the names fits the ids.

    Raises:
        JoinError: if the numbers fit in two ways.
    """
    ids = set(ids)
    for numbers in number_columns(files):
        seen = set(numbers)
        for column in map(set, number_columns(others)):
            if 2 * len(column & seen) > len(seen):
                seen |= column
                break
        shifts = _shifts(seen, ids) or _shifts(set(numbers), ids)
        if len(shifts) > 1:
            raise JoinError("and the numbers in their names may be counted from 0 or from 1")
        if shifts:
            return [number - shifts[0] if number - shifts[0] in ids else None for number in numbers]
    return None


def number_columns(files: Sequence[Path]) -> list[list[int]]:
    """The numbers in the files' names that tell the files apart: the first numbers of all, the second, and so on.

    The list is empty if the names do not all have as many numbers as each other.
    """
    rows = [list(map(int, _NUMBER.findall(file.stem))) for file in files]
    if len({len(row) for row in rows}) != 1:
        return []
    columns = [list(column) for column in zip(*rows, strict=True)]
    return [column for column in columns if len(set(column)) == len(files)]


def _shifts(numbers: set[int], ids: set[int]) -> list[int]:
    """The differences between number and id under which most numbers have an id.

    Several are equally good if it cannot be known where counting starts. None is returned if most numbers have no
    id, while some ids have no number.
    """
    if not numbers or not ids:
        return []
    shift = min(numbers) - min(ids)
    if {number - shift for number in numbers} == ids:
        return [shift]
    others = _OTHER_SHIFTS.get(min(ids), ()) if shift else ()
    matched = {shift: len({number - shift for number in numbers} & ids) for shift in (0, *others)}
    most = max(matched.values())
    if 2 * most <= len(numbers) and most < len(ids):
        return []
    return [shift for shift, count in matched.items() if count == most]
