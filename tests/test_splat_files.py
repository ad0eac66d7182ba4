"""Splat files of every format: what the bytes are, what comes back, and what is said of what does not."""

import dataclasses
import gzip
import json
import struct
import warnings
import zipfile

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import make_gaussians

import splax
from splax.io import formats, spz_streams
from splax.io.axes import flip_axes
from splax.io.compressed_ply import morton_order
from splax.io.formats import read_splats, write_splats
from splax.io.quantization import from_smallest_three, smallest_three
from splax.io.splat_arrays import SplatArrays
from splax.ops.quaternions import quat_to_rotmat
from splax.ops.spherical_harmonics import eval_sh

SH_C0 = 0.28209479177387814


def make_arrays(num=300, sh_degree=2, seed=0, **options) -> SplatArrays:
    """Gaussians within the range of every format."""
    params = make_gaussians(num, sh_degree=sh_degree, seed=seed)
    params["sh0"] = np.clip(params["sh0"], -1.7, 1.7)
    params["shN"] = np.clip(params["shN"], -0.9, 0.9)
    return SplatArrays(**params, **options)


def unit(quats) -> np.ndarray:
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)


def assert_close(actual: SplatArrays, expected: SplatArrays, **tolerances: float) -> None:
    """Every Param within its tolerance, 1e-6 if none is given; opacities by sigmoid, rotations by angle."""
    assert actual.num == expected.num and actual.sh_degree == expected.sh_degree
    for name in ("means", "log_scales", "sh0", "shN"):
        error = np.abs(actual.params[name] - expected.params[name]).max(initial=0)
        assert error <= tolerances.get(name, 1e-6), f"{name}: {error}"
    opacities = [1 / (1 + np.exp(-a.logit_opacities.astype(np.float64))) for a in (actual, expected)]
    assert np.abs(opacities[0] - opacities[1]).max() <= tolerances.get("opacities", 1e-6)
    cosines = np.abs((unit(actual.quats) * unit(expected.quats)).sum(axis=1))
    angle = 2 * np.arccos(np.minimum(cosines, 1)).max()
    assert angle <= tolerances.get("angle", 2e-3), f"angle: {angle}"


# A half step of each number; the angle of quaternions is found by trial on the other side of 1.
TOLERANCES = {
    "ply": {},
    "splat": {
        "log_scales": 1e-5,
        "sh0": 0.5 / 255 / SH_C0 + 1e-6,
        "opacities": 0.5 / 255 + 1e-6,
        "angle": 0.03,
    },
    "spz": {
        "means": 0.5 / 4096 + 1e-6,
        "log_scales": 0.5 / 16 + 1e-6,
        "sh0": 0.5 / 255 / 0.15 + 1e-6,
        "shN": 8.5 / 128 + 1e-6,
        "opacities": 0.5 / 255 + 1e-6,
        "angle": 0.006,
    },
    "compressed.ply": {
        "means": 2 / 1023 / 2 + 1e-6,
        "log_scales": 3 / 1023 / 2 + 1e-6,
        "sh0": 3.4 / 255 / 2 + 1e-6,
        "shN": 8 / 256 / 2 + 1e-6,
        "opacities": 0.5 / 255 + 1e-6,
        "angle": 0.006,
    },
}


def tolerances_of(suffix: str, options: dict) -> dict[str, float]:
    tolerances = dict(TOLERANCES[suffix])
    if options.get("spz_version") == 2:
        tolerances["angle"] = 0.2  # eight bits, and w from the others
    return tolerances


FORMATS = [
    ("ply", {}),
    ("compressed.ply", {}),
    ("spz", {"spz_version": 2}),
    ("spz", {"spz_version": 3}),
    ("spz", {"spz_version": 4}),
]


def write_quietly(path, arrays, **options) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_splats(path, arrays, **options)


# --- round trips ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
@pytest.mark.parametrize(("suffix", "options"), FORMATS)
def test_round_trip_is_within_the_steps_of_the_format(tmp_path, suffix, options, sh_degree):
    if options.get("spz_version") == 4:
        pytest.importorskip("zstandard")
    arrays = make_arrays(sh_degree=sh_degree)
    path = tmp_path / f"model.{suffix}"
    write_splats(path, arrays, **options)
    expected = arrays.take(morton_order(arrays.means)) if suffix == "compressed.ply" else arrays
    assert_close(read_splats(path), expected, **tolerances_of(suffix, options))


def test_round_trip_of_splat_has_one_colour(tmp_path):
    arrays = make_arrays(sh_degree=0)
    write_splats(tmp_path / "model.splat", arrays)
    assert_close(read_splats(tmp_path / "model.splat"), arrays, **TOLERANCES["splat"])
    with pytest.warns(UserWarning, match=r"SH degree 2\) was left out: \.splat has none") as caught:
        write_splats(tmp_path / "model.splat", make_arrays(sh_degree=2))
    assert len(caught) == 1


@pytest.mark.parametrize(("suffix", "options"), FORMATS)
def test_writing_what_was_read_changes_nothing(tmp_path, suffix, options):
    """Values on the steps of a format stay where they are."""
    if options.get("spz_version") == 4:
        pytest.importorskip("zstandard")
    first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
    write_splats(first, make_arrays(num=200), **options)
    arrays = read_splats(first)
    write_splats(second, arrays, **options)
    tolerance = 1e-5 if suffix == "compressed.ply" else 1e-6  # its ranges are recomputed
    angle = 0.02 if options.get("spz_version") == 2 else 2e-3
    again = read_splats(second)
    if suffix == "compressed.ply":
        order = [np.lexsort(a.means.round(3).T) for a in (again, arrays)]
        again, arrays = again.take(order[0]), arrays.take(order[1])
    assert_close(
        again, arrays, **dict.fromkeys(("means", "log_scales", "sh0", "shN"), tolerance), angle=angle
    )


def test_public_functions_go_by_the_name(tmp_path):
    gaussians = splax.Gaussians(**{k: jnp.asarray(v) for k, v in make_arrays(num=5).params.items()})
    for name in ("a.PLY", "a.Compressed.ply", "a.spz"):
        splax.save_splats(tmp_path / name, gaussians)
        loaded = splax.load_splats(tmp_path / name)
        assert isinstance(loaded, splax.Gaussians) and loaded.capacity == 5 and loaded.sh_degree == 2
    assert (tmp_path / "a.PLY").stat().st_size > 2 * (tmp_path / "a.spz").stat().st_size
    assert b"element chunk" in (tmp_path / "a.Compressed.ply").read_bytes()
    with pytest.raises(ValueError, match=r"a\.obj is of no known kind.*\.compressed\.ply, \.splat, \.spz"):
        splax.load_splats(tmp_path / "a.obj")
    for name in ("a.obj", "a.sog", "ply"):
        with pytest.raises(ValueError, match=rf"{name} cannot be written: .*are written are \.ply"):
            splax.save_splats(tmp_path / name, gaussians)
    with pytest.raises(ValueError, match="versions 2, 3 and 4, got 5"):
        splax.save_splats(tmp_path / "a.spz", gaussians, spz_version=5)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_format_is_one_line_of_the_table(tmp_path, monkeypatch):
    """A reader, a writer and an option of its own: loading, saving and converting know the new format."""

    def write(file, arrays, *, rows: int = 2) -> list[str]:
        np.save(file, arrays.means[:rows])
        return []

    def read(path) -> SplatArrays:
        means = np.load(path)
        return dataclasses.replace(make_arrays(num=len(means)), means=means)

    new = formats.SplatFormat(".means.npy", read, write, {"rows": int})
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, new))
    arrays = make_arrays(num=5)
    write_splats(tmp_path / "a.means.npy", arrays, rows=3)
    assert read_splats(tmp_path / "a.means.npy").num == 3
    formats.convert(tmp_path / "a.means.npy", tmp_path / "b.ply", rows=1)  # of no meaning for a .ply
    assert read_splats(tmp_path / "b.ply").num == 3
    with pytest.raises(ValueError, match=r"\.sog and \.means\.npy, or a folder with meta\.json"):
        read_splats(tmp_path / "a.npy")


def test_an_option_of_no_format_is_an_error(tmp_path):
    with pytest.raises(TypeError, match=r"option 'version'; expected one of \['spz_version'\]"):
        write_splats(tmp_path / "a.spz", make_arrays(num=5), version=4)


def test_only_live_rows_are_written(tmp_path):
    arrays = make_arrays(num=6, sh_degree=0)
    alive = jnp.array([True, False, True, True, True, False])
    params = {name: jnp.asarray(value) for name, value in arrays.params.items()}
    splax.save_splats(tmp_path / "a.spz", splax.Gaussians(**params, alive=alive))
    assert_close(read_splats(tmp_path / "a.spz"), arrays.take([0, 2, 3, 4]), **TOLERANCES["spz"])


# --- the bytes -----------------------------------------------------------------------------------------


def test_a_splat_file_by_hand(tmp_path):
    row = struct.pack("<3f3f8B", 1, -2, 3, 1, np.e, np.e**-2, 255, 0, 51, 128, 0, 128, 128, 128)
    (tmp_path / "a.splat").write_bytes(2 * row)
    arrays = read_splats(tmp_path / "a.splat")
    assert arrays.num == 2 and arrays.sh_degree == 0
    np.testing.assert_array_equal(arrays.means[1], [1, -2, 3])
    np.testing.assert_allclose(arrays.log_scales[1], [0, 1, -2], atol=1e-6)
    np.testing.assert_allclose(0.5 + SH_C0 * arrays.sh0[1, 0], [1, 0, 0.2], atol=1e-6)
    np.testing.assert_allclose(arrays.logit_opacities, np.log(128 / 127), atol=1e-6)
    np.testing.assert_array_equal(unit(arrays.quats)[1], [-1, 0, 0, 0])
    write_splats(tmp_path / "b.splat", arrays)
    assert np.abs(np.frombuffer((tmp_path / "b.splat").read_bytes(), "<f4") - np.frombuffer(2 * row, "<f4"))[
        :6
    ].max() < 1e-6  # fmt: skip
    assert (tmp_path / "b.splat").read_bytes()[24:32] == row[24:32]


def spz_bytes(version=3, *, degree=1, flags=0, fractional_bits=12, num=None, rotations=None) -> bytes:
    """An unpacked SPZ of two Gaussians, as its description has it."""
    positions = b"".join(int(v * 4096).to_bytes(3, "little", signed=True) for v in (1, -2, 3, 0, 0.5, -0.25))
    rotations = rotations or bytes([255, 0, 0, 0] * 2 if version > 2 else [128, 128, 128] * 2)
    sh = bytes([128] * 9 + [192, 64, 128] + [136] * 6) if degree else b""
    return (
        struct.pack(
            "<4sIIBBBB", b"NGSP", version, 2 if num is None else num, degree, fractional_bits, flags, 0
        )
        + positions
        + bytes([128, 51])  # alphas
        + bytes([255, 0, 128] * 2)  # colours
        + bytes([160, 144, 128] * 2)  # scales
        + rotations
        + sh
    )


def test_an_spz_file_by_hand(tmp_path):
    # Largest is w (index 3 of xyzw): x = -sqrt(1/2) * 256 / 511, y = 0, z = sqrt(1/2) * 400 / 511.
    word = 3 << 30 | (1 << 9 | 256) << 20 | 0 << 10 | 400
    data = spz_bytes(rotations=2 * struct.pack("<I", word), flags=1)
    (tmp_path / "a.spz").write_bytes(gzip.compress(data))
    arrays = read_splats(tmp_path / "a.spz")
    assert arrays.antialiased and arrays.sh_degree == 1
    np.testing.assert_array_equal(arrays.means, [[1, 2, -3], [0, -0.5, 0.25]])  # y and z flipped
    np.testing.assert_array_equal(arrays.log_scales[1], [0, -1, -2])
    np.testing.assert_allclose(arrays.logit_opacities, np.log([128 / 127, 51 / 204]), atol=1e-6)
    np.testing.assert_allclose(arrays.sh0[0, 0], [0.5 / 0.15, -0.5 / 0.15, 0.5 / 255 / 0.15], atol=1e-5)
    x, z = np.sqrt(0.5) * np.array([-256, 400]) / 511
    np.testing.assert_allclose(arrays.quats[0], [np.sqrt(1 - x * x - z * z), x, 0, -z], atol=1e-6)
    np.testing.assert_array_equal(arrays.shN[0], 0)
    # (-y, z, -x) with y and z flipped: the first two change sign.
    np.testing.assert_array_equal(arrays.shN[1], [[-0.5, 0.5, 0], [-0.0625] * 3, [0.0625] * 3])
    write_splats(tmp_path / "b.spz", arrays)
    assert gzip.decompress((tmp_path / "b.spz").read_bytes()) == data


def test_an_spz_file_of_version_2_by_hand(tmp_path):
    data = spz_bytes(2, rotations=bytes([255, 0, 0, 191, 128, 64]), degree=0)
    (tmp_path / "a.spz").write_bytes(gzip.compress(data))
    arrays = read_splats(tmp_path / "a.spz")
    xyz = np.array([191, 128, 64]) / 127.5 - 1
    np.testing.assert_allclose(arrays.quats[1], [np.sqrt(1 - xyz @ xyz), xyz[0], -xyz[1], -xyz[2]], atol=1e-6)
    np.testing.assert_allclose(arrays.quats[0], [0, 1, 1, 1], atol=1e-6)  # beyond length 1: w is 0, not NaN


def test_an_spz_file_of_version_4_by_hand(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    write_splats(tmp_path / "a.spz", make_arrays(num=7, sh_degree=0, antialiased=True), spz_version=4)
    data = (tmp_path / "a.spz").read_bytes()
    header = struct.unpack_from("<4sIIBBBBI12x", data)
    assert header == (b"NGSP", 4, 7, 0, 12, 1, 5, 32)  # no stream for colours there are none of
    rows = [struct.unpack_from("<QQ", data, 32 + 16 * i) for i in range(5)]
    assert [unpacked for _, unpacked in rows] == [7 * 9, 7, 7 * 3, 7 * 3, 7 * 4]
    start = 32 + 16 * 5
    for stored, unpacked in rows:
        assert len(zstandard.ZstdDecompressor().decompress(data[start : start + stored])) == unpacked
        start += stored
    assert start == len(data)


@pytest.mark.parametrize(
    ("system", "signs"), [(4, (1, -1, -1)), (6, (1, 1, 1)), (0, (1, -1, -1)), (7, (-1, -1, 1))]
)
@pytest.mark.parametrize("version", [3, 4])
def test_axes_that_an_spz_file_names(tmp_path, system, signs, version):
    """The coordinate system extension: RUB, RDF, unspecified, LUF; other extensions are skipped."""
    records = struct.pack("<II3sIII", 0x12340001, 3, b"abc", 0xADBE0003, 4, system)
    if version == 3:
        (tmp_path / "a.spz").write_bytes(gzip.compress(spz_bytes(flags=2) + records))
    else:
        pytest.importorskip("zstandard")
        (tmp_path / "b.spz").write_bytes(gzip.compress(spz_bytes()))
        write_splats(tmp_path / "a.spz", read_splats(tmp_path / "b.spz"), spz_version=4)
        data = bytearray((tmp_path / "a.spz").read_bytes())
        data[14] = 2
        data[16:20] = struct.pack("<I", 32 + len(records))
        data[32:32] = records
        (tmp_path / "a.spz").write_bytes(data)
    np.testing.assert_array_equal(read_splats(tmp_path / "a.spz").means[0], np.array([1, -2, 3]) * signs)


def test_rotated_axes_are_refused(tmp_path):
    records = struct.pack("<III", 0xADBE0003, 4, 12)
    (tmp_path / "a.spz").write_bytes(gzip.compress(spz_bytes(flags=2) + records))
    with pytest.raises(ValueError, match="coordinate system 12"):
        read_splats(tmp_path / "a.spz")


def test_degree_4_of_an_spz_file_is_cut_with_a_warning(tmp_path):
    data = bytearray(spz_bytes(degree=0))
    data[12] = 4
    (tmp_path / "a.spz").write_bytes(gzip.compress(data + bytes([192] * 45 + [255] * 27) * 2))
    with pytest.warns(UserWarning, match="SH degree 4 was cut to 3") as caught:
        arrays = read_splats(tmp_path / "a.spz")
    assert len(caught) == 1 and arrays.sh_degree == 3
    np.testing.assert_array_equal(np.abs(arrays.shN), 0.5)


def test_spz_positions_get_the_bits_that_the_scene_needs(tmp_path):
    """A quarter millimetre is no step for a scene in kilometres, nor for one the size of a coin."""
    base = make_arrays(num=50, sh_degree=0)
    small = base.replace(means=base.means / 1000, log_scales=base.log_scales - np.float32(np.log(1000)))
    write_quietly(tmp_path / "small.spz", small)
    assert np.abs(read_splats(tmp_path / "small.spz").means - small.means).max() < 0.15 / 1000 / 8
    large = base.replace(means=base.means * 10_000)
    with pytest.warns(
        UserWarning, match="positions were rounded to 1/512, since the farthest Gaussian is at 9"
    ):
        write_splats(tmp_path / "large.spz", large)
    assert np.abs(read_splats(tmp_path / "large.spz").means - large.means).max() <= 0.5 / 512 + 1e-3
    beyond = base.replace(means=base.means * np.float32(1e9))
    write_quietly(tmp_path / "beyond.spz", beyond)
    assert np.abs(read_splats(tmp_path / "beyond.spz").means).max() == 2**23 - 1


def test_spz_says_what_it_clips(tmp_path):
    arrays = make_arrays(num=4, sh_degree=1)
    arrays.log_scales[0, 1], arrays.sh0[:2, 0, 0], arrays.shN[1:, 2, 2] = -11, 5, -3
    with pytest.warns(UserWarning) as caught:
        write_splats(tmp_path / "a.spz", arrays)
    (warning,) = caught
    text = str(warning.message)
    assert (
        "log_scales of 1 Gaussians" in text and "sh0 of 2 Gaussians" in text and "shN of 3 Gaussians" in text
    )
    assert read_splats(tmp_path / "a.spz").log_scales[0, 1] == -10


def compressed_ply_bytes(*, colors=True, sh=b"") -> bytes:
    """One chunk of two Gaussians, as PlayCanvas lays it out."""
    ends = [f"{end}_{axis}" for end in ("min", "max") for axis in "xyz"]
    ends += [f"{end}_scale_{axis}" for end in ("min", "max") for axis in "xyz"]
    ends += [f"{end}_{channel}" for end in ("min", "max") for channel in "rgb"] if colors else []
    header = "ply\nformat binary_little_endian 1.0\nelement chunk 1\n"
    header += "".join(f"property float {name}\n" for name in ends) + "element vertex 2\n"
    header += "".join(f"property uint packed_{name}\n" for name in ("position", "rotation", "scale", "color"))
    if sh:
        header += "element sh 2\n" + "".join(f"property uchar f_rest_{i}\n" for i in range(len(sh) // 2))
    ranges = [0, -1, 2, 1, 1, 4, -5, -5, -5, -4, -3, -2, *([0, 0, 0, 0.5, 1, 2] if colors else [])]
    rotation = 1 << 30 | 1023 << 20 | 512 << 10 | 511  # of wxyz, x is largest
    words = [
        2047 << 21 | 0 << 11 | 2047,
        rotation,
        0 << 21 | 1023 << 11 | 0,
        255 << 24 | 51 << 16 | 255 << 8 | 51,
    ]
    return header.encode() + b"end_header\n" + struct.pack(f"<{len(ranges)}f8I", *ranges, *words, *words) + sh


@pytest.mark.parametrize("colors", [True, False])
def test_a_compressed_ply_file_by_hand(tmp_path, colors):
    sh = bytes(range(0, 18))
    (tmp_path / "a.ply").write_bytes(compressed_ply_bytes(colors=colors, sh=sh))
    arrays = read_splats(tmp_path / "a.ply")
    np.testing.assert_array_equal(arrays.means[1], [1, -1, 4])
    np.testing.assert_array_equal(arrays.log_scales[1], [-5, -3, -5])
    rgb = [0.5, 0.2, 2] if colors else [1, 0.2, 1]
    np.testing.assert_allclose(0.5 + SH_C0 * arrays.sh0[1, 0], rgb, atol=1e-6)
    np.testing.assert_allclose(arrays.logit_opacities, np.log(0.2 / 0.8), atol=1e-6)
    w, y, z = np.sqrt(0.5), np.sqrt(2) * (512 / 1023 - 0.5), np.sqrt(2) * (511 / 1023 - 0.5)
    np.testing.assert_allclose(arrays.quats[1], [w, np.sqrt(1 - w * w - y * y - z * z), y, z], atol=1e-6)
    # Channel-major: red 9, 10, 11; green 12, 13, 14; blue 15, 16, 17.
    np.testing.assert_allclose(arrays.shN[1, 1], ((np.array([10, 13, 16]) + 0.5) / 256 - 0.5) * 8, atol=1e-6)
    assert arrays.shN[0, 0, 0] == -4  # byte 0 is the end of the range


def write_webp(path, pixels) -> None:
    pixels = np.asarray(pixels, np.uint8)
    bgra = np.concatenate([pixels[..., 2::-1], pixels[..., 3:]], axis=-1)
    assert cv2.imwrite(str(path), bgra, [cv2.IMWRITE_WEBP_QUALITY, 101])  # above 100: lossless


def write_sog(folder, **meta) -> dict:
    """A SOG folder of three Gaussians in images of 2 x 2; returns its meta.json."""
    folder.mkdir(exist_ok=True)
    write_webp(folder / "means_l.webp", [[[0, 255, 7, 255], [1, 0, 0, 255]], [[255, 255, 255, 255], [9] * 4]])
    write_webp(folder / "means_u.webp", [[[0, 255, 0, 255], [2, 0, 0, 255]], [[255, 255, 255, 255], [9] * 4]])
    quats = [[[255, 127, 0, 252], [128, 127, 255, 255]], [[0, 0, 0, 7], [1, 1, 1, 252]]]
    write_webp(folder / "quats.webp", quats)
    write_webp(folder / "scales.webp", [[[0, 1, 255, 255], [2, 2, 2, 255]], [[3, 3, 3, 255], [9] * 4]])
    write_webp(folder / "sh0.webp", [[[0, 1, 255, 51], [2, 2, 2, 128]], [[3, 3, 3, 204], [9] * 4]])
    palette = np.zeros((2, 64 * 3, 4))
    palette[1, 3 * 2 + 1] = [1, 2, 3, 255]  # entry 66, second coefficient
    write_webp(folder / "shN_centroids.webp", palette)
    write_webp(folder / "shN_labels.webp", [[[66, 0, 0, 255], [0, 0, 0, 255]], [[66, 0, 0, 255], [9] * 4]])
    codebook = [i / 8 - 16 for i in range(256)]
    content = {
        "version": 2,
        "count": 3,
        "means": {"mins": [0, -1, 0], "maxs": [1, 2, 0], "files": ["means_l.webp", "means_u.webp"]},
        "quats": {"files": ["quats.webp"]},
        "scales": {"codebook": codebook, "files": ["scales.webp"]},
        "sh0": {"codebook": codebook, "files": ["sh0.webp"]},
        "shN": {
            "count": 67,
            "bands": 1,
            "codebook": codebook,
            "files": ["shN_centroids.webp", "shN_labels.webp"],
        },
        **meta,
    }
    (folder / "meta.json").write_text(json.dumps(content))
    return content


def zip_folder(folder, path, compression=zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)


@pytest.mark.parametrize("kind", ["folder", "meta.json", "stored", "deflated"])
def test_a_sog_file_by_hand(tmp_path, kind):
    write_sog(tmp_path / "sog", model="antialiased")
    path = tmp_path / "sog"
    if kind == "meta.json":
        path = path / "meta.json"
    elif kind != "folder":
        zip_folder(path, tmp_path / "a.sog", getattr(zipfile, f"ZIP_{kind.upper()}"))
        path = tmp_path / "a.sog"
    with pytest.warns(UserWarning, match="1 Gaussians with a quaternion of zero got the identity"):
        arrays = read_splats(path)
    assert arrays.num == 3 and arrays.antialiased
    logs = np.array([[0, 2, 0], [513 / 65535, -1, 0], [1, 2, 0]])
    np.testing.assert_allclose(arrays.means, np.sign(logs) * np.expm1(np.abs(logs)), atol=1e-6)
    np.testing.assert_array_equal(arrays.log_scales[0], [-16, -15.875, 255 / 8 - 16])
    np.testing.assert_array_equal(arrays.sh0[1, 0], -15.75)
    np.testing.assert_allclose(arrays.logit_opacities, np.log([0.25, 128 / 127, 4]), atol=1e-6)
    x, y = np.sqrt(0.5), np.sqrt(0.5) * (127 / 127.5 - 1)
    np.testing.assert_allclose(arrays.quats[0], [0, x, y, -x], atol=2e-3)
    np.testing.assert_array_equal(arrays.quats[2], [1, 0, 0, 0])
    np.testing.assert_array_equal(arrays.shN[2], [[-16] * 3, [-15.875, -15.75, -15.625], [-16] * 3])
    np.testing.assert_array_equal(arrays.shN[1], -16)


def test_a_sog_file_without_other_coefficients(tmp_path):
    write_sog(tmp_path / "sog", shN=None, antialias=False)
    with pytest.warns(UserWarning, match="quaternion of zero"):
        arrays = read_splats(tmp_path / "sog")
    assert arrays.sh_degree == 0 and not arrays.antialiased


# --- mathematics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("signs", [(1, -1, -1), (-1, 1, -1), (-1, 1, 1), (-1, -1, -1)])
def test_flipped_axes_show_the_same_thing(signs):
    """Covariances turn by the mirror, and the colour seen from a direction is that of the mirrored direction."""
    arrays = make_arrays(num=20, sh_degree=3)
    flipped, mirror = flip_axes(arrays, signs), np.diag(signs).astype(np.float32)
    np.testing.assert_array_equal(flipped.means, arrays.means @ mirror)
    before, after = (np.asarray(quat_to_rotmat(jnp.asarray(a.quats))) for a in (arrays, flipped))
    np.testing.assert_allclose(after, mirror @ before @ mirror, atol=1e-6)
    directions = unit(np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32))
    colors = [
        np.asarray(eval_sh(jnp.asarray(a.sh0), jnp.asarray(a.shN), jnp.asarray(d)))
        for a, d in ((arrays, directions), (flipped, directions @ mirror))
    ]
    np.testing.assert_allclose(colors[0], colors[1], atol=2e-6)
    np.testing.assert_array_equal(flip_axes(flipped, signs).shN, arrays.shN)


def test_the_smallest_three_of_a_quaternion():
    quats = unit(np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32))
    quats[:4] = np.eye(4)
    largest, others = smallest_three(quats)
    assert np.abs(others).max() <= 1 + 1e-6
    np.testing.assert_array_equal(largest, np.abs(quats).argmax(axis=1))
    again = from_smallest_three(largest, others)
    np.testing.assert_allclose(np.abs((again * quats).sum(axis=1)), 1, atol=1e-6)


# --- what cannot be drawn, and what cannot be kept -----------------------------------------------------


@pytest.mark.parametrize("suffix", ["ply", "spz", "splat", "compressed.ply"])
def test_repairs_are_one_warning(tmp_path, suffix):
    arrays = make_arrays(num=9, sh_degree=0)
    arrays.logit_opacities[[0, 1, 2]] = np.inf, -np.inf, np.inf
    arrays.log_scales[3, 1] = -np.inf
    arrays.quats[[4, 5]] = 0
    arrays.means[6, 2], arrays.sh0[7, 0, 1] = np.nan, np.inf
    path = tmp_path / f"a.{suffix}"
    with pytest.warns(UserWarning) as caught:
        write_splats(path, arrays)
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith(
        f"{path}: 3 opacities of exactly 0 or 1 were clamped to logits of 15; 1 Gaussians with "
    )
    assert "2 Gaussians with a quaternion of zero got the identity" in text
    assert "2 of 9 Gaussians are not finite and were left out" in text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = read_splats(path)
    assert again.num == 7
    assert all(np.isfinite(value).all() for value in again.params.values())
    assert (unit(again.quats)[:, 0] > 0.999).sum() == 2
    assert (np.abs(again.logit_opacities) > 10).sum() == 3
    # In memory nothing changed.
    assert np.isinf(arrays.logit_opacities[0])


@pytest.mark.parametrize("suffix", ["ply", "spz", "splat", "compressed.ply"])
def test_length_of_quaternions_does_not_matter(tmp_path, suffix):
    arrays = make_arrays(num=8, sh_degree=0)
    lengths = np.array([[1e-30, 1e-20, 1e-3, 1, 7, 1e10, 1e20, 1e30]], np.float32).T
    write_splats(tmp_path / f"a.{suffix}", arrays)
    write_splats(tmp_path / f"b.{suffix}", arrays.replace(quats=unit(arrays.quats) * lengths))
    a, b = (read_splats(tmp_path / f"{name}.{suffix}").quats.astype(np.float64) for name in "ab")
    np.testing.assert_allclose(np.abs((unit(a) * unit(b)).sum(axis=1)), 1, atol=1e-4)


def test_opacities_of_exactly_0_and_1_in_bytes(tmp_path):
    row = struct.pack("<3f3f8B", 1, 2, 3, 1, 1, 0, 9, 9, 9, 255, 200, 128, 128, 128)
    rest = struct.pack("<3f3f8B", 1, 2, 3, 1, 1, -1, 9, 9, 9, 0, 200, 128, 128, 128)
    (tmp_path / "a.splat").write_bytes(row + rest)
    with pytest.warns(
        UserWarning, match="2 opacities.*1 Gaussians with a scale of zero.*1 of 2 .*not finite"
    ):
        arrays = read_splats(tmp_path / "a.splat")
    np.testing.assert_array_equal(arrays.logit_opacities, [15])
    np.testing.assert_array_equal(arrays.log_scales, [[0, 0, -20]])


@pytest.mark.parametrize("suffix", ["ply", "spz", "splat", "compressed.ply"])
def test_nothing_to_write_leaves_no_file(tmp_path, suffix):
    arrays = make_arrays(num=2, sh_degree=0)
    arrays.means[:] = np.nan
    with pytest.raises(ValueError, match="nothing to save: of 2 Gaussians alive, none is finite"):
        write_splats(tmp_path / f"a.{suffix}", arrays)
    with pytest.raises(ValueError, match="nothing to save"):
        write_splats(tmp_path / f"a.{suffix}", arrays.take(slice(0)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("suffix", "options"), FORMATS)
def test_the_antialiased_mark_is_carried(tmp_path, suffix, options):
    if options.get("spz_version") == 4:
        pytest.importorskip("zstandard")
    for antialiased in (False, True):
        write_splats(tmp_path / f"a.{suffix}", make_arrays(num=3, antialiased=antialiased), **options)
        assert read_splats(tmp_path / f"a.{suffix}").antialiased is antialiased
    gaussians = splax.load_splats(tmp_path / f"a.{suffix}")
    splax.save_splats(tmp_path / f"b.{suffix}", gaussians, antialiased=True, **options)
    assert read_splats(tmp_path / f"b.{suffix}").antialiased


def test_the_antialiased_mark_of_other_programs(tmp_path):
    write_splats(tmp_path / "a.ply", make_arrays(num=3, antialiased=True))
    data = (tmp_path / "a.ply").read_bytes()
    for comment, expected in [
        (b"antialiased 1", True),
        (b"splatrendermode:  MIP", True),
        (b"antialiased 0", False),
    ]:
        (tmp_path / "b.ply").write_bytes(data.replace(b"SplatRenderMode: mip", comment))
        assert read_splats(tmp_path / "b.ply").antialiased is expected
    with pytest.warns(UserWarning, match="the mark that they are antialiased was left out"):
        write_splats(tmp_path / "a.splat", make_arrays(num=3, sh_degree=0, antialiased=True))


class FeatureGaussians(splax.Gaussians):
    def __init__(self, *args, features, **kwargs):
        super().__init__(*args, **kwargs)
        self.features = nnx.Param(jnp.asarray(features))


def test_params_of_a_subclass_are_kept_by_ply_only(tmp_path):
    features = np.arange(10, dtype=np.float32).reshape(5, 2)
    params = {name: jnp.asarray(value) for name, value in make_arrays(num=5).params.items()}
    gaussians = FeatureGaussians(**params, features=features)
    splax.save_splats(tmp_path / "a.ply", gaussians)
    np.testing.assert_array_equal(
        splax.load_splats(tmp_path / "a.ply", FeatureGaussians).features[...], features
    )
    assert not hasattr(splax.load_splats(tmp_path / "a.ply"), "features")
    # Conversion keeps what it does not know.
    formats.convert(tmp_path / "a.ply", tmp_path / "b.ply")
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    for name in ("a.spz", "a.compressed.ply"):
        with pytest.warns(UserWarning, match=r"Params features were left out: only \.ply keeps them"):
            splax.save_splats(tmp_path / name, gaussians)
        with pytest.raises(
            ValueError, match=rf"{name} holds no Param 'features', which FeatureGaussians needs"
        ):
            splax.load_splats(tmp_path / name, FeatureGaussians)


def test_without_zstandard_the_error_names_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(ImportError, match="pip install zstandard"):
        write_splats(tmp_path / "a.spz", make_arrays(num=3), spz_version=4)
    header = struct.pack("<4sIIBBBBI12x", b"NGSP", 4, 1, 0, 12, 0, 5, 32)
    table = b"".join(struct.pack("<QQ", 9, size) for size in (9, 1, 3, 3, 4))
    (tmp_path / "b.spz").write_bytes(header + table + bytes(45))
    with pytest.raises(ImportError, match="pip install zstandard"):
        read_splats(tmp_path / "b.spz")
    assert [path.name for path in tmp_path.iterdir()] == ["b.spz"]


# --- files of other programs ---------------------------------------------------------------------------


@pytest.mark.realdata
class TestRealFiles:
    @pytest.fixture
    def samples(self, real_data):
        return real_data / "splat_samples"

    @pytest.fixture
    def playbot(self, samples):
        return read_splats(samples / "playbot_lod4.ply")

    def test_sog_equals_the_ply_made_of_it(self, samples, playbot):
        assert_close(read_splats(samples / "playbot_lod4_sog"), playbot)

    @pytest.mark.parametrize("version", [3, 4])
    def test_spz_is_within_its_steps_of_the_ply(self, samples, playbot, version):
        """The ranges of SPZ clip some of these: they are compared where they do not."""
        if version == 4:
            pytest.importorskip("zstandard")
        arrays = read_splats(samples / f"playbot_lod4_v{version}.spz")
        inside = (playbot.log_scales > -10).all(axis=1) & (np.abs(playbot.sh0) < 3.3).all(axis=(1, 2))
        inside &= (np.abs(playbot.shN) < 0.99).all(axis=(1, 2))
        assert arrays.num == 8406 and inside.mean() > 0.95
        tolerances = TOLERANCES["spz"] | {"means": 0.5 / 4096 + 1e-5}
        assert_close(arrays.take(inside), playbot.take(inside), **tolerances)

    @pytest.mark.parametrize("version", [3, 4])
    def test_spz_has_the_bytes_that_another_encoder_writes(self, samples, playbot, tmp_path, version):
        if version == 4:
            pytest.importorskip("zstandard")
        write_quietly(tmp_path / "a.spz", playbot, spz_version=version)
        theirs = spz_streams.read_streams((samples / f"playbot_lod4_v{version}.spz").read_bytes())
        ours = spz_streams.read_streams((tmp_path / "a.spz").read_bytes())
        assert ours.header == theirs.header
        for name, expected in theirs.arrays.items():
            differ = ours.arrays[name] != expected
            # Two coordinates lie half way between two steps.
            assert differ.sum() <= (2 if name == "positions" else 0), name

    def test_compressed_ply(self, samples, tmp_path):
        with pytest.warns(UserWarning, match="667 opacities of exactly 0 or 1 were clamped") as caught:
            arrays = read_splats(samples / "guitar.compressed.ply")
        assert len(caught) == 1 and arrays.num == 90_854 and arrays.sh_degree == 0
        with pytest.warns(UserWarning, match="667 opacities"):
            assert splax.load_ply(samples / "guitar.compressed.ply").capacity == 90_854
        write_splats(tmp_path / "a.compressed.ply", arrays)
        with pytest.warns(UserWarning, match="667 opacities"):
            again = read_splats(tmp_path / "a.compressed.ply")
        size = (samples / "guitar.compressed.ply").stat().st_size
        assert abs((tmp_path / "a.compressed.ply").stat().st_size - size) < 100
        arrays = arrays.take(morton_order(arrays.means))
        # The widest chunks of the scene set the worst error; most of it is far finer.
        assert np.abs(again.means - arrays.means).max() < 3e-3
        assert np.median(np.abs(again.means - arrays.means)) < 3e-5

    def test_no_warning_for_a_clean_file(self, samples):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert splax.load_splats(samples / "playbot_lod4_v3.spz").sh_degree == 2
