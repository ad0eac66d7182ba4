"""The CPU benchmark runs, and the methods it compares draw the same image."""

import json
import re
import types

import pytest


@pytest.fixture
def cpu(import_benchmark) -> types.ModuleType:
    return import_benchmark("cpu")


def test_quick_run_compares_the_methods_and_prints_the_table(cpu, tmp_path, capsys):
    report = tmp_path / "cpu.json"
    results = cpu.main(cpu.Options(quick=True, repeats=1, methods=(cpu.DENSE,), json=report))

    (row,) = results["rows"]
    assert row["num_gaussians"] == 300
    agreement = row["agreement"][cpu.DENSE]
    assert agreement["share"] > 0.9
    assert agreement["image"] < 1e-5
    assert agreement["gradient"] < 1e-4
    assert set(row["ms"]) == {cpu.SPLAX, cpu.DENSE}
    assert all(row["ms"][name][kind] > 0 for name in row["ms"] for kind in cpu.PASSES)
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 300 ")]
    assert [line.split(" | ")[3] for line in table] == list(cpu.PASSES)
    assert json.loads(report.read_text())["rows"][0]["ms"] == row["ms"]


@pytest.mark.parametrize("text", ["", "300", "300@40", "0@40x32", "300@-1x32", "a@40x32"])
def test_malformed_rows_are_refused(cpu, text):
    with pytest.raises(ValueError, match="50000@540x960"):
        cpu.main(cpu.Options(rows=(text,)))


def test_unknown_methods_are_refused(cpu):
    with pytest.raises(ValueError, match="'fast'"):
        cpu.main(cpu.Options(methods=("fast",)))


def test_table_has_dashes_for_methods_that_were_skipped(cpu):
    ms = {cpu.SPLAX: {"forward": 2.0, "forward+backward": 4.0}, cpu.DENSE: {"forward": 30.0}}
    row = {"num_gaussians": 1000, "width": 8, "height": 4, "mean_list": 3.2, "longest_list": 9, "ms": ms}
    lines = cpu.format_table([row]).splitlines()
    assert lines[2] == "| 1,000 | 8x4 | 3, 9 | forward | 2 | - | 30 | - | - | 15x | - |"
    assert lines[3] == "| 1,000 | 8x4 | 3, 9 | forward+backward | 4 | - | - | - | - | - | - |"


def test_many_photos_go_through_a_feed_that_holds_few(import_benchmark, capsys):
    many_photos = import_benchmark("many_photos")
    photo = 640 * 480 * 3
    options = many_photos.Options(9, width=640, height=480, cache_bytes=photo, photo_bytes=4 * photo)
    results = many_photos.main(options)
    assert results["peak_mb"] >= results["before_mb"] > 0
    assert "9 photos of 640 x 480" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["forward", "forward+backward"])
def test_the_first_call_is_timed(what, import_benchmark, capsys):
    first_call = import_benchmark("first_call")
    first_call.main(first_call.Options(what=what, num=50, width=32, height=24, tile_size=8))
    (seconds,) = re.findall(
        rf"{re.escape(what)}: first call (\S+) s, overflow: False", capsys.readouterr().out
    )
    assert float(seconds) > 0
