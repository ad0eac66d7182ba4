"""The command line: ``splax train``, ``eval``, ``render``, ``convert``, ``demo``, ``process`` and ``info``.

Only parses and reports errors. jax is imported after parsing, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, TypeAlias

import tyro

from splax.cli.options import Convert, Demo, Eval, Info, Process, Render, Train

Command: TypeAlias = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Process, tyro.conf.subcommand("process")]
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


def _parse(arguments: Sequence[str] | None) -> Train | Eval | Render | Convert | Demo | Process | Info:
    """The options; on bad ones exits with status 2 after one line, where tyro prints a box of several."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                Command, prog="splax", description="Gaussian splatting in pure JAX.", args=arguments
            )
    except SystemExit as stop:
        if stop.code == 2:
            lines = [line.strip("─│╭╮╰╯ ") for line in errors.getvalue().splitlines()]
            lines = [line for line in lines if line.strip("-")]
            # The box's title begins its first line again, and sentences end without a full stop.
            lines = lines[1:] if len(lines) > 1 and lines[1].startswith(lines[0]) else lines
            text = " ".join(lines).replace(" For full helptext", ". For full helptext")
            print(f"splax: error: {text}", file=sys.stderr)
        raise


def _run(options: Train | Eval | Render | Convert | Demo | Process | Info) -> int:
    from splax.cli import commands

    match options:
        case Train():
            return commands.train(options)
        case Eval():
            return commands.evaluate(options)
        case Render():
            return commands.render(options)
        case Convert():
            return commands.convert(options)
        case Demo():
            return commands.demo(options)
        case Process():
            return commands.process(options)
        case Info():
            return commands.info(options)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """One line without the place in our source."""
    del category, filename, lineno, file, line
    print(f"splax: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
