"""What the GPU benchmark renders, on a CPU; its timings need a GPU."""

import importlib
import pathlib
import types

import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def garden(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("garden")


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    """A file laid out as gsplat's ``test_garden.npz``."""
    rng = np.random.default_rng(0)
    viewmats = np.tile(np.eye(4), (3, 1, 1))
    viewmats[:, 2, 3] = 6
    np.savez(
        tmp_path / "garden.npz",
        means3d=rng.uniform(-2, 2, (40, 3)),
        colors=rng.integers(0, 256, (40, 3)),
        viewmats=viewmats,
        Ks=np.tile([[40.0, 0, 20], [0, 40, 16], [0, 0, 1]], (3, 1, 1)),
        width=40,
        height=32,
    )
    return tmp_path / "garden.npz"


def test_scenes_are_the_crop_on_a_grid(garden, file):
    one = garden.make_view(garden.Row.parse("garden1@40x32"), file)
    nine = garden.make_view(garden.Row.parse("garden3@80x64x2"), file)
    assert len(nine.means) == 9 * len(one.means) == 9 * 40
    np.testing.assert_allclose(sorted(set(np.round(nine.means[::40, 0] - nine.means[0, 0]))), [0, 4, 8])
    np.testing.assert_allclose(nine.Ks, np.tile([[80.0, 0, 40], [0, 80, 32], [0, 0, 1]], (2, 1, 1)))
    again = garden.make_view(garden.Row.parse("garden1@40x32"), file)
    np.testing.assert_array_equal(one.sh, again.sh)


@pytest.mark.parametrize("text", ["", "garden@40x32", "garden1@40", "lawn1@40x32", "garden1@40x32x9"])
def test_malformed_rows_are_refused(garden, text):
    with pytest.raises(ValueError, match="garden5@1920x1080"):
        garden.Row.parse(text)


def test_a_batch_is_drawn_and_differentiated(garden, file):
    methods = importlib.import_module("gpu_methods")
    view = garden.make_view(garden.Row.parse("garden1@40x32x2"), file)
    method = methods.splax_method(view)
    images = np.asarray(method.forward())
    assert images.shape == (2, 32, 40, 3)
    np.testing.assert_allclose(images[0], images[1], atol=1e-5)  # the same camera twice
    (value, drawn), gradients = method.backward()
    np.testing.assert_allclose(drawn, images, atol=1e-5)
    np.testing.assert_allclose(value, (images * methods.cotangent(view)).sum(), rtol=1e-3)
    assert gradients["means"].shape == view.means.shape
    assert method.peak_mb() > 0
