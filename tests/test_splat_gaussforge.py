"""Splat files against gaussforge, an independent implementation: each opens what the other writes.

Three things differ, and here splax goes with the formats' descriptions. gaussforge copies SPZ without turning its
axes, which are right, up, back there and right, down, forward in a PLY. It clamps opacities of exactly 1 to 0.999.
It writes the ``sh`` of compressed PLY coefficient by coefficient, but reads it channel by channel.
"""

import warnings

import numpy as np
import pytest
from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]: compiled, no stubs
from test_splat_files import SH_C0, assert_close, make_arrays, tolerances_of, unit, write_quietly, zip_folder

from splax.io.axes import flip_axes
from splax.io.formats import read_splats
from splax.io.splat_arrays import SplatArrays
from splax.io.spz_streams import read_streams

gaussforge = pytest.importorskip("gaussforge")

RUB = (1, -1, -1)
NUM = 600
FORMATS = ["ply", "compressed.ply", "splat", "spz2", "spz3", "spz4"]
FIELDS = {
    "positions": "means",
    "rotations": "quats",
    "scales": "log_scales",
    "alphas": "logit_opacities",
    "colors": "sh0",
    "sh": "shN",
}


def result_of(answer: dict):
    assert "error" not in answer, answer
    return answer["data"]


def gaussforge_read(path) -> SplatArrays:
    """By way of its PLY writer: its arrays cannot be asked for where there is no SH."""
    suffix = "compressed.ply" if ".compressed." in path.name else path.suffix[1:]
    forge = gaussforge.GaussForge()
    ply = result_of(forge.convert(path.read_bytes(), suffix, "ply"))
    back = path.with_name("back.ply")
    back.write_bytes(ply)
    return read_splats(back)


def gaussforge_write(path, arrays: SplatArrays, suffix: str, version: int = 3) -> None:
    data = {"numPoints": arrays.num, "meta": {"shDegree": arrays.sh_degree}, "extras": {}}
    for name, param in FIELDS.items():
        values = unit(arrays.quats) if param == "quats" else arrays.params[param]
        data[name] = np.ascontiguousarray(values).tobytes()
    path.write_bytes(result_of(gaussforge.GaussForge().write(data, suffix, spz_version=version)))


def split(kind: str) -> tuple[str, int]:
    if kind == "spz4":
        pytest.importorskip("zstandard")
    return (kind[:3], int(kind[3])) if kind.startswith("spz") else (kind, 3)


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", FORMATS)
def test_it_opens_what_splax_writes(tmp_path, capfd, kind, sh_degree):
    suffix, version = split(kind)
    path = tmp_path / f"a.{suffix}"
    write_quietly(path, make_arrays(NUM, sh_degree), spz_version=version)
    theirs, ours = gaussforge_read(path), read_splats(path)
    assert_close(flip_axes(theirs, RUB) if suffix == "spz" else theirs, ours, opacities=0.0011)
    capfd.readouterr()  # it prints what it does


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", FORMATS)
def test_splax_opens_what_it_writes(tmp_path, capfd, kind, sh_degree):
    suffix, version = split(kind)
    arrays = make_arrays(NUM, 0 if suffix == "splat" else sh_degree)
    gaussforge_write(tmp_path / f"a.{suffix}", arrays, suffix, version)
    loaded = read_splats(tmp_path / f"a.{suffix}")
    tolerances = tolerances_of(suffix, {"spz_version": version})
    if suffix == "splat":  # cut to the step below, not to the nearest
        tolerances |= {"sh0": 1 / 255 / SH_C0 + 1e-6, "opacities": 1 / 255 + 1e-6, "angle": 0.06}
    if suffix == "spz":
        loaded = flip_axes(loaded, RUB)
    if suffix == "compressed.ply":
        loaded = loaded.replace(shN=loaded.shN.swapaxes(1, 2).reshape(NUM, -1, 3))
    assert_close(loaded, arrays, **tolerances)
    capfd.readouterr()


@pytest.mark.parametrize("version", [2, 3, 4])
def test_spz_streams_are_those_of_its_encoder(tmp_path, capfd, version):
    """It carries Niantic's own library."""
    if version == 4:
        pytest.importorskip("zstandard")
    arrays = make_arrays(NUM, 3, seed=1)
    gaussforge_write(tmp_path / "theirs.spz", arrays, "spz", version)
    write_quietly(tmp_path / "ours.spz", flip_axes(arrays, RUB), spz_version=version)
    theirs, ours = (read_streams((tmp_path / f"{name}.spz").read_bytes()) for name in ("theirs", "ours"))
    assert ours.header == theirs.header
    for name, expected in theirs.arrays.items():
        np.testing.assert_array_equal(ours.arrays[name], expected, err_msg=name)
    capfd.readouterr()


def test_splax_opens_its_sog(tmp_path, capfd):
    """Sixty rows: its clustering takes minutes for many. It sorts them."""
    arrays = make_arrays(60, 1)
    gaussforge_write(tmp_path / "a.sog", arrays, "sog")
    loaded = read_splats(tmp_path / "a.sog")
    distances, rows = cKDTree(loaded.means).query(arrays.means)
    assert len(set(rows)) == 60 and distances.max() < 1e-4
    # Codebooks of 256 entries for 180 numbers of each kind: close to exact.
    tolerances = {"means": 1e-4, "log_scales": 0.01, "sh0": 0.01, "shN": 0.01, "opacities": 0.5 / 255 + 1e-6}
    assert_close(loaded.take(rows), arrays, **tolerances, angle=0.02)
    capfd.readouterr()


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name", ["guitar.compressed.ply", "playbot_lod4.ply", "playbot_lod4_v3.spz", "playbot_lod4_sog"]
)
def test_both_read_the_same_of_real_files(real_data, tmp_path, capfd, name):
    path = real_data / "splat_samples" / name
    if path.is_dir():
        zip_folder(path, tmp_path / "a.sog")
        path = tmp_path / "a.sog"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # guitar has opacities of exactly 1
        ours = read_splats(path)
    copy = tmp_path / path.name
    if copy != path:
        copy.write_bytes(path.read_bytes())
    theirs = gaussforge_read(copy)
    assert_close(flip_axes(theirs, RUB) if path.suffix == ".spz" else theirs, ours, opacities=0.0011)
    capfd.readouterr()
