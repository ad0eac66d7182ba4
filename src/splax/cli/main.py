"""The command line: ``splax train``, ``eval``, ``render``, ``convert``, ``demo``, ``process`` and ``info``.

This module parses and reports errors. jax is imported after parsing, so that ``--help`` answers at once.
"""

from __future__ import annotations

import functools
import operator
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import tyro

import splax
from splax.cli.argument_names import with_flags
from splax.cli.commands.convert import Convert
from splax.cli.commands.demo import Demo
from splax.cli.commands.eval import Eval
from splax.cli.commands.info import Info
from splax.cli.commands.process import Process
from splax.cli.commands.render import Render
from splax.cli.commands.train import Train
from splax.cli.console import say_error, show_warning
from splax.cli.option_hints import hints
from splax.cli.options import Command
from splax.cli.tolerant_output import tolerant_output

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
    """Runs the command line and exits: 0 done, 2 bad input, 1 training failed, 130 interrupted.

    Args:
        arguments: the command line without the name of the program; that of this process if None.
    """
    with tolerant_output():
        _run(sys.argv[1:] if arguments is None else arguments)


def _run(arguments: Sequence[str]) -> NoReturn:
    """Runs the command and exits with its status."""
    if arguments and arguments[0] == "--version":
        print(f"splax {splax.__version__}")
        sys.exit(0)
    command = _parse(arguments)
    warnings.showwarning = show_warning
    try:
        sys.exit(command.run())
    except (
        ValueError,
        OSError,
        ImportError,
    ) as error:  # ImportError: a package that is missing, with its cure
        say_error(with_flags(str(error), type(command)))
        sys.exit(2)
    except KeyboardInterrupt:
        print("splax: interrupted.", file=sys.stderr)
        sys.exit(130)


def _parse(arguments: Sequence[str]) -> Command:
    """The command with its options; on bad ones tyro says what is wrong and exits with status 2."""
    if not {"-h", "--help"} & set(arguments):
        for hint in hints(arguments, COMMANDS):
            print(f"splax: {hint}", file=sys.stderr)
    named = [Annotated[options, tyro.conf.subcommand(name)] for name, options in COMMANDS.items()]
    command: Any = functools.reduce(operator.or_, named)
    description = "Gaussian splatting in pure JAX. `splax COMMAND --help` explains a command."
    return tyro.cli(command, prog="splax", description=description, args=arguments)


if __name__ == "__main__":
    main()
