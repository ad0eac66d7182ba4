"""Flags for the arguments that errors of the library name.

The library knows nothing of the command line: its errors name arguments and functions of Python. This module says
which options of a command those are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set

from splax.cli.flat_options import flag, types_of
from splax.cli.options import LearningRateOptions

# Arguments whose options have another name. Where several are listed, the one that the command has counts.
_OPTIONS = {
    "num": ("num_gaussians", "frames"),
    "most": ("max_gaussians",),
    "Checkpoints keep": ("keep_checkpoints",),
    "Checkpoints every": ("checkpoint_every",),
    "CoarseToFine every": ("halvings_every",),
    **{f"Regularizers {name}": (f"{name}_weight",) for name in ("opacity", "scale", "stretch")},
    **{f"LearningRates {name.removeprefix('lr_')}": (name,) for name in types_of(LearningRateOptions)},
    **{
        f"MCMCStrategy {name}": (f"mcmc_{name}",)
        for name in ("growth", "min_opacity", "noise", "opacity_weight", "scale_weight")
    },
}
# Functions that have a command of their own.
_COMMANDS = {re.compile(r"splax\.make_dataset\('(.+?)', '(.+?)'\)"): r"splax process \1 --out \2"}

# An argument as errors name it: "steps must be", "downscale 100", "max_gaussians=140", with the class or without.
_ARGUMENT = re.compile(
    r"(?<![-\w.'\"`])(?:(?P<owner>[A-Z]\w+) )?(?P<name>[A-Za-z_]\w*)"
    r"(?:=(?P<value>[\d.]*\d)?|(?= must\b)|(?= -?\d)|(?= '))"
)


def with_flags(message: str, command: type) -> str:
    """An error of the library with a sentence that says what its arguments are called on the command line.

    Args:
        message: text of the error.
        command: dataclass of the command's options.

    Returns:
        The text, unchanged if it names no argument that is an option of the command.
    """
    named = [match.expand(text) for call, text in _COMMANDS.items() for match in call.finditer(message)]
    named += _flags(message, types_of(command).keys())
    named = [name for name in dict.fromkeys(named) if name not in message]
    return f"{message} On the command line: {', '.join(named)}." if named else message


def _flags(message: str, options: Set[str]) -> Iterator[str]:
    for found in _ARGUMENT.finditer(message):
        name, value = found["name"], found["value"]
        candidates = _OPTIONS.get(f"{found['owner']} {name}") or _OPTIONS.get(name) or (name,)
        for option in candidates:
            if option in options:
                yield flag(option) if value is None else f"{flag(option)} {value}"
