"""Rows of the quality table as Markdown: a line for each data, options and length, means over the seeds."""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]


class Mean(NamedTuple):
    """Of a measure over seeds.

    Attributes:
        value: the mean.
        error: standard error of the mean; None of a single seed.
    """

    value: float
    error: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        """Of at least one value."""
        several = len(values) > 1
        error = statistics.stdev(values) / math.sqrt(len(values)) if several else None
        return cls(statistics.fmean(values), error)

    def minus(self, other: "Mean") -> "Mean":
        """The difference of two means of independent seeds."""
        known = self.error is not None and other.error is not None
        error = math.hypot(self.error, other.error) if known else None  # pyright: ignore[reportArgumentType]
        return Mean(self.value - other.value, error)

    def text(self, sign: str = "") -> str:
        """With two decimals."""
        error = "" if self.error is None else f" ± {self.error:.2f}"
        return f"{self.value:{sign}.2f}{error}"


class Column(NamedTuple):
    """A measure.

    Attributes:
        title: of the column.
        names: in a row; the first one that is there counts.
        write: the mean for people.
        always: whether the column is there even if no row has the measure.
    """

    title: str
    names: tuple[str, ...]
    write: Callable[[Mean], str]
    always: bool = False

    def mean(self, rows: Sequence[Row]) -> Mean | None:
        """Over the rows that have it."""
        values = [row[name] for row in rows for name in self.names if row.get(name) is not None]
        return Mean.of(values) if values else None


def _fixed(decimals: int) -> Callable[[Mean], str]:
    return lambda mean: f"{mean.value:,.{decimals}f}"


PSNR = Column("PSNR, dB", ("psnr",), Mean.text, always=True)
COLUMNS = (
    Column("SSIM", ("ssim",), _fixed(4), always=True),
    Column("PSNR, identity", ("psnr_identity",), _fixed(2)),
    Column("PSNR, colours corrected", ("psnr_color_corrected", "cc_psnr"), _fixed(2)),
    Column("PSNR, poses aligned", ("psnr_pose_aligned",), _fixed(2)),
    Column("LPIPS (AlexNet)", ("lpips_alex",), _fixed(4)),
    Column("LPIPS (VGG16)", ("lpips_vgg",), _fixed(4)),
    Column("train PSNR", ("train_psnr",), _fixed(2), always=True),
    Column("poses off, degrees", ("pose_degrees",), _fixed(3)),
    Column("poses off, extents", ("pose_extents",), _fixed(4)),
    Column("Gaussians", ("num_gaussians",), _fixed(0), always=True),
    Column("seconds", ("seconds",), _fixed(0), always=True),
)


def format_table(rows: Sequence[Row], compare: str | None = None, baseline: Sequence[Row] = ()) -> str:
    """The table, and below it the rows that failed.

    Args:
        rows: in the order of the lines; those of one line follow each other.
        compare: options whose lines the others are compared with; None: no comparison.
        baseline: rows of these.
    """
    columns = [column for column in COLUMNS if column.always or column.mean(rows)]
    header = ["data", "options", "steps", "seeds", PSNR.title]
    header += [] if compare is None else [f"PSNR against {name_options(compare)}"]
    header += [column.title for column in columns]
    lines = [header, ["---"] * len(header)]
    for _, group in itertools.groupby(rows, _line_of):
        lines.append(_cells(list(group), columns, compare, baseline))
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    failures = [_failure(row) for row in rows if "error" in row]
    return "\n".join([text, *(["", *failures] if failures else [])])


def name_options(text: str) -> str:
    """Options for people."""
    return f"`{text}`" if text else "defaults"


def _line_of(row: Row) -> tuple[str, int, str]:
    return row["data"], row["steps"], row["options"]


def _cells(
    rows: Sequence[Row], columns: Sequence[Column], compare: str | None, baseline: Sequence[Row]
) -> list[str]:
    done = [row for row in rows if "error" not in row]
    failed = f" ({len(rows) - len(done)} failed)" if len(done) < len(rows) else ""
    data, steps, options = _line_of(rows[0])
    cells = [data, name_options(options), f"{steps:,}", f"{len(done)}{failed}", _cell(PSNR, done)]
    if compare is not None:
        others = [row for row in baseline if "error" not in row and _line_of(row) == (data, steps, compare)]
        cells.append("-" if options == compare else _difference(PSNR.mean(done), PSNR.mean(others)))
    return cells + [_cell(column, done) for column in columns]


def _cell(column: Column, rows: Sequence[Row]) -> str:
    mean = column.mean(rows)
    return "-" if mean is None else column.write(mean)


def _difference(mean: Mean | None, other: Mean | None) -> str:
    return "-" if mean is None or other is None else mean.minus(other).text("+")


def _failure(row: Row) -> str:
    where = f"{row['data']}, {name_options(row['options'])}, {row['steps']:,} steps, seed {row['seed']}"
    return f"- failed: {where}: {row['error']}"
