"""Colours of point clouds: names and ranges that programs write, and what is said of the others."""

import json
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import write_image

from splax.data.formats import load_dataset
from splax.data.points import read_ply_points

COLORS = np.array([[255, 60, 1], [0, 128, 254], [7, 77, 200]])
RGB = ("red", "green", "blue")
CODES = {
    "char": "b",
    "uchar": "B",
    "ushort": "H",
    "short": "h",
    "int": "i",
    "uint": "I",
    "float": "f",
    "double": "d",
}


def write_cloud(path: Path, names, values, kind: str, binary: bool) -> Path:
    """A point for each row of ``values``, [P, C], with a property of each name."""
    form = "binary_big_endian" if binary else "ascii"
    lines = ["ply", f"format {form} 1.0", f"element vertex {len(values)}"]
    lines += [f"property float {axis}" for axis in "xyz"] + [f"property {kind} {name}" for name in names]
    data = "\n".join([*lines, "end_header", ""]).encode()
    for index, row in enumerate(values):
        if binary:
            numbers = row if kind in ("float", "double") else [int(value) for value in row]
            data += struct.pack(f">3f{len(row)}{CODES[kind]}", index, 0, 0, *numbers)
        else:
            data += " ".join(map(str, [index, 0, 0, *row])).encode() + b"\n"
    path.write_bytes(data)
    return path


READ = {
    "bytes": (RGB, "uchar", COLORS, ""),
    "upper case": (("Red", "Green", "Blue"), "uchar", COLORS, ""),
    "diffuse": (("diffuse_red", "diffuse_green", "diffuse_blue"), "uchar", COLORS, ""),
    "letters": (("r", "g", "b"), "uchar", COLORS, ""),
    "letters, shares of 1": (("r", "g", "b"), "float", COLORS / 255, ""),
    "shares of 1": (RGB, "float", COLORS / 255, ""),
    "shares of 1, double": (RGB, "double", COLORS / 255, ""),
    "int": (RGB, "int", COLORS, ""),
    "floats to 255": (
        RGB,
        "float",
        COLORS.astype(float),
        "go up to 255; they are read as numbers from 0 to 255",
    ),
    "doubles to 65535": (
        RGB,
        "double",
        COLORS * 257.0,
        "up to 65535; they are read as numbers from 0 to 65535",
    ),
    "ushort": (RGB, "ushort", COLORS * 257, ""),
    "ushort that holds bytes": (
        RGB,
        "ushort",
        COLORS,
        "go up to 255; they are read as numbers from 0 to 255",
    ),
    "short": (RGB, "short", np.rint(COLORS * 32767 / 255).astype(int), ""),
    "uint to 65535": (RGB, "uint", COLORS * 257, "they are read as numbers from 0 to 65535"),
    "signed bytes": (RGB, "char", np.where(COLORS > 127, COLORS - 256, COLORS), ""),
    "harmonics": (("f_dc_0", "f_dc_1", "f_dc_2"), "float", (COLORS / 255 - 0.5) / 0.28209479177387814, ""),
}


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("names", "kind", "values", "said"), READ.values(), ids=READ.keys())
def test_colors_of_a_cloud_are_those_of_the_file(tmp_path, names, kind, values, said, binary):
    path = write_cloud(tmp_path / "cloud.ply", names, values, kind, binary)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cloud = read_ply_points(path)
    assert cloud is not None and cloud.colors is not None
    np.testing.assert_array_equal(cloud.colors, COLORS)
    assert [said in str(warning.message) for warning in caught] == [True] * bool(said)


@pytest.mark.parametrize(
    ("names", "values", "said"),
    [
        (("rgb",), [[4.2108e6]] * 3, "its colours are not used: only 'rgb' of its properties"),
        (("red", "green"), [[1, 1]] * 3, "its colours are not used: only 'red', 'green' of its properties"),
        (("f_dc_0",), [[1]] * 3, "its colours are not used: only 'f_dc_0'"),
        (RGB, [[1e9, 0, 0]] * 3, "its colours are not used: they go up to 1e[+]09"),
    ],
)
def test_colors_that_cannot_be_used_are_said(tmp_path, names, values, said):
    path = write_cloud(tmp_path / "cloud.ply", names, values, "float", binary=False)
    with pytest.warns(UserWarning, match=f"cloud.ply: {said}.*red, green and blue"):
        cloud = read_ply_points(path)
    assert cloud is not None and cloud.colors is None and len(cloud.positions) == 3


def test_colors_that_are_not_finite_are_counted(tmp_path):
    path = write_cloud(tmp_path / "cloud.ply", RGB, [["nan", 1, 1], [0.2, 0.4, 1]], "float", binary=False)
    with pytest.warns(UserWarning, match="the colours of 1 of its 2 points are not finite; they are black"):
        cloud = read_ply_points(path)
    assert cloud is not None and cloud.colors is not None
    assert cloud.colors.tolist() == [[0, 0, 0], [51, 102, 255]]


def test_a_scene_keeps_what_is_said_of_colors(tmp_path):
    write_image(tmp_path / "a.png")
    frames = [{"file_path": "a.png", "transform_matrix": np.eye(4).tolist()}]
    meta = {"camera_angle_x": 1.0, "frames": frames, "ply_file_path": "cloud.ply"}
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    write_cloud(tmp_path / "cloud.ply", RGB, COLORS.astype(float), "float", binary=True)
    with pytest.warns(UserWarning, match="transforms.json: cloud.ply: its colours go up to 255"):
        scene = load_dataset(tmp_path)
    np.testing.assert_array_equal(scene.point_colors, COLORS)
    assert len(scene.warnings) == 1


def test_a_cloud_with_vertex_properties_of_other_words_has_no_colors(tmp_path):
    path = write_cloud(tmp_path / "cloud.ply", ("intensity", "scattered"), [[1, 1]], "float", binary=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cloud = read_ply_points(path)
    assert cloud is not None and cloud.colors is None
