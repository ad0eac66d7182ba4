"""COLMAP models: against pycolmap, by pixels computed by hand, and as hostile files."""

import math
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers import project, write_image

from splax.cli.describe import describe_scene
from splax.data.colmap_model import MAX_IMAGE_POINTS, find_model, read_cameras, read_images, read_points
from splax.data.formats import load_dataset
from splax.scene import View

WIDTH, HEIGHT = 64, 48
PINHOLE = (1, "PINHOLE", WIDTH, HEIGHT, (100.0, 110.0, 32.0, 24.0))
# Looks along +x of the world with its right along -y: world (3, -0.5, 0.25) is 3 ahead, 0.5 right, 0.25 up.
QUAT = (0.5, 0.5, -0.5, 0.5)
IMAGES = (("a.png", 1, QUAT, (0.0, 0.0, 0.0)), ("b.png", 1, QUAT, (0.0, 0.0, 1.0)))
POINTS = (((3.0, -0.5, 0.25), (10, 20, 30)), ((4.0, 0.0, 0.0), (200, 100, 0)))
MODEL_IDS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "OPENCV": 4, "OPENCV_FISHEYE": 5, "EQUIRECTANGULAR": 17}


def write_binary(folder: Path, cameras=(PINHOLE,), images=IMAGES, points=POINTS) -> Path:
    """The three files, written from COLMAP's description of them."""
    folder.mkdir(parents=True, exist_ok=True)
    data = struct.pack("<Q", len(cameras))
    for camera_id, model, width, height, params in cameras:
        data += struct.pack(f"<iiQQ{len(params)}d", camera_id, MODEL_IDS[model], width, height, *params)
    (folder / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", len(images))
    for index, (name, camera_id, quat, translation) in enumerate(images):
        data += struct.pack("<i7di", index + 1, *quat, *translation, camera_id) + name.encode() + b"\0"
        data += struct.pack("<Q", index) + struct.pack("<ddq", 1.5, 2.5, -1) * index
    (folder / "images.bin").write_bytes(data)
    data = struct.pack("<Q", len(points))
    for index, (position, color) in enumerate(points):
        data += struct.pack("<Q3d3BdQ", index + 7, *position, *color, 0.5, index)
        data += struct.pack("<ii", 1, 0) * index
    (folder / "points3D.bin").write_bytes(data)
    return folder


def write_text(folder: Path, cameras=(PINHOLE,), images=IMAGES, points=POINTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)

    def words(*values) -> str:
        return " ".join(map(str, values))

    lines = [words(i, model, w, h, *params) for i, model, w, h, params in cameras]
    (folder / "cameras.txt").write_text("# Camera list\n" + "\n".join(lines) + "\n")
    lines = []
    for index, (name, camera_id, quat, translation) in enumerate(images):
        lines += [words(index + 1, *quat, *translation, camera_id, name), words(*[1.5, 2.5, -1] * index)]
    (folder / "images.txt").write_text("# Image list\n" + "\n".join(lines) + "\n")
    lines = [words(i, *p, *c, 0.5, *[1, 0] * i) for i, (p, c) in enumerate(points)]
    (folder / "points3D.txt").write_text("# Points\n" + "\n".join(lines) + "\n")
    return folder


def write_dataset(root: Path, write=write_binary, folder="sparse/0", **model) -> Path:
    write(root / folder, **model)
    for name, *_ in model.get("images", IMAGES):
        write_image(root / "images" / name)
    return root


# --- what is read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_binary, write_text])
@pytest.mark.parametrize("folder", ["sparse/0", "sparse", ".", "colmap/sparse/0"])
def test_points_land_on_the_pixels_computed_by_hand(tmp_path, write, folder):
    scene = load_dataset(write_dataset(tmp_path, write, folder), test_every=0)
    assert scene.dataset_type == "colmap"
    assert [view.name for view in scene.train] == ["a.png", "b.png"]
    np.testing.assert_array_equal(scene.points, [[3, -0.5, 0.25], [4, 0, 0]])
    np.testing.assert_array_equal(scene.point_colors, [[10, 20, 30], [200, 100, 0]])
    # u = 32 + 100 * 0.5 / 3, v = 24 - 110 * 0.25 / 3; the second camera stands one further back.
    a, b = (view.camera for view in scene.train)
    np.testing.assert_allclose(project(a, scene.points), [[48 + 2 / 3, 14 + 5 / 6], [32, 24]], atol=1e-4)
    np.testing.assert_allclose(project(b, scene.points), [[44.5, 17.125], [32, 24]], atol=1e-4)
    np.testing.assert_allclose(b.position, [-1, 0, 0], atol=1e-6)


def observe(folder: Path, seen: dict[str, list[int]]) -> None:
    """Writes the images anew, with observations of the points of these ids (-1: of none)."""
    if (folder / "images.txt").exists():
        lines = (folder / "images.txt").read_text().splitlines()
        for name, ids in seen.items():
            row = next(i for i, line in enumerate(lines) if line.endswith(name))
            lines[row + 1] = " ".join(f"1.5 2.5 {i}" for i in ids)
        (folder / "images.txt").write_text("\n".join(lines) + "\n")
        return
    data = struct.pack("<Q", len(IMAGES))
    for index, (name, camera_id, quat, translation) in enumerate(IMAGES):
        data += struct.pack("<i7di", index + 1, *quat, *translation, camera_id) + name.encode() + b"\0"
        data += struct.pack("<Q", len(seen[name]))
        data += b"".join(struct.pack("<ddq", 1.5, 2.5, i) for i in seen[name])
    (folder / "images.bin").write_bytes(data)


@pytest.mark.parametrize(("write", "first"), [(write_binary, 7), (write_text, 0)])
def test_views_know_the_points_that_were_found_in_their_photos(tmp_path, write, first):
    root = write_dataset(tmp_path, write)
    one, two = first, first + 1
    # Of none, twice the same, and one that the model lacks.
    observe(root / "sparse" / "0", {"a.png": [two, -1, one, two], "b.png": [-1, 99, two]})
    a, b = load_dataset(root, test_every=0).train
    np.testing.assert_array_equal(a.points, [[3, -0.5, 0.25], [4, 0, 0]])
    np.testing.assert_array_equal(b.points, [[4, 0, 0]])
    assert a.points is not None and a.points.dtype == np.float32
    assert "2 of 2 views say which they show, median 2" in describe_scene(load_dataset(root, test_every=0))
    observe(root / "sparse" / "0", {"a.png": [], "b.png": [-1, 99]})
    scene = load_dataset(root, test_every=0)
    assert [view.points for view in scene.train] == [None, None]
    assert describe_scene(scene).count("views say which") == 0


def test_of_very_many_points_in_a_photo_some_are_kept(tmp_path):
    folder = write_dataset(tmp_path) / "sparse" / "0"
    observe(folder, {"a.png": list(range(3 * MAX_IMAGE_POINTS)), "b.png": []})
    ids = read_images(folder)[0].point_ids
    assert (
        len(np.unique(ids)) == MAX_IMAGE_POINTS and ids.min() == 0 and ids.max() == 3 * MAX_IMAGE_POINTS - 1
    )


@pytest.mark.parametrize("given", ["", "images", "sparse", "sparse/0"])
def test_folders_of_the_dataset_may_be_given(tmp_path, given):
    assert len(load_dataset(write_dataset(tmp_path) / given, test_every=0).train) == 2


def test_cameras_differ_in_model_and_size(tmp_path):
    cameras = (
        PINHOLE,
        (5, "SIMPLE_PINHOLE", 32, 40, (50.0, 16.0, 20.0)),
        (9, "OPENCV_FISHEYE", 64, 48, (40.0, 40.0, 32.0, 24.0, 0.01, 0.0, 0.0, 0.0)),
    )
    images = tuple((name, i, QUAT, (0.0, 0.0, 0.0)) for name, i in (("a.png", 1), ("b.png", 5), ("c.png", 9)))
    write_dataset(tmp_path, cameras=cameras, images=images)
    write_image(tmp_path / "images" / "b.png", size=(32, 40))
    a, b, c = load_dataset(tmp_path, test_every=0).train
    assert (b.camera.width, b.camera.height) == (32, 40)
    np.testing.assert_allclose(b.camera.K, [[50, 0, 16], [0, 50, 20], [0, 0, 1]])
    np.testing.assert_allclose(a.camera.K, [[100, 0, 32], [0, 110, 24], [0, 0, 1]])
    # Undistorted: the middle of the left side, 31.5 pixels from the centre, is at the angle where
    # t + 0.01 t^3 = 31.5 / 40, and is still the border.
    t = np.roots([0.01, 0, 1, -31.5 / 40])
    t = float(t[np.isreal(t)].real[0])
    K = np.asarray(c.camera.K, np.float64)
    assert (0.5 - K[0, 2]) / K[0, 0] == pytest.approx(-math.tan(t), rel=1e-3)


def test_cameras_are_scaled_to_the_images(tmp_path):
    write_dataset(tmp_path)
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "images" / name, size=(128, 96))
    camera = load_dataset(tmp_path).train[0].camera
    np.testing.assert_allclose(camera.K, [[200, 0, 64], [0, 220, 48], [0, 0, 1]])


def test_names_with_folders_and_spaces(tmp_path):
    images = tuple((name, *IMAGES[0][1:]) for name in ("left/a b.png", "right/a b.png"))
    for write in (write_binary, write_text):
        scene = load_dataset(write_dataset(tmp_path / write.__name__, write, images=images), test_every=0)
        assert [view.name for view in scene.train] == ["left/a b.png", "right/a b.png"]


def test_images_may_lie_beside_the_model(tmp_path):
    write_binary(tmp_path / "sparse")
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png")
    assert len(load_dataset(tmp_path, test_every=0).train) == 2


def test_rigs_and_frames_are_not_read(tmp_path):
    write_dataset(tmp_path)
    for name in ("rigs.bin", "frames.bin"):
        (tmp_path / "sparse" / "0" / name).write_bytes(b"\xff" * 99)
    assert len(load_dataset(tmp_path, test_every=0).train) == 2


def test_a_model_without_points(tmp_path):
    scene = load_dataset(write_dataset(tmp_path / "none", points=()))
    assert scene.points is None and scene.point_colors is None
    (write_dataset(tmp_path / "no file") / "sparse" / "0" / "points3D.bin").unlink()
    assert load_dataset(tmp_path / "no file").points is None


def test_points_that_are_no_points_are_dropped(tmp_path):
    points = (*POINTS, ((math.nan, 0.0, 0.0), (1, 2, 3)), ((0.0, math.inf, 0.0), (1, 2, 3)))
    points += (((1e300, 0.0, 0.0), (1, 2, 3)),)
    scene = load_dataset(write_dataset(tmp_path, points=points))
    assert scene.points is not None and len(scene.points) == 2


def test_other_parts_of_the_reconstruction_are_named(tmp_path):
    write_dataset(tmp_path)
    write_binary(tmp_path / "sparse" / "1")
    with pytest.warns(UserWarning, match="1 more models next to this one, which are not read: 1"):
        scene = load_dataset(tmp_path)
    assert scene.source.endswith("0")
    with pytest.warns(UserWarning, match="not read: 0"):
        assert load_dataset(tmp_path / "sparse" / "1").source.endswith("1")


# --- smaller copies ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "value"), [((32, 24), 50), ((33, 24), 100), ((16, 12), 100)], ids=["exact", "wider", "smaller"]
)
def test_smaller_copies_are_used_where_they_match(tmp_path, size, value):
    write_dataset(tmp_path)
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "images_2" / name, np.full((size[1], size[0], 3), 50, np.uint8))
    view = load_dataset(tmp_path, downscale=2).train[0]
    assert view.image.shape == (24, 32, 3) and view.image[0, 0, 0] == value
    np.testing.assert_allclose(view.camera.K, [[50, 0, 16], [0, 55, 12], [0, 0, 1]])
    assert load_dataset(tmp_path).train[0].image.shape == (48, 64, 3)


def test_rounded_sizes_of_copies_match(tmp_path):
    camera = (1, "PINHOLE", 65, 49, (100.0, 110.0, 32.0, 24.0))
    write_dataset(tmp_path, cameras=(camera,))
    for name in ("a.jpg", "b.jpg"):  # another extension, sizes rounded up
        write_image(tmp_path / "images_4" / name, size=(17, 13))
    view = load_dataset(tmp_path, downscale=4).train[0]
    assert view.image.shape == (13, 17, 3)
    np.testing.assert_allclose(np.asarray(view.camera.K)[0, 0], 100 * 17 / 65, rtol=1e-6)


def test_copies_may_be_all_there_is(tmp_path):
    write_dataset(tmp_path)
    (tmp_path / "images").rename(tmp_path / "images_1")
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "images_2" / name, size=(32, 24))
    assert load_dataset(tmp_path, downscale=2).train[0].image.shape == (24, 32, 3)
    with pytest.raises(
        ValueError, match="There are smaller copies in images_1, images_2: downscale by that number"
    ):
        load_dataset(tmp_path)


def test_an_error_names_copies_wherever_the_model_lies(tmp_path):
    model = write_dataset(tmp_path) / "sparse"
    (tmp_path / "images").rename(tmp_path / "images_8")
    (tmp_path / "colmap").mkdir()
    model.rename(tmp_path / "colmap" / "sparse")
    with pytest.raises(ValueError, match="There are smaller copies in images_8: downscale by that number"):
        load_dataset(tmp_path)


# --- what is left out or refused ---------------------------------------------------------------------


def test_missing_images_are_listed_in_one_warning(tmp_path):
    write_dataset(tmp_path, images=(*IMAGES, ("c.png", *IMAGES[0][1:])))
    (tmp_path / "images" / "b.png").unlink()
    with pytest.warns(UserWarning, match=r"1 of 3 frames left out. no such file: b.png") as caught:
        scene = load_dataset(tmp_path)
    assert len(caught) == 1 and scene.warnings == (str(caught[0].message),)


def test_images_outside_the_folder_are_never_read(tmp_path):
    write_image(tmp_path / "secret.png")
    images = (
        *IMAGES,
        *((name, *IMAGES[0][1:]) for name in ("../../secret.png", str(tmp_path / "secret.png"))),
    )
    write_binary(tmp_path / "data" / "sparse" / "0", images=images)
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "data" / "images" / name)
    with pytest.warns(UserWarning, match=r"2 of 4 frames left out. leads out of the dataset's folder"):
        scene = load_dataset(tmp_path / "data", test_every=0)
    assert [view.name for view in scene.train] == ["a.png", "b.png"]


@pytest.mark.parametrize("write", [write_binary, write_text])
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"images": ()}, "holds no image"),
        ({"images": (("a.png", 2, QUAT, (0, 0, 0)),)}, "'a.png' has camera 2, which the model lacks"),
        ({"images": (("a.png", 1, (0.0,) * 4, (0, 0, 0)),)}, "'a.png' has no usable pose"),
        ({"images": (("a.png", 1, QUAT, (math.nan, 0, 0)),)}, "'a.png' has no usable pose"),
        (
            {"cameras": ((1, "PINHOLE", 64, 48, (0.0, 1.0, 1.0, 1.0)),)},
            "camera 1: focal lengths must be positive",
        ),
        ({"cameras": ((1, "PINHOLE", 0, 48, (1.0, 1.0, 1.0, 1.0)),)}, "camera 1: the camera's size"),
        ({"cameras": ((1, "PINHOLE", 48, 64, PINHOLE[4]),)}, "48 x 64 pixels but the image is 64 x 48"),
        (
            {"cameras": ((1, "EQUIRECTANGULAR", 64, 48, (64.0, 48.0)),)},
            "camera model .?EQUIRECTANGULAR.? is not supported",
        ),
        (
            {"cameras": ((1, "OPENCV", 64, 48, (*PINHOLE[4], -9.0, 0.0, 0.0, 0.0)),)},
            "'a.png': the lens distortion .* folds over",
        ),
    ],
)
def test_unusable_models_are_refused_in_one_line(tmp_path, write, model, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(write_dataset(tmp_path, write, **model))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_no_image_is_refused(tmp_path):
    write_binary(tmp_path / "sparse" / "0")
    with pytest.raises(ValueError, match=r"none of its 2 images is there, such as 'a.png'. Expected them in"):
        load_dataset(tmp_path)


READERS: dict[str, Callable] = {"cameras": read_cameras, "images": read_images, "points3D": read_points}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("write", [write_binary, write_text])
def test_every_truncation_is_a_value_error_or_a_shorter_text(tmp_path, write, name):
    path = next(write(tmp_path).glob(f"{name}.*"))
    data = path.read_bytes()
    full = len(READERS[name](tmp_path) or ()) if name != "points3D" else 2
    for length in range(len(data)):
        path.write_bytes(data[:length])
        try:
            result = READERS[name](tmp_path)
        except ValueError as error:
            assert path.name in str(error)
        else:
            # Nothing tells a text that ends early from one that was meant so.
            assert path.suffix == ".txt"
            assert result is None or name == "points3D" or len(result) <= full


@pytest.mark.parametrize("name", READERS)
def test_huge_counts_are_refused_before_memory_is_taken(tmp_path, name):
    path = write_binary(tmp_path) / f"{name}.bin"
    data = path.read_bytes()
    for count in (4, 1 << 32, (1 << 63) - 1, (1 << 64) - 1):
        path.write_bytes(struct.pack("<Q", count) + data[8:])
        with pytest.raises(ValueError, match=rf"{name}.bin is (truncated or )?damaged"):
            READERS[name](tmp_path)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("write", [write_binary, write_text])
def test_flipped_bits_never_do_more_than_a_value_error(tmp_path, write, name):
    path = next(write(tmp_path).glob(f"{name}.*"))
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        flipped = bytearray(data)
        for position in rng.integers(0, len(data), rng.integers(1, 4)):
            flipped[position] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            READERS[name](tmp_path)
        except ValueError as error:
            assert path.name in str(error)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("cameras", "1 PINHOLE 64", "cameras.txt is truncated or damaged at line 2"),
        ("cameras", "1 PINHOLE 64 48 1 1 1", "camera 1: camera model PINHOLE takes 4 numbers, got 3"),
        ("images", "1 1 0 0 0 0 0 1 a.png", "images.txt is truncated or damaged at line 2"),
        ("images", "1 1 0 0 x 0 0 0 1 a.png", "images.txt is truncated or damaged at line 2"),
        ("images", "1 1 0 0 0 0 0 0 1 a.png\n1 2 x", "images.txt is truncated or damaged at line 3"),
        ("points3D", "9e9 0 0 0 0 0 0 0.5", "points3D.txt is truncated or damaged at line 2"),
        (
            "points3D",
            "99999999999999999999 0 0 0 0 0 0 0.5",
            "points3D.txt is truncated or damaged at line 2",
        ),
        ("points3D", "1 0 0 0 256 0 0 0.5", "points3D.txt is truncated or damaged at line 2"),
        ("points3D", "1 0 0 0", "points3D.txt is truncated or damaged at line 2"),
    ],
)
def test_damaged_texts_are_refused_by_line(tmp_path, name, line, message):
    (write_text(tmp_path) / f"{name}.txt").write_text(f"# comment\n{line}\n")
    with pytest.raises(ValueError, match=message):
        READERS[name](tmp_path)


def test_a_model_that_lacks_a_file_is_refused(tmp_path):
    (write_dataset(tmp_path) / "sparse" / "0" / "images.bin").unlink()
    with pytest.raises(ValueError, match=r"it has no images.bin or images.txt"):
        load_dataset(tmp_path)


# --- against COLMAP itself ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pycolmap():
    return pytest.importorskip("pycolmap", reason="pycolmap is not installed (the `dev` extra)")


def assert_is_model(folder: Path, reconstruction) -> None:
    """That our reader and COLMAP's find the same."""
    cameras, images, points = read_cameras(folder), read_images(folder), read_points(folder)
    assert set(cameras) == set(reconstruction.cameras.keys())
    for camera_id, camera in reconstruction.cameras.items():
        lens = cameras[camera_id]
        assert (lens.model, lens.width, lens.height) == (camera.model_name, camera.width, camera.height)
        np.testing.assert_allclose(lens.params, camera.params, rtol=1e-14)
    by_name = {image.name: image for image in images}
    assert len(by_name) == len(images) == reconstruction.num_reg_images()
    for image in reconstruction.images.values():
        found = by_name[image.name]
        assert found.camera_id == image.camera_id
        np.testing.assert_allclose(found.viewmat[:3], image.cam_from_world().matrix(), atol=1e-12)
        ids = {p.point3D_id for p in image.points2D if p.has_point3D()}
        assert (
            set(found.point_ids) == ids
            if len(ids) <= MAX_IMAGE_POINTS
            else len(found.point_ids) == MAX_IMAGE_POINTS
        )
    assert points is not None and points.colors is not None and points.ids is not None
    for point_id, position in zip(points.ids, points.positions, strict=True):
        np.testing.assert_array_equal(position, reconstruction.points3D[point_id].xyz.astype(np.float32))
    expected = [(*p.xyz.astype(np.float32), *p.color) for p in reconstruction.points3D.values()]
    assert sorted(expected) == sorted((*p, *c) for p, c in zip(points.positions, points.colors, strict=True))


@pytest.mark.parametrize("model", ["SIMPLE_RADIAL", "OPENCV", "OPENCV_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE"])
def test_models_written_by_colmap(tmp_path, pycolmap, model):
    pycolmap.set_random_seed(0)
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_cameras_per_rig, options.num_frames_per_rig = 2, 2, 3
    options.num_points3D, options.camera_model_id = 50, getattr(pycolmap.CameraModelId, model)
    num_params = len(pycolmap.Camera.create_from_model_name(1, model, 1.0, 2, 2).params)
    focals = 1 if model.startswith("SIMPLE") else 2
    options.camera_params = [1280.0] * focals + [512.0, 384.0] + [0.01] * (num_params - focals - 2)
    reconstruction = pycolmap.synthesize_dataset(options)
    for point in reconstruction.points3D.values():
        point.color = np.array([point.track.length() % 256, 17, 99], np.uint8)
    for kind in ("binary", "text"):
        (tmp_path / kind).mkdir()
        getattr(reconstruction, f"write_{kind}")(str(tmp_path / kind))
        assert_is_model(tmp_path / kind, reconstruction)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["fox_colmap", "king"])
def test_real_models_are_read_as_colmap_reads_them(real_data, pycolmap, name):
    folder = find_model(real_data / name)
    assert folder is not None and folder == real_data / name / "sparse" / "0"
    assert_is_model(folder, pycolmap.Reconstruction(str(folder)))


class Observation(NamedTuple):
    """A point that COLMAP found in an image: where, and where our view and its own camera show it."""

    view: View
    color: np.ndarray
    found: np.ndarray
    ours: np.ndarray
    error: float
    colmap_error: float


def observations(scene, reconstruction) -> Iterator[Observation]:
    views = {view.name: view for view in (*scene.train, *scene.test)}
    for image in reconstruction.images.values():
        observed = [p for p in image.points2D if p.has_point3D()]
        points = [reconstruction.points3D[p.point3D_id] for p in observed]
        positions, found = np.array([p.xyz for p in points]), np.array([p.xy for p in observed])
        camera = views[image.name].camera
        K = np.asarray(camera.K, np.float64)
        # COLMAP undistorts the observation; K puts it into our image.
        lens, pose = reconstruction.cameras[image.camera_id], image.cam_from_world().matrix()
        pixels = lens.cam_from_img(found) * np.diag(K)[:2] + K[:2, 2]
        ours = project(camera, positions)
        theirs = lens.img_from_cam(positions @ pose[:, :3].T + pose[:, 3])
        errors = np.linalg.norm(ours - pixels, axis=-1), np.linalg.norm(theirs - found, axis=-1)
        for row in zip([p.color for p in points], pixels, ours, *errors, strict=True):
            yield Observation(views[image.name], *row)


@pytest.mark.realdata
def test_king(real_data, pycolmap):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scene = load_dataset(real_data / "king")
    assert (len(scene.train), len(scene.test)) == (20, 3)
    assert scene.points is not None and len(scene.points) == 1443
    # 7 observations are of a point that was found twice in one image.
    seen = [view.points for view in (*scene.train, *scene.test) if view.points is not None]
    assert sum(map(len, seen)) == 5931 - 7
    assert "7 sizes: 1000 x 662" in describe_scene(scene)
    found = list(observations(scene, pycolmap.Reconstruction(str(real_data / "king" / "sparse" / "0"))))
    errors = np.array([o.error for o in found])
    # As in the data's README, measured there by another program.
    assert len(errors) == 5931
    assert errors.mean() == pytest.approx(0.296, abs=1e-3) and np.median(errors) == pytest.approx(
        0.245, abs=1e-3
    )
    # The points' colours are those of the pixels that they land on; 43 for any other pixels.
    pixels = [o.view.image[int(o.ours[1]), int(o.ours[0])] for o in found]
    differences = np.abs(np.array(pixels, int) - np.array([o.color for o in found], int))
    assert differences.mean() == pytest.approx(11.7, abs=0.5)


@pytest.mark.realdata
def test_fox_colmap(real_data, pycolmap, tmp_path):
    """The model is of images of half the size of the fox's, with lens distortion."""
    shutil.copytree(real_data / "fox_colmap" / "sparse", tmp_path / "sparse")
    (tmp_path / "images").symlink_to(real_data / "fox" / "images")
    scene = load_dataset(tmp_path, downscale=8)
    assert (len(scene.train), len(scene.test)) == (43, 7)
    assert scene.points is not None and len(scene.points) == 10_756
    assert scene.train[0].image.shape == (240, 135, 3)
    found = list(observations(scene, pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))))
    errors = np.array([(o.error, o.colmap_error) for o in found]).mean(axis=0)
    # Ours are in an image of a quarter of the size, and undistorting stretches by one part in a hundred.
    assert errors[0] == pytest.approx(errors[1] / 4, rel=0.01) and len(found) == 75_154
