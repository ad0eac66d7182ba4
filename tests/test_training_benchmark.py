"""The training benchmark runs on a CPU as far as it can: splax's side, and what is common to all methods."""

import dataclasses
import importlib
import json
import sys
import types

import numpy as np
import pytest
from helpers import write_garden

from splax.cameras import Camera
from splax.gaussians import neighbor_spacing
from splax.metrics.image import ssim
from splax.rasterizer import TileRasterizer
from splax.scene import Scene, View


@pytest.fixture
def train(import_benchmark, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return import_benchmark("train")


@pytest.fixture
def starts(import_benchmark) -> types.ModuleType:
    return import_benchmark("training_start")


@pytest.fixture
def scene() -> Scene:
    rng = np.random.default_rng(0)
    places = [(np.cos(angle), np.sin(angle), 0.5) for angle in (0, 2, 4)]
    cameras = [Camera.look_at(3 * np.array(p), (0, 0, 0), fov_x=0.8, width=24, height=20) for p in places]
    views = [
        View(rng.integers(0, 256, (20, 24, 3), np.uint8), camera, f"{i}.jpg")
        for i, camera in enumerate(cameras)
    ]
    return Scene(views[1:], views[:1])


def test_splax_trains_and_gsplat_is_left_out_with_a_message(
    train, starts, scene, monkeypatch, tmp_path, capsys
):
    for name in ("gsplat", "gsplat_training"):
        monkeypatch.setitem(sys.modules, name, None)
    report = tmp_path / "train.json"
    options = train.Options(steps=12, strategies=("none",), seeds=(0, 1), json=report)
    lines = train.compare("noise", scene, starts.random_start(scene, 40), options)

    assert [(line.method, line.seed) for line in lines] == [("splax", 0), ("splax", 1), ("splax", None)]
    for line in lines:
        assert line.num_gaussians == 40
        assert line.steps_per_second > 0
        assert 0 < line.seconds < line.total_seconds
        assert 0 < line.psnr < 20
    assert lines[2].psnr == pytest.approx((lines[0].psnr + lines[1].psnr) / 2)
    printed = capsys.readouterr()
    assert "without gsplat" in printed.err
    table = [line.split(" | ") for line in printed.out.splitlines() if line.startswith("| noise")]
    assert [cells[4] for cells in table] == ["0", "1", "mean"]
    assert [run["seed"] for run in json.loads(report.read_text())["runs"]] == [0, 1, None]


def test_a_scene_and_its_start_travel_in_one_file(train, starts, scene, tmp_path):
    pytest.importorskip("PIL")
    start = starts.random_start(scene, 30)
    alpha = np.full(scene.train[0].image.shape[:2], 7, np.uint8)
    scene = dataclasses.replace(
        scene, train=[dataclasses.replace(scene.train[0], alpha=alpha), *scene.train[1:]]
    )
    train.save_arrays(tmp_path / "noise.npz", scene, start)
    same, again = train.load_arrays(tmp_path / "noise.npz")
    assert [view.name for view in same.test] == ["0.jpg"]
    for view, other in zip([*scene.train, *scene.test], [*same.train, *same.test], strict=True):
        np.testing.assert_array_equal(view.image, other.image)
        assert view.has_alpha == other.has_alpha == (view is scene.train[0])
        np.testing.assert_array_equal(view.camera.viewmat, other.camera.viewmat)
        np.testing.assert_array_equal(view.camera.K, other.camera.K)
    np.testing.assert_array_equal(same.train[0].alpha, alpha)
    for name, array in vars(start).items():
        np.testing.assert_array_equal(array, getattr(again, name))


def test_nothing_to_train_on_is_refused(train):
    with pytest.raises(ValueError, match="--fixed-gaussians FILE"):
        train.main(train.Options())


def test_a_random_start_fills_the_cube_of_the_protocol(starts, scene):
    start = starts.random_start(scene, 500)
    apart = np.abs(start.means - scene.center).max(axis=0)
    np.testing.assert_allclose(apart, 1.5 * scene.radius, rtol=0.02)
    np.testing.assert_allclose(start.scales[:, 0], neighbor_spacing(start.means), rtol=1e-6)
    np.testing.assert_allclose(1 / (1 + np.exp(-start.logit_opacities)), 0.1, rtol=1e-6)
    assert start.sh_degree == 0
    again = starts.random_start(scene, 500)
    np.testing.assert_array_equal(start.sh, again.sh)


def test_mcmc_starts_narrower_and_more_opaque(starts, scene):
    start = starts.random_start(scene, 10)
    assert start.prepared_for("default") is start
    mcmc = start.prepared_for("mcmc")
    np.testing.assert_allclose(mcmc.scales, start.scales / 10, rtol=1e-6)
    np.testing.assert_array_equal(mcmc.logit_opacities, 0)


def test_the_rate_is_the_median_over_steps(train):
    results = importlib.import_module("training_result")
    marks = (results.Mark(1, 10.0), results.Mark(101, 11.0), results.Mark(201, 13.0), results.Mark(301, 14.0))
    result = results.TrainingResult(marks, 20.0, 1, None, [])
    assert result.steps_per_second == pytest.approx(100)
    assert result.seconds == 14


def test_memory_that_an_earlier_run_hides_is_a_bound(train):
    splax_training = importlib.import_module("splax_training")
    before = {"bytes_in_use": 1 << 20, "peak_bytes_in_use": 5 << 20}
    assert splax_training._peak(before, {"peak_bytes_in_use": 7 << 20}) == (6.0, False)
    assert splax_training._peak(before, {"peak_bytes_in_use": 5 << 20}) == (4.0, True)
    assert splax_training._peak(None, None) is None
    peaks = importlib.import_module("training_result").Peak
    assert train._describe_peak(peaks(1234.5, True)) == "at most 1,234"


def test_fixed_gaussians_start_near_what_was_rendered(train, monkeypatch, tmp_path):
    write_garden(tmp_path / "garden.npz", lefts=(-1, 0, 1))
    results = importlib.import_module("training_result")

    def draw(scene, start, steps, strategy, seed, cap, random_background):
        assert (steps, strategy, start.sh_degree, random_background) == (9, "none", 3, False)
        rasterizer = TileRasterizer(8)
        images = [np.asarray(rasterizer(start.gaussians(), view.camera).image) for view in scene.test]
        return results.TrainingResult((results.Mark(9, 1.0),), 2.0, len(start.means), None, images)

    monkeypatch.setattr(train, "train_splax", draw)
    options = train.Options(
        fixed_gaussians=tmp_path / "garden.npz", row="garden1@40x32x2", steps=9, methods=("splax",)
    )
    (line,) = train.main(options)
    assert (line.data, line.strategy, line.num_gaussians) == ("garden1@40x32x2", "none", 40)
    assert 20 < line.psnr < 60


@pytest.mark.oracle
def test_gsplat_is_trained_on_the_same_similarity(train):
    torch = pytest.importorskip("torch")
    pytest.importorskip("gsplat")
    gsplat_training = importlib.import_module("gsplat_training")
    rng = np.random.default_rng(0)
    images = rng.random((2, 1, 20, 30, 3), np.float32)
    theirs = gsplat_training._ssim(*torch.from_numpy(images), gsplat_training._gaussian_taps("cpu"))
    np.testing.assert_allclose(float(theirs), float(ssim(*images)[0]), rtol=1e-4)
