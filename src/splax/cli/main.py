"""The command line: ``splax train``, ``eval``, ``render``, ``convert``, ``demo``, ``process`` and ``info``.

This module parses and reports errors. jax is imported after parsing, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import functools
import io
import operator
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from splax.cli.commands.convert import Convert
from splax.cli.commands.demo import Demo
from splax.cli.commands.eval import Eval
from splax.cli.commands.info import Info
from splax.cli.commands.process import Process
from splax.cli.commands.render import Render
from splax.cli.commands.train import Train
from splax.cli.console import say_error, show_warning
from splax.cli.options import Command

# The subcommands, in the order in which the help lists them.
COMMANDS: dict[str, type[Command]] = {
    "train": Train,
    "eval": Eval,
    "render": Render,
    "convert": Convert,
    "demo": Demo,
    "process": Process,
    "info": Info,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 2 bad input, 1 training failed, 130 interrupted."""
    command = _parse(arguments)
    warnings.showwarning = show_warning
    try:
        sys.exit(command.run())
    except (ValueError, OSError) as error:
        say_error(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        print("splax: interrupted.", file=sys.stderr)
        sys.exit(130)


def _parse(arguments: Sequence[str] | None) -> Command:
    """The options; on bad ones exits with status 2 after one line, where tyro prints a box of several."""
    named = [Annotated[options, tyro.conf.subcommand(name)] for name, options in COMMANDS.items()]
    command: Any = functools.reduce(operator.or_, named)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                command, prog="splax", description="Gaussian splatting in pure JAX.", args=arguments
            )
    except SystemExit as stop:
        if stop.code == 2:
            lines = [line.strip("─│╭╮╰╯ ") for line in errors.getvalue().splitlines()]
            lines = [line for line in lines if line.strip("-")]
            # The box's title begins its first line again, and sentences end without a full stop.
            lines = lines[1:] if len(lines) > 1 and lines[1].startswith(lines[0]) else lines
            say_error(" ".join(lines).replace(" For full helptext", ". For full helptext"))
        raise


if __name__ == "__main__":
    main()
