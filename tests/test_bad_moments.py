"""Moments at which the outside world fails: pipes, terminals, disks and folders. The results are written."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import write_transforms
from test_cli import FAST, FILES, run

import splax
from splax.cli.run_folder import RunFolder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    scene = splax.make_demo_scene(num_train=8, num_test=1, width=32, height=24)
    return write_transforms(tmp_path_factory.mktemp("data"), scene.train)


# --- messages ------------------------------------------------------------------------------------------


def test_ctrl_c_that_ends_the_reader_too_writes_all_results(data, tmp_path, monkeypatch):
    write_log = RunFolder.write_log
    reader, writer = os.pipe()
    pipe = io.TextIOWrapper(os.fdopen(writer, "wb"), encoding="utf-8")

    def interrupt(self, history):
        write_log(self, history)
        os.close(reader)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sys, "stdout", pipe)
    monkeypatch.setattr(RunFolder, "write_log", interrupt)
    out = tmp_path / "run"
    assert run("train", data, "--out", out, "--test-every", 4, *FAST) == 130
    pipe.close()  # there is nothing left in its buffer that could fail
    assert {path.name for path in out.iterdir()} == FILES
    assert json.loads((out / "metrics.json").read_text())["interrupted"] is True


def test_an_ascii_terminal_shows_other_characters_as_escapes(data, tmp_path, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    out = tmp_path / "läuft"
    assert run("train", data, "--out", out, "--test-every", 4, *FAST) == 0
    assert run("train", data / "fehlt-ü", "--out", tmp_path / "none") == 2
    assert {path.name for path in out.iterdir()} == FILES
    terminal.seek(0)
    said = terminal.read()
    assert r"l\xe4uft/point_cloud.ply" in said and r"fehlt-\xfc" in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_for_messages_is_said_once(data):
    command = [sys.executable, "-m", "splax.cli.main", "info", str(data)]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.count("standard output cannot be written: No space left on device") == 1
    assert "Exception" not in done.stderr and "Traceback" not in done.stderr


def test_a_pipe_without_a_reader_is_no_error(data):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "splax.cli.main", "info", str(data)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
