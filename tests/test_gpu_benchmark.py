"""What the GPU benchmark renders, on a CPU; its timings need a GPU."""

import dataclasses
import importlib
import pathlib
import types

import numpy as np
import pytest
from helpers import write_garden


@pytest.fixture
def garden(import_benchmark) -> types.ModuleType:
    return import_benchmark("garden")


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    """A file laid out as gsplat's ``test_garden.npz``."""
    return write_garden(tmp_path / "garden.npz")


def test_scenes_are_the_crop_on_a_grid(garden, file):
    one = garden.make_view(garden.Row.parse("garden1@40x32"), file)
    nine = garden.make_view(garden.Row.parse("garden3@80x64x2"), file)
    assert len(nine.means) == 9 * len(one.means) == 9 * 40
    np.testing.assert_allclose(sorted(set(np.round(nine.means[::40, 0] - nine.means[0, 0]))), [0, 4, 8])
    np.testing.assert_allclose(nine.Ks, np.tile([[80.0, 0, 40], [0, 80, 32], [0, 0, 1]], (2, 1, 1)))
    again = garden.make_view(garden.Row.parse("garden1@40x32"), file)
    np.testing.assert_array_equal(one.sh, again.sh)


@pytest.mark.parametrize(
    "text", ["", "garden@40x32", "garden1@40", "lawn1@40x32", "garden1@40x32x9", "garden1@40x32c0"]
)
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


def test_given_colors_are_drawn_and_differentiated(garden, file):
    methods = importlib.import_module("gpu_methods")
    row = garden.Row.parse("garden1@40x32c32")
    assert (row.num_cameras, row.num_channels, row.picture) == (1, 32, "40x32, 32 channels")
    view = garden.make_view(row, file)
    method = methods.splax_method(view)
    images = np.asarray(method.forward())
    assert images.shape == (1, 32, 40, 32)
    _, gradients = method.backward()
    assert sorted(gradients) == ["colors", "log_scales", "logit_opacities", "means", "quats"]
    # An image is linear in the colours.
    objective = (images * methods.cotangent(view)).sum()
    np.testing.assert_allclose((gradients["colors"] * view.colors).sum(), objective, rtol=1e-3, atol=1e-2)
    work = method.work[0]
    assert (work.gaussians, work.channels, work.color_floats) == (40, 32, 32)
    assert 0 < work.visible <= 40 <= work.pairs


def test_a_method_that_fails_costs_its_cells_only(garden, file, monkeypatch, capsys):
    render, floor = importlib.import_module("render"), importlib.import_module("gpu_floor")
    methods = importlib.import_module("gpu_methods")

    def works(view):
        def call(times=1):
            return np.zeros((1, 32, 40, 3))

        work = floor.Work(gaussians=40, visible=30, pairs=1234, width=40, height=32)
        return methods.GpuMethod(forward=call, backward=call, peak_mb=lambda: 2.0, work=(work,))

    def fails_backward(view):
        def fail(times=1):
            raise RuntimeError("CUDA out of memory")

        return dataclasses.replace(works(view), backward=fail, peak_mb=fail)

    monkeypatch.setattr(render, "METHODS", {"splax": works, "gsplat": fails_backward})
    monkeypatch.setattr(render, "time_rival", lambda *_, **__: {"forward": 3.0, "backward": 4.0})
    rows = ("garden1@40x32", "garden1@40x32")
    render.measure(render.Options(file, rows=rows, repeats=2, profile=True, rival=file.parent))
    printed, told = capsys.readouterr()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines()]
    assert lines[0][4:] == [
        *("pass", "splax, ms", "gsplat, ms", "gsplat / splax", "splax alone, ms", "rival, ms"),
        *("rival / splax alone", "bytes, ms", "operations, ms at most"),
    ]
    assert all(line[:4] == ["garden1", "40x32", "40 (30)", "1,234"] for line in lines[2:5])
    forward, backward, peak = (line[5:] for line in lines[2:5])
    assert forward[1] != "-" and forward[2].endswith("x") and forward[4] == "3.00"
    assert backward[1:3] == ["-", "-"] and backward[4] == "4.00" and "-" not in forward[3:] + backward[5:]
    assert peak == ["2.00", *"-------"]
    assert printed.count("40 (30)") == 6
    assert "without gsplat: RuntimeError: CUDA out of memory" in told
    assert "without profile of forward: ValueError: the profiler saw no kernels" in told
    assert "differ by more than 1e-3 in 0.0000 %" in told


def test_the_time_of_calls_in_a_row_is_that_of_one(garden, monkeypatch):
    timing, methods = importlib.import_module("gpu_timing"), importlib.import_module("gpu_methods")
    made, clock = [], iter((0.0, 9.0, 10.0, 10.8))  # the first run is not counted
    stand_in = types.SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr(importlib.import_module("measure"), "time", stand_in)

    def method(times=1):
        methods._in_a_row(times, lambda: made.append(times))

    assert timing.time_all({"method": method}, repeats=1, in_a_row=4) == {"method": pytest.approx(200)}
    assert made == [4] * 4 * (2 + timing._WARM_UPS)


def test_a_row_that_fails_costs_that_row_only(garden, file, monkeypatch, capsys):
    render = importlib.import_module("render")

    def fail(view):
        raise MemoryError("too large")

    monkeypatch.setattr(render, "METHODS", {"splax": fail})
    render.measure(render.Options(file, rows=("garden1@40x32",), repeats=1))
    printed, told = capsys.readouterr()
    assert printed.count("| garden1 | 40x32 | 40 | - | ") == 3
    assert "without splax: MemoryError: too large" in told
    render.measure(render.Options(file.with_name("absent.npz"), rows=("garden1@40x32",)))
    assert "without garden1, 40x32: FileNotFoundError" in capsys.readouterr().err
