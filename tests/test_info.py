"""What ``splax info`` says of runs and of splat files; tests/test_cli.py has that of datasets."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from test_cli import FAST, HEIGHT, WIDTH, run

import splax
from splax.cli.describe_run import describe_run
from splax.cli.run_folder import RunFolder


class Featured(splax.Gaussians):
    """Gaussians with a Param of their own."""

    def __init__(self, features, **params):
        super().__init__(**params)
        self.features = nnx.Param(features)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    scene = splax.make_demo_scene(num_train=8, num_test=1, width=WIDTH, height=HEIGHT)
    from helpers import write_transforms

    data = write_transforms(tmp_path_factory.mktemp("data"), scene.train)
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run("train", data, "--out", out, "--test-every", 4, "--lr-means", 0.001, *FAST) == 0
    return out


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def facts(text: str) -> dict[str, str]:
    """What is said, by the first word of the line."""
    return {line[:10].strip(): line[11:] for line in text.splitlines()}


def test_info_on_a_finished_run(finished, capsys):
    assert run("info", finished) == 0
    said = facts(capsys.readouterr().out)
    assert said["run"] == str(finished) and said["state"] == "finished after 20 steps"
    assert said["asked"].startswith("20 steps, --test-every 4, ") and "--lr-means 0.001" in said["asked"]
    assert said["gaussians"] == "150" and said["start"].startswith("150 Gaussians, random: ")
    metrics = json.loads((finished / "metrics.json").read_text())
    assert f"psnr {metrics['psnr']:.4f}, ssim {metrics['ssim']:.4f}" in said["scores"]
    assert "mean of 2 held-out views" in said["scores"]
    assert f"splax {splax.__version__}" in said["versions"] and "jax " in said["versions"]
    assert said["splat"] == str(finished / "point_cloud.ply") and said["time"].endswith(metrics["device"])


def test_info_on_a_run_that_was_stopped_says_how_to_resume_it(copy, capsys):
    metrics = json.loads((copy / "metrics.json").read_text())
    (copy / "metrics.json").write_text(json.dumps(metrics | {"interrupted": True, "steps": 11}))
    assert run("info", copy) == 0
    assert (
        facts(capsys.readouterr().out)["state"]
        == "interrupted after 11 steps; no checkpoint to resume it from"
    )
    for name in ("metrics.json", "point_cloud.ply"):
        (copy / name).unlink()
    (copy / "checkpoints" / "10").mkdir(parents=True)
    said = facts(describe_run(copy))
    assert said["state"].startswith("not finished: it has no metrics.json yet; resume it from step 10 with ")
    assert said["state"].endswith(f"splax train --resume {copy}") and "splat" not in said


def test_info_on_a_run_does_not_need_its_data_or_the_entries_of_later_versions(copy):
    config = json.loads((copy / "config.json").read_text())
    for name in ("versions", "start", "stored_sh_degree", "lr_means", "refine_every"):
        del config[name]
    (copy / "config.json").write_text(json.dumps(config | {"data": "/no/where"}))
    (copy / "metrics.json").write_text('{"psnr": "many", "steps": [], "guard": 3, "cc_psnr": 20.5}')
    said = facts(describe_run(copy))
    assert said["data"] == "/no/where, which is not there any more" and said["scores"].startswith(
        "cc_psnr 20.5000"
    )
    assert not {"versions", "start", "guard", "gaussians"} & said.keys()


def test_info_on_a_damaged_run_is_refused_in_one_line(copy, capsys):
    (copy / "config.json").write_text("{")
    assert run("info", copy) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "config.json is not valid json" in line


def test_a_dataset_with_a_config_of_its_own_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text('{"steps": 3}')
    assert not RunFolder.is_run(tmp_path) and not RunFolder.is_run(tmp_path / "none")


@pytest.fixture
def gaussians() -> splax.Gaussians:
    return splax.Gaussians.random(40, extent=2.0, sh_degree=2, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("name", "kind", "degree"),
    [
        ("a.ply", "3DGS .ply", 2),
        ("a.compressed.ply", "compressed .ply of PlayCanvas", 2),
        ("a.spz", ".spz", 2),
        ("a.splat", ".splat", 0),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of what a format cannot hold
def test_info_on_a_splat_file(gaussians, tmp_path, capsys, name, kind, degree):
    path = tmp_path / name
    splax.save_splats(path, gaussians, antialiased=name in ("a.ply", "a.spz"))
    assert run("info", path) == 0
    said = facts(capsys.readouterr().out)
    assert (said["format"], said["gaussians"], said["SH degree"]) == (kind, "40", str(degree))
    size = path.stat().st_size
    assert said["size"] == f"{size / 1e6:.2f} MB, {size / 40:.1f} bytes for each Gaussian"
    assert said["drawn"].startswith("antialiased" if name in ("a.ply", "a.spz") else "not antialiased")
    low = float(said["bounds"].split(",")[0].strip("("))
    assert low == pytest.approx(float(np.asarray(gaussians.means).min(axis=0)[0]), abs=1e-2)
    assert said["Params"] == "those of Gaussians"


def test_info_names_params_of_a_subclass(gaussians, tmp_path, capsys):
    params = {
        name: getattr(gaussians, name)[...]
        for name in ("means", "quats", "log_scales", "logit_opacities", "sh0", "shN")
    }
    featured = Featured(np.ones((40, 8), np.float32), **params)
    splax.save_splats(tmp_path / "a.ply", featured)
    assert run("info", tmp_path / "a.ply") == 0
    assert facts(capsys.readouterr().out)["Params"] == "features [8] in addition to those of Gaussians"


def test_info_on_a_bad_splat_file_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "a.ply").write_text("hello")
    assert run("info", tmp_path / "a.ply") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a.ply is not a PLY file" in line
    with zipfile.ZipFile(tmp_path / "a.sog", "w") as archive:
        archive.writestr("other", b"")
    assert run("info", tmp_path / "a.sog") == 2
    assert run("info", tmp_path / "none.spz") == 2
    assert "none.spz cannot be read: No such file" in capsys.readouterr().err


def test_options_for_photos_are_refused_elsewhere(finished, gaussians, tmp_path, capsys):
    splax.save_splats(tmp_path / "a.ply", gaussians)
    assert run("info", tmp_path / "a.ply", "--downscale", 2) == 2
    assert "--downscale is for datasets, and " in capsys.readouterr().err
    assert run("info", finished, "--test-every", 2) == 2
    assert "--test-every is for datasets" in capsys.readouterr().err
