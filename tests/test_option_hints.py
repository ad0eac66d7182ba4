"""What the command line says to options that other programs for Gaussian splatting have."""

import pytest
from test_cli import run

import splax
from splax.cli.commands.train import Train
from splax.cli.flat_options import flag, types_of
from splax.cli.main import COMMANDS
from splax.cli.option_hints import _SPELLINGS, hints


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("train x --iterations 30000", "no --iterations; did you mean --steps?"),
        ("train x --max_steps=30000", "no --max_steps; did you mean --steps?"),
        ("train x --max-num-iterations 30000", "did you mean --steps?"),
        ("demo --iterations 30", "splax demo has no --iterations; did you mean --steps?"),
        ("train --data x", "no --data; give the path without a flag: splax train DATA"),
        ("train --data=x", "no --data; give the path without a flag: splax train DATA"),
        ("train -s x", "no -s; give the path without a flag: splax train DATA"),
        ("train --source_path x", "no --source_path; give the path without a flag"),
        ("info --data x", "give the path without a flag: splax info PATH"),
        ("process --data x", "give the path without a flag: splax process SOURCE"),
        ("eval -m x", "give the path without a flag: splax eval RUN"),
        ("train x -m y", "no -m; did you mean --out?"),
        ("train x --output-dir y", "did you mean --out?"),
        ("train x --result_dir y", "did you mean --out?"),
        ("train x -r 4", "no -r; did you mean --downscale?"),
        ("train x --data_factor 4", "did you mean --downscale?"),
        ("train x --images images_4", "did you mean --downscale?"),
        ("train x --cap_max 4", "did you mean --max-gaussians?"),
        ("train x --eval", "every 8th view is held out anyway"),
        ("train x --densify_grad_threshold 0.1", "did you mean --grow-grad2d?"),
        ("train x --strategy.refine-every 5", "did you mean --refine-every?"),
    ],
)
def test_spellings_of_other_programs_are_answered_with_ours(arguments, hint, capsys):
    assert run(*arguments.split()) == 2
    captured = capsys.readouterr()
    first, *rest = captured.err.splitlines()
    assert first.startswith("splax: ") and hint in first
    assert rest and captured.out == "" and "Traceback" not in captured.err


@pytest.mark.parametrize(
    "arguments",
    [
        "train x --steps 3 --white_background --seed -1",
        "eval x --data y",
        "render x --data y --out z",
        "train x --foo",
        "convert -s x",
        "fly --iterations 3",
        "",
    ],
)
def test_other_command_lines_get_no_hint(arguments):
    assert not list(hints(arguments.split(), COMMANDS))


def test_help_comes_without_hints(capsys):
    assert run("train", "--iterations", "--help") == 0
    assert capsys.readouterr().err == ""


def test_hints_name_options_that_there_are():
    known = {flag(name) for name in types_of(Train)}
    others = [other for text in _SPELLINGS.values() for other in text.split()]
    assert {option.split()[0] for option in _SPELLINGS} <= known
    assert len(others) == len(set(others)) and not known & set(others)


def test_tyro_prints_its_own_messages(capsys):
    assert run("train", "--foo") == 2
    error = capsys.readouterr().err
    assert "Unrecognized options: --foo" in error and "splax: error" not in error
    assert len(error.splitlines()) > 3


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"splax {splax.__version__}\n"
