"""Moments at which the outside world fails: pipes, terminals, disks and folders. The results are written."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from flax import nnx
from helpers import write_transforms
from test_cli import FAST, FILES, run

import splax
from splax.cli import folder_lock
from splax.cli.run_folder import RunFolder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    scene = splax.make_demo_scene(num_train=8, num_test=1, width=32, height=24)
    return write_transforms(tmp_path_factory.mktemp("data"), scene.train)


def run_with_warnings(*arguments: object) -> int:
    """The exit status of a command whose warnings are printed, as they are for users."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        return run(*arguments)


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


# --- disks ---------------------------------------------------------------------------------------------


def fill_the_disk(patch):
    patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))


def break_orbax(patch):
    """Lets orbax fail as it does where a quota is used up, in the middle of its work."""

    def fail(self, *args, **kwargs):
        Path(self.directory, "1.orbax-checkpoint-tmp").mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: Error writing '0000/0.0': Disk quota exceeded")

    orbax = pytest.importorskip("orbax.checkpoint", reason="checkpoints need orbax-checkpoint")
    patch.setattr(orbax.CheckpointManager, "save", fail)


@pytest.mark.parametrize(
    ("spoil", "words"), [(fill_the_disk, "disk is full"), (break_orbax, "RESOURCE_EXHAUSTED")]
)
def test_a_checkpoint_that_cannot_be_written_does_not_end_the_training(tmp_path, monkeypatch, spoil, words):
    scene = splax.make_demo_scene(num_train=4, num_test=1, width=32, height=24)

    def make_trainer() -> splax.Trainer:
        gaussians = splax.Gaussians.random(150, extent=scene.extent, center=scene.center, rngs=nnx.Rngs(0))
        return splax.Trainer(splax.SplatModel(gaussians), scene, splax.TrainConfig(steps=12, guard=False))

    trainer = make_trainer()
    checkpoints = splax.Checkpoints(tmp_path / "checkpoints", every=1e-6)
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match=f"cannot be written: .*{words}"):
        spoil(patch)
        trainer.fit(6, checkpoints=checkpoints)
    assert trainer.step == 6
    assert list(checkpoints.folder.glob("*")) == []  # nothing that takes room
    trainer.fit(checkpoints=checkpoints)
    assert checkpoints.steps()[-1] > 6
    other = make_trainer()
    other.resume(checkpoints)
    assert other.step == checkpoints.steps()[-1]


def test_scores_and_other_images_survive_an_image_that_cannot_be_written(data, tmp_path, monkeypatch, capsys):
    write_image, seen = RunFolder.write_image, []

    def fail_once(self, name, image):
        seen.append((self.path / "metrics.json").exists() and (self.path / "point_cloud.ply").exists())
        if len(seen) == 1:
            raise cv2.error("no room")
        write_image(self, name, image)

    monkeypatch.setattr(RunFolder, "write_image", fail_once)
    out = tmp_path / "run"
    assert run_with_warnings("train", data, "--out", out, "--test-every", 4, *FAST) == 0
    assert seen == [True, True]
    assert json.loads((out / "metrics.json").read_text())["views"] == 2
    assert [path.name for path in (out / "eval").iterdir()] == ["train_004.png"]
    assert "images of held-out views that could not be written: 1;" in capsys.readouterr().err


def test_a_log_and_a_loss_curve_that_cannot_be_written_are_warnings(data, tmp_path, capsys):
    (tmp_path / "run" / "train.log.jsonl").mkdir(parents=True)
    (tmp_path / "run" / "loss.png").mkdir()
    assert run_with_warnings("train", data, "--out", tmp_path / "run", "--test-every", 4, *FAST) == 0
    said = capsys.readouterr().err
    assert said.count("train.log.jsonl is a folder") == 1 and said.count("loss.png is a folder") == 1
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["steps"] == 20


def test_scores_that_cannot_be_written_are_said(data, tmp_path, capsys):
    (tmp_path / "run" / "metrics.json").mkdir(parents=True)
    assert run("train", data, "--out", tmp_path / "run", "--test-every", 4, "--overwrite", *FAST) == 2
    assert re.search(r"metrics\.json is a folder.* The scores were: .*PSNR \d", capsys.readouterr().err)


def test_a_folder_that_is_deleted_in_mid_run_is_made_again_with_its_settings(
    data, tmp_path, monkeypatch, capsys
):
    write_log, configs = RunFolder.write_log, []

    def delete_once(self, history):
        if not configs:
            configs.append((self.path / "config.json").read_bytes())
            shutil.rmtree(self.path)
        write_log(self, history)

    monkeypatch.setattr(RunFolder, "write_log", delete_once)
    out = tmp_path / "run"
    assert run_with_warnings("train", data, "--out", out, "--test-every", 4, *FAST) == 0
    assert {path.name for path in out.iterdir()} == FILES
    assert (out / "config.json").read_bytes() == configs[0]
    assert f"{out} was deleted while the run was writing to it" in capsys.readouterr().err


def test_a_folder_that_is_deleted_at_the_end_is_made_again_too(data, tmp_path, monkeypatch):
    write_gaussians = RunFolder.write_gaussians

    def delete(self, gaussians, **options):
        shutil.rmtree(self.path)
        write_gaussians(self, gaussians, **options)

    monkeypatch.setattr(RunFolder, "write_gaussians", delete)
    out = tmp_path / "run"
    assert run_with_warnings("train", data, "--out", out, "--test-every", 4, *FAST) == 0
    assert {path.name for path in out.iterdir()} == FILES - {"train.log.jsonl"}


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_convert_overwrite_keeps_the_permissions_of_the_file(tmp_path, mode):
    source, out = tmp_path / "a.ply", tmp_path / "b.ply"
    splax.save_ply(source, splax.Gaussians.random(5, rngs=nnx.Rngs(0)))
    out.touch()
    out.chmod(mode)
    assert run("convert", source, out, "--overwrite") == 0
    assert out.stat().st_mode & 0o777 == mode
    assert out.read_bytes()[:4] == b"ply\n"


# --- two runs, one folder --------------------------------------------------------------------------------


def hold(path: Path) -> subprocess.Popen:
    """A process that writes a run to the folder until it is killed."""
    program = (
        "import sys, pathlib, time\n"
        "from splax.cli.run_folder import RunFolder\n"
        "folder = RunFolder.create(pathlib.Path(sys.argv[1]), overwrite=True)\n"
        "folder.begin({'data': 'x', 'steps': 1})\n"
        "print('begun', flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


def test_a_folder_that_a_run_writes_to_is_refused_until_that_process_is_dead(data, tmp_path, capsys):
    out = tmp_path / "run"
    process = hold(out)
    try:
        for options in (["--out", out], ["--out", out, "--overwrite"]):
            assert run("train", data, *options, *FAST) == 2
            assert f"another process is writing a run to {out}; wait" in capsys.readouterr().err
        assert run("train", "--resume", out) == 2
        assert "another process is writing a run" in capsys.readouterr().err
    finally:
        process.kill()
        process.communicate()
    assert {path.name for path in out.iterdir()} == {"config.json"}
    assert run("train", data, "--out", out, "--test-every", 4, *FAST) == 0
    assert {path.name for path in out.iterdir()} == FILES


def test_a_run_that_another_one_overtook_does_not_replace_it(tmp_path):
    out = tmp_path / "run"
    with RunFolder.create(out, overwrite=False) as late:
        with RunFolder.create(out, overwrite=False) as first:
            first.begin({"data": "x", "steps": 1})
            with pytest.raises(ValueError, match="another process is writing"):
                late.begin({"data": "y", "steps": 1})
            first.write_metrics({"psnr": 30.0})
        with pytest.raises(ValueError, match="already holds a run"):
            late.begin({"data": "y", "steps": 1})
        assert late.read_metrics() == {"psnr": 30.0} and late.read_config()["data"] == "x"


@pytest.mark.parametrize("spoil", ["no module", "no locks"])
def test_without_locks_a_run_does_without(tmp_path, monkeypatch, spoil):
    def fail(*args):
        raise OSError("no locks available")

    if spoil == "no module":
        monkeypatch.setattr(folder_lock, "fcntl", None)
    else:
        monkeypatch.setattr(folder_lock.fcntl, "flock", fail)
    with RunFolder.create(tmp_path / "run", overwrite=False) as folder:
        folder.begin({"data": "x", "steps": 1})
        assert folder.read_config()["steps"] == 1


# --- names ---------------------------------------------------------------------------------------------


def test_held_out_views_of_any_name_have_scores_and_an_image_each(data, tmp_path):
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    transforms = json.loads((folder / "transforms.json").read_text())
    names = ["左.png", "右.png", "a/b.png", "a_b.png", "x.PNG", "d" * 150 + "/" + "e" * 150 + ".png"]
    for frame, name in zip(transforms["frames"], names, strict=False):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / frame["file_path"], folder / "images" / name)
        frame["file_path"] = f"images/{name}"
    transforms["test_filenames"] = [f"images/{name}" for name in names]
    (folder / "transforms.json").write_text(json.dumps(transforms))
    out = tmp_path / "run"
    assert run("train", folder, "--out", out, *FAST) == 0
    per_view = json.loads((out / "metrics.json").read_text())["per_view"]
    assert sorted(view["name"] for view in per_view) == sorted(names)
    assert all(view["psnr"] > 0 for view in per_view)
    for view in per_view:
        # The left third of an image is the photo.
        truth = decode(out / view["image"])[:, :32]
        np.testing.assert_array_equal(truth, decode(folder / "images" / view["name"]))


def decode(path: Path) -> np.ndarray:
    """The pixels of a file of any name, in OpenCV's order of channels."""
    image = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_an_opencv_that_cannot_be_loaded_is_said_with_its_cure(data, tmp_path):
    """As on a server without the libraries of a desktop."""
    (tmp_path / "cv2.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    command = [sys.executable, "-m", "splax.cli.main", "info", str(data)]
    run = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 2
    assert run.stderr.startswith("splax: error: OpenCV cannot be loaded: libGL.so.1")
    assert "pip install opencv-python-headless" in run.stderr and "apt install libgl1" in run.stderr
    assert "Traceback" not in run.stderr + run.stdout
