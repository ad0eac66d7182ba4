"""Which start a scene gets, from Python and from the command line."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_camera, make_gaussians, write_transforms
from test_cli import run

import splax
from splax.cli.flat_options import unflatten
from splax.cli.options import Training
from splax.cli.setup import start_of_demo
from splax.initialization.depth_source import DepthError
from splax.scene import Scene, View
from splax.training.start import FEW_POINTS

WIDTH, HEIGHT = 40, 32


@pytest.fixture
def scene() -> Scene:
    """Nine grey photos from around: nothing to match."""
    angles = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    cameras = [make_camera(WIDTH, HEIGHT, position=(3 * np.cos(a), 3 * np.sin(a), 1)) for a in angles]
    grey = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    return Scene([View(grey, camera, f"{i}") for i, camera in enumerate(cameras)], [])


@pytest.fixture
def with_points(scene) -> Scene:
    points = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    return dataclasses.replace(scene, points=points, point_colors=np.full((20, 3), 51, np.uint8))


def with_depth(scene: Scene) -> Scene:
    depth = np.full((HEIGHT, WIDTH), 3, np.float32)
    return dataclasses.replace(scene, train=[dataclasses.replace(view, depth=depth) for view in scene.train])


def ramp(scene: Scene) -> list[np.ndarray | None]:
    """A source of depth: knows the first view."""
    return [np.full((HEIGHT, WIDTH), 2, np.float32)] + [None] * (len(scene.train) - 1)


def test_points_come_first(scene):
    """Enough of them: nothing is added."""
    points = np.random.default_rng(0).normal(size=(FEW_POINTS, 3)).astype(np.float32)
    colors = np.full((FEW_POINTS, 3), 51, np.uint8)
    start = splax.choose_start(with_depth(dataclasses.replace(scene, points=points, point_colors=colors)))
    assert start.kind == "sfm" and "20,000 points" in start.reason
    np.testing.assert_array_equal(start.gaussians.means[...], points)
    np.testing.assert_allclose(np.asarray(start.gaussians.sh0[...]) * 0.28209479 + 0.5, 0.2, atol=1e-6)
    assert start.describe() == {"kind": "sfm", "reason": start.reason, "num": FEW_POINTS}


@pytest.mark.parametrize("colored", [True, False])
def test_few_points_are_added_to(with_points, colored):
    """All of them are kept; those without colours are grey."""
    scene = with_points if colored else dataclasses.replace(with_points, point_colors=None)
    start = splax.choose_start(with_depth(scene), num=500)
    assert start.kind == "depth"
    assert start.reason == "the scene has only 20 points; its depth images give more"
    assert 320 < start.gaussians.capacity <= 520
    np.testing.assert_array_equal(start.gaussians.means[:20], scene.points)
    color = np.asarray(start.gaussians.sh0[:, 0]) * 0.28209479 + 0.5
    np.testing.assert_allclose(color[:20], 51 / 255 if colored else 128 / 255, atol=1e-6)
    np.testing.assert_allclose(color[20:], 90 / 255, atol=1e-6)


def test_few_points_are_better_than_none(with_points):
    """Nothing to match: what the sweep cannot add to is what there is."""
    start = splax.choose_start(with_points)
    assert start.kind == "sfm" and start.gaussians.capacity == 20
    assert "has only 20 points, and the plane sweep found the depth of 0.0% of the pixels" in start.reason
    few_views = dataclasses.replace(with_points, train=with_points.train[:4])
    start = splax.choose_start(few_views)
    assert start.kind == "sfm" and start.reason.endswith("20 points, and too few views (4) to find depth")


def test_then_the_scenes_own_depth(scene):
    start = splax.choose_start(with_depth(scene), num=500, sh_degree=2)
    assert start.kind == "depth" and "depth images" in start.reason
    assert 300 < start.gaussians.capacity <= 500 and start.gaussians.sh_degree == 2


def test_then_a_plane_sweep(scene, monkeypatch):
    monkeypatch.setattr(
        "splax.initialization.plane_sweep.PlaneSweep.__call__", lambda self, scene: ramp(scene)
    )
    start = splax.choose_start(scene)
    assert start.kind == "depth" and "a plane sweep found depth" in start.reason
    assert start.gaussians.capacity == WIDTH * HEIGHT


def test_a_sweep_that_fails_leaves_random_ones(scene):
    start = splax.choose_start(scene, num=700)
    assert start.kind == "random" and start.gaussians.capacity == 700
    assert "no points, and the plane sweep found the depth of 0.0% of the pixels" in start.reason


def test_few_views_are_not_swept(scene):
    start = splax.choose_start(Scene(scene.train[:4], []), num=10)
    assert start.kind == "random" and "too few views (4)" in start.reason


def test_what_is_asked_for_is_done(with_points):
    assert splax.choose_start(with_points, "random", num=30).kind == "random"
    assert splax.choose_start(with_points, "sfm").kind == "sfm"
    start = splax.choose_start(with_points, "depth", depth=ramp, num=100)
    assert start.kind == "depth" and 50 < start.gaussians.capacity <= 100
    assert splax.choose_start(with_points, depth=ramp, num=100).kind == "depth"


def test_no_more_than_the_most(with_points):
    """The scene's 20 points count among them; what is asked for by number is done."""
    mixed = splax.choose_start(with_depth(with_points), most=120)
    assert mixed.kind == "depth" and 70 < mixed.gaussians.capacity <= 120
    np.testing.assert_array_equal(mixed.gaussians.means[:20], with_points.points)
    enough = splax.choose_start(with_depth(with_points), most=20)
    assert enough.kind == "sfm" and enough.reason == "the scene has 20 points, as many as there may be"
    assert splax.choose_start(with_points, "random", most=70).gaussians.capacity == 70
    assert splax.choose_start(with_points, "random", num=90, most=70).gaussians.capacity == 90
    assert splax.choose_start(with_points, "random", most=60_000).gaussians.capacity == 50_000
    with pytest.raises(ValueError, match="most must be at least 1, got 0"):
        splax.choose_start(with_points, "random", most=0)


def test_the_demo_starts_with_no_more_either(scene):
    assert start_of_demo(scene, Training(max_gaussians=70)).gaussians.capacity == 70
    assert (
        start_of_demo(
            scene, unflatten(Training, {"max_gaussians": 70, "num_gaussians": 90})
        ).gaussians.capacity
        == 90
    )
    assert start_of_demo(scene, Training()).gaussians.capacity == 10_000


def test_the_seed_decides(scene):
    means = [splax.choose_start(scene, "random", num=50, seed=s).gaussians.means[...] for s in (1, 1, 2)]
    np.testing.assert_array_equal(means[0], means[1])
    assert (np.asarray(means[0]) != np.asarray(means[2])).all()


def test_what_is_asked_for_and_impossible_is_an_error(scene):
    with pytest.raises(ValueError, match="'sfm' needs a scene with points"):
        splax.choose_start(scene, "sfm")
    with pytest.raises(DepthError, match="plane sweep found"):
        splax.choose_start(scene, "depth")
    with pytest.raises(
        ValueError, match="init 'points' is neither one of auto, sfm, depth, random nor a file"
    ):
        splax.choose_start(scene, "points")
    with pytest.raises(ValueError, match="num must be at least 1"):
        splax.choose_start(scene, num=0)


@pytest.mark.parametrize("name", ["run.ply", "run.spz"])
def test_a_splat_file_is_gone_on_from(scene, tmp_path, name):
    splat = splax.Gaussians(**jax.tree.map(jnp.asarray, make_gaussians(12, sh_degree=1)))
    splax.save_splats(tmp_path / name, splat)
    start = splax.choose_start(scene, tmp_path / name)
    assert start.kind == "file" and start.gaussians.sh_degree == 1
    np.testing.assert_allclose(start.gaussians.means[...], splat.means[...], atol=1e-3)


def test_a_point_cloud_is_started_on(scene, tmp_path):
    write_point_cloud(tmp_path / "points.ply")
    start = splax.choose_start(scene, tmp_path / "points.ply", sh_degree=1)
    assert start.kind == "file" and start.gaussians.capacity == 3 and start.gaussians.sh_degree == 1
    np.testing.assert_array_equal(start.gaussians.means[...], np.eye(3))


def write_point_cloud(path: Path) -> None:
    header = ["ply", "format ascii 1.0", "element vertex 3", *(f"property float {axis}" for axis in "xyz")]
    path.write_text("\n".join([*header, "end_header", "1 0 0", "0 1 0", "0 0 1", ""]))


# --- the command line ----------------------------------------------------------------------------------


@pytest.fixture
def data(scene, tmp_path) -> Path:
    return write_transforms(tmp_path / "data", scene.train)


FAST = ["--steps", 2, "--sh-degree", 0, "--test-every", 0]


def test_the_run_says_what_it_chose(data, tmp_path, capsys):
    assert run("train", data, "--out", tmp_path / "run", "--num-gaussians", 60, *FAST) == 0
    assert "Start: random, as the scene has no points, and the plane sweep found" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["init"] == "auto"
    assert config["start"]["kind"] == "random" and config["start"]["num"] == 60
    assert "plane sweep" in config["start"]["reason"]


def test_a_run_goes_on_from_another(data, tmp_path):
    assert (
        run("train", data, "--out", tmp_path / "first", "--init", "random", "--num-gaussians", 60, *FAST) == 0
    )
    first = tmp_path / "first" / "point_cloud.ply"
    assert run("train", data, "--out", tmp_path / "second", "--init", first, *FAST) == 0
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert config["start"]["kind"] == "file" and config["start"]["num"] == 60
    before, after = splax.load_ply(first), splax.load_ply(tmp_path / "second" / "point_cloud.ply")
    np.testing.assert_allclose(after.means[...], before.means[...], atol=0.01)


@pytest.mark.filterwarnings("default::UserWarning")  # shown, as outside tests
def test_a_number_that_is_not_used_is_said(data, tmp_path, capsys):
    write_point_cloud(tmp_path / "points.ply")
    options = ["--init", tmp_path / "points.ply", "--num-gaussians", 60]
    assert run("train", data, "--out", tmp_path / "run", *options, *FAST) == 0
    assert "warning: --num-gaussians 60 is not used: the start is file" in capsys.readouterr().err


def test_mcmc_adapts_a_start_that_was_not_trained(data, tmp_path, monkeypatch):
    """New Gaussians on a point cloud, too; those of a splat file are left as they are."""
    adapted = []
    monkeypatch.setattr(splax.MCMCStrategy, "adapt_start", lambda _, gaussians: adapted.append(gaussians))
    write_point_cloud(tmp_path / "points.ply")
    options = ["--strategy", "mcmc", *FAST]
    assert run("train", data, "--out", tmp_path / "first", "--init", tmp_path / "points.ply", *options) == 0
    assert len(adapted) == 1
    splat = tmp_path / "first" / "point_cloud.ply"
    assert run("train", data, "--out", tmp_path / "second", "--init", splat, *options) == 0
    assert len(adapted) == 1


@pytest.mark.filterwarnings("default::UserWarning")  # shown, as outside tests
def test_a_start_above_the_limit_is_said(data, tmp_path, capsys):
    options = ["--init", "random", "--max-gaussians", 70]
    assert run("train", data, "--out", tmp_path / "run", *options, *FAST) == 0
    assert "the start has" not in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["start"]["num"] == 70
    assert run("train", data, "--out", tmp_path / "more", *options, "--num-gaussians", 90, *FAST) == 0
    assert "warning: the start has 90 Gaussians, and --max-gaussians is 70" in capsys.readouterr().err


def test_bad_options_are_one_line(data, tmp_path, capsys):
    for arguments, message in (
        (["--init", "sfm"], "'sfm' needs a scene with points"),
        (["--init", "depth"], "the plane sweep found the depth of"),
        (["--init", "nonsense"], "neither one of"),
        (["--depth-model", "some/model"], "--depth-model is for --init depth"),
    ):
        assert run("train", data, "--out", tmp_path / "run", *arguments, *FAST) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "run").exists()


# --- real scenes ---------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_real_scenes_get_the_start_they_should(real_data):
    king = splax.choose_start(splax.load_dataset(real_data / "king", downscale=8))
    assert king.kind == "depth" and king.reason == "the scene has only 1,443 points; a plane sweep found more"
    assert king.gaussians.capacity > 20_000
    rgbd = splax.choose_start(splax.load_dataset(real_data / "rgbd", downscale=8))
    assert rgbd.kind == "depth" and "depth images" in rgbd.reason
