"""The command line, from arguments to files, exit status and the one line that says what is wrong."""

import dataclasses
import json
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import write_image, write_transforms
from test_colmap import write_dataset

import splax
from splax.cli import main as cli
from splax.cli import scenes
from splax.cli import setup as training_setup
from splax.cli.flat_options import unflatten
from splax.cli.image_names import ImageNames
from splax.cli.options import Training
from splax.cli.run_folder import RunFolder
from splax.cli.strategy import strategy_of
from splax.training.runtime import memory

WIDTH, HEIGHT, STEPS = 32, 24, 20
FAST = ["--steps", str(STEPS), "--num-gaussians", "150", "--sh-degree", "1", "--checkpoint-every", "0"]
FILES = {
    "contact_sheet.png",
    "config.json",
    "metrics.json",
    "point_cloud.ply",
    "eval",
    "loss.png",
    "train.log.jsonl",
}


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


@pytest.fixture(scope="module")
def demo_scene():
    return splax.make_demo_scene(num_train=8, num_test=1, width=WIDTH, height=HEIGHT)


@pytest.fixture(scope="module")
def data(demo_scene, tmp_path_factory) -> Path:
    """A transforms.json dataset of eight pictures."""
    return write_transforms(tmp_path_factory.mktemp("data"), demo_scene.train)


@pytest.fixture
def editable(data, tmp_path) -> Path:
    """A copy of the dataset to spoil."""
    return Path(shutil.copytree(data, tmp_path / "copy"))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run("train", data, "--out", out, "--test-every", 4, *FAST) == 0
    return out


@pytest.fixture
def run_copy(finished, tmp_path) -> Path:
    """A copy of the finished run to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def read_metrics(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- a run folder --------------------------------------------------------------------------------------


def test_a_run_folder_holds_all_files(finished):
    assert {path.name for path in finished.iterdir()} == FILES
    config = json.loads((finished / "config.json").read_text())
    assert config["steps"] == STEPS and config["test_every"] == 4 and Path(config["data"]).is_absolute()
    assert set(config["versions"]) >= {"splax", "jax", "flax", "optax", "numpy", "python"}


@pytest.mark.parametrize(("steps", "stop"), [(7000, 5000), (8001, 6001), (30, 0)])
def test_opacities_are_not_reset_in_the_last_steps(steps, stop):
    assert strategy_of(Training(steps=steps)) == splax.DefaultStrategy(reset_stop=stop)


@pytest.mark.parametrize(
    ("option", "transparent", "background"),
    [("auto", True, "random"), ("auto", False, None), ("scene", True, None), ("random", False, "random")],
)
def test_backgrounds_are_random_where_images_are_transparent(option, transparent, background, demo_scene):
    view = demo_scene.train[0]
    alpha = np.zeros(view.image.shape[:2], np.uint8) if transparent else None
    views = [view, dataclasses.replace(view, alpha=alpha)]
    assert (
        training_setup.config_of(unflatten(Training, {"background": option}), views).background == background
    )


def test_metrics_say_what_came_out(finished):
    metrics = read_metrics(finished)
    assert metrics["views"] == len(metrics["per_view"]) == 2
    assert metrics["steps"] == STEPS and metrics["num_gaussians"] == 150 and metrics["interrupted"] is False
    assert metrics["train_seconds"] > 0
    assert metrics["steps_per_second"] == pytest.approx(STEPS / metrics["train_seconds"])
    assert isinstance(metrics["device"], str) and metrics["versions"]["splax"] == splax.__version__
    assert [view["name"] for view in metrics["per_view"]] == ["train_000.png", "train_004.png"]
    for key in ("psnr", "ssim"):
        assert metrics[key] == pytest.approx(np.mean([view[key] for view in metrics["per_view"]]))
    assert 5 < metrics["psnr"] < 40 and -1 < metrics["ssim"] < 1


def test_pictures_show_truth_render_and_error(finished, demo_scene):
    assert {path.name for path in (finished / "eval").iterdir()} == {"train_000.png", "train_004.png"}
    picture = cv2.imread(str(finished / "eval" / "train_000.png"))
    assert picture is not None
    assert picture.shape[0] == HEIGHT and 3 * WIDTH <= picture.shape[1] < 4 * WIDTH
    np.testing.assert_array_equal(picture[:, :WIDTH, ::-1], demo_scene.train[0].image)
    assert cv2.imread(str(finished / "loss.png")) is not None


def test_the_splat_and_the_log_can_be_read(finished):
    assert splax.load_ply(finished / "point_cloud.ply").capacity == 150
    lines = [json.loads(line) for line in (finished / "train.log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    assert lines[-1]["step"] == STEPS
    assert {"loss", "psnr", "num_gaussians", "seconds", "steps_per_second"} <= set(lines[0])


def test_eval_gives_the_same_scores_again(run_copy, capsys):
    before = read_metrics(run_copy)
    shutil.rmtree(run_copy / "eval")
    assert run("eval", run_copy) == 0
    after = read_metrics(run_copy)
    assert f"{after['psnr']:.2f} dB" in capsys.readouterr().out
    for key in ("psnr", "ssim"):
        assert after[key] == pytest.approx(before[key], abs=1e-4)
    assert {**after, "psnr": 0, "ssim": 0, "per_view": 0} == {**before, "psnr": 0, "ssim": 0, "per_view": 0}
    assert len(list((run_copy / "eval").iterdir())) == 2


def test_eval_does_not_need_the_metrics(run_copy):
    expected = read_metrics(run_copy)["psnr"]
    (run_copy / "metrics.json").unlink()
    assert run("eval", run_copy) == 0
    assert read_metrics(run_copy)["psnr"] == pytest.approx(expected, abs=1e-4)


def test_render_writes_test_views_an_orbit_and_a_film(finished, tmp_path, capsys):
    assert run("render", finished, "--out", tmp_path / "new" / "pictures", "--frames", 3) == 0
    folder = tmp_path / "new" / "pictures"
    assert {path.name for path in (folder / "test").iterdir()} == {"train_000.png", "train_004.png"}
    assert {path.name for path in (folder / "orbit").iterdir()} == {"0000.png", "0001.png", "0002.png"}
    for path in folder.glob("*/*.png"):
        picture = cv2.imread(str(path))
        assert picture is not None and picture.shape == (HEIGHT, WIDTH, 3)
    output = capsys.readouterr().out
    assert (folder / "orbit.mp4").is_file() == ("Film:" in output) != ("No film:" in output)


def test_places_have_defaults_that_are_said(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "data-2", "data-3"):
        folder = Path(shutil.copytree(data, tmp_path / "data", dirs_exist_ok=True))
        assert run("train", folder / "images" if name == "data-2" else folder, *FAST) == 0
        output = capsys.readouterr().out
        assert output.startswith(f"Run folder: runs/{name}\n")
        for place in ("Splat: {}/point_cloud.ply", "Scores: {}/metrics.json", "splax render {}"):
            assert place.format(f"runs/{name}") in output
    assert run("train", folder, "--overwrite", *FAST) == 0
    assert capsys.readouterr().out.startswith("Run folder: runs/data\n")
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"data", "data-2", "data-3"}
    assert run("render", "runs/data", "--frames", 2) == 0
    assert len(list((tmp_path / "runs" / "data" / "render").glob("*/*.png"))) == 3
    assert run("train", folder, "--overwrite", *FAST) == 0
    assert not list((tmp_path / "runs" / "data" / "render").glob("*/*.png"))


def test_info_prints_what_is_there(data, capsys):
    assert run("info", data, "--downscale", 2) == 0
    output = capsys.readouterr().out
    assert "8: 7 train, 1 test" in output and "16 x 12 pixels" in output and "extent" in output


def test_info_prints_format_points_masks_and_depth(tmp_path, capsys):
    root = write_dataset(tmp_path / "colmap")
    write_image(root / "masks" / "a.png", np.full((48, 64), 255, np.uint8))
    assert run("info", root, "--dataset-type", "colmap") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "format    colmap" in lines and "points    2, with colours" in lines and "depth     none" in lines
    assert "masks     1 of 2 views; they leave 100.0% of the pixels" in lines
    assert_refused(run("info", root, "--dataset-type", "llff"), capsys, "poses_bounds.npy", "type 'colmap'")


def test_demo_needs_no_data(monkeypatch, tmp_path, demo_scene, capsys):
    monkeypatch.setattr(scenes, "make_demo_scene", lambda: demo_scene)
    assert run("demo", "--out", tmp_path / "demo", *FAST) == 0
    assert "PSNR" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "demo").iterdir()} == FILES
    # An earlier demo is replaced, and knows its scene.
    stale = tmp_path / "demo" / "eval" / "stale.png"
    stale.touch()
    assert run("demo", "--out", tmp_path / "demo", *FAST) == 0
    assert not stale.exists()
    assert run("eval", tmp_path / "demo") == 0


def test_demo_replaces_no_other_run(run_copy, capsys):
    assert_refused(run("demo", "--out", run_copy), capsys, "already holds a run", "another folder")
    assert {path.name for path in run_copy.iterdir()} == FILES


def test_overwrite_replaces_a_run(data, run_copy, capsys):
    assert_refused(run("train", data, "--out", run_copy, *FAST), capsys, "already holds a run", "--overwrite")
    assert read_metrics(run_copy)["views"] == 2
    assert run("train", data, "--out", run_copy, "--test-every", 4, "--overwrite", *FAST) == 0
    assert {path.name for path in run_copy.iterdir()} == FILES


def test_no_view_held_out(data, tmp_path, capsys):
    assert run("train", data, "--out", tmp_path / "run", "--test-every", 0, *FAST) == 0
    assert "No view was held out" in capsys.readouterr().out
    metrics = read_metrics(tmp_path / "run")
    assert (metrics["views"], metrics["psnr"], metrics["per_view"]) == (0, None, [])


def test_ctrl_c_writes_what_is_trained_so_far(data, tmp_path, monkeypatch, capsys):
    write_log = RunFolder.write_log

    def interrupt(self, history):
        write_log(self, history)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunFolder, "write_log", interrupt)
    out = tmp_path / "run"
    assert run("train", data, "--out", out, "--test-every", 4, *FAST) == 130
    assert "Interrupted after 1 steps" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == FILES
    metrics = read_metrics(out)
    assert metrics["steps"] == 1 and metrics["interrupted"] is True
    assert run("eval", out) == 0


def test_nan_writes_what_is_good(data, tmp_path, monkeypatch, capsys):
    def stop(self, history):
        raise splax.NonFiniteError("loss or gradient not finite at step 1, view 'x'.")

    monkeypatch.setattr(RunFolder, "write_log", stop)
    out = tmp_path / "run"
    assert run("train", data, "--out", out, "--test-every", 4, *FAST) == 1
    error = capsys.readouterr().err
    assert (
        error.startswith("splax: error: loss or gradient not finite at step 1") and "Traceback" not in error
    )
    assert (out / "point_cloud.ply").is_file() and read_metrics(out)["steps"] == 1


def test_convert_goes_by_the_names(finished, tmp_path, capsys):
    ply, spz = finished / "point_cloud.ply", tmp_path / "new" / "a.spz"
    assert run("convert", ply, spz) == 0
    output = capsys.readouterr().out
    assert "150 Gaussians of SH degree 1" in output and str(spz) in output and "MB" in output
    assert splax.load_splats(spz).capacity == 150
    assert_refused(run("convert", ply, spz), capsys, "exists already", "--overwrite")
    before = spz.read_bytes()
    assert run("convert", ply, spz, "--overwrite", "--spz-version", 2) == 0
    assert spz.read_bytes() != before
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run("convert", spz, tmp_path / "a.splat") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("splax: warning: ") and "SH degree 1) was left out" in line
    assert (tmp_path / "a.splat").stat().st_size == 150 * 32


# --- bad input -----------------------------------------------------------------------------------------


def assert_refused(status: int, capsys, *words: str) -> None:
    """Exit status 2 and one line on standard error that holds these words."""
    captured = capsys.readouterr()
    assert status == 2, captured
    (line,) = captured.err.splitlines()
    assert line.startswith("splax: error: ")
    assert "Traceback" not in captured.err + captured.out
    for word in words:
        assert word in line, line


def set_pose(folder: Path, pose: object) -> None:
    path = folder / "transforms.json"
    meta = json.loads(path.read_text())
    meta["frames"][2]["transform_matrix"] = pose
    path.write_text(json.dumps(meta))


def drop_matrix(folder: Path) -> None:
    path = folder / "transforms.json"
    meta = json.loads(path.read_text())
    del meta["frames"][2]["transform_matrix"]
    path.write_text(json.dumps(meta))


def enlarge_one(folder: Path) -> None:
    assert cv2.imwrite(str(folder / "images" / "train_003.png"), np.zeros((HEIGHT, 2 * WIDTH, 3), np.uint8))


def remove_images(folder: Path) -> None:
    shutil.rmtree(folder / "images")


def corrupt_all(folder: Path) -> None:
    for path in (folder / "images").iterdir():
        path.write_bytes(path.read_bytes()[:60])


SPOILED = {
    "no json": (lambda f: (f / "transforms.json").unlink(), ["Looked for transforms: transforms.json"]),
    "malformed json": (lambda f: (f / "transforms.json").write_text('{"frames": [}'), ["not valid json"]),
    "not an object": (lambda f: (f / "transforms.json").write_text("[]"), ["json object"]),
    "no frames": (lambda f: (f / "transforms.json").write_text("{}"), ["'frames' must be a list"]),
    "no matrix": (drop_matrix, ["frame 2", "transform_matrix"]),
    "scaled pose": (lambda f: set_pose(f, (2 * np.eye(4)).tolist()), ["frame 2", "must be a rotation"]),
    "NaN pose": (lambda f: set_pose(f, np.full((4, 4), np.nan).tolist()), ["frame 2", "NaN"]),
    "mixed sizes": (enlarge_one, ["frame 3", "64 x 24", "another shape"]),
    "no image": (remove_images, ["none of its 8 frames has a usable image"]),
    "corrupt images": (corrupt_all, ["none of its 8 frames", "damaged"]),
}


@pytest.mark.parametrize("case", SPOILED)
def test_bad_data_is_refused_in_one_line(editable, tmp_path, capsys, case):
    spoil, words = SPOILED[case]
    spoil(editable)
    out = tmp_path / "run"
    assert_refused(run("train", editable, "--out", out, *FAST), capsys, *words)
    assert not out.exists()
    assert_refused(run("info", editable), capsys, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--downscale", 100], ["downscale 100", "32 x 24"]),
        (["--downscale", 0.5], ["downscale", "0.5"]),
        (["--downscale", "nan"], ["downscale", "nan"]),
        (["--test-every", 1], ["test_every", "1"]),
        (["--steps", 0], ["steps must be at least 1", "0"]),
        (["--num-gaussians", 0], ["num", "0"]),
        (["--max-gaussians", 0], ["--max-gaussians", "0"]),
        (["--sh-degree", 4], ["sh_degree", "4"]),
        (["--tile-size", 0], ["tile_size", "0"]),
        (["--seed", -1], ["seed", "-1"]),
    ],
)
def test_bad_options_are_refused_in_one_line(data, tmp_path, capsys, options, words):
    out = tmp_path / "run"
    assert_refused(run("train", data, "--out", out, *options), capsys, *words, options[0])
    assert not out.exists()


def test_what_is_out_of_range_is_said_before_the_start_is_looked_for(data, tmp_path, capsys):
    for name, value in (("--steps", 0), ("--sh-degree", 4), ("--tile-size", 0), ("--max-gaussians", 0)):
        assert run("train", data, "--out", tmp_path / "run", name, value) == 2
        assert "Looking for a start" not in capsys.readouterr().out


def test_too_little_memory_is_said_before_the_first_step(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 1000)
    status = run("train", data, "--out", tmp_path / "run", *FAST)
    assert_refused(status, capsys, "150 Gaussians", "device has 0 MB", "would fit")


def test_photos_that_moved_are_found_where_the_user_says(run_copy, data, tmp_path, capsys):
    before = read_metrics(run_copy)
    config = json.loads((run_copy / "config.json").read_text())
    (run_copy / "config.json").write_text(json.dumps(config | {"data": str(tmp_path / "gone")}))
    for command in ("eval", run_copy), ("render", run_copy, "--out", tmp_path / "pictures"):
        assert_refused(run(*command), capsys, str(tmp_path / "gone"), "--data")
    assert run("eval", run_copy, "--data", data) == 0
    assert read_metrics(run_copy)["psnr"] == before["psnr"]


def test_bad_folders_are_refused_in_one_line(data, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert_refused(run("train", tmp_path / "none", "--out", tmp_path / "run"), capsys, "No such folder")
    assert_refused(run("train", file, "--out", tmp_path / "run"), capsys, "not a dataset")
    assert_refused(run("train", data, "--out", file, *FAST), capsys, f"--out {file} is a file")
    assert_refused(run("train", data, "--out", file / "run", *FAST), capsys, "cannot be written")
    assert_refused(run("demo", "--out", file), capsys, "is a file")
    assert_refused(run("eval", tmp_path / "none"), capsys, "no such folder")
    assert_refused(run("eval", data), capsys, "not a finished run", "config.json")


def test_render_refuses_a_file_and_no_frames(finished, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert_refused(run("render", finished, "--out", file), capsys, "is a file")
    assert_refused(run("render", finished, "--out", tmp_path / "new", "--frames", 0), capsys, "num=0")
    assert_refused(run("render", finished, "--out", tmp_path / "new", "--fps", 0), capsys, "fps", "0")
    assert not (tmp_path / "new").exists()


def test_convert_refuses_in_one_line(finished, tmp_path, capsys, monkeypatch):
    ply, out = finished / "point_cloud.ply", tmp_path / "a.spz"
    (tmp_path / "half.ply").write_bytes(ply.read_bytes()[:-100])
    (tmp_path / "text.ply").write_text("hello")
    (tmp_path / "empty.splat").touch()
    for source, word in [
        (tmp_path / "none.ply", "none.ply cannot be read: No such file"),
        (tmp_path / "half.ply", "half.ply is truncated"),
        (tmp_path / "text.ply", "text.ply is not a PLY"),
        (tmp_path / "empty.splat", "holds no Gaussians"),
        (tmp_path, "without meta.json"),
        (finished / "config.json", "of no known kind"),
    ]:
        assert_refused(run("convert", source, out), capsys, word)
    assert_refused(
        run("convert", ply, tmp_path / "a.sog"), capsys, "a.sog cannot be written", ".compressed.ply"
    )
    assert_refused(run("convert", ply, ply / "a.spz"), capsys, "is not a folder")
    assert_refused(run("convert", ply, out, "--spz-version", 9), capsys, "versions 2, 3 and 4, got 9")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert_refused(run("convert", ply, out, "--spz-version", 4), capsys, "pip install zstandard")
    assert not out.exists()


DAMAGE = {
    "malformed config": (lambda f: (f / "config.json").write_text("{"), ["config.json", "not valid json"]),
    "config of no scene": (lambda f: (f / "config.json").write_text("{}"), ["config.json", "'data'"]),
    "config of wrong type": (lambda f: edit_json(f / "config.json", downscale="2"), ["'downscale'", "'2'"]),
    "config of true": (lambda f: edit_json(f / "config.json", test_every=True), ["'test_every'", "True"]),
    "data moved away": (
        lambda f: edit_json(f / "config.json", data="/no/where"),
        ["which is not there any more", "where"],
    ),
    "malformed metrics": (lambda f: (f / "metrics.json").write_text("nope"), ["metrics.json", "json"]),
    "no splat": (lambda f: (f / "point_cloud.ply").unlink(), ["not a finished run", "point_cloud.ply"]),
    "no ply": (lambda f: (f / "point_cloud.ply").write_text("hello"), ["point_cloud.ply"]),
    "half a ply": (
        lambda f: (f / "point_cloud.ply").write_bytes((f / "point_cloud.ply").read_bytes()[:-100]),
        ["point_cloud.ply"],
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_run_is_refused_in_one_line(run_copy, capsys, case):
    damage, words = DAMAGE[case]
    damage(run_copy)
    assert_refused(run("eval", run_copy), capsys, *words)


def test_left_out_frames_are_a_warning(editable, tmp_path, capsys):
    (editable / "images" / "train_003.png").unlink()
    (editable / "images" / "train_005.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="2 of 8 frames left out"):
        splax.load_dataset(editable)
    result = subprocess.run(
        [sys.executable, "-m", "splax.cli.main", "info", str(editable)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("splax: warning: ") and "2 of 8 frames left out" in line
    assert "train_003.png" in line and "train_005.png" in line
    assert "6: 5 train, 1 test" in result.stdout


# --- the parser ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["train", "x", "--out", "y", "--stepz", "3"], "--stepz"),
        (["train"], "DATA"),
        (["process", "x"], "--out"),
        (["train", "x", "--out", "y", "--steps", "many"], "many"),
        (["fly"], "fly"),
        ([], "train"),
    ],
)
def test_the_parser_exits_with_2(arguments, word, capsys):
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert word in captured.err and captured.out == "" and "Traceback" not in captured.err


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["convert", "--help"]])
def test_help_is_quick_and_does_without_jax(arguments):
    code = (
        "import sys; from splax.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print('jax' in sys.modules, 'numpy' in sys.modules, file=sys.stderr)"
    )

    def processor_seconds():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def seconds_of_help():
        before = processor_seconds()
        command = [sys.executable, "-c", code, *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        assert result.stderr.split() == ["False", "False"]
        assert "splax" in result.stdout
        return processor_seconds() - before

    # Not wall time, and the least of three: the machine may be busy, and Python compiles what it imports first.
    assert min(seconds_of_help() for _ in range(3)) < 1.0


def test_every_option_is_explained(capsys):
    assert run("train", "--help") == 0
    help_text = capsys.readouterr().out
    for option in ("--out", "--downscale", "--steps", "--num-gaussians", "--sh-degree", "--seed"):
        assert option in help_text
    assert "--white-background" in help_text


# --- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "picture"),
    [
        ("0001.jpg", "0001.png"),
        ("left/0001.PNG", "left_0001.png"),
        ("../../etc/passwd", "_.._etc_passwd.png"),
        (".hidden", "hidden.png"),
        ("a b\nc.jpeg", "a_b_c.png"),
        ("v1.5", "v1.5.png"),
        ("links/größe 左.JPG", "links_größe_左.png"),
        ("e\u0301.png", "\u00e9.png"),
        ("bytes\udcff.png", "bytes_.png"),
        ("/", "_.png"),
        ("d" * 120 + "/" + "左" * 140 + ".png", "d" * 120 + "_" + "左" * 40 + ".png"),
    ],
)
def test_image_names_stay_in_their_folder(view, picture):
    assert ImageNames().take(view) == picture
    assert len(picture.encode()) <= 255


@pytest.mark.parametrize(
    "views",
    [
        ("左.png", "右.png", "\udcfe.png", "\udcff.png"),
        ("a/b.png", "a_b.png", "a b.png"),
        ("x.png", "x.jpg", "X.PNG", "x-2.png", "x.png"),
        ("\u00e9.png", "e\u0301.png"),
        ("d" * 300 + "1.png", "d" * 300 + "2.png"),
    ],
)
def test_no_two_views_share_a_file(views):
    names = ImageNames()
    assert len({names.take(view).casefold() for view in views}) == len(views)


@pytest.mark.slow
def test_a_run_with_all_recipe_options_scores_the_same_again(tmp_path):
    scene = splax.make_demo_scene(num_train=8, num_test=1, width=WIDTH, height=HEIGHT)
    data = write_transforms(tmp_path / "data", scene.train)
    flags = ["--exposure", "--bilateral-grid", "--refine-poses", "--refine-intrinsics", "--antialiased"]
    flags += ["--opacity-weight", "0.01", "--scale-weight", "0.01", "--stretch-weight", "0.1"]
    flags += ["--halvings", "1", "--halvings-every", "5", "--batch-size", "2", "--lpips", "vgg"]
    out = tmp_path / "run"
    assert run("train", data, "--out", out, *FAST, "--eval-every", "10", "--tensorboard", *flags) == 0
    before = json.loads((out / "metrics.json").read_text())
    assert before["lpips_vgg"] > 0 and "VGG16" in before["protocol"]["lpips_vgg"]
    assert before["psnr_color_corrected"] > 0 and "affine" in before["protocol"]["color_corrected"]
    assert {path.stem for path in (out / "corrections").iterdir()} == {
        "exposure",
        "bilateral_grid",
        "poses",
        "intrinsics",
        "cameras",
    }
    assert (np.load(out / "corrections" / "intrinsics.npy") != 0).any()
    steps = [json.loads(line)["step"] for line in (out / "scores.jsonl").read_text().splitlines()]
    assert steps == [10, 20]
    assert any((out / "events").iterdir())
    assert run("eval", out, "--lpips", "vgg") == 0
    after = json.loads((out / "metrics.json").read_text())
    for name in ("psnr", "ssim", "lpips_vgg", "psnr_color_corrected", "ssim_color_corrected"):
        assert after[name] == pytest.approx(before[name], rel=1e-4)
    (out / "corrections" / "intrinsics.npy").write_bytes(b"damaged")
    assert run("eval", out) == 2
