"""Trains on several data sets, with several options and seeds, and prints how good the results are as one table.

    python benchmarks/quality.py ROWS --data data/fox data/king@2 data/fox+gains --options "" --exposure --seeds 0
    python benchmarks/quality.py ROWS --table --compare ""   # trains nothing

ROWS is a folder with a file for each run. What is there is not run again, so a table may grow over several calls,
and several processes may work on one folder, on one or more devices. See docs/quality.md.
"""

import os

# Several processes may share a GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import dataclasses
import functools
import gc
import importlib
import itertools
import pathlib
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import tyro
from quality_data import DataSet, Photos, find_start, load_photos, reading_of
from quality_rows import Key, Rows
from quality_run import run_gsplat, run_splax
from quality_table import format_table, name_options

from splax.cli.commands.train import Train
from splax.cli.compilation_cache import keep_programs
from splax.cli.flat_options import flatten, replace, unflatten
from splax.cli.setup import check_options

GSPLAT = "gsplat"
# Options of `splax train` that this program sets.
_OWN = ("data", "out", "resume", "downscale", "steps", "seed")


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares the quality of trainings."""

    rows: tyro.conf.Positional[pathlib.Path]
    """Folder of the rows."""
    data: tuple[str, ...] = ()
    """PATH[@DOWNSCALE][+DISTURBANCE...]: folders of datasets, or forward, a synthetic set; disturbances: gains,
    poses."""
    options: tuple[str, ...] = ()
    """Options of `splax train`, each in quotes; "" for its defaults, which are what is run by default."""
    steps: tuple[int, ...] = ()
    """Lengths of runs. Default: 7000."""
    seeds: tuple[int, ...] = ()
    """Of the order of photos and of densification; the start is the same. Default: 0."""
    gsplat: bool = False
    """Train gsplat too, where it is installed, from the same start, with its default densification."""
    curve_every: int = 0
    """Score after every so many steps as well; 0: only at the end."""
    seconds: float | None = None
    """Begin no run after this long."""
    retry: bool = False
    """Try runs that failed once more."""
    compare: str | None = None
    """Options whose PSNR is taken from that of the others."""
    table: bool = False
    """Train nothing, print the table of the rows that are there."""


def main(options: Options) -> str:
    """Makes the rows that are missing, prints the table and returns it.

    Raises:
        ValueError: on bad options, before anything runs.
    """
    rows = Rows(options.rows)
    if not options.table:
        if not options.data:
            raise ValueError(
                "there is nothing to train on: give --data PATH ..., or --table to print what there is."
            )
        make_rows(rows, options)
    table = _table(rows, options)
    print(table)
    return table


def make_rows(rows: Rows, options: Options) -> None:
    """Makes those that are missing and that no other process makes."""
    keep_programs()
    started = time.monotonic()
    for key in list(_keys(options)):
        if options.seconds is not None and time.monotonic() - started > options.seconds:
            _say(f"No more runs after {options.seconds:g} seconds; the same command goes on.")
            return
        with rows.claim(key) as mine:
            if not mine:
                _say(f"Another process makes {_describe(key)}; if it is gone, remove {key.file_name}.claim")
            elif _is_missing(rows.find(key), retry=options.retry):
                _say(f"Running {_describe(key)}")
                rows.write(key, _row_or_error(key, rows.folder / "starts", options.curve_every))


def parse_options(text: str) -> Train:
    """Options of ``splax train`` as its command line reads them.

    Raises:
        ValueError: if it does not take them, or they are not for the rows to choose.
    """
    try:
        options = tyro.cli(Train, prog="splax train", args=shlex.split(text))
    except SystemExit as error:
        raise ValueError(
            f"--options {text!r} is not what `splax train` takes; see `splax train --help`."
        ) from error
    for name in _OWN:
        if flatten(options)[name] != flatten(Train())[name]:
            raise ValueError(
                f"--options {text!r} sets {name}; leave it out: --data PATH@DOWNSCALE, --steps and --seeds say "
                "what is trained on, and how long."
            )
    return options


def _keys(options: Options) -> Iterator[Key]:
    """All rows that are asked for, those of one data set after each other."""
    texts = [" ".join(text.split()) for text in options.options or ("",)]
    for text in texts:
        check_options(parse_options(text))
    if options.gsplat and _has_gsplat():
        texts.append(GSPLAT)
    data = [str(DataSet.parse(text)) for text in options.data]
    for one, steps, seed, text in itertools.product(
        data, options.steps or (7000,), options.seeds or (0,), texts
    ):
        yield Key(one, text, steps, seed)


def _has_gsplat() -> bool:
    try:
        importlib.import_module("gsplat_training")
        return True
    except ImportError as error:
        print(f"without gsplat: {error}; it needs torch, and gsplat==1.5.3 built for CUDA", file=sys.stderr)
        return False


def _is_missing(row: dict[str, Any] | None, *, retry: bool) -> bool:
    return row is None or (retry and "error" in row)


def _row_or_error(key: Key, cache: pathlib.Path, curve_every: int) -> dict[str, Any]:
    """The measures of a run, or why there are none: one run that fails does not end the others."""
    try:
        return _run(key, cache, curve_every)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        _say(f"Failed: {text}")
        return {"error": text}
    finally:
        gc.collect()


def _run(key: Key, cache: pathlib.Path, curve_every: int) -> dict[str, Any]:
    options = parse_options("" if key.options == GSPLAT else key.options)
    options = replace(options, steps=key.steps, seed=key.seed)
    data = DataSet.parse(key.data)
    photos = _photos(data, cache, tuple(reading_of(options).items()))
    start = find_start(data, photos.scene, options, cache)
    if key.options == GSPLAT:
        return run_gsplat(photos, start, options)
    return run_splax(photos, start, options, curve_every)


@functools.lru_cache(maxsize=1)
def _photos(data: DataSet, cache: pathlib.Path, reading: tuple[tuple[str, Any], ...]) -> Photos:
    """Read once for all rows that follow each other."""
    return load_photos(data, unflatten(Train, dict(reading)), cache)


def _table(rows: Rows, options: Options) -> str:
    every = rows.read()
    texts = {" ".join(text.split()) for text in options.options} | ({GSPLAT} if options.gsplat else set())
    wanted = {
        "data": {str(DataSet.parse(text)) for text in options.data},
        "options": texts if options.options else set(),
        "steps": set(options.steps),
        "seed": set(options.seeds),
    }
    shown = [
        row for row in every if all(not values or row[name] in values for name, values in wanted.items())
    ]
    if not shown:
        return f"No row in {rows.folder} is of what was asked for; it holds {len(every)}."
    compare = None if options.compare is None else " ".join(options.compare.split())
    return format_table(shown, compare, every)


def _describe(key: Key) -> str:
    return f"{key.data}, {name_options(key.options)}, {key.steps:,} steps, seed {key.seed}"


def _protected(arguments: Sequence[str]) -> list[str]:
    """Arguments in which a text such as "--exposure" is a value: flags are those of this program alone."""
    own = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Options)} | {"--help"}
    return [
        f" {text}" if text.startswith("--") and text.split("=")[0] not in own else text for text in arguments
    ]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        _say(f"On {jax.devices()[0].device_kind}")
        main(tyro.cli(Options, description=__doc__, args=_protected(sys.argv[1:])))
    except ValueError as error:
        sys.exit(f"benchmark: {error}")
    except KeyboardInterrupt:
        _say("Interrupted; the same command goes on.")
        sys.exit(130)
