"""How the GPU benchmark times a package of the same name in a process of its own; the package is the test's."""

import importlib
import pathlib
import types

import numpy as np
import pytest

PACKAGE = """
import sys
import jax.numpy as jnp
import first

__version__ = "9.9"

def render(means, log_scales, quats, sh, logits, *, viewmat, background, img_shape, f, c, clip_thresh):
    assert "flax" not in sys.modules and "splax.gaussians" not in sys.modules
    shapes = [x.shape for x in (means, log_scales, quats, sh, logits, viewmat, background)]
    assert shapes == [(5, 3), (5, 3), (5, 4), (5, 16, 3), (5,), (4, 4), (3,)], shapes
    assert (img_shape, f, c, clip_thresh) == ((6, 8), (10.0, 11.0), (4.0, 3.0), 0.01)
    total = sum(x.sum() for x in (means, log_scales, quats, sh, logits, viewmat))
    return jnp.full((*img_shape, 3), total), jnp.zeros(img_shape)
"""


@pytest.fixture
def rival(import_benchmark) -> types.ModuleType:
    return import_benchmark("rival")


@pytest.fixture
def write(tmp_path: pathlib.Path):
    def write(text: str) -> pathlib.Path:
        (tmp_path / "splax").mkdir()
        (tmp_path / "splax" / "__init__.py").write_text(text)
        (tmp_path / "first.py").write_text("import sys\nassert 'splax' not in sys.modules\n")
        return tmp_path

    return write


def make_view(num_cameras=1, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "means": rng.standard_normal((5, 3), np.float32),
        "quats": rng.standard_normal((5, 4), np.float32),
        "scales": rng.random((5, 3), np.float32) + 0.1,
        "opacities": rng.uniform(0.1, 0.9, 5).astype(np.float32),
        "sh": rng.standard_normal((5, 16, 3), np.float32),
        "viewmats": np.tile(np.eye(4, dtype=np.float32), (num_cameras, 1, 1)),
        "Ks": np.tile(np.array([[10, 0, 4], [0, 11, 3], [0, 0, 1]], np.float32), (num_cameras, 1, 1)),
    }
    return importlib.import_module("garden").View(**arrays | changes, width=8, height=6)


@pytest.mark.parametrize("num_cameras", [1, 2])
def test_its_medians_come_back(rival, write, num_cameras, capsys):
    view, folder = make_view(num_cameras), write(PACKAGE)
    times = rival.time_rival(view, folder, repeats=2, timeout_s=120, import_first="first")
    assert sorted(times) == ["backward", "forward"] and min(times.values()) > 0
    assert "splax 9.9" in capsys.readouterr().err


def test_its_failure_is_told(rival, write):
    with pytest.raises(rival.RivalError, match=r"(?s)ended with 1.*no such GPU"):
        rival.time_rival(make_view(), write("raise OSError('no such GPU')"), repeats=1, timeout_s=120)


def test_it_is_ended_after_a_while(rival, write):
    with pytest.raises(rival.RivalError, match=r"more than 0\.5 s"):
        rival.time_rival(make_view(), write("import time; time.sleep(60)"), repeats=1, timeout_s=0.5)


def test_silence_is_told(rival, write):
    with pytest.raises(rival.RivalError, match="no times"):
        rival.time_rival(make_view(), write("import os; os._exit(0)"), repeats=1, timeout_s=120)


def test_cameras_with_other_intrinsics_are_refused(rival, write):
    Ks = np.array([np.eye(3), 2 * np.eye(3)], np.float32)
    with pytest.raises(rival.RivalError, match="must have the same K"):
        rival.time_rival(
            make_view(2, Ks=Ks), write(PACKAGE.replace("import first", "")), repeats=1, timeout_s=120
        )


def test_what_it_cannot_do_starts_no_process(rival, write, tmp_path):
    with pytest.raises(rival.RivalError, match="no package"):
        rival.time_rival(make_view(), tmp_path, repeats=1, timeout_s=1)
    colors = np.zeros((5, 32), np.float32)
    with pytest.raises(rival.RivalError, match="RGB"):
        rival.time_rival(make_view(colors=colors), write(PACKAGE), repeats=1, timeout_s=1)
