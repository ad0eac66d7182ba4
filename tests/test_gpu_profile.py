"""Time per kernel from a trace that was written by hand, as JAX's profiler lays it out."""

import gzip
import json
import types

import pytest


@pytest.fixture
def gpu_profile(import_benchmark) -> types.ModuleType:
    return import_benchmark("gpu_profile")


def named(pid, name, tid=None):
    kind = "process_name" if tid is None else "thread_name"
    thread = {} if tid is None else {"tid": tid}
    return {"ph": "M", "pid": pid, **thread, "name": kind, "args": {"name": name}}


def ran(pid, tid, name, microseconds):
    return {"ph": "X", "pid": pid, "tid": tid, "ts": 1.0, "dur": microseconds, "name": name}


# Two calls.
EVENTS = [
    named(1, "/device:GPU:0"),
    named(1, "Stream #13(Compute,MemcpyD2D)", tid=7),
    named(1, "XLA Modules", tid=8),
    {"ph": "M", "pid": 1, "tid": 7, "name": "thread_sort_index", "args": {"sort_index": 7}},
    named(2, "/host:CPU"),
    named(2, "Stream of another kind", tid=7),
    ran(1, 7, "draw", 100.0),
    ran(1, 7, "draw_1", 110.0),
    ran(1, 7, "loop_add_fusion_12", 3.0),
    ran(1, 7, "wrapped_slice", 1.0),
    ran(1, 7, "copy_3", 2.0),
    ran(1, 7, "void cub::CUB_300001_SM_900::DeviceRadixSortOnesweepKernel<...>", 20.0),
    ran(1, 7, "void cub::DeviceScanKernel<...>", 8.0),
    ran(1, 7, "Memset", 4.0),
    ran(1, 7, "MemcpyD2D", 6.0),
    ran(1, 8, "jit_render", 1000.0),
    ran(2, 7, "draw", 1000.0),
    {},
]


def test_stages_are_summed_by_name_and_group(gpu_profile, tmp_path):
    folder = tmp_path / "plugins" / "profile" / "2026_11_23_15_25_39"
    folder.mkdir(parents=True)
    with gzip.open(folder / "host.trace.json.gz", "wt") as file:
        json.dump({"displayTimeUnit": "ns", "traceEvents": EVENTS}, file)
    stages = gpu_profile.sum_kernels(gpu_profile.read_trace(tmp_path), calls=2)
    assert stages == [
        ("draw", 1.0, 105.0),
        ("sorts (CUB)", 0.5, 10.0),
        ("sums and others (CUB)", 0.5, 4.0),
        ("fusions of XLA", 1.5, 3.0),
        ("copies", 0.5, 3.0),
        ("memsets", 0.5, 2.0),
    ]
    lines = gpu_profile.table(stages, "garden1, forward").splitlines()
    assert lines[0] == "| garden1, forward | launches | us | share |"
    assert lines[2] == "| draw | 1 | 105.0 | 82.7 % |"
    assert lines[-1] == "| all | 4.5 | 127.0 | 100.0 % |"


@pytest.mark.parametrize("name", ["project", "project_gradients", "draw", "tile_offsets", "sum_rows"])
def test_kernels_of_our_own_keep_their_names(gpu_profile, name):
    assert gpu_profile.stage_name(name) == gpu_profile.stage_name(f"{name}.2") == name


def test_a_trace_without_kernels_is_told(gpu_profile, tmp_path):
    with pytest.raises(ValueError, match="no trace"):
        gpu_profile.read_trace(tmp_path)
    with pytest.raises(ValueError, match="no kernels"):
        gpu_profile.sum_kernels(EVENTS[:6], calls=1)
