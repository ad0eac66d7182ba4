"""Every reader of splax with a good file for it, made here, and the damage that suits the file."""

import functools
import gzip
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from helpers import write_image
from test_splat_files import (
    compressed_ply_bytes,
    make_arrays,
    spz_bytes,
    write_quietly,
    write_sog,
    zip_folder,
)

from fuzz.mutations import damage_bytes, damage_header, damage_json, damage_text
from splax.cli.describe import describe_scene
from splax.cli.run_config import read_data, read_options, read_sh_degree
from splax.data.colmap_model import read_cameras, read_images, read_points
from splax.data.decode import read_depth, read_image, read_mask
from splax.data.formats import load_dataset
from splax.data.points import read_ply_points
from splax.files.image_header import read_image_header
from splax.files.json import read_json
from splax.io.formats import read_splats
from splax.scene import Scene

Damage = Callable[[bytes, random.Random], bytes]
MIB = 1 << 20
_WIDTH, _HEIGHT, _NUM = 8, 6, 3


class Target(NamedTuple):
    """A reader and what it is fed.

    Attributes:
        make: writes good files into a folder that exists.
        damage: the files to damage, below the folder, and how; one of them at a time.
        read: reads them.
        entry: what the reader is given, below the folder; the damaged file if empty.
        share: of all inputs, in relation to others.
    """

    make: Callable[[Path], None]
    damage: Mapping[str, Damage]
    read: Callable[[Path], None]
    entry: str = ""
    share: float = 1.0


# --- what readers return is usable ---------------------------------------------------------------------


def _splats(path: Path) -> None:
    arrays = read_splats(path)
    assert arrays.num > 0, "no Gaussian"
    for name, value in arrays.params.items():
        assert np.isfinite(value).all(), f"{name} is not finite"


def _points(path: Path) -> None:
    points = read_ply_points(path)
    assert points is None or np.isfinite(points.positions).all(), "points are not finite"


def _dataset(kind: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        scene = load_dataset(path, kind)
        _check_scene(scene)
        describe_scene(scene)

    return read


def _check_scene(scene: Scene) -> None:
    views = [*scene.train, *scene.test]
    assert views, "no view"
    for view in views:
        camera = view.camera
        assert np.isfinite(np.asarray(camera.viewmat)).all(), f"{view.name}: pose"
        assert np.isfinite(np.asarray(camera.K)).all(), f"{view.name}: intrinsics"
        assert view.image.shape == (camera.height, camera.width, 3), f"{view.name}: size"
        assert view.depth is None or np.isfinite(view.depth).all(), f"{view.name}: depth"
    assert scene.points is None or np.isfinite(scene.points).all(), "points are not finite"


def _photos(folder: Path) -> None:
    """A view of every photo, or a warning that names it and the reason."""
    scene = load_dataset(folder, "transforms")
    _check_scene(scene)
    names = {view.name for view in [*scene.train, *scene.test]}
    for name in ("0.png", "1.png", "2.png", "loop.png"):
        assert name in names or any(name in text for text in scene.warnings), f"{name} is lost"


def _colmap_model(folder: Path) -> None:
    read_cameras(folder)
    for image in read_images(folder):
        assert np.isfinite(image.viewmat).all(), "pose"
    points = read_points(folder)
    assert points is None or np.isfinite(points.positions).all(), "points are not finite"


def _image(path: Path) -> None:
    header = read_image_header(path)
    picture = read_image(path)
    assert picture.image.shape == (header.height, header.width, 3), "size"


def _depth(path: Path) -> None:
    assert np.isfinite(read_depth(path, 1e-3)).all(), "depth"


def _options(path: Path) -> None:
    config = read_json(path)
    read_data(config, path)
    read_options(config, path)
    read_sh_degree(config, path)


# --- good files ----------------------------------------------------------------------------------------


def _project_and_shade(name: str, **options: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write_quietly(folder / name, make_arrays(num=3, sh_degree=1, seed=1), **options)

    return make


def _make_text_ply(folder: Path) -> None:
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", *(f"scale_{i}" for i in range(3))]
    names += [f"rot_{i}" for i in range(4)]
    header = ["ply", "format ascii 1.0", "comment made here", "element vertex 3"]
    rows = [" ".join(f"{(i + 2) * (j + 1) / 7:.4f}" for j in range(len(names))) for i in range(3)]
    lines = [*header, *(f"property float {name}" for name in names), "end_header", *rows, ""]
    (folder / "a.ply").write_text("\n".join(lines))


def _make_compressed_ply(folder: Path) -> None:
    (folder / "a.ply").write_bytes(compressed_ply_bytes(sh=bytes(range(18))))


def _make_points(kind: str) -> Callable[[Path], None]:
    columns = [("x", "f4"), ("y", "f8"), ("z", "f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    names = {"f4": "float", "f8": "double", "u1": "uchar"}

    def make(folder: Path) -> None:
        header = f"ply\nformat {kind} 1.0\nelement vertex 3\n"
        header += "".join(f"property {names[type_]} {name}\n" for name, type_ in columns) + "end_header\n"
        order = ">" if "big" in kind else "<"
        rows = np.array([(1, 2, 3, 4, 5, 6)] * 3, [(name, order + type_) for name, type_ in columns])
        text = "".join(" ".join(map(str, row.tolist())) + "\n" for row in rows).encode()
        (folder / "a.ply").write_bytes(header.encode() + (text if kind == "ascii" else rows.tobytes()))

    return make


def _make_gzip(folder: Path) -> None:
    (folder / "a.spz").write_bytes(gzip.compress(spz_bytes()))


def _make_sog_folder(folder: Path) -> None:
    write_sog(folder / "sog")


def _make_sog(folder: Path) -> None:
    write_sog(folder / "sog")
    zip_folder(folder / "sog", folder / "a.sog", zipfile.ZIP_DEFLATED)


def _make_images(folder: Path, names: list[str], channels: int = 3) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        write_image(folder / name, rng.integers(0, 256, (_HEIGHT, _WIDTH, channels), np.uint8))


_POSE = [[1.0, 0, 0, 0.5], [0, 1, 0, -0.5], [0, 0, 1, 2], [0, 0, 0, 1]]


def _make_transforms(folder: Path) -> None:
    _make_images(folder, [f"images/{i}.png" for i in range(_NUM)])
    _make_images(folder, ["m.png"], channels=1)
    write_image(folder / "d.png", np.full((_HEIGHT, _WIDTH), 700, np.uint16))
    _make_points("ascii")(folder)
    (folder / "images" / "loop.png").symlink_to("loop.png")
    frames: list[dict[str, Any]] = [
        {"file_path": f"images/{i}.png", "transform_matrix": _POSE} for i in range(_NUM)
    ]
    frames[0] |= {"mask_path": "m.png", "depth_file_path": "d.png", "fl_x": 9}
    frames.append({"file_path": "images/loop.png", "transform_matrix": _POSE})
    meta = {
        "w": _WIDTH,
        "h": _HEIGHT,
        "fl_x": 9.0,
        "fl_y": 9,
        "cx": 4,
        "cy": 3,
        "camera_model": "OPENCV",
        "k1": 0.0,
    }
    meta |= {"ply_file_path": "a.ply", "applied_transform": _POSE[:3], "test_filenames": ["images/1.png"]}
    meta |= {"camera_angle_x": 0.7, "depth_unit_scale_factor": 0.001, "is_fisheye": False}
    (folder / "transforms.json").write_text(json.dumps(meta | {"frames": frames}))


def _make_blender(folder: Path) -> None:
    for split in ("train", "test"):
        _make_images(folder, [f"{split}/{i}.png" for i in range(2)], channels=4)
        frames = [
            {"file_path": f"./{split}/{i}", "rotation": 0.1, "transform_matrix": _POSE} for i in range(2)
        ]
        text = json.dumps({"camera_angle_x": 0.69, "frames": frames})
        (folder / f"transforms_{split}.json").write_text(text)


def _make_colmap_binary(folder: Path) -> None:
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    _make_images(folder, [f"images/{i}.png" for i in range(_NUM)])
    camera = struct.pack("<QiiQQ4d", 1, 1, 1, _WIDTH, _HEIGHT, 9, 9, 4, 3)
    (model / "cameras.bin").write_bytes(camera)
    images = struct.pack("<Q", _NUM)
    for i in range(_NUM):
        images += struct.pack("<i7di", i, 1, 0.1 * i, 0, 0, 0, 0, i, 1) + f"{i}.png\0".encode()
        images += struct.pack("<Qddq", 1, 4, 3, 1)
    (model / "images.bin").write_bytes(images)
    point = struct.pack("<Q3d3BdQii", 1, 1, 2, 3, 4, 5, 6, 0.5, 1, 1, 0)
    (model / "points3D.bin").write_bytes(struct.pack("<Q", 2) + 2 * point)


def _make_colmap_text(folder: Path) -> None:
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    _make_images(folder, [f"images/{i}.png" for i in range(_NUM)])
    (model / "cameras.txt").write_text(f"# cameras\n1 PINHOLE {_WIDTH} {_HEIGHT} 9 9 4 3\n")
    images = [f"{i} 1 0.{i} 0 0 0 0 {i} 1 {i}.png\n4 3 1" for i in range(_NUM)]
    (model / "images.txt").write_text("\n".join(["# images", *images, ""]))
    (model / "points3D.txt").write_text("# points\n1 1 2 3 4 5 6 0.5 1 0\n2 1 2 4 4 5 6 0.5 1 0\n")


def _make_lens(folder: Path) -> None:
    _make_colmap_text(folder)
    lens = f"1 OPENCV {_WIDTH} {_HEIGHT} 9 9 4 3 0.01 -0.02 0.001 0.002\n"
    (folder / "sparse" / "0" / "cameras.txt").write_text(lens)


def _make_llff(folder: Path) -> None:
    _make_images(folder, [f"images/{i}.png" for i in range(_NUM)])
    pose = np.array([[0, 1, 0, 0.5, _HEIGHT], [1, 0, 0, 0, _WIDTH], [0, 0, -1, 1, 9]], float)
    np.save(
        folder / "poses_bounds.npy", np.tile(np.append(pose.ravel(), [1, 5]), (_NUM, 1)), allow_pickle=False
    )


def _make_rgbd(colors: str, trajectory: str, text: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        names = ["0.00", "0.01", "0.02"]
        _make_images(folder, [f"{colors}/{name}.png" for name in names])
        for name in names:
            write_image(folder / "depth" / f"{name}.png", np.full((_HEIGHT, _WIDTH), 900, np.uint16))
        (folder / trajectory).write_text(text)
        camera = {"width": _WIDTH, "height": _HEIGHT, "intrinsic_matrix": [9, 0, 0, 0, 9, 0, 4, 3, 1]}
        (folder / "camera.json").write_text(json.dumps(camera))

    return make


_LOG = "".join(f"{i} {i} {i + 1}\n1 0 0 {i}\n0 1 0 0\n0 0 1 0\n0 0 0 1\n" for i in range(3))
_TUM = "# time tx ty tz qx qy qz qw\n" + "".join(f"0.0{i} {i} 0 1 0 0 0 1\n" for i in range(3))


def _make_photo(name: str, channels: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        image = np.random.default_rng(1).integers(0, 256, (_HEIGHT, _WIDTH, channels), np.uint8)
        data = cv2.imencode(name[1:], image)[1].tobytes()
        exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
        if name.endswith("jpg"):
            data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
        else:
            chunk = b"eXIf" + exif[6:]
            data = (
                data[:33]
                + struct.pack(">I", len(exif) - 6)
                + chunk
                + struct.pack(">I", zlib.crc32(chunk))
                + data[33:]
            )
        (folder / name).write_bytes(data)

    return make


def _make_npy(folder: Path) -> None:
    np.save(folder / "d.npy", np.ones((_HEIGHT, _WIDTH), np.float32), allow_pickle=False)


def _make_config(folder: Path) -> None:
    config = {"data": "x", "steps": 7, "strategy": "mcmc", "stored_sh_degree": 3, "downscale": 2.0, "seed": 1}
    (folder / "config.json").write_text(json.dumps(config))


# --- damage of what is packed --------------------------------------------------------------------------


def _damage_packed(data: bytes, rng: random.Random) -> bytes:
    """Before gzip, whose checksum would find it; now and then a bomb in its place, or behind it."""
    chance = rng.random()
    if chance < 0.005:
        num = rng.choice([3, 1 << 20, 3 << 20, 1 << 24, (1 << 32) - 1])
        return _bomb(num)
    return gzip.compress(damage_bytes(gzip.decompress(data), rng), 1)


@functools.cache
def _bomb(num: int) -> bytes:
    """A header that counts so many Gaussians, and 100 MiB of zeros."""
    packer = zlib.compressobj(1, wbits=31)
    parts = [packer.compress(spz_bytes(num=num, degree=0)[:16])]
    parts += [packer.compress(bytes(MIB)) for _ in range(100)]
    return b"".join([*parts, packer.flush()])


def _damage_webp(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:  # the size, of 14 bits each
        return data[:21] + struct.pack("<I", 1 << 28 | rng.getrandbits(28)) + data[25:]
    return damage_bytes(data, rng)


def _damage_png(data: bytes, rng: random.Random) -> bytes:
    """With correct checksums in half of the cases: decoders stop at others."""
    if rng.random() < 0.5:
        return damage_bytes(data, rng)
    sides = [1, 8, 6, 4000, 16_384, 65_535, 1 << 31, (1 << 32) - 1]
    header = b"IHDR" + struct.pack(">II", rng.choice(sides), rng.choice(sides))
    header += bytes([rng.choice([1, 8, 16]), rng.choice([0, 2, 3, 4, 6]), 0, 0, rng.choice([0, 1])])
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


_MODEL = "sparse/0"
_BINARY = {f"{_MODEL}/{name}.bin": damage_bytes for name in ("cameras", "images", "points3D")}
_TEXT = {f"{_MODEL}/{name}.txt": damage_text for name in ("cameras", "images", "points3D")}
_SOG_FILES = ("means_l", "means_u", "quats", "scales", "sh0", "shN_centroids", "shN_labels")

TARGETS: dict[str, Target] = {
    "ply": Target(_project_and_shade("a.ply"), {"a.ply": damage_header}, _splats, share=2),
    "ply, text": Target(_make_text_ply, {"a.ply": damage_text}, _splats, share=2),
    "compressed ply": Target(_make_compressed_ply, {"a.ply": damage_header}, _splats, share=2),
    "splat": Target(_project_and_shade("a.splat"), {"a.splat": damage_bytes}, _splats),
    "spz 2": Target(_project_and_shade("a.spz", spz_version=2), {"a.spz": damage_bytes}, _splats),
    "spz 3, damaged before gzip, and bombs": Target(_make_gzip, {"a.spz": _damage_packed}, _splats, share=2),
    "spz 4": Target(_project_and_shade("a.spz", spz_version=4), {"a.spz": damage_bytes}, _splats, share=2),
    "sog, the zip file": Target(_make_sog, {"a.sog": damage_bytes}, _splats),
    "sog, meta.json": Target(_make_sog_folder, {"sog/meta.json": damage_json}, _splats),
    "sog, images": Target(
        _make_sog_folder, {f"sog/{name}.webp": _damage_webp for name in _SOG_FILES}, _splats, "sog"
    ),
    "points .ply": Target(_make_points("binary_little_endian"), {"a.ply": damage_header}, _points, share=2),
    "points .ply, big endian": Target(_make_points("binary_big_endian"), {"a.ply": damage_header}, _points),
    "points .ply, text": Target(_make_points("ascii"), {"a.ply": damage_text}, _points),
    "COLMAP model, binary": Target(_make_colmap_binary, _BINARY, _colmap_model, _MODEL, share=3),
    "COLMAP model, text": Target(_make_colmap_text, _TEXT, _colmap_model, _MODEL, share=2),
    "COLMAP dataset, binary": Target(_make_colmap_binary, _BINARY, _dataset("colmap"), ".", share=0.3),
    "COLMAP dataset, text": Target(_make_colmap_text, _TEXT, _dataset("colmap"), ".", share=0.3),
    "COLMAP dataset, lens": Target(
        _make_lens, {f"{_MODEL}/cameras.txt": damage_text}, _dataset("colmap"), ".", share=0.1
    ),
    "transforms.json": Target(
        _make_transforms, {"transforms.json": damage_json}, _dataset("transforms"), ".", share=0.6
    ),
    "transforms.json, its files": Target(
        _make_transforms,
        {"images/0.png": _damage_png, "m.png": _damage_png, "d.png": _damage_png, "a.ply": damage_text},
        _photos,
        ".",
        share=0.3,
    ),
    "Blender": Target(
        _make_blender,
        {"transforms_train.json": damage_json, "transforms_test.json": damage_json},
        _dataset("blender"),
        ".",
        share=0.3,
    ),
    "LLFF": Target(_make_llff, {"poses_bounds.npy": damage_bytes}, _dataset("llff"), ".", share=0.5),
    "RGB-D, Open3D": Target(
        _make_rgbd("color", "trajectory.log", _LOG),
        {"trajectory.log": damage_text, "camera.json": damage_json},
        _dataset("rgbd"),
        ".",
        share=0.4,
    ),
    "RGB-D, TUM": Target(
        _make_rgbd("rgb", "groundtruth.txt", _TUM),
        {"groundtruth.txt": damage_text, "camera.json": damage_json},
        _dataset("rgbd"),
        ".",
        share=0.4,
    ),
    "PNG": Target(_make_photo("a.png", 4), {"a.png": _damage_png}, _image, share=2),
    "JPEG": Target(_make_photo("a.jpg", 3), {"a.jpg": damage_bytes}, _image, share=2),
    "mask": Target(_make_photo("a.png", 1), {"a.png": _damage_png}, lambda path: (read_mask(path), None)[1]),
    "depth .npy": Target(_make_npy, {"d.npy": damage_bytes}, _depth, share=2),
    "config of a run": Target(_make_config, {"config.json": damage_json}, _options),
}
