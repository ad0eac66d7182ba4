"""transforms.json: conventions by hand-computed pixels, every accepted form, and every refusal."""

import json
import math
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers import project, write_image

from splax.cli.describe import describe_scene
from splax.data.formats import load_dataset

WIDTH, HEIGHT = 64, 48
GLOBALS = {"w": float(WIDTH), "h": float(HEIGHT), "fl_x": 100.0, "fl_y": 100.0, "cx": 32.0, "cy": 24.0}
IDENTITY = np.eye(4).tolist()


def write_scene(folder: Path, names=("a.png", "b.png"), *, images=None, meta=None, frame=None) -> Path:
    """A dataset with one frame per name; ``images`` are the files to write, by default all named."""
    for name in names if images is None else images:
        write_image(folder / name)
    frames = [{"file_path": name, "transform_matrix": IDENTITY, **(frame or {})} for name in names]
    (folder / "transforms.json").write_text(json.dumps({**GLOBALS, **(meta or {}), "frames": frames}))
    return folder


def edit_scene(folder: Path, edit) -> Path:
    path = write_scene(folder) / "transforms.json"
    meta = json.loads(path.read_text())
    edit(meta)
    path.write_text(json.dumps(meta))
    return folder


# --- conventions -------------------------------------------------------------------------------------


def test_opengl_pose_lands_on_the_pixel_computed_by_hand(tmp_path):
    # The identity looks along -z with y up. (0.5, 0.25, -2) is 2 ahead, 0.5 right and 0.25 above:
    # u = 32 + 100 * 0.5 / 2, v = 24 - 100 * 0.25 / 2.
    camera = load_dataset(write_scene(tmp_path)).train[0].camera
    np.testing.assert_allclose(project(camera, (0.5, 0.25, -2.0)), [57.0, 11.5], atol=1e-4)


def test_turned_opengl_pose_lands_on_the_pixel_computed_by_hand(tmp_path):
    # Right (0, 1, 0), up (0, 0, 1), back (1, 0, 0), at (3, 0, 0): looks at the origin along -x.
    pose = [[0, 0, 1, 3], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    camera = load_dataset(write_scene(tmp_path, frame={"transform_matrix": pose})).train[0].camera
    np.testing.assert_allclose(project(camera, (0.0, 0.3, 0.6)), [42.0, 4.0], atol=1e-4)
    np.testing.assert_allclose(camera.position, [3, 0, 0], atol=1e-6)
    rotation = np.asarray(camera.viewmat)[:3, :3]
    assert np.linalg.det(rotation) == pytest.approx(1.0, abs=1e-6)


def test_3_by_4_matrices_are_understood(tmp_path):
    scene = load_dataset(write_scene(tmp_path, frame={"transform_matrix": IDENTITY[:3]}))
    np.testing.assert_allclose(project(scene.train[0].camera, (0.5, 0.25, -2.0)), [57.0, 11.5], atol=1e-4)


# --- intrinsics --------------------------------------------------------------------------------------


def load_K(folder: Path, **options) -> np.ndarray:
    return np.asarray(load_dataset(folder, **options).train[0].camera.K, np.float64)


def test_intrinsics_follow_the_stored_image(tmp_path):
    # The fox's numbers, for images stored at an eighth of the size that w and h state.
    meta = {"w": 1080.0, "h": 1920.0, "fl_x": 1375.52, "fl_y": 1374.49, "cx": 554.558, "cy": 965.268}
    write_scene(tmp_path, meta=meta, images=())
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name, size=(135, 240))
    expected = [[171.94, 0, 69.31975], [0, 171.81125, 120.6585], [0, 0, 1]]
    np.testing.assert_allclose(load_K(tmp_path), expected, rtol=1e-6)


def test_camera_angle_replaces_the_focal_length(tmp_path):
    meta = {"fl_x": None, "fl_y": None, "cx": None, "cy": None, "camera_angle_x": math.pi / 2}
    expected = [[32, 0, 32], [0, 32, 24], [0, 0, 1]]  # 90 degrees over 64 pixels; the centre
    np.testing.assert_allclose(load_K(write_scene(tmp_path, meta=meta)), expected, rtol=1e-6)


def test_camera_angle_y_gives_the_vertical_focal_length(tmp_path):
    meta = {"fl_x": None, "fl_y": None, "camera_angle_x": math.pi / 2, "camera_angle_y": 2 * math.atan(0.5)}
    K = load_K(write_scene(tmp_path, meta=meta))
    np.testing.assert_allclose([K[0, 0], K[1, 1]], [32, 48], rtol=1e-6)


def test_without_w_and_h_the_image_states_its_size(tmp_path):
    meta = {"w": None, "h": None, "cx": None, "cy": None}
    np.testing.assert_allclose(load_K(write_scene(tmp_path, meta=meta))[:2, 2], [32, 24])


def test_a_frame_overrides_the_globals(tmp_path):
    scene = load_dataset(edit_scene(tmp_path, lambda m: m["frames"][1].update(fl_x=50.0, fl_y=60.0, cx=30.0)))
    expected = [[50, 0, 30], [0, 60, 24], [0, 0, 1]]
    np.testing.assert_allclose(scene.train[0].camera.K, expected)  # b.png; a.png is the test view
    np.testing.assert_allclose(np.asarray(scene.test[0].camera.K)[0, 0], 100)


def test_an_angle_of_a_frame_overrides_a_global_focal_length(tmp_path):
    folder = write_scene(tmp_path, frame={"camera_angle_x": math.pi / 2})
    np.testing.assert_allclose(load_K(folder)[0, 0], 32, rtol=1e-6)


# --- pixels ------------------------------------------------------------------------------------------


def test_downscale_averages_areas_and_scales_K_exactly(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    write_scene(tmp_path)
    write_image(tmp_path / "b.png", pixels[..., ::-1])
    view = load_dataset(tmp_path, downscale=4).train[0]
    blocks = pixels.reshape(12, 4, 16, 4, 3).astype(np.float64).mean((1, 3))
    assert np.abs(view.image - blocks).max() <= 0.5 + 1e-6
    np.testing.assert_allclose(view.camera.K, [[25, 0, 8], [0, 25, 6], [0, 0, 1]])


def test_downscale_that_does_not_divide_rounds_down(tmp_path):
    view = load_dataset(write_scene(tmp_path), downscale=2.5).train[0]  # 25.6 x 19.2
    assert view.image.shape == (19, 25, 3)
    expected = [[100 * 25 / 64, 0, 12.5], [0, 100 * 19 / 48, 9.5], [0, 0, 1]]
    np.testing.assert_allclose(view.camera.K, expected, rtol=1e-6)


def decoded(tmp_path: Path, image: np.ndarray, **options) -> np.ndarray:
    write_scene(tmp_path)
    write_image(tmp_path / "b.png", image)
    return load_dataset(tmp_path, **options).train[0].image[0, 0]


def test_colours_are_rgb(tmp_path):
    bgr = np.broadcast_to(np.array([10, 20, 30], np.uint8), (HEIGHT, WIDTH, 3))
    assert decoded(tmp_path, bgr).tolist() == [30, 20, 10]


def test_grey_becomes_rgb(tmp_path):
    assert decoded(tmp_path, np.full((HEIGHT, WIDTH), 77, np.uint8)).tolist() == [77, 77, 77]


def test_16_bits_are_cut_to_8(tmp_path):
    image = np.full((HEIGHT, WIDTH, 3), 0xABCD, np.uint16)
    assert decoded(tmp_path, image).tolist() == [0xAB] * 3


@pytest.mark.parametrize(("white", "expected"), [(False, [80, 40, 20]), (True, [207, 167, 147])])
def test_transparency_is_composited(tmp_path, white, expected):
    # Alpha 0.5 (127.5 would be exact; 128 / 255 = 0.502) over black or white.
    bgra = np.broadcast_to(np.array([40, 80, 160, 128], np.uint8), (HEIGHT, WIDTH, 4))
    assert decoded(tmp_path, bgra, white_background=white).tolist() == expected
    scene = load_dataset(tmp_path, white_background=white)
    assert scene.background == ((1.0,) * 3 if white else (0.0,) * 3)


# --- lens distortion ---------------------------------------------------------------------------------

LENS = np.array([[260.0, 0, 163.0], [0, 255.0, 117.0], [0, 0, 1]])
LENS_SIZE = (320, 240)
LENSES = {
    "pincushion": (0.12, -0.05, 0.004, -0.003),
    "barrel": (-0.28, 0.07, -0.003, 0.005),
    "fox": (0.0578421, -0.0805099, -0.000980296, 0.00015575),
}


def distorted_pixel(x: np.ndarray, y: np.ndarray, lens) -> tuple[np.ndarray, np.ndarray]:
    """Brown's model as OpenCV's documentation writes it, in float64; pixel centres at 0.5."""
    k1, k2, p1, p2 = lens
    r2 = x**2 + y**2
    radial = 1 + k1 * r2 + k2 * r2**2
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x**2)
    v = y * radial + p1 * (r2 + 2 * y**2) + 2 * p2 * x * y
    return LENS[0, 0] * u + LENS[0, 2], LENS[1, 1] * v + LENS[1, 2]


def seen_by_lens(view, lens) -> tuple[np.ndarray, np.ndarray]:
    """Where the photo shows what each pixel of the undistorted image shows."""
    K = np.asarray(view.camera.K, np.float64)
    columns, rows = np.meshgrid(np.arange(320) + 0.5, np.arange(240) + 0.5)
    return distorted_pixel((columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], lens)


def write_lens_scene(folder: Path, lens, image: np.ndarray | None = None) -> Path:
    intrinsics = {"w": 320, "h": 240, "fl_x": 260.0, "fl_y": 255.0, "cx": 163.0, "cy": 117.0}
    coefficients = dict(zip(("k1", "k2", "p1", "p2"), lens, strict=True))
    write_scene(folder, images=(), meta=intrinsics | coefficients)
    for name in ("a.png", "b.png"):
        write_image(folder / name, image, size=LENS_SIZE)
    return folder


@pytest.mark.parametrize("downscale", [1, 2])
@pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES.keys())
def test_undistorted_points_land_where_K_says(tmp_path, lens, downscale):
    # Blobs drawn where the lens shows points of the plane z = 1; OpenGL's (x, -y, -1) for the identity.
    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(-0.45, 0.4, 5), np.linspace(-0.3, 0.32, 4)))
    columns, rows = np.meshgrid(np.arange(320) + 0.5, np.arange(240) + 0.5)
    image = np.full((240, 320), 20.0)
    for u, v in zip(*distorted_pixel(x, y, lens), strict=True):
        image += 200 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 2.5**2))
    write_lens_scene(tmp_path, lens, np.rint(image).astype(np.uint8))

    view = load_dataset(tmp_path, downscale=downscale).train[0]
    brightness = view.image[..., 0].astype(np.float64) - 20
    height, width = brightness.shape
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    for point in zip(x, -y, -np.ones_like(x), strict=True):
        u, v = project(view.camera, point)
        window = np.hypot(columns - u, rows - v) < 11 / downscale
        weight = np.where(window, brightness.clip(0), 0)
        centroid = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
        assert np.abs(centroid - [u, v]).max() < 0.2, point


def test_undistortion_has_no_offset_of_half_a_pixel(tmp_path):
    # In a ramp, a shift of the sampled position is a shift of the mean; rounding to 8 bits averages out.
    lens, slope = LENSES["barrel"], 0.7
    ramp = np.rint(slope * (np.arange(320) + 0.5))
    view = load_dataset(write_lens_scene(tmp_path, lens, np.tile(ramp.astype(np.uint8), (240, 1)))).train[0]
    u, _ = seen_by_lens(view, lens)
    middle = np.s_[80:160, 100:220]  # where the lens magnifies most
    assert abs((view.image[..., 0][middle] / slope - u[middle]).mean()) < 0.01


@pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES.keys())
def test_undistorted_image_has_no_black_border_and_wastes_nothing(tmp_path, lens):
    view = load_dataset(write_lens_scene(tmp_path, lens)).train[0]
    assert view.image.shape == (240, 320, 3)
    assert view.image.min() == view.image.max() == 100
    # The corners of the new image, seen through the lens, are inside the photo; the sides touch its border.
    u, v = seen_by_lens(view, lens)
    sides = np.array([u.min() - 0.5, 319.5 - u.max(), v.min() - 0.5, 239.5 - v.max()])
    assert sides.min() > -1e-3
    assert sides.max() < 0.1


def test_no_distortion_keeps_the_pixels(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    view = load_dataset(write_lens_scene(tmp_path, (0, 0, 0, 0), image)).train[0]
    assert (view.image == image[..., ::-1]).all()
    np.testing.assert_allclose(view.camera.K, LENS)


# --- where files lie ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "named"),
    [
        ("images/a.png", "images/a.png"),
        ("images/a.jpg", "images/a"),
        ("images/a.JPG", "images/a"),
        ("images/a.jpeg", "./images/a.jpeg"),
        ("images/a.PNG", "images/a.PNG"),
        ("images/a.png", "a.png"),
        ("images/a.v2.png", "images/a.v2"),
        ("train/a.png", "train\\a.png"),
        ("images/left/a.png", "left/a"),
    ],
)
def test_images_are_found(tmp_path, stored, named):
    scene = load_dataset(write_scene(tmp_path, (named,), images=(stored,)))
    assert [view.name for view in scene.train] == [stored.removeprefix("images/")]


@pytest.mark.parametrize("given", ["", "transforms.json", "images"])
def test_folder_json_or_images_may_be_given(tmp_path, given):
    write_scene(tmp_path, ("images/a.png", "images/b.png"))
    assert len(load_dataset(tmp_path / given).train) == 1


def test_json_may_lie_among_the_images(tmp_path):
    write_scene(tmp_path / "images", ("images/a.png", "b.png"), images=("a.png", "b.png"))
    assert [view.name for view in load_dataset(tmp_path).train] == ["b.png"]


def test_views_are_sorted_by_name_whatever_their_order_in_the_file(tmp_path):
    names = [f"{i}.png" for i in range(9)]
    scene = load_dataset(write_scene(tmp_path, names[::-1]), test_every=4)
    assert [view.name for view in scene.test] == ["0.png", "4.png", "8.png"]
    assert [view.name for view in scene.train] == ["1.png", "2.png", "3.png", "5.png", "6.png", "7.png"]


@pytest.mark.parametrize(
    ("meta", "train", "test"),
    [
        ({"test_filenames": ["images/b.png"]}, ["a.png", "c.png", "d.png"], ["b.png"]),
        ({"val_filenames": ["./images/d.png"], "test_filenames": []}, ["a.png", "b.png", "c.png"], ["d.png"]),
        (
            {
                "train_filenames": ["images/a.png"],
                "val_filenames": ["images/c.png"],
                "test_filenames": ["images/b.png"],
            },
            ["a.png"],
            ["b.png"],
        ),
    ],
)
def test_a_split_in_the_file_is_kept(tmp_path, meta, train, test):
    scene = load_dataset(write_scene(tmp_path, [f"images/{name}.png" for name in "abcd"], meta=meta))
    assert [view.name for view in scene.train] == train
    assert [view.name for view in scene.test] == test


@pytest.mark.parametrize(
    "spelled", ["images/{}.png", "images/{}", "images\\{}.png", "./images/{}.png", "{}.png", "images/x/../{}"]
)
@pytest.mark.parametrize("framed", ["images/{}.png", "images/{}", "images\\{}.png", "{}"])
@pytest.mark.parametrize("lists", [("test",), ("train", "val"), ("train", "test", "val")])
def test_a_split_may_spell_files_in_another_way_than_frames(tmp_path, spelled, framed, lists):
    named = {"train": "ac", "test": "b", "val": "b"}
    meta = {f"{key}_filenames": [spelled.format(name) for name in named[key]] for key in lists}
    write_scene(tmp_path, [framed.format(name) for name in "abcd"], images=[], meta=meta)
    for name in "abcd":
        write_image(tmp_path / "images" / f"{name}.png")
    scene = load_dataset(tmp_path)
    assert [view.name for view in scene.test] == ["b.png"] and not scene.warnings
    assert [view.name for view in scene.train] == [
        f"{name}.png" for name in ("ac" if "train" in lists else "acd")
    ]


def test_a_listed_name_without_extension_means_all_images_of_that_name(tmp_path):
    names = ["a.png", "a.jpg", "b.png", "c.png"]
    scene = load_dataset(write_scene(tmp_path, names, meta={"test_filenames": ["a", "b.png"]}))
    assert {view.name for view in scene.test} == {"a.png", "a.jpg", "b.png"}


@pytest.mark.parametrize("key", ["train_filenames", "val_filenames", "test_filenames"])
def test_listed_names_that_belong_to_no_frame_are_said(tmp_path, key):
    meta = {
        "test_filenames": ["a.png"],
        key: ["images/9996.png", "a.png" if key != "train_filenames" else "b.png"],
    }
    write_scene(tmp_path, [f"{name}.png" for name in "abc"], meta=meta)
    with pytest.warns(UserWarning, match=f"1 of the 2 names in {key} belong to no frame: 'images/9996.png'"):
        scene = load_dataset(tmp_path)
    assert [view.name for view in scene.test] == ["a.png"] and len(scene.warnings) == 1


def test_a_list_that_names_no_frame_holds_out_every_eighth_view_and_is_said(tmp_path):
    names = [f"{index}.png" for index in range(9)]
    write_scene(tmp_path, names, meta={"test_filenames": ["x.png", "y.png"]})
    with pytest.warns(
        UserWarning, match="2 of the 2 names in test_filenames belong to no frame: 'x.png', 'y.png'"
    ):
        assert [view.name for view in load_dataset(tmp_path).test] == ["0.png", "8.png"]


def test_listed_names_of_frames_without_an_image_are_said_once(tmp_path):
    meta = {"test_filenames": ["a", "gone"]}
    write_scene(tmp_path, ["a.png", "b.png", "gone.png"], images=["a.png", "b.png"], meta=meta)
    with pytest.warns(UserWarning, match="no such file: gone.png"):
        assert len(load_dataset(tmp_path).warnings) == 1


def test_a_split_that_leaves_no_training_view_is_refused(tmp_path):
    write_scene(tmp_path, meta={"test_filenames": ["a.png", "b.png"]})
    with pytest.raises(
        ValueError, match="no frame is left to train on: test_filenames names 2 of its 2 frames"
    ):
        load_dataset(tmp_path)


def test_a_camera_that_is_far_off_is_named_once_and_stays(tmp_path):
    path = write_scene(tmp_path, [f"{index}.png" for index in range(8)]) / "transforms.json"
    meta = json.loads(path.read_text())
    for index, frame in enumerate(meta["frames"]):
        frame["transform_matrix"] = np.eye(4).tolist()
        frame["transform_matrix"][0][3] = 5e4 if index == 3 else float(index)
    path.write_text(json.dumps(meta))
    with pytest.warns(
        UserWarning, match=r"transforms.json: 1 of 8 training cameras .*: '3.png' \(5e\+04 away\)"
    ):
        scene = load_dataset(tmp_path, test_every=0)
    assert len(scene.train) == 8 and len(scene.warnings) == 1
    xs = np.array([0, 1, 2, 4, 5, 6, 7])
    assert scene.extent == pytest.approx(1.1 * np.abs(xs - xs.mean()).max(), rel=1e-5)


@pytest.mark.parametrize("extension", ["png", "jpg"])
@pytest.mark.parametrize("stated", [True, False])
def test_smaller_copies_may_be_all_there_is(tmp_path, stated, extension):
    size = {} if stated else {"w": None, "h": None, "cx": None, "cy": None}
    write_scene(
        tmp_path, ["images/a.png", "images/b.png"], images=[], meta={**size, "test_filenames": ["b.png"]}
    )
    for name, value in (("a", 10), ("b", 20)):
        write_image(
            tmp_path / "images_2" / f"{name}.{extension}",
            np.full((HEIGHT // 2, WIDTH // 2, 3), value, np.uint8),
        )
    scene = load_dataset(tmp_path, downscale=2)
    assert [view.name for view in (*scene.train, *scene.test)] == ["a.png", "b.png"]
    assert [round(int(view.image[0, 0, 0]), -1) for view in (*scene.train, *scene.test)] == [10, 20]
    np.testing.assert_allclose(scene.train[0].camera.K, [[50, 0, 16], [0, 50, 12], [0, 0, 1]])
    with pytest.raises(ValueError, match="There are smaller copies in images_2: downscale by that number"):
        load_dataset(tmp_path)


# --- frames left out ---------------------------------------------------------------------------------


def gigantic_png() -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", 1 << 20, 1 << 20, 8, 2, 0, 0, 0)
    end = b"IEND"
    chunks = [struct.pack(">I", 13), header, struct.pack(">I", zlib.crc32(header))]
    chunks += [struct.pack(">I", 0), end, struct.pack(">I", zlib.crc32(end))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def damaged(extension: str, keep: float) -> bytes:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    data = cv2.imencode(extension, image)[1].tobytes()
    return data[: int(len(data) * keep)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "neither a PNG nor a JPEG"),
        (b"not an image", "neither a PNG nor a JPEG"),
        (damaged(".png", 0.5), "damaged"),
        (damaged(".png", 0.001), "neither|damaged"),
        (damaged(".jpg", 0.5), "ends too early"),
        (damaged(".jpg", 0.01), "damaged"),
        (b"\xff\xd8" + b"\x00" * 50, "damaged"),
        (gigantic_png(), "declares 1048576 x 1048576"),
    ],
)
def test_damaged_images_are_left_out_by_name(tmp_path, data, reason):
    write_scene(tmp_path, ("a.png", "b.png", "c.png"))
    (tmp_path / "b.png").write_bytes(data)
    with pytest.warns(UserWarning, match=f"1 of 3 frames left out.*({reason}).*: b.png") as caught:
        scene = load_dataset(tmp_path)
    assert len(caught) == 1
    assert scene.warnings == (str(caught[0].message),)
    assert len(scene.train) + len(scene.test) == 2


def test_missing_images_are_listed_in_one_warning(tmp_path):
    names = [f"{i}.png" for i in range(6)]
    with pytest.warns(UserWarning, match="2 of 6 frames left out. no such file: 1.png, 4.png") as caught:
        scene = load_dataset(write_scene(tmp_path, names, images=("0.png", "2.png", "3.png", "5.png")))
    assert len(caught) == 1
    assert "1.png, 4.png" in describe_scene(scene)


@pytest.mark.parametrize(
    "outside", ["../secret.png", "images/../../secret.png", "C:\\secret.png", "/absolute"]
)
def test_images_outside_the_folder_are_never_read(tmp_path, outside):
    write_image(tmp_path / "secret.png")
    outside = str(tmp_path / "secret.png") if outside == "/absolute" else outside
    folder = write_scene(tmp_path / "data", ("a.png", outside), images=("a.png",))
    with pytest.warns(UserWarning, match="leads out of the dataset"):
        scene = load_dataset(folder)
    assert [view.name for view in scene.train] == ["a.png"]


def test_an_image_listed_twice_is_used_once(tmp_path):
    with pytest.warns(UserWarning, match="listed more than once: ./a.png"):
        scene = load_dataset(write_scene(tmp_path, ("a.png", "./a.png", "b.png")))
    assert [view.name for view in (*scene.test, *scene.train)] == ["a.png", "b.png"]


def test_control_characters_of_a_file_are_not_printed(tmp_path):
    with pytest.warns(UserWarning) as caught:
        load_dataset(write_scene(tmp_path, ("a.png", "\x1b[2J\n.png"), images=("a.png",)))
    assert "\\x1b[2J\\n.png" in str(caught[0].message)


# --- refusals ----------------------------------------------------------------------------------------


def set_matrix(value):
    return lambda meta: meta["frames"][1].update(transform_matrix=value)


def set_globals(**values):
    return lambda meta: meta.update(values)


MIRRORED = np.diag([1.0, 1.0, -1.0, 1.0]).tolist()
SCALED = np.diag([2.0, 2.0, 2.0, 1.0]).tolist()
TRANSPOSED = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 2, 3, 1]]
NOT_A_NUMBER = [[1, 0, 0, math.nan], *IDENTITY[1:]]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda meta: meta.pop("frames"), "'frames' must be a list"),
        (set_globals(frames=[]), "'frames' must be a list"),
        (set_globals(frames={}), "'frames' must be a list"),
        (set_globals(frames=[5]), "frame 0 must be a json object, got 5"),
        (lambda meta: meta["frames"][1].pop("file_path"), "frame 1: file_path"),
        (
            lambda meta: meta["frames"][1].pop("transform_matrix"),
            r"frame 1 \('b.png'\): has no transform_matrix",
        ),
        (set_matrix([[1, 2], [3, 4]]), "must be 4 x 4 numbers"),
        (set_matrix([[1, 2], [3]]), "must be 4 x 4 numbers"),
        (set_matrix("identity"), "must be 4 x 4 numbers"),
        (set_matrix([[10**400] * 4] * 4), "must be 4 x 4 numbers|NaN or infinite"),
        (set_matrix(NOT_A_NUMBER), "NaN or infinite"),
        (set_matrix([[math.inf] * 4] * 4), "NaN or infinite"),
        (set_matrix(MIRRORED), "must be a rotation; it has determinant -1"),
        (set_matrix(SCALED), "must be a rotation; it has determinant 8"),
        (set_matrix(TRANSPOSED), "transposed"),
        (set_globals(fl_x=0.0, fl_y=0.0), "fl_x must be a positive"),
        (set_globals(fl_x=-5.0), "fl_x must be a positive"),
        (set_globals(fl_x=math.nan), "fl_x must be a finite number, got nan"),
        (set_globals(fl_x="100"), "fl_x must be a finite number, got '100'"),
        (set_globals(fl_x=None, fl_y=None), "no focal length"),
        (set_globals(fl_x=None, fl_y=None, camera_angle_x=4.0), "between 0 and pi"),
        (set_globals(cx=math.inf), "cx must be a finite number"),
        (set_globals(test_filenames=5), "test_filenames must be a list of file names, got 5"),
        (set_globals(w=0.0), "w and h must be the image size"),
        (set_globals(w=48.0, h=64.0), "48 x 64 pixels but the image is 64 x 48"),
        (set_globals(k4=0.01), "k4 = 0.01 is not supported.*Undistort"),
        (set_globals(p1=0.01, is_fisheye=True), "p1 = 0.01 is not supported.*Undistort"),
        (set_globals(camera_model="EQUIRECTANGULAR"), "'EQUIRECTANGULAR' is not supported.*Undistort"),
        (set_globals(camera_model=["OPENCV"]), "camera_model .* is not supported"),
        (set_globals(k1=-30.0), "folds over"),
        (set_globals(k1=1e20), "folds over"),
    ],
)
def test_unusable_json_is_refused_in_one_line(tmp_path, edit, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(edit_scene(tmp_path, edit))
    assert "\n" not in str(caught.value)
    assert "transforms.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1"),
        ('{"frames": [\n  {"file_path": }]}', "line 2, column 17"),
        ("[1, 2]", "must hold a json object"),
        ("[" * 200_000, "nested too deeply"),
        ('{"w": ' + "9" * 5000 + "}", "not valid json"),
    ],
    ids=["empty", "malformed", "list", "deep", "long number"],
)
def test_files_that_are_no_transforms_are_refused(tmp_path, text, message):
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path)


ODD = [
    None,
    True,
    -1,
    0,
    1e308,
    math.nan,
    math.inf,
    "",
    "..",
    "x" * 5000,
    "\ud800",
    "a\0b",
    1 << 70,
    [],
    {},
    [[]],
]


def spoil(value: Any, rng: random.Random) -> None:
    """Puts something odd somewhere into nested lists and objects, or takes something out."""
    while isinstance(value, dict | list) and value:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        if not isinstance(value[key], dict | list) or rng.random() < 0.3:
            if rng.random() < 0.2:
                del value[key]
            else:
                value[key] = rng.choice(ODD)
            return
        value = value[key]


@pytest.mark.filterwarnings("ignore:.*left out.*", "ignore:.*has no points.*")
def test_spoiled_json_never_does_more_than_a_value_error(tmp_path):
    meta = {"ply_file_path": "none.ply", "applied_transform": IDENTITY, "camera_model": "OPENCV", "k1": 0.0}
    write_image(tmp_path / "mask.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
    path = write_scene(tmp_path, meta=meta, frame={"mask_path": "mask.png"}) / "transforms.json"
    data, rng, refused = path.read_text(), random.Random(0), 0
    for _ in range(300):
        content = json.loads(data)
        for _ in range(rng.randint(1, 3)):
            spoil(content, rng)
        path.write_text(json.dumps(content))
        try:
            load_dataset(tmp_path)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and str(path) in str(error)
    assert 50 < refused < 280


def test_binary_json_is_refused(tmp_path):
    (tmp_path / "transforms.json").write_bytes(b"\xff\xfe\x00\x80" * 100)
    with pytest.raises(ValueError, match="not valid json"):
        load_dataset(tmp_path)


def test_enormous_json_is_refused_unread(tmp_path):
    with open(tmp_path / "transforms.json", "wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(ValueError, match="300 MiB; at most 256 MiB"):
        load_dataset(tmp_path)


def test_no_usable_image_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"none of its 2 frames has a usable image. no such file: a.png, b.png"
    ):
        load_dataset(write_scene(tmp_path, images=()))


def test_images_may_differ_in_size(tmp_path):
    write_scene(tmp_path, ("a.png", "b.png", "c.png"))
    write_image(tmp_path / "c.png", size=(128, 96))
    scene = load_dataset(tmp_path)
    assert [view.image.shape for view in scene.train] == [(48, 64, 3), (96, 128, 3)]
    np.testing.assert_allclose(scene.train[1].camera.K, [[200, 0, 64], [0, 200, 48], [0, 0, 1]])
    assert "2 sizes: 64 x 48 (2 views), 128 x 96 (1 views)" in describe_scene(scene)


@pytest.mark.parametrize("downscale", [0, 0.5, -1, math.nan, math.inf])
def test_downscale_below_one_is_refused(tmp_path, downscale):
    with pytest.raises(ValueError, match="downscale must be a number of at least 1"):
        load_dataset(write_scene(tmp_path), downscale=downscale)


def test_downscale_larger_than_the_image_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="downscale 49 leaves no pixels of an image of 64 x 48; use at most 48"
    ):
        load_dataset(write_scene(tmp_path), downscale=49)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "nowhere", "No such folder"),
        (lambda path: write_scene(path / "fox").parent, "There is one in fox"),
        (lambda path: write_image(path / "a.png") or path / "a.png", "is not a dataset"),
        (lambda path: write_image(path / "images" / "a.png") or path, "1 photos without cameras"),
        (
            lambda path: path,
            "Looked for transforms: transforms.json; blender: transforms_train.json; colmap: .*; llff: "
            "poses_bounds.npy; rgbd: ",
        ),
    ],
)
def test_wrong_paths_are_refused_with_a_hint(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(make(tmp_path))


def test_dataset_types(tmp_path):
    write_scene(tmp_path)
    assert load_dataset(tmp_path, dataset_type="transforms").dataset_type == "transforms"
    with pytest.raises(
        ValueError, match=r"Looked for colmap: cameras.bin.* But it is one of type 'transforms'"
    ):
        load_dataset(tmp_path, dataset_type="colmap")
    with pytest.raises(ValueError, match="Unknown dataset_type 'blend'; supported: 'transforms', 'blender'"):
        load_dataset(tmp_path, dataset_type="blend")


# --- real files --------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_fox(real_data):
    with pytest.warns(UserWarning, match="17 of 67 frames left out. no such file: images/0005.jpg") as caught:
        scene = load_dataset(real_data / "fox", downscale=8)
    assert len(caught) == 1
    assert (len(scene.train), len(scene.test)) == (43, 7)
    assert scene.test[0].name == "0001.jpg"
    assert {view.image.shape for view in (*scene.train, *scene.test)} == {(240, 135, 3)}
    # OpenCV's own inner rectangle, from 9 x 9 points, scaled to an eighth; the shift is its pixel origin.
    K = np.array([[1375.52, 0, 554.558 - 0.5], [0, 1374.49, 965.268 - 0.5], [0, 0, 1]])
    lens = np.array([0.0578421, -0.0805099, -0.000980296, 0.00015575])
    expected = cv2.getOptimalNewCameraMatrix(K, lens, (1080, 1920), 0)[0]
    expected[:2, 2] += 0.5
    np.testing.assert_allclose(scene.train[0].camera.K, np.diag([1 / 8, 1 / 8, 1]) @ expected, rtol=5e-4)
    # Measured by an independent script (least squares in float64): centre, median distance, scene scale.
    np.testing.assert_allclose(scene.center, [0.05718514, -0.04404677, -0.09442421], atol=1e-5)
    assert scene.radius == pytest.approx(5.0722241, rel=1e-6)
    assert scene.extent == pytest.approx(4.31194984, rel=1e-6)
