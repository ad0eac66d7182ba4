"""The table of quality on a CPU: rows of a shared folder, means over seeds, disturbances, and whole runs."""

import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from splax.cameras import Camera
from splax.cli.flat_options import replace, unflatten
from splax.rasterizer import TileRasterizer
from splax.scene import Scene, View

TINY = "--init random --num-gaussians 40 --strategy none"


@pytest.fixture
def quality(import_benchmark, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return import_benchmark("quality")


@pytest.fixture
def rows_module(import_benchmark) -> types.ModuleType:
    return import_benchmark("quality_rows")


@pytest.fixture
def tables(import_benchmark) -> types.ModuleType:
    return import_benchmark("quality_table")


@pytest.fixture
def disturbances(import_benchmark) -> types.ModuleType:
    return import_benchmark("disturbances")


@pytest.fixture
def pose_errors(import_benchmark) -> types.ModuleType:
    return import_benchmark("pose_error")


@pytest.fixture
def scene() -> Scene:
    rng = np.random.default_rng(0)
    views = []
    for index, position in enumerate(rng.normal(size=(9, 3))):
        camera = Camera.look_at(5 * position, (0, 0, 0), fov_x=0.8, width=24, height=20)
        views.append(View(rng.integers(20, 256, (20, 24, 3), np.uint8), camera, f"{index}.jpg"))
    return Scene(views[1:], views[:1])


def as_row(seed: int, **values):
    return {"data": "fox", "options": "", "steps": 7000, "seed": seed, **values}


# --- rows ------------------------------------------------------------------------------------------------------


def test_rows_are_made_once_and_failures_again_only_when_asked(quality, monkeypatch, tmp_path, capsys):
    runs, fails = [], True

    def run(key, cache, curve_every):
        runs.append(key)
        if key.seed == 1 and fails:
            raise ValueError("not finite\nat step 3")
        return {"psnr": 20.0 + key.seed, "num_gaussians": np.int64(7)}

    monkeypatch.setattr(quality, "_run", run)
    options = quality.Options(tmp_path, data=("fox/",), steps=(9,), seeds=(0, 1), options=("", "--exposure"))
    table = quality.main(options)
    assert [(key.data, key.options, key.seed) for key in runs] == [
        ("fox", "", 0), ("fox", "--exposure", 0), ("fox", "", 1), ("fox", "--exposure", 1)
    ]  # fmt: skip
    assert "| fox | defaults | 9 | 1 (1 failed) | 20.00 |" in table
    assert "- failed: fox, `--exposure`, 9 steps, seed 1: ValueError: not finite at step 3" in table

    quality.main(options)
    assert len(runs) == 4
    fails = False
    table = quality.main(dataclasses.replace(options, retry=True))
    assert len(runs) == 6
    assert "failed" not in table
    assert "20.50 ± 0.50" in table
    assert not list(tmp_path.glob("*.claim"))
    stored = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert all(row["num_gaussians"] == 7 for row in stored)
    capsys.readouterr()
    assert quality.main(quality.Options(tmp_path, table=True, options=("",))).count("| fox |") == 1


def test_a_row_that_another_process_makes_is_left_to_it(quality, rows_module, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(quality, "_run", lambda *_: pytest.fail("it is claimed"))
    key = rows_module.Key("fox", "", 7000, 0)
    with rows_module.Rows(tmp_path).claim(key) as mine:
        assert mine
        assert "No row" in quality.main(quality.Options(tmp_path, data=("fox",)))
    assert f"remove {key.file_name}.claim" in capsys.readouterr().err


def test_a_claim_counts_while_its_process_lives(rows_module, tmp_path):
    rows, key = rows_module.Rows(tmp_path), rows_module.Key("fox", "--exposure", 7000, 0)
    path = tmp_path / f"{key.file_name}.claim"
    with rows.claim(key) as mine, rows.claim(key) as second:
        assert (mine, second) == (True, False)
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    claim = {"host": rows_module.socket.gethostname(), "pid": gone.pid}
    for held, text in (
        (False, json.dumps(claim)),
        (True, json.dumps(claim | {"host": "another"})),
        (True, ""),  # created, not yet written
    ):
        path.write_text(text)
        with rows.claim(key) as mine:
            assert mine is not held
        assert path.exists() is held


def test_no_row_begins_after_the_time_is_up(quality, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(quality, "_run", lambda *_: {"psnr": 20.0})
    clock = iter([0.0, 1.0, 5.0])
    monkeypatch.setattr(quality.time, "monotonic", lambda: next(clock))
    table = quality.main(quality.Options(tmp_path, data=("fox",), seeds=(0, 1, 2), seconds=4.0))
    assert "| fox | defaults | 7,000 | 1 | 20.00 |" in table
    assert "the same command goes on" in capsys.readouterr().err


def test_names_of_files_are_safe_and_differ(rows_module):
    texts = ("a/b", "a b", "a:b", "--init ../x", "x" * 300, "x" * 301)
    names = [rows_module.Key("data/fox@2+gains", text, 9, 0).file_name for text in texts]
    assert len(set(names)) == len(texts)
    assert all(set(name) <= set(map(chr, range(45, 123))) - set("/:;<=>?@") for name in names)
    assert max(map(len, names)) < 150


def test_damaged_rows_are_named(rows_module, tmp_path):
    (tmp_path / "x.json").write_text('{"data": "fox"')
    with pytest.raises(ValueError, match=r"x\.json is damaged .* Remove it"):
        rows_module.Rows(tmp_path).read()


# --- what is asked for -----------------------------------------------------------------------------------------


def test_options_of_splax_train_are_values(quality, import_benchmark):
    arguments = [
        "rows",
        "--data",
        "fox",
        "--options",
        "",
        "--exposure",
        "--strategy mcmc",
        "--steps=3",
        "--compare",
        "",
    ]
    options = quality.tyro.cli(quality.Options, args=quality._protected(arguments))
    assert [text.strip() for text in options.options] == ["", "--exposure", "--strategy mcmc"]
    assert (options.steps, options.compare) == ((3,), "")
    assert [key.options for key in quality._keys(options)] == ["", "--exposure", "--strategy mcmc"]
    assert quality.parse_options("--strategy mcmc --exposure").strategy == "mcmc"


@pytest.mark.parametrize(
    ("text", "message"),
    [("--exposre", "see `splax train --help`"), ("--steps 9", "sets steps"), ("data/fox", "sets data")],
)
def test_options_that_are_none_are_refused(quality, text, message):
    with pytest.raises(ValueError, match=message):
        quality.parse_options(text)


def test_options_out_of_range_are_found_before_anything_runs(quality, monkeypatch, tmp_path):
    monkeypatch.setattr(quality, "_run", lambda *_: pytest.fail("it should not run"))
    with pytest.raises(ValueError, match="--max-gaussians must be 1 or more, got 0"):
        quality.main(quality.Options(tmp_path, data=("fox",), options=("", "--max-gaussians 0")))


def test_data_is_named_by_path_size_and_disturbances(import_benchmark):
    parse = import_benchmark("quality_data").DataSet.parse
    data = parse("data/fox/@2.0+poses+gains")
    assert data == ("data/fox", 2.0, ("gains", "poses"))
    assert str(data) == "data/fox@2+gains+poses"
    assert str(parse("data/fox@1")) == "data/fox"
    for text in ("", "fox@", "fox@x", "fox+blur", "fox+gains+gains"):
        with pytest.raises(ValueError, match="gains, poses"):
            parse(text)


def test_nothing_to_train_on_is_refused(quality, tmp_path):
    with pytest.raises(ValueError, match="--data PATH"):
        quality.main(quality.Options(tmp_path))


# --- the table -------------------------------------------------------------------------------------------------


def test_means_and_errors_are_those_of_statistics(tables):
    first, second = [26.1, 26.4, 26.2], [26.9, 26.5, 27.2, 26.6]
    rows = [
        as_row(i, psnr=p, ssim=0.5, cc_psnr=30.0 + i, num_gaussians=1000 + i) for i, p in enumerate(first)
    ]
    rows += [
        as_row(i, psnr=p, psnr_color_corrected=31.0) | {"options": "--exposure"} for i, p in enumerate(second)
    ]
    header, _, plain, exposure = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in tables.format_table(rows, "", rows).splitlines()
    )
    errors = [statistics.stdev(values) / math.sqrt(len(values)) for values in (first, second)]
    np.testing.assert_allclose(errors[0], np.std(first, ddof=1) / np.sqrt(3))
    line = dict(zip(header, exposure, strict=True))
    assert line["PSNR, dB"] == f"{np.mean(second):.2f} ± {errors[1]:.2f}"
    assert (
        line["PSNR against defaults"]
        == f"+{np.mean(second) - np.mean(first):.2f} ± {math.hypot(*errors):.2f}"
    )
    assert (line["seeds"], line["SSIM"], line["PSNR, colours corrected"]) == ("4", "-", "31.00")
    line = dict(zip(header, plain, strict=True))
    assert line["PSNR, dB"] == f"{np.mean(first):.2f} ± {errors[0]:.2f}"
    assert line["PSNR against defaults"] == "-"
    assert (line["SSIM"], line["PSNR, colours corrected"], line["Gaussians"]) == ("0.5000", "31.00", "1,001")
    assert "poses off, degrees" not in header


def test_one_seed_has_no_error_and_no_view_no_score(tables):
    assert "| 1 | 26.00 | - |" in tables.format_table([as_row(0, psnr=26.0)])
    assert "| 1 | - | - |" in tables.format_table([as_row(0, psnr=None)])
    assert tables.Mean.of([26.0]).minus(tables.Mean.of([25.0, 25.5])) == (0.75, None)


# --- disturbances ----------------------------------------------------------------------------------------------


def test_gains_multiply_every_photo(disturbances, scene):
    changed = disturbances.disturb_gains(scene)
    gains = []
    for before, after in zip([*scene.train, *scene.test], [*changed.train, *changed.test], strict=True):
        open_ = after.image < 255
        gains.append(np.polyfit(before.image[open_].astype(float), after.image[open_].astype(float), 1)[0])
        expected = np.minimum(before.image * gains[-1], 255)
        np.testing.assert_allclose(after.image, expected, atol=1.5)
        assert after.camera is before.camera
    assert 0.59 < min(gains) < max(gains) < 1.41
    assert np.ptp(gains) > 0.2
    again = disturbances.disturb_gains(scene)
    np.testing.assert_array_equal(again.test[0].image, changed.test[0].image)


def test_poses_are_off_by_one_degree_and_two_percent(disturbances, scene):
    changed = disturbances.disturb_poses(scene)
    directions = []
    for before, after in zip(scene.train, changed.train, strict=True):
        turn = Rotation.from_matrix(np.asarray(after.camera.viewmat)[:3, :3]) * (
            Rotation.from_matrix(np.asarray(before.camera.viewmat)[:3, :3]).inv()
        )
        assert np.degrees(turn.magnitude()) == pytest.approx(1, rel=1e-3)
        moved = np.asarray(after.camera.position) - np.asarray(before.camera.position)
        assert np.linalg.norm(moved) == pytest.approx(0.02 * scene.extent, rel=1e-3)
        directions.append(moved)
    assert np.linalg.matrix_rank(directions) == 3
    assert changed.test[0].camera is scene.test[0].camera


def test_a_similarity_of_all_cameras_is_no_error(pose_errors, scene):
    truth = [view.camera for view in scene.train]
    whole = Rotation.from_rotvec([0.3, -1.0, 0.5]).as_matrix()
    moved = [_moved(camera, whole, 2.5, (3, -1, 4)) for camera in truth]
    error = pose_errors.pose_error(moved, truth)
    assert error.degrees < 0.01
    assert error.distance < 1e-4

    # Turned where they stand, each by 3 degrees: the centres say that none of it is common to all.
    axes = np.random.default_rng(1).normal(size=(len(truth), 3))
    turns = Rotation.from_rotvec(np.radians(3) * axes / np.linalg.norm(axes, axis=1, keepdims=True))
    turned = []
    for camera, turn in zip(truth, turns, strict=True):
        pose = np.linalg.inv(np.asarray(camera.viewmat, np.float64))
        pose[:3, :3] = turn.as_matrix() @ pose[:3, :3]
        turned.append(dataclasses.replace(camera, viewmat=jnp.asarray(np.linalg.inv(pose), jnp.float32)))
    error = pose_errors.pose_error(turned, truth)
    assert error.degrees == pytest.approx(3, rel=1e-3)
    assert error.distance < 1e-4


def test_the_best_similarity_has_the_rotation_of_scipy(pose_errors):
    rng = np.random.default_rng(0)
    source, noise = rng.normal(size=(2, 7, 3))
    for target in (noise, source * (1, 1, -1) + 0.1 * noise):  # the second prefers a reflection
        scale, rotation, translation = pose_errors.best_similarity(source, target)
        around, wanted = source - source.mean(0), target - target.mean(0)
        expected = Rotation.align_vectors(wanted, around)[0].as_matrix()
        np.testing.assert_allclose(rotation, expected, atol=1e-7)
        # With the rotation known the rest is a linear problem.
        turned = source @ rotation.T
        system = np.concatenate([turned.reshape(-1, 1), np.tile(np.eye(3), (7, 1))], axis=1)
        solution = np.linalg.lstsq(system, target.ravel())[0]
        np.testing.assert_allclose([scale, *translation], solution, atol=1e-9)


def _moved(camera: Camera, rotation: np.ndarray, scale: float, shift: tuple[float, ...]) -> Camera:
    """The camera in a world that was turned, scaled and shifted."""
    pose = np.linalg.inv(np.asarray(camera.viewmat, np.float64))
    pose[:3, :3] = rotation @ pose[:3, :3]
    pose[:3, 3] = scale * rotation @ pose[:3, 3] + shift
    return dataclasses.replace(camera, viewmat=jnp.asarray(np.linalg.inv(pose), jnp.float32))


# --- from end to end -------------------------------------------------------------------------------------------


def test_the_forward_facing_set(import_benchmark):
    forward = import_benchmark("forward_facing")
    scene = forward.make_forward_scene(9, 32, 24)
    assert [view.name for view in scene.test] == ["0000", "0008"]
    assert [view.name for view in scene.train] == [f"{index:04d}" for index in range(1, 8)]
    positions = np.array([view.camera.position for view in (*scene.train, *scene.test)])
    apart = np.linalg.norm(positions[:, None] - positions, axis=-1)
    assert apart.max() < 4  # the back wall is at 20
    assert apart[~np.eye(9, dtype=bool)].min() > 0.1
    grey = np.full((2, 2, 3), 128, np.uint8)
    assert (forward.expose(grey, np.ones(3)) == grey).all()
    twice = (forward.expose(grey, np.full(3, 0.5))[0, 0] / 128.0) ** 2.2
    np.testing.assert_allclose(twice, 0.5, rtol=0.02)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        forward.make_forward_scene(1)


def test_a_run_becomes_a_row(quality, import_benchmark, monkeypatch, tmp_path):
    data = import_benchmark("quality_data")
    forward = data.make_forward_scene
    monkeypatch.setattr(data, "make_forward_scene", lambda **size: forward(9, **size))
    options = f"{TINY} --sh-degree 0 --refine-poses --exposure"
    table = quality.main(
        quality.Options(tmp_path, ("forward@15+poses",), (options,), steps=(4,), seeds=(3,), curve_every=2)
    )
    assert "failed" not in table
    (path,) = tmp_path.glob("*.json")
    row = json.loads(path.read_text())
    assert (row["data"], row["options"], row["steps"], row["seed"]) == ("forward@15+poses", options, 4, 3)
    assert 3 < row["psnr"] < 30
    assert 3 < row["train_psnr"] < 30
    assert [point["step"] for point in row["curve"]] == [2, 4]
    assert row["curve"][-1]["psnr"] == pytest.approx(row["psnr"])
    assert row["curve"][-1]["train_psnr"] == row["train_psnr"]
    assert row["num_gaussians"] == row["start"]["num"] == 40
    assert 0.5 < row["pose_degrees"] < 2
    assert 0.005 < row["pose_extents"] < 0.03
    assert row["seconds"] > 0
    assert f"| 4 | 1 | {row['psnr']:.2f} | {row['ssim']:.4f} |" in table
    kept = sorted(path.name.rsplit("-", 1)[0] for path in (tmp_path / "starts").iterdir())
    assert kept == ["forward-15-poses", "forward-32x24"]


def test_a_start_that_is_kept_is_the_same_for_every_seed(import_benchmark, scene, tmp_path):
    data = import_benchmark("quality_data")
    options = unflatten(data.Train, {"init": "random", "num_gaussians": 30})
    first = data.find_start(data.DataSet("noise"), scene, options, tmp_path)
    again = data.find_start(data.DataSet("noise"), scene, replace(options, seed=5), tmp_path)
    assert (again.kind, again.reason, again.trained) == (first.kind, first.reason, False)
    for name in ("means", "log_scales", "sh0", "shN"):
        np.testing.assert_array_equal(getattr(first.gaussians, name), getattr(again.gaussians, name))
    other = replace(options, num_gaussians=31)
    assert data.find_start(data.DataSet("noise"), scene, other, tmp_path).gaussians.num_alive == 31
    assert len(list(tmp_path.iterdir())) == 2


def test_gsplat_is_one_more_row_where_it_is_installed(
    quality, import_benchmark, monkeypatch, scene, tmp_path, capsys
):
    monkeypatch.setitem(sys.modules, "gsplat_training", None)
    options = quality.Options(tmp_path, data=("noise",), options=(TINY,), steps=(9,), gsplat=True)
    assert [key.options for key in quality._keys(options)] == [TINY]
    assert "without gsplat" in capsys.readouterr().err

    results = import_benchmark("training_result")

    def draw(scene, start, steps, strategy, seed):
        assert (steps, strategy, seed) == (9, "default", 3)
        rasterizer = TileRasterizer(8)
        images = [np.asarray(rasterizer(start.gaussians(), view.camera).image) for view in scene.test]
        return results.TrainingResult((results.Mark(9, 0.0),), 0.0, len(start.means), None, images)

    monkeypatch.setitem(sys.modules, "gsplat_training", types.SimpleNamespace(train_gsplat=draw))
    assert [key.options for key in quality._keys(options)] == [TINY, "gsplat"]
    data = import_benchmark("quality_data")
    train = unflatten(data.Train, {"init": "random", "num_gaussians": 40, "seed": 3, "steps": 9})
    start = data.find_start(data.DataSet("noise"), scene, train, tmp_path)
    row = quality.run_gsplat(data.Photos(scene, scene), start, train)
    assert row["views"] == 1
    assert row["num_gaussians"] == 40
    assert row["psnr_color_corrected"] > row["psnr"] > 3
    assert 3 < row["train_psnr"] < 20
