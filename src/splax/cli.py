"""The command line: ``splax train``, ``eval``, ``render``, ``demo`` and ``info``.

Only parses and reports errors. jax is imported after parsing, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import tyro


@dataclasses.dataclass(frozen=True)
class Data:
    """Which photos, and how they are read."""

    data: tyro.conf.Positional[Path]
    """Folder with a transforms.json (instant-ngp, nerfstudio)."""
    downscale: float = 1.0
    """Make images smaller by this factor."""
    test_every: int = 8
    """Hold out every how many-th view, by name; 0 for none."""
    white_background: bool = False
    """Composite transparent images on white instead of black."""


@dataclasses.dataclass(frozen=True)
class Info(Data):
    """Say what a dataset holds."""


@dataclasses.dataclass(frozen=True)
class Train(Data):
    """Train a splat on posed photos."""

    out: Path = dataclasses.field(kw_only=True)
    """Folder to write the run to."""
    steps: int = 7000
    """Length of the run."""
    num_gaussians: int = 50_000
    """Random Gaussians to begin with, where the data has no points."""
    max_gaussians: int | None = None
    """Densify to at most this many."""
    sh_degree: int = 3
    """Degree of view-dependent colour, 0 to 3."""
    seed: int = 0
    """Of the initial Gaussians, the order of views and densification."""
    tile_size: int | None = None
    """Pixels per tile side; does not change the image. Default: 8 on a CPU, 16 elsewhere."""
    overwrite: bool = False
    """Replace the run that the folder holds."""


@dataclasses.dataclass(frozen=True)
class Demo:
    """Train on a small built-in scene: a minute or two to a first splat, without any data."""

    out: Path = Path("runs/demo")
    """Folder to write the run to; an earlier demo in it is replaced."""
    steps: int = 1500
    """Length of the run."""
    num_gaussians: int = 10_000
    """Random Gaussians to begin with."""
    max_gaussians: int | None = None
    """Densify to at most this many."""
    sh_degree: int = 3
    """Degree of view-dependent colour, 0 to 3."""
    seed: int = 0
    """Of the initial Gaussians, the order of views and densification."""
    tile_size: int | None = None
    """Pixels per tile side; does not change the image. Default: 8 on a CPU, 16 elsewhere."""


@dataclasses.dataclass(frozen=True)
class Eval:
    """Score a run on the views it did not see."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""


@dataclasses.dataclass(frozen=True)
class Render:
    """Render a run: its held-out views, and an orbit round the scene."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    out: Path = dataclasses.field(kw_only=True)
    """Folder to write pictures to, and a film where imageio-ffmpeg is installed."""
    frames: int = 120
    """Pictures of the orbit."""
    fps: int = 30
    """Frames per second of the film."""


Command: TypeAlias = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 2 bad input, 1 training failed, 130 interrupted."""
    options = _parse(arguments)
    warnings.showwarning = _show_warning
    try:
        sys.exit(_run(options))
    except (ValueError, OSError) as error:
        print(f"splax: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("splax: interrupted.", file=sys.stderr)
        sys.exit(130)


def _parse(arguments: Sequence[str] | None) -> Train | Eval | Render | Demo | Info:
    """The options; on bad ones exits with status 2 after one line, where tyro prints a box of several."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                Command, prog="splax", description="Gaussian splatting in pure JAX.", args=arguments
            )
    except SystemExit as stop:
        if stop.code == 2:
            lines = (line.strip("─│╭╮╰╯ ") for line in errors.getvalue().splitlines())
            print("splax: error: " + " ".join(line for line in lines if line), file=sys.stderr)
        raise


def _run(options: Train | Eval | Render | Demo | Info) -> int:
    from splax import commands

    match options:
        case Train():
            return commands.train(options)
        case Eval():
            return commands.evaluate(options)
        case Render():
            return commands.render(options)
        case Demo():
            return commands.demo(options)
        case Info():
            return commands.info(options)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """One line without the place in our source."""
    del category, filename, lineno, file, line
    print(f"splax: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
