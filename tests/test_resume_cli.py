"""Runs that are killed, gone on with, and repeated, from the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import write_transforms
from test_cli import run

import splax
from splax.cli.commands.demo import Demo
from splax.cli.flat_options import replace, unflatten
from splax.cli.options import Training
from splax.cli.run_config import check_unchanged, read_data, read_options, save_options
from splax.training.recovery.checkpoints import Checkpoints

pytest.importorskip("orbax.checkpoint", reason="checkpoints need orbax-checkpoint")

STEPS = 60
OPTIONS = ["--steps", STEPS, "--num-gaussians", 150, "--sh-degree", 1, "--test-every", 4, "--deterministic"]
OPTIONS += ["--eval-every", 20]
# What a run computes; train.log.jsonl and config.json hold times and options too.
RESULTS = [
    "point_cloud.ply",
    "metrics.json",
    "scores.jsonl",
    "loss.png",
    "eval/train_000.png",
    "eval/train_004.png",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    scene = splax.make_demo_scene(num_train=8, num_test=1, width=32, height=24)
    return write_transforms(tmp_path_factory.mktemp("data"), scene.train)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """The folder of a run that nobody stopped."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    often = ["--checkpoint-every", "0.001", "--keep-checkpoints", "9"]
    assert run("train", data, "--out", out, *OPTIONS, *often) == 0
    return out


@pytest.fixture(scope="module")
def killed(data, tmp_path_factory) -> Path:
    """The folder of the same run in a process of its own, killed while it wrote one checkpoint after another."""
    out = tmp_path_factory.mktemp("runs") / "killed"
    command = [sys.executable, "-m", "splax.cli.main", "train", data, "--out", out, *OPTIONS]
    command = [str(part) for part in command] + ["--checkpoint-every", "0.001"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while not Checkpoints(out / "checkpoints").steps() and time.monotonic() < deadline:
            time.sleep(0.01)
            assert process.poll() is None, "it ended before it was killed"
        os.kill(process.pid, signal.SIGKILL)
    assert not (out / "point_cloud.ply").exists()
    return out


@pytest.fixture
def stopped(killed, tmp_path) -> Path:
    """A copy of the killed run to go on with."""
    return Path(shutil.copytree(killed, tmp_path / "run"))


def assert_same_results(one: Path, two: Path) -> None:
    for name in RESULTS:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def log(folder: Path) -> list[dict]:
    lines = (folder / "train.log.jsonl").read_text().splitlines()
    times = {"seconds": None, "steps_per_second": None}
    return [{**json.loads(line), **times} for line in lines]


def test_the_same_seed_gives_the_same_files(data, whole, tmp_path):
    assert run("train", data, "--out", tmp_path / "again", *OPTIONS) == 0
    assert_same_results(whole, tmp_path / "again")
    assert log(whole) == log(tmp_path / "again")
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["train_seconds"] is None and metrics["steps"] == STEPS


def test_a_killed_run_goes_on_to_the_same_files(whole, stopped, capsys):
    assert run("train", "--resume", stopped) == 0
    assert "Resuming after " in capsys.readouterr().out
    assert_same_results(whole, stopped)
    assert log(whole) == log(stopped)
    # Once more: nothing is left to do but to write the results.
    assert run("train", "--resume", stopped) == 0
    assert_same_results(whole, stopped)


@pytest.mark.parametrize("lines", [0, 1, 3])
def test_a_run_that_goes_on_from_a_step_with_scores_has_each_line_once(whole, tmp_path, lines):
    """The scores of step 20 come after its checkpoint: there may be no line of them, and lines of later ones."""
    stopped = Path(shutil.copytree(whole, tmp_path / "run"))
    for path in (stopped / "checkpoints").iterdir():
        if int(path.name.split(".")[0]) > 20:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    written = (whole / "scores.jsonl").read_text().splitlines(keepends=True)
    assert [json.loads(line)["step"] for line in written] == [20, 40, 60]
    (stopped / "scores.jsonl").write_text("".join(written[:lines]))
    assert run("train", "--resume", stopped) == 0
    assert_same_results(whole, stopped)


def test_a_killed_run_is_not_replaced_unasked(data, stopped, capsys):
    assert run("train", data, "--out", stopped, *OPTIONS) == 2
    assert f"--resume {stopped}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: shutil.rmtree(run / "checkpoints"), "holds no checkpoint"),
        (lambda run: (run / "config.json").unlink(), "no run was begun there"),
        (lambda run: edit_config(run, steps="many"), "'steps' is 'many'"),
        (lambda run: edit_config(run, seed=1), "seed was '0', is '1'"),
    ],
)
def test_a_run_that_cannot_be_gone_on_with_says_why(stopped, capsys, spoil, message):
    spoil(stopped)
    assert run("train", "--resume", stopped) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_other_options_than_those_it_began_with_are_refused(data, stopped, capsys):
    assert run("train", "--resume", stopped, "--steps", 100) == 2
    assert "leave out --steps 100 (it began with 60)" in capsys.readouterr().err
    assert run("train", "--resume", stopped, "--out", stopped.parent / "other") == 2
    assert "leave --out" in capsys.readouterr().err
    assert run("train", data.parent, "--resume", stopped) == 2
    assert f"DATA {data.parent}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [unflatten(Training, {"steps": 5, "exposure": True, "lpips": ("vgg",)}), Demo(seed=2).settings()],
)
def test_options_are_read_as_they_were_written(data, options):
    config = json.loads(json.dumps(save_options(options, str(data))))
    path = Path("config.json")
    assert read_data(config, path) == str(data)
    assert read_options(config, path) == options
    same = replace(Training(), steps=options.steps, seed=options.computation.seed)
    check_unchanged(same, options, data=data, began_with=str(data))


def test_data_is_needed_for_a_new_run(capsys):
    for arguments in (["--out", "x"], []):
        assert run("train", *arguments) == 2
        assert "needs DATA" in capsys.readouterr().err
