"""Errors of the library name arguments of Python, and the command line adds its options."""

import ast
import re
from pathlib import Path

import pytest

import splax
from splax.cli.argument_names import _OPTIONS, with_flags
from splax.cli.commands.info import Info
from splax.cli.commands.process import Process
from splax.cli.commands.render import Render
from splax.cli.commands.train import Train
from splax.cli.flat_options import types_of

SOURCE = Path(splax.__file__).parent
# A flag that is not one of pip, or a command.
SPOKEN = re.compile(r"(?<![\w-])--[a-z](?!o-deps)|splax (train|eval|render|convert|process|info)\b")


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_library_does_not_speak_the_command_line(path):
    if path.is_relative_to(SOURCE / "cli"):
        return
    texts = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    spoken = [node.lineno for node in texts if isinstance(node.value, str) and SPOKEN.search(node.value)]
    assert not spoken, f"{path} names options or commands in lines {spoken}"


@pytest.mark.parametrize(
    ("command", "message", "flags"),
    [
        (Train, "TrainConfig steps must be at least 1, got 0.", "--steps"),
        (Train, "sh_degree must be 0 to 3, got 4.", "--sh-degree"),
        (Train, "downscale 100 leaves nothing of images of 32 x 24 pixels.", "--downscale"),
        (Train, "num must be at least 1, got 0.", "--num-gaussians"),
        (Render, "num must be at least 1, got 0.", "--frames"),
        (Train, "init 'x' is neither one of auto, sfm nor a file.", "--init"),
        (
            Train,
            "With 9 (max_gaussians=9), or (downscale=2).",
            "--max-gaussians 9, --downscale 2",
        ),
        (Train, "LearningRates means must be 0 or more and finite, got -1.", "--lr-means"),
        (Train, "Regularizers stretch must be 0 or more and finite, got -1.", "--stretch-weight"),
        (Train, "MCMCStrategy noise must be 0 or more, got -1.", "--mcmc-noise"),
        (Train, "DefaultStrategy refine_every must be 1 or more, got 0.", "--refine-every"),
        (Train, "Checkpoints keep must be at least 1, got 0.", "--keep-checkpoints"),
        (Process, "pass one_camera=None, so that it is found out.", "--one-camera"),
        (Info, "Make one first with splax.make_dataset('a b', 'DATA').", "splax process a b --out DATA"),
        # What is none of the command's options, names no argument, or has its flag already.
        (Info, "TrainConfig steps must be at least 1, got 0.", ""),
        (Train, "loss not finite at step 1, view 'x'.", ""),
        (Train, "after 20 steps, 3 Gaussians were left; 'steps' is 'many'", ""),
        (Train, "--seed must lie in [0, 2^32): seed must be more, got -1.", ""),
        (Train, "the run differs: config.seed was '0', is '1'.", ""),
    ],
)
def test_errors_get_the_options_that_they_are_about(command, message, flags):
    assert with_flags(message, command) == (f"{message} On the command line: {flags}." if flags else message)


def test_the_table_names_options():
    known = {name for command in (Train, Render) for name in types_of(command)}
    assert {option for options in _OPTIONS.values() for option in options} <= known
