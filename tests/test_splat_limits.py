"""Splat files that promise more than they hold: an error that names the file, in bounded memory.

Truncated, counts without the rows, bombs, parts that do not fit. Random damage to files of every kind is in
test_fuzz.py.
"""

import gzip
import json
import os
import struct
import tracemalloc
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from test_splat_files import (
    compressed_ply_bytes,
    make_arrays,
    spz_bytes,
    write_quietly,
    write_sog,
    write_webp,
    zip_folder,
)

from splax.files.limits import check_expansion
from splax.io.formats import read_splats

MIB = 1 << 20


def refuse(path, reason: str) -> None:
    """A ValueError with the file's name and the reason, and no memory for what is only promised."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=reason) as raised:
            read_splats(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(raised.value)
    assert peak < 4 * MIB, f"{peak / MIB:.0f} MiB"


# --- truncated, at every byte --------------------------------------------------------------------------


def file_of(kind: str, tmp_path) -> bytes:
    arrays = make_arrays(num=3, sh_degree=1)
    suffix, options = {"spz4": ("spz", {"spz_version": 4}), "spz2": ("spz", {"spz_version": 2})}.get(
        kind, (kind, {})
    )
    if kind == "spz4":
        pytest.importorskip("zstandard")
    if kind == "sog":
        write_sog(tmp_path / "folder")
        zip_folder(tmp_path / "folder", tmp_path / "a.sog", zipfile.ZIP_DEFLATED)
    else:
        write_quietly(tmp_path / f"a.{suffix}", arrays, **options)
    return (tmp_path / f"a.{suffix}").read_bytes()


KINDS = ["ply", "compressed.ply", "spz", "spz2", "spz4", "splat", "sog"]


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_files_are_refused(tmp_path, kind):
    data = file_of(kind, tmp_path)
    path = tmp_path / f"cut.{kind.rstrip('24')}"
    lengths = [length for length in range(len(data)) if kind != "splat" or length % 32]
    for length in lengths[:: 1 if kind != "sog" else 7]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r" (is|has|holds) ") as raised:
            read_splats(path)
        assert str(path) in str(raised.value)


def test_truncation_says_what_was_expected_and_found(tmp_path):
    path = tmp_path / "a.spz"
    path.write_bytes(gzip.compress(spz_bytes(num=3)))
    refuse(path, "truncated: its header promises 87 bytes, found 58")
    path.write_bytes(gzip.compress(spz_bytes()[:15]))
    refuse(path, "truncated: expected a header of 16 bytes, found 15")
    path.write_bytes(gzip.compress(spz_bytes())[:-4])
    refuse(path, "truncated: its gzip data has no end")
    path = tmp_path / "a.splat"
    path.write_bytes(bytes(33))
    refuse(path, "truncated or no .splat file: expected a multiple of 32 bytes, found 33")
    path = tmp_path / "a.ply"
    path.write_bytes(compressed_ply_bytes()[:-1])
    refuse(path, r"truncated: its header promises at least \d+ bytes, it has \d+")


@pytest.mark.parametrize("name", ["a.ply", "a.spz", "a.splat", "a.sog"])
def test_empty_files_are_refused(tmp_path, name):
    (tmp_path / name).touch()
    refuse(tmp_path / name, "no PLY|not a PLY|no SPZ|holds no Gaussians|no SOG")


# --- counts and sizes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("num", [0, 3, 1 << 24, (1 << 32) - 1])
def test_spz_counts_are_checked_before_memory_is_taken(tmp_path, num):
    (tmp_path / "a.spz").write_bytes(gzip.compress(spz_bytes(num=num)))
    refuse(tmp_path / "a.spz", "counts 0|truncated|hostile")


def test_a_gzip_bomb_is_not_unpacked(tmp_path):
    """256 MiB of zeros behind the data, and as data: the header bounds what is unpacked."""
    packer = zlib.compressobj(1, wbits=31)
    zeros = bytes(16 * MIB)
    stored = (
        packer.compress(spz_bytes()) + b"".join(packer.compress(zeros) for _ in range(16)) + packer.flush()
    )
    (tmp_path / "a.spz").write_bytes(stored)
    tracemalloc.start()
    assert read_splats(tmp_path / "a.spz").num == 2
    assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    tracemalloc.stop()
    packer = zlib.compressobj(1, wbits=31)
    num = (256 << 20) // 20
    stored = packer.compress(spz_bytes(num=num, degree=0)[:16])
    (tmp_path / "b.spz").write_bytes(
        stored + b"".join(packer.compress(zeros) for _ in range(16)) + packer.flush()
    )
    refuse(
        tmp_path / "b.spz", r"hostile: its header declares 268,435,440 bytes, .* may unpack to \d+,\d+,\d+ at"
    )


def spz4_bytes(zstandard, *, sizes=None, num=2, streams=5, table=32, frames=None) -> bytes:
    """A version 4 file of degree 0, by default a good one."""
    parts = [bytes([100]) * (num * k) for k in (9, 1, 3, 3, 4)]
    frames = frames or [zstandard.ZstdCompressor().compress(part) for part in parts]
    rows = [(len(frame), len(part)) for frame, part in zip(frames, parts, strict=True)]
    for i, row in (sizes or {}).items():
        rows[i] = row
    header = struct.pack("<4sIIBBBBI12x", b"NGSP", 4, num, 0, 12, 0, streams, table)
    return header + b"".join(struct.pack("<QQ", *row) for row in rows) + b"".join(frames)


def test_zstd_sizes_are_checked_before_memory_is_taken(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "a.spz"
    path.write_bytes(spz4_bytes(zstandard))
    assert read_splats(path).num == 2
    for options, reason in [
        ({"sizes": {0: (9, 1 << 62)}}, "streams should unpack to .18, 2, 6, 6, 8."),
        ({"sizes": {0: (1 << 63, 18)}}, "truncated: its table promises"),
        ({"sizes": {0: ((1 << 64) - 1, 18)}}, "truncated: its table promises"),
        ({"streams": 4}, "streams should unpack"),
        ({"streams": 255}, "truncated: its table of streams ends at byte 4,112"),
        ({"table": 31}, "its table of streams"),
        ({"table": (1 << 32) - 1}, "its table of streams"),
    ]:
        path.write_bytes(spz4_bytes(zstandard, **options))
        refuse(path, reason)
    path.write_bytes(spz4_bytes(zstandard)[:12] + bytes([9]) + spz4_bytes(zstandard)[13:])
    refuse(path, "SH degree 9; SPZ has 0 to 4")


def test_a_zstd_bomb_is_not_unpacked(tmp_path):
    """A frame of 1 GiB where 18 bytes are expected, and one that declares a size it has not."""
    zstandard = pytest.importorskip("zstandard")
    packer = zstandard.ZstdCompressor().compressobj()
    bomb = b"".join(packer.compress(bytes(16 * MIB)) for _ in range(64)) + packer.flush()
    good = [zstandard.ZstdCompressor().compress(bytes(2 * k)) for k in (1, 3, 3, 4)]
    path = tmp_path / "a.spz"
    path.write_bytes(spz4_bytes(zstandard, frames=[bomb, *good]))
    refuse(path, "a zstd stream should unpack to 18 bytes, found more")
    # Magic, single segment with 8 bytes of content size, 2^62, and one raw block of 1 byte.
    liar = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 62) + b"\x09\x00\x00x"
    path.write_bytes(spz4_bytes(zstandard, frames=[liar, *good]))
    refuse(path, "zstd")


def test_compressed_ply_counts_are_checked_before_memory_is_taken(tmp_path):
    data, path = compressed_ply_bytes(sh=bytes(18)), tmp_path / "a.ply"
    for old, new, reason in [
        (b"vertex 2\n", b"vertex 900000000000\n", "need 3515625000 chunks of 256, its header has 1"),
        (b"chunk 1\nproperty", b"chunk 0\nproperty", "need 1 chunks"),
        (b"vertex 2\n", b"vertex 256\n", "element 'sh'"),
        (b"sh 2\n", b"sh 3\n", "element 'sh'"),
        (b"vertex 2\n", b"vertex 0\n", "0 rows"),
        (b"uchar f_rest_3", b"float f_rest_3", "element 'sh'"),
        (b"uchar f_rest_8", b"uchar f_rest_9", "element 'sh'"),
        (b"uint packed_scale", b"float packed_scale", "no packed_scale"),
        (b"float max_scale_x", b"float max_scale_w", "no max_scale_x"),
        (b"float min_g", b"float min_h", "no min_g"),
        (b"element chunk", b"element chunky", "no element 'chunk'"),
        (b"binary_little_endian", b"ascii", "as text"),
    ]:
        assert old in data
        path.write_bytes(data.replace(old, new))
        refuse(path, reason)


def test_expansion_is_bounded_by_what_is_stored():
    check_expansion("x", 64 * MIB, 1)
    check_expansion("x", 1280 * MIB, 10 * MIB)
    with pytest.raises(ValueError, match="x declares 1,342,177,281 bytes"):
        check_expansion("x", 1280 * MIB + 1, 10 * MIB)


# --- SOG -----------------------------------------------------------------------------------------------


META_CASES = {
    "no json": (b"{", "not valid json"),
    "no utf-8": (b'{"version": "\xff"}', "not valid json"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "large": (b" " * (MIB + 1), "at most 1,048,576 are read"),
    "no object": (b"[2]", "version none"),
    "version 1": (b"{}", "only one that is read: its meta.json has version None"),
    "long version": (json.dumps({"version": "9" * 500}).encode(), r"version '9{70,80}\.\.\."),
}


@pytest.mark.parametrize("case", META_CASES)
def test_sog_metadata_is_checked(tmp_path, case):
    data, reason = META_CASES[case]
    (tmp_path / "meta.json").write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        read_splats(tmp_path)


BOOK = [0.0] * 256
PARTS = {
    "count 0": ({"count": 0}, "'count'"),
    "count true": ({"count": True}, "'count'"),
    "count 2^63": ({"count": 1 << 63}, "'count'"),
    "count 5": ({"count": 5}, "2 x 2 pixels, too few for 5"),
    "no quats": ({"quats": None}, "no 'quats'"),
    "no files": ({"quats": {}}, "'quats.files'"),
    "one file": ({"means": {"mins": [0] * 3, "maxs": [1] * 3, "files": ["sh0.webp"]}}, "'means.files'.*place 1"),
    "NaN": ({"means": {"mins": [0, float("nan"), 0], "maxs": [1] * 3, "files": []}}, "'means.mins'.*3 finite"),
    "huge number": ({"sh0": {"codebook": [10**400, *BOOK[1:]], "files": ["sh0.webp"]}}, "'sh0.codebook'"),
    "short book": ({"scales": {"codebook": BOOK[:255], "files": ["scales.webp"]}}, "'scales.codebook'.*256"),
    "parent": ({"quats": {"files": ["../quats.webp"]}}, "no plain file name"),
    "absolute": ({"quats": {"files": ["/etc/hostname"]}}, "no plain file name"),
    "hidden": ({"quats": {"files": [".."]}}, "no plain file name"),
    "backslash": ({"quats": {"files": ["..\\quats.webp"]}}, "no plain file name"),
    "null byte": ({"quats": {"files": ["a\0b"]}}, "no plain file name"),
    "missing": ({"quats": {"files": ["none.webp"]}}, "has no readable 'none.webp': No such file"),
    "a number": ({"quats": {"files": [7]}}, "'quats.files'"),
    "not an image": ({"quats": {"files": ["meta.json"]}}, "no lossless WebP"),
    "bands 4": ({"shN": {"count": 67, "bands": 4, "codebook": BOOK, "files": []}}, "'bands'"),
    "palette": (
        {"shN": {"count": 66, "bands": 1, "codebook": BOOK, "files": ["shN_centroids.webp", "shN_labels.webp"]}},
        "palette has 66 entries, a Gaussian asks for 66",
    ),
    "palette width": (
        {"shN": {"count": 9, "bands": 2, "codebook": BOOK, "files": ["shN_centroids.webp", "shN_labels.webp"]}},
        "192 x 2 pixels, too few for 512 in rows of 512",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTS)
def test_sog_parts_are_checked(tmp_path, case):
    changes, reason = PARTS[case]
    write_sog(tmp_path / "sog", **changes)
    with pytest.raises(ValueError, match=reason) as raised:
        read_splats(tmp_path / "sog")
    assert str(tmp_path / "sog") in str(raised.value)


def test_sog_never_waits_for_a_pipe_nor_reads_a_device(tmp_path):
    write_sog(tmp_path / "sog")
    for replacement in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (tmp_path / "sog" / "sh0.webp").unlink()
        replacement(tmp_path / "sog" / "sh0.webp")
        refuse(tmp_path / "sog", "no regular file")
    for name in ("a.ply", "a.spz", "a.splat", "a.sog"):
        os.mkfifo(tmp_path / name)
        refuse(tmp_path / name, "no regular file")
        (tmp_path / f"loop-{name}").symlink_to(f"loop-{name}")
        refuse(tmp_path / f"loop-{name}", "Too many levels of symbolic links")


def test_an_image_bomb_is_not_decoded(tmp_path):
    """16,383 x 16,383 equal pixels: 1 GiB in a few kilobytes."""
    write_sog(tmp_path / "sog")
    path = tmp_path / "sog" / "sh0.webp"
    data = bytearray(path.read_bytes())
    data[21:25] = struct.pack("<I", 1 << 28 | 16382 << 14 | 16382)  # VP8L: the size, and that there is alpha
    path.write_bytes(data)
    refuse(tmp_path / "sog", r"hostile: 'sh0\.webp' declares 1,073,610,756 bytes")
    write_webp(path, np.random.default_rng(0).integers(256, size=(9, 9, 4)))
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    refuse(tmp_path / "sog", rf"truncated: 'sh0\.webp' promises {len(data)} bytes, it has {len(data) - 1}")
    path.write_bytes(data[:30] + bytes(len(data) - 30))
    refuse(tmp_path / "sog", r"'sh0\.webp' cannot be decoded")


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    write_sog(tmp_path / "sog")
    zip_folder(tmp_path / "sog", tmp_path / "a.sog")
    with zipfile.ZipFile(tmp_path / "a.sog") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.sog", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            if name == "sh0.webp":
                with archive.open(name, "w") as member:
                    for _ in range(128):
                        member.write(bytes(MIB))
            else:
                archive.writestr(name, data)
    refuse(tmp_path / "bomb.sog", r"hostile: 'sh0\.webp' declares 134,217,728 bytes")
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        zip_folder(tmp_path / "sog", tmp_path / "b.sog", method)
        refuse(tmp_path / "b.sog", "compressed in a way that is not read")


# --- anything ------------------------------------------------------------------------------------------


def mutate(original: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes or bits changed, removed, doubled, or set to extremes."""
    data = bytearray(original)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(min(len(data), 64) if rng.random() < 0.5 else len(data)))
        length = int(rng.integers(1, 9))
        match rng.integers(5):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data[at : at + length] = bytes([rng.choice([0, 127, 128, 255])]) * length
            case 4:
                data[at] = rng.integers(256)
        if not data:
            return b""
    return bytes(data)


@pytest.mark.parametrize("kind", [*KINDS, "spz unpacked"])
def test_damaged_files_give_an_error_or_finite_gaussians(tmp_path, kind):
    """Damage within gzip is caught by its checksum, so SPZ is damaged before it is packed as well."""
    data = spz_bytes() if kind == "spz unpacked" else file_of(kind, tmp_path)
    path = tmp_path / f"bad.{kind.split()[0].rstrip('24')}"
    rng, accepted = np.random.default_rng(0), 0
    rounds = 300 if kind == "sog" else 1000
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(rounds):
            changed = mutate(data, rng)
            path.write_bytes(gzip.compress(changed, 1) if kind == "spz unpacked" else changed)
            try:
                arrays = read_splats(path)
            except ValueError as error:
                assert str(path) in str(error)
                continue
            accepted += 1
            assert all(np.isfinite(value).all() for value in arrays.params.values())
            assert arrays.num < 1000
    assert accepted < rounds
