"""PLY files: what is written, what is read, and what is refused. Values are read independently, by offset."""

import struct
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import GAUSSIAN_PARAMS, make_gaussians

from splax.files import ply as ply_format
from splax.files.atomic import atomic_write, write_whole
from splax.gaussians import Gaussians
from splax.io.formats import save_splats
from splax.io.ply import load_ply, save_ply

STANDARD = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
STANDARD += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


class FeatureGaussians(Gaussians):
    """What a researcher may write."""

    def __init__(self, *args, features, masses=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.features = nnx.Param(jnp.asarray(features))
        self.masses = nnx.Param(jnp.ones(self.capacity) if masses is None else jnp.asarray(masses))


def make_model(num=5, sh_degree=3, seed=0, dtype: type = np.float32, cls=Gaussians, **params) -> Any:
    values = make_gaussians(num, sh_degree=sh_degree, seed=seed, dtype=dtype)
    return cls(**{name: jnp.asarray(value) for name, value in values.items()}, **params)


def params_of(gaussians) -> dict[str, np.ndarray]:
    return {
        str(path[0]): np.asarray(p[...]) for path, p in nnx.to_flat_state(nnx.state(gaussians, nnx.Param))
    }


def assert_same(actual, expected):
    actual, expected = params_of(actual), params_of(expected)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def split_file(path) -> tuple[list[str], bytes]:
    header, body = path.read_bytes().split(b"end_header\n", 1)
    return header.decode().splitlines(), body


def ply_text(names, rows, *, count=None, before="", after="", kind="float") -> bytes:
    header = f"ply\nformat ascii 1.0\n{before}element vertex {len(rows) if count is None else count}\n"
    header += "".join(f"property {kind} {name}\n" for name in names) + after + "end_header\n"
    return (header + "".join(" ".join(map(str, row)) + "\n" for row in rows)).encode()


def write_sh0(path, **options) -> np.ndarray:
    """An ascii file of two Gaussians of degree 0; returns its table."""
    rows = np.arange(2 * len(STANDARD)).reshape(2, -1) / 8
    path.write_bytes(ply_text(STANDARD, rows.tolist(), **options))
    return rows


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
def test_round_trip_is_exact(tmp_path, monkeypatch, sh_degree):
    monkeypatch.setattr(ply_format, "CHUNK_BYTES", 1 << 14)  # several chunks, the last one smaller
    model = make_model(num=1001, sh_degree=sh_degree)
    save_ply(tmp_path / "model.ply", model)
    assert_same(load_ply(tmp_path / "model.ply"), model)


def test_file_has_the_layout_of_3dgs(tmp_path):
    model = make_model(num=3, sh_degree=3)
    save_ply(tmp_path / "model.ply", model)
    header, body = split_file(tmp_path / "model.ply")
    rest = [f"f_rest_{i}" for i in range(45)]
    names = STANDARD[:9] + rest + STANDARD[9:]
    assert header == [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 3",
        *(f"property float {name}" for name in names),
    ]
    assert len(body) == 3 * 62 * 4
    row = dict(zip(names, struct.unpack_from("<62f", body, 62 * 4), strict=True))  # the second Gaussian
    shN = np.asarray(model.shN[...])[1]
    assert row["x"] == model.means[1, 0] and row["nx"] == 0
    assert row["f_dc_2"] == model.sh0[1, 0, 2]
    # Channel-major: 15 of red, 15 of green, 15 of blue.
    assert row["f_rest_1"] == shN[1, 0] and row["f_rest_15"] == shN[0, 1] and row["f_rest_44"] == shN[14, 2]
    assert row["opacity"] == model.logit_opacities[1]
    assert row["scale_2"] == model.log_scales[1, 2] and row["rot_0"] == model.quats[1, 0]


def test_rows_of_many_chunks_lie_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(ply_format, "CHUNK_BYTES", 1 << 12)
    model = make_model(num=1001, sh_degree=2)
    save_ply(tmp_path / "model.ply", model)
    parts = [model.means, np.zeros((1001, 3)), model.sh0, jnp.swapaxes(model.shN[...], 1, 2)]
    parts += [model.logit_opacities, model.log_scales, model.quats]
    expected = np.concatenate([np.reshape(part[...], (1001, -1)) for part in parts], axis=1)
    table = np.frombuffer(split_file(tmp_path / "model.ply")[1], "<f4").reshape(1001, -1)
    np.testing.assert_array_equal(table, expected)


def test_elements_of_many_chunks_follow_each_other(tmp_path, monkeypatch):
    path, model = tmp_path / "model.compressed.ply", make_model(num=1001, sh_degree=2)
    save_splats(path, model)
    in_one_chunk = path.read_bytes()
    monkeypatch.setattr(ply_format, "CHUNK_BYTES", 1 << 8)
    save_splats(path, model)
    assert path.read_bytes() == in_one_chunk


def test_a_disk_that_is_full_is_an_error_and_leaves_no_file(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource", reason="the limit is one of Unix")
    monkeypatch.setattr(ply_format, "CHUNK_BYTES", 1 << 12)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(ValueError, match=r"model\.ply cannot be written: File too large"):
            save_ply(tmp_path / "model.ply", make_model(num=1001))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.realdata
def test_file_of_another_program(real_data):
    path = real_data / "splat_samples" / "playbot_lod4.ply"
    model = load_ply(path)
    assert model.capacity == 8406 and model.sh_degree == 2
    table = np.frombuffer(split_file(path)[1], "<f4").reshape(8406, 38)
    # Its order: x y z, scale, f_dc, opacity, rot, f_rest (8 red, 8 green, 8 blue).
    np.testing.assert_array_equal(model.means[...], table[:, :3])
    np.testing.assert_array_equal(model.log_scales[...], table[:, 3:6])
    np.testing.assert_array_equal(model.sh0[:, 0], table[:, 6:9])
    np.testing.assert_array_equal(model.logit_opacities[...], table[:, 9])
    np.testing.assert_array_equal(model.quats[...], table[:, 10:14])
    np.testing.assert_array_equal(model.shN[:, :, 1], table[:, 22:30])
    np.testing.assert_allclose(jnp.linalg.norm(model.quats[...], axis=1), 1, atol=1e-5)


def test_only_live_rows_are_saved(tmp_path):
    model = make_model(num=6).with_capacity(9)
    model.alive[...] = model.alive[...].at[2].set(False)
    save_ply(tmp_path / "model.ply", model)
    assert_same(load_ply(tmp_path / "model.ply"), model.take([0, 1, 3, 4, 5]))


def test_rows_that_are_not_finite_are_left_out_with_one_warning(tmp_path):
    model = make_model(num=6, cls=FeatureGaussians, features=np.zeros((6, 2), np.float32))
    model.means[...] = model.means[...].at[1, 2].set(jnp.nan)
    model.features[...] = model.features[...].at[4, 0].set(jnp.inf)
    with pytest.warns(UserWarning, match="2 of 6 Gaussians are not finite") as caught:
        save_ply(tmp_path / "model.ply", model)
    assert len(caught) == 1
    assert_same(load_ply(tmp_path / "model.ply", FeatureGaussians), model.take([0, 2, 3, 5]))


def test_nothing_to_save_is_an_error_and_leaves_no_file(tmp_path):
    model = make_model(num=2)
    model.alive[...] = jnp.zeros(2, bool)
    with pytest.raises(ValueError, match="nothing to save"):
        save_ply(tmp_path / "model.ply", model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(8,), (2, 3), (), (0,)])
def test_params_of_a_subclass_round_trip(tmp_path, shape):
    features = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
    model = make_model(cls=FeatureGaussians, features=features, masses=np.arange(5.0, dtype=np.float32))
    save_ply(tmp_path / "model.ply", model)
    assert_same(load_ply(tmp_path / "model.ply", FeatureGaussians), model)
    assert params_of(load_ply(tmp_path / "model.ply")).keys() == set(GAUSSIAN_PARAMS)
    header, _ = split_file(tmp_path / "model.ply")
    assert " ".join(["comment splax param features", *map(str, shape)]) in header
    if shape == (8,):
        assert "property float features_7" in header
    assert "property float masses" in header


def test_subclass_without_params_of_its_own(tmp_path):
    class Silent(Gaussians):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    model = make_model(cls=FeatureGaussians, features=np.ones((5, 3), np.float32))
    save_ply(tmp_path / "model.ply", model)
    with pytest.warns(
        UserWarning, match="'features, masses' were left out: the constructor of Silent"
    ) as caught:
        assert isinstance(load_ply(tmp_path / "model.ply", Silent), Silent)
    assert len(caught) == 1
    save_ply(tmp_path / "plain.ply", make_model())
    assert isinstance(load_ply(tmp_path / "plain.ply", Silent), Silent)


def test_subclass_that_needs_what_the_file_lacks(tmp_path):
    save_ply(tmp_path / "model.ply", make_model())
    with pytest.raises(ValueError, match=r"no Param 'features'.*FeatureGaussians needs"):
        load_ply(tmp_path / "model.ply", FeatureGaussians)


def test_params_that_ply_cannot_hold(tmp_path):
    model = make_model()
    model.nx = nnx.Param(jnp.zeros(5))
    with pytest.raises(ValueError, match="rename"):
        save_ply(tmp_path / "model.ply", model)
    model = make_model()
    model.network = nnx.Param(jnp.zeros((7, 2)))
    with pytest.raises(ValueError, match=r"network of shape \(7, 2\) has no row per Gaussian"):
        save_ply(tmp_path / "model.ply", model)
    model = make_model()
    model.features = nnx.Param(jnp.zeros((5, 20_000)))
    with pytest.raises(ValueError, match="256 KiB"):
        save_ply(tmp_path / "model.ply", model)
    assert not list(tmp_path.iterdir())


def test_float64_is_saved_as_float32(tmp_path):
    with jax.enable_x64(True):
        model = make_model(3, dtype=np.float64)
        assert model.means.dtype == np.float64
        save_ply(tmp_path / "model.ply", model)
        loaded = load_ply(tmp_path / "model.ply")
    assert loaded.means.dtype == np.float32
    np.testing.assert_array_equal(loaded.quats[...], np.asarray(model.quats[...], np.float32))


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_other_types_and_orders(tmp_path, byte_order):
    kinds = {"x": "f8", "y": "i2", "opacity": "u1", "rot_1": "i4", "nx": "i1", "scale_0": "u2"}
    names = {
        "i1": "char",
        "u1": "uint8",
        "i2": "short",
        "u2": "ushort",
        "i4": "int32",
        "f4": "float32",
        "f8": "double",
    }
    order = sorted(STANDARD, reverse=True)
    table = np.zeros(3, [(name, byte_order + kinds.get(name, "f4")) for name in order])
    for i, name in enumerate(order):
        table[name] = [i, i + 1, i + 2]
    form = {"<": "little", ">": "big"}[byte_order]
    header = f"ply\r\nformat binary_{form}_endian 1.0\r\nobj_info made by hand\r\ncomment naïve\r\n"
    header += "element camera 2\r\nproperty double a\r\nproperty char b\r\nelement vertex 3\r\n"
    header += "".join(f"property {names[kinds.get(name, 'f4')]} {name}\r\n" for name in order)
    header += "element face 1\r\nproperty list uchar int vertex_indices\r\nend_header\r\n"
    path = tmp_path / "model.ply"
    path.write_bytes(header.encode() + b"\xff" * 18 + table.tobytes() + b"\x03" + b"\0" * 12)
    model = load_ply(path)
    np.testing.assert_array_equal(model.means[:, 1], np.arange(3) + order.index("y"))
    np.testing.assert_array_equal(model.logit_opacities[...], np.arange(3) + order.index("opacity"))
    np.testing.assert_array_equal(model.quats[:, 1], np.arange(3) + order.index("rot_1"))


def test_ascii_and_elements_around(tmp_path):
    before = "element camera 0\nproperty float a\n"
    rows = write_sh0(tmp_path / "model.ply", before=before, kind="double")
    model = load_ply(tmp_path / "model.ply")
    np.testing.assert_array_equal(model.means[...], rows[:, :3])
    np.testing.assert_array_equal(model.quats[...], rows[:, -4:])
    assert model.sh_degree == 0
    text = ply_text(
        STANDARD, rows.tolist(), before="element camera 2\nproperty int a\n", after="element face 0\n"
    )
    (tmp_path / "model.ply").write_bytes(text.replace(b"end_header\n", b"end_header\n1\n2\n"))
    np.testing.assert_array_equal(load_ply(tmp_path / "model.ply").means[...], rows[:, :3])


def test_missing_normals_are_fine(tmp_path):
    names = [name for name in STANDARD if name[0] != "n"]
    (tmp_path / "model.ply").write_bytes(ply_text(names, [range(14)]))
    assert load_ply(tmp_path / "model.ply").quats[0, 3] == 13


def test_opacity_of_exactly_one_is_clamped(tmp_path):
    rows = np.ones((4, len(STANDARD)))
    rows[:, STANDARD.index("opacity")] = [np.inf, 2, -np.inf, 40]
    (tmp_path / "model.ply").write_bytes(ply_text(STANDARD, rows.tolist()))
    with pytest.warns(UserWarning, match="2 opacities") as caught:
        model = load_ply(tmp_path / "model.ply")
    assert len(caught) == 1
    np.testing.assert_array_equal(model.logit_opacities[...], [15, 2, -15, 40])


def test_rows_that_are_not_finite_are_dropped_on_reading(tmp_path):
    rows = np.ones((4, len(STANDARD)))
    rows[1, 0], rows[2, -1], rows[3, 0] = np.nan, np.inf, 7
    (tmp_path / "model.ply").write_bytes(ply_text(STANDARD, rows.tolist()))
    with pytest.warns(UserWarning, match="2 of 4 Gaussians") as caught:
        model = load_ply(tmp_path / "model.ply")
    assert len(caught) == 1
    np.testing.assert_array_equal(model.means[:, 0], [1, 7])
    rows[:, 0] = 1e300  # beyond float32
    (tmp_path / "model.ply").write_bytes(ply_text(STANDARD, rows.tolist(), kind="double"))
    with pytest.raises(ValueError, match="not one of its 4 rows is finite"):
        load_ply(tmp_path / "model.ply")


ROW = [0] * len(STANDARD)
BINARY = b"ply\nformat binary_little_endian 1.0\n"
REFUSED = {
    "empty file": (b"", "not a PLY"),
    "other format": (b"PK\x03\x04", "not a PLY"),
    "no end": (b"ply\nformat ascii 1.0\n", "no 'end_header'"),
    "endless header": (b"ply\n" + b"comment x\n" * 30_000 + b"end_header\n", "no 'end_header'"),
    "no format": (b"ply\nend_header\n", "'format'"),
    "unknown format": (
        b"ply\nformat binary_middle_endian 1.0\nend_header\n",
        "no PLY: 'format binary_middle",
    ),
    "unknown word": (b"ply\nformat ascii 1.0\nelemental vertex 1\nend_header\n", "no PLY: 'elemental"),
    "negative count": (
        b"ply\nformat ascii 1.0\nelement vertex -1\nend_header\n",
        "no PLY: 'element vertex -1",
    ),
    "unknown type": (BINARY + b"element vertex 1\nproperty quad x\nend_header\n", "no PLY: 'property quad x"),
    "property of nothing": (BINARY + b"property float x\nend_header\n", "no PLY: 'property float x"),
    "no vertex": (BINARY + b"element face 1\nend_header\n", "no element 'vertex'"),
    "twice": (ply_text(["x", "x"], [[1, 1]]), "'x' twice"),
    "no rows": (ply_text(STANDARD, []), "0 rows"),
    "point cloud": (
        ply_text(["x", "y", "z", "red", "green", "blue"], [range(6)]),
        "point cloud.*from_points",
    ),
    "one missing": (ply_text(STANDARD[:-1], [ROW[:-1]]), "no property 'rot_3'"),
    "odd f_rest": (ply_text([*STANDARD, "f_rest_0"], [[*ROW, 0]]), "1 f_rest properties.*0, 9, 24, 45"),
    "wrong f_rest names": (
        ply_text(STANDARD + [f"f_rest_{i}" for i in range(1, 10)], [ROW + [0] * 9]),
        "no property 'f_rest_0'",
    ),
    "list before": (
        ply_text(STANDARD, [ROW], before="element face 1\nproperty list uchar int i\n"),
        "lists in its element 'face'",
    ),
    "list within": (ply_text([*STANDARD, "a"], [ROW]).replace(b"float a", b"list int int a"), "has lists"),
    "ascii truncated": (ply_text(STANDARD, [ROW], count=2), "truncated"),
    "ascii ragged": (ply_text(STANDARD, [[*ROW, 1], ROW[:-1]]), "not every 'vertex' has 17 numbers"),
    "ascii words": (ply_text(STANDARD, [["one", *ROW[1:]]]), "could not convert"),
    "huge count": (ply_text(STANDARD, [ROW], count=10**15 - 1), "truncated"),
    "absurd count": (ply_text(STANDARD, [ROW], count="1" * 5000), "no PLY"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(tmp_path, name):
    data, reason = REFUSED[name]
    (tmp_path / "model.ply").write_bytes(data)
    with pytest.raises(ValueError, match=reason) as raised:
        load_ply(tmp_path / "model.ply")
    assert str(tmp_path / "model.ply") in str(raised.value)


def test_refused_paths(tmp_path):
    with pytest.raises(ValueError, match=r"none\.ply cannot be read: No such file"):
        load_ply(tmp_path / "none.ply")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        load_ply(tmp_path)
    with pytest.raises(ValueError, match="is a folder"):
        save_ply(tmp_path, make_model())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot be written: .*file is not a folder"):
        save_ply(tmp_path / "file" / "model.ply", make_model())


def test_hostile_comments(tmp_path):
    model = make_model(cls=FeatureGaussians, features=np.zeros((5, 2), np.float32))
    save_ply(tmp_path / "model.ply", model)
    data = (tmp_path / "model.ply").read_bytes()
    for comment, reason in [
        (b"features 99999 99999", "fewer properties"),
        (b"features -2", "damaged comment"),
        (b"features 3", "no property 'features_2'"),
        (b"features" + b" 1" * 40, "damaged comment"),
        (b"alive 5", "no Param 'features'"),
    ]:
        (tmp_path / "bad.ply").write_bytes(data.replace(b"features 2", comment, 1))
        with pytest.raises(ValueError, match=reason):
            load_ply(tmp_path / "bad.ply", FeatureGaussians)


def mutate(original: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, removed, doubled, or the end cut off; mostly in the header."""
    data, end = bytearray(original), original.index(b"end_header") + 20
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(data) if rng.random() < 0.2 else min(end, len(data))))
        length = int(rng.integers(1, 12))
        match rng.integers(5):
            case 0:
                data[at] = rng.integers(256)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data[at : at + 1] = b"9"
            case 4:
                del data[at + 1 :]
    return bytes(data)


@pytest.mark.parametrize("kind", ["binary", "ascii"])
def test_damaged_files_give_an_error_or_finite_gaussians(tmp_path, kind):
    path = tmp_path / "model.ply"
    if kind == "binary":
        save_ply(path, make_model(2, 0, cls=FeatureGaussians, features=np.ones((2, 2), np.float32)))
    else:
        write_sh0(path)
    data, rng, accepted = path.read_bytes(), np.random.default_rng(0), 0
    cls = FeatureGaussians if kind == "binary" else Gaussians
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(1000):
            path.write_bytes(mutate(data, rng))
            try:
                model = load_ply(path, cls)
            except ValueError as error:
                assert str(path) in str(error)
                continue
            accepted += 1
            assert all(np.isfinite(value).all() for value in params_of(model).values())
    assert 0 < accepted < 900


def test_files_are_whole_or_absent(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    write_whole(path, b"first")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".txt"
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"first"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    write_whole(path, b"second")
    assert path.read_bytes() == b"second"


def test_links_stay_links(tmp_path):
    (tmp_path / "real.txt").write_bytes(b"old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_whole(tmp_path / "link.txt", b"new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_bytes() == b"new"
