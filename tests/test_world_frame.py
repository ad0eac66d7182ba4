"""A run's splat: in the frame of its input, and marked for how it is to be drawn."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import write_transforms
from test_colmap import write_text

import splax
from splax.cli import main as cli
from splax.data.formats import load_dataset

# As nerfstudio: (x, y, z) of COLMAP becomes (x, z, -y); and moved, so that a forgotten inverse shows.
APPLIED = [[1.0, 0.0, 0.0, 0.25], [0.0, 0.0, 1.0, -2.0], [0.0, -1.0, 0.0, 7.0]]
_TURN, _SHIFT = np.array(APPLIED)[:, :3], np.array(APPLIED)[:, 3]
# In COLMAP's world; in that of the file they lie about the origin, where the cameras look.
POINTS = ((np.random.default_rng(0).uniform(-1, 1, (400, 3)) - _SHIFT) @ _TURN).round(4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """A transforms.json beside the COLMAP model it was made from."""
    scene = splax.make_demo_scene(num_train=5, num_test=0, width=32, height=24)
    views = [dataclasses.replace(view, name=f"{index}") for index, view in enumerate(scene.train)]
    folder = write_transforms(tmp_path_factory.mktemp("world") / "data", views)
    meta = json.loads((folder / "transforms.json").read_text())
    (folder / "transforms.json").write_text(json.dumps({**meta, "applied_transform": APPLIED}))
    colors = np.full(3, 128)
    write_text(folder / "colmap" / "sparse" / "0", points=[(point, colors) for point in POINTS])
    return folder


@pytest.fixture(scope="module")
def run(dataset) -> Path:
    out = dataset.parent / "run"
    options = ["--steps", "3", "--sh-degree", "0", "--antialiased", "--test-every", "5"]
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", str(dataset), "--out", str(out), *options])
    assert stop.value.code == 0
    return out


def test_points_of_colmap_are_found_in_the_exported_splat(run, dataset):
    """Through nothing but the file and what the run says of its frame."""
    means = np.asarray(splax.load_ply(run / "point_cloud.ply").means[...], np.float64)
    world = json.loads((run / "metrics.json").read_text())["world"]
    to_input = np.array(world["splat_to_input"])
    to_colmap = np.linalg.inv(np.array(world["applied_transform"])) @ to_input
    np.testing.assert_array_equal(world["applied_transform"], [*APPLIED, [0, 0, 0, 1]])
    found = means @ to_colmap[:3, :3].T + to_colmap[:3, 3]
    # Three steps of Adam, each of about the learning rate of the means.
    moved = 3.1 * splax.LearningRates().means * load_dataset(dataset).extent
    np.testing.assert_allclose(found, POINTS, atol=moved)
    assert np.abs(found - POINTS).max() > 0  # it did train


def test_the_mark_of_antialiased_gaussians_is_written_and_read(run, dataset, capsys):
    assert b"SplatRenderMode: mip" in (run / "point_cloud.ply").read_bytes()[:2000]
    before = json.loads((run / "metrics.json").read_text())
    with pytest.raises(SystemExit) as stop:
        cli.main(["eval", str(run)])
    assert stop.value.code == 0
    after = json.loads((run / "metrics.json").read_text())
    assert after["psnr"] == pytest.approx(before["psnr"], abs=1e-4)
    # Drawn without the mark the picture would be another.
    plain = splax.SplatModel(splax.load_ply(run / "point_cloud.ply"), splax.TileRasterizer(8))
    scene = load_dataset(dataset, test_every=5)
    config = splax.TrainConfig(progress=False)
    assert abs(splax.Trainer(plain, scene, config).evaluate()["psnr"] - after["psnr"]) > 0.01


def test_damaged_transforms_are_refused(tmp_path):
    scene = splax.make_demo_scene(num_train=1, num_test=0, width=8, height=6)
    folder = write_transforms(tmp_path / "data", scene.train)
    meta = json.loads((folder / "transforms.json").read_text())
    assert load_dataset(folder).applied_transform is None
    (folder / "transforms.json").write_text(json.dumps({**meta, "applied_transform": [1, 2]}))
    with pytest.raises(ValueError, match=r"transforms.json: applied_transform must be 4 x 4 numbers"):
        load_dataset(folder)
