"""Blender, LLFF and RGB-D folders, and how the format of a folder is found out."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers import project, write_image

from splax.cli.describe import describe_scene
from splax.data.formats import FORMATS, load_dataset

SIZE = (64, 48)


# --- Blender -----------------------------------------------------------------------------------------


def write_blender(root: Path, splits=("train", "val", "test"), count: int = 2) -> Path:
    for split in splits:
        frames = []
        for index in range(count):
            pixels = np.full((SIZE[1], SIZE[0], 4), (0, 0, 200, 51), np.uint8)  # red, a fifth opaque
            write_image(root / split / f"r_{index}.png", pixels)
            pose = np.eye(4)
            pose[2, 3] = 4.0 + index
            frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": pose.tolist()})
        content = {"camera_angle_x": 2 * np.arctan(0.5), "frames": frames}
        (root / f"transforms_{split}.json").write_text(json.dumps(content))
    return root


def names(views) -> list[str]:
    return [view.name for view in views]


@pytest.mark.parametrize(
    ("splits", "test"),
    [
        (("train", "val", "test"), ["test/r_0.png", "test/r_1.png"]),
        (("train", "val"), ["val/r_0.png", "val/r_1.png"]),
    ],
)
def test_blender_splits_are_kept(tmp_path, splits, test):
    scene = load_dataset(write_blender(tmp_path, splits))
    assert scene.dataset_type == "blender"
    assert names(scene.train) == ["train/r_0.png", "train/r_1.png"]
    assert names(scene.test) == test
    # 64 pixels at a slope of 0.5; the camera is 4 above, so the point is 3 ahead.
    np.testing.assert_allclose(
        project(scene.train[0].camera, [0.3, 0.0, 1.0]), [32 + 64 * 0.1, 24], atol=1e-4
    )


def test_blender_without_held_out_views_is_split(tmp_path):
    scene = load_dataset(write_blender(tmp_path, ("train",), count=4), test_every=2)
    assert names(scene.test) == ["train/r_0.png", "train/r_2.png"]


@pytest.mark.parametrize(("white", "expected"), [(False, [40, 0, 0]), (True, [244, 204, 204])])
def test_blender_backgrounds(tmp_path, white, expected):
    scene = load_dataset(write_blender(tmp_path), white_background=white)
    assert scene.train[0].image[0, 0].tolist() == expected
    assert scene.background == ((1.0,) * 3 if white else (0.0,) * 3)


@pytest.mark.parametrize("name", ["transforms_train.json", "transforms_test.json", "transforms_val.json"])
def test_a_file_of_one_split_stands_for_all_of_them(tmp_path, monkeypatch, name):
    monkeypatch.chdir(write_blender(tmp_path))
    for path in (tmp_path / name, Path(name)):
        scene = load_dataset(path)
        assert scene.dataset_type == "blender"
        assert names(scene.train) == ["train/r_0.png", "train/r_1.png"]
        assert names(scene.test) == ["test/r_0.png", "test/r_1.png"]
    alone = load_dataset(tmp_path / name, dataset_type="transforms", test_every=0)
    assert alone.dataset_type == "transforms" and len(alone.train) == 2 and not alone.test


def test_a_file_of_one_split_is_preferred_to_a_transforms_json_next_to_it(tmp_path):
    (write_blender(tmp_path) / "transforms.json").write_text((tmp_path / "transforms_val.json").read_text())
    assert names(load_dataset(tmp_path / "transforms_train.json").test) == ["test/r_0.png", "test/r_1.png"]
    assert load_dataset(tmp_path).dataset_type == "transforms"


def test_a_split_without_the_training_file_is_read_alone(tmp_path):
    write_blender(tmp_path, ("test",))
    assert names(load_dataset(tmp_path / "transforms_test.json", test_every=0).train) == [
        "test/r_0.png",
        "test/r_1.png",
    ]


def test_blender_reads_points_that_the_training_file_names(tmp_path):
    path = write_blender(tmp_path) / "transforms_train.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "ply_file_path": "points.ply"}))
    header = "ply\nformat ascii 1.0\nelement vertex 1\n" + "".join(f"property float {a}\n" for a in "xyz")
    (tmp_path / "points.ply").write_text(f"{header}end_header\n0.3 0 1\n")
    for given in (tmp_path, path):
        points = load_dataset(given).points
        assert points is not None
        np.testing.assert_allclose(points, [[0.3, 0, 1]])


def test_held_out_views_are_never_trained_on(tmp_path):
    write_blender(tmp_path)
    (tmp_path / "transforms_test.json").write_text((tmp_path / "transforms_train.json").read_text())
    with pytest.warns(UserWarning, match="held out, but also trained on: train/r_0.png, train/r_1.png"):
        assert not load_dataset(tmp_path).test


# --- LLFF --------------------------------------------------------------------------------------------


def llff_rows(count: int, *, size=SIZE, focal: float = 100.0) -> np.ndarray:
    """Cameras in a row along x that look along +y with z up: right x, down -z, backward -y."""
    rows = []
    for index in range(count):
        pose = np.array([[0, 1, 0, index], [0, 0, -1, 0], [-1, 0, 0, 0]], np.float64)
        hwf = np.array([[size[1]], [size[0]], [focal]])
        rows.append([*np.hstack([pose, hwf]).ravel(), 1.0, 9.0])
    return np.array(rows)


def write_llff(root: Path, rows: np.ndarray, image_names=("b.png", "a.png", "c.png")) -> Path:
    for name in image_names:
        write_image(root / "images" / name)
    np.save(root / "poses_bounds.npy", rows)
    return root


def test_llff_points_land_on_the_pixels_computed_by_hand(tmp_path):
    scene = load_dataset(write_llff(tmp_path, llff_rows(3)), test_every=0)
    assert scene.dataset_type == "llff" and names(scene.train) == ["a.png", "b.png", "c.png"]
    # (0.5, 2, 0.25) is 2 ahead, 0.25 up, and 0.5, -0.5, -1.5 to the right of the three.
    pixels = [project(view.camera, [0.5, 2.0, 0.25]) for view in scene.train]
    np.testing.assert_allclose(pixels, [[57, 11.5], [7, 11.5], [-43, 11.5]], atol=1e-4)


def test_llff_uses_smaller_copies(tmp_path):
    write_llff(tmp_path, llff_rows(3))
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        write_image(tmp_path / "images_4" / name, np.full((12, 16, 3), 50, np.uint8))
    view = load_dataset(tmp_path, downscale=4).train[0]
    assert abs(int(view.image[0, 0, 0]) - 50) < 3 and view.image.shape == (12, 16, 3)
    np.testing.assert_allclose(view.camera.K, [[25, 0, 8], [0, 25, 6], [0, 0, 1]])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (llff_rows(2), "holds 2 poses, but there are 3 images in"),
        (llff_rows(3)[:, :9], r"must hold 17 numbers for each image, got shape \[3, 9\]"),
        (llff_rows(3) * np.nan, "image a.png: its numbers|image a.png: the camera's numbers must be finite"),
        (llff_rows(3, focal=0.0), "image a.png: focal lengths must be positive"),
        (
            llff_rows(3)[:, [1, 0, *range(2, 17)]],
            "image a.png: its pose: its upper left 3 x 3 must be a rotation",
        ),
        (np.array(["x"]), "must hold real numbers"),
    ],
)
def test_unusable_llff_is_refused_in_one_line(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(write_llff(tmp_path, rows))
    assert "poses_bounds.npy" in str(caught.value) and "\n" not in str(caught.value)


def test_llff_does_not_count_hidden_files(tmp_path):
    write_llff(tmp_path, llff_rows(3))
    (tmp_path / "images" / "._a.png").write_bytes(b"\0\5\x16\7" + bytes(80))
    scene = load_dataset(tmp_path, test_every=0)
    assert names(scene.train) == ["a.png", "b.png", "c.png"]
    pixels = [project(view.camera, [0.5, 2.0, 0.25]) for view in scene.train]
    np.testing.assert_allclose(pixels, [[57, 11.5], [7, 11.5], [-43, 11.5]], atol=1e-4)
    (tmp_path / "images" / "c.png").unlink()
    with pytest.raises(ValueError, match="holds 3 poses, but there are 2 images in"):
        load_dataset(tmp_path)


def test_hidden_files_are_not_counted_as_photos(tmp_path):
    for name in ("a.png", "images/b.png"):
        write_image(tmp_path / name)
    for name in ("._a.png", "images/._b.png", "images/.c.png"):
        (tmp_path / name).write_bytes(bytes(9))
    with pytest.raises(ValueError, match="It holds 2 photos without cameras"):
        load_dataset(tmp_path)


def test_truncated_llff_is_refused(tmp_path):
    path = write_llff(tmp_path, llff_rows(3)) / "poses_bounds.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r"poses_bounds.npy is truncated: it claims 51 numbers, but has 535 bytes"
    ):
        load_dataset(tmp_path)


@pytest.mark.parametrize("empty", [False, True])
def test_llff_may_hold_only_smaller_copies(tmp_path, empty):
    write_llff(tmp_path, llff_rows(3), ())
    if empty:
        (tmp_path / "images").mkdir()
    for index, name in enumerate("abc"):
        write_image(tmp_path / "images_4" / f"{name}.png", np.full((12, 16, 3), 50 * index, np.uint8))
    (tmp_path / "images_4" / "._a.png").write_bytes(bytes(9))
    scene = load_dataset(tmp_path, downscale=4, test_every=0)
    assert names(scene.train) == ["a.png", "b.png", "c.png"]
    assert [int(view.image[0, 0, 0]) for view in scene.train] == [0, 50, 100]
    pixels = [project(view.camera, [0.5, 2.0, 0.25]) for view in scene.train]
    np.testing.assert_allclose(pixels, np.array([[57, 11.5], [7, 11.5], [-43, 11.5]]) / 4, atol=1e-4)
    for downscale in (1, 2, 4.5):
        with pytest.raises(
            ValueError, match="There are smaller copies in images_4: downscale by that number"
        ):
            load_dataset(tmp_path, downscale=downscale)


@pytest.mark.parametrize("focal", [{}, {"camera_angle_x": None, "fl_x": 64.0}])
def test_blender_may_hold_only_smaller_copies(tmp_path, focal):
    write_blender(tmp_path)
    for split in ("train", "val", "test"):
        path = tmp_path / f"transforms_{split}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **focal}))
        for index in range(2):
            (tmp_path / split / f"r_{index}.png").unlink()
            write_image(tmp_path / "images_2" / split / f"r_{index}.png", np.full((24, 32, 3), 90, np.uint8))
    scene = load_dataset(tmp_path, downscale=2)
    assert names(scene.train) == ["train/r_0.png", "train/r_1.png"]
    assert names(scene.test) == ["test/r_0.png", "test/r_1.png"]
    assert scene.train[0].image.shape == (24, 32, 3) and scene.train[0].image[0, 0, 0] == 90
    # Half of the pixels of test_blender_splits_are_kept: the focal length of whole images is 64 pixels.
    np.testing.assert_allclose(project(scene.train[0].camera, [0.3, 0.0, 1.0]), [16 + 3.2, 12], atol=1e-4)
    for downscale in (1, 4):
        with pytest.raises(
            ValueError, match="There are smaller copies in images_2: downscale by that number"
        ):
            load_dataset(tmp_path, downscale=downscale)


# --- RGB-D -------------------------------------------------------------------------------------------

INTRINSICS = {"width": 64, "height": 48, "intrinsic_matrix": [100.0, 0, 0, 0, 100.0, 0, 31.5, 23.5, 1]}
POSE = np.array([[0, 0, 1, 3], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], np.float64)  # looks along +x


def log_of(poses) -> str:
    lines = []
    for index, pose in enumerate(poses):
        lines += [f"{index} {index} {index + 1}", *(" ".join(map(str, row)) for row in pose)]
    return "\n".join(lines) + "\n"


def write_open3d(root: Path, count: int = 2, *, log: str | None = None, intrinsics=INTRINSICS) -> Path:
    for index in range(count):
        write_image(root / "color" / f"{index:05d}.jpg")
        write_image(root / "depth" / f"{index:05d}.png", np.full((48, 64), 1500 + index, np.uint16))
    (root / "trajectory.log").write_text(log_of([POSE] * count) if log is None else log)
    if intrinsics is not None:
        (root / "camera.json").write_text(json.dumps(intrinsics))
    return root


def test_rgbd_points_land_on_the_pixels_computed_by_hand(tmp_path):
    scene = load_dataset(write_open3d(tmp_path), test_every=0)
    assert scene.dataset_type == "rgbd"
    # (5, -0.5, 0.25) is 2 ahead, 0.5 right, 0.25 up of a camera at (3, 0, 0). Open3D counts pixels from the
    # centre of the first one: u = 31.5 + 100 * 0.5 / 2, and 0.5 more in our count.
    np.testing.assert_allclose(project(scene.train[0].camera, [5, -0.5, 0.25]), [57, 11.5], atol=1e-4)
    assert scene.train[1].depth is not None
    np.testing.assert_allclose(scene.train[1].depth, 1.501, rtol=1e-6)


def test_depth_images_of_other_names_go_by_order(tmp_path):
    write_open3d(tmp_path)
    for index, path in enumerate(sorted((tmp_path / "depth").iterdir())):
        path.rename(path.with_name(f"depth-{index}.png"))
    scene = load_dataset(tmp_path, test_every=0)
    np.testing.assert_allclose(
        [view.depth.mean() for view in scene.train if view.depth is not None], [1.5, 1.501], rtol=1e-6
    )


APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60)  # what macOS writes next to files


def write_row(root: Path, name: str = "{:05d}", first: int = 0, ids=range(6), count: int = 6) -> Path:
    """Open3D's files of cameras at y = 0, 1, 2 and so on; images and depth images hold the number of theirs."""
    poses = np.tile(POSE, (count, 1, 1))
    poses[:, 1, 3] = np.arange(count)
    log = log_of(poses)
    for index, number in reversed(list(enumerate(ids))):
        log = log.replace(f"{index} {index} {index + 1}\n", f"{number} {number} {number + 1}\n", 1)
    write_open3d(root, 0, log=log)
    for index in range(count):
        color, depth = root / "color" / f"{name}.png", root / "depth" / f"{name}.png"
        write_image(Path(str(color).format(index + first)), np.full((48, 64, 3), 8 * index, np.uint8))
        write_image(Path(str(depth).format(index + first)), np.full((48, 64), 1000 + index, np.uint16))
    return root


def row_of(scene) -> list[int]:
    """Which images of :func:`write_row` a scene has; each must have its own pose and depth image."""
    found = []
    for view in scene.train:
        index = int(view.image[0, 0, 0]) // 8
        np.testing.assert_allclose(view.camera.camera_to_world[:3, 3], [3, index, 0], atol=1e-5)
        if view.depth is not None:
            np.testing.assert_allclose(view.depth, 1 + index / 1000, rtol=1e-6)
        found.append(index)
    return found


@pytest.mark.parametrize("gone", [0, 2, 5])
@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("{:05d}", 0),
        ("{:d}", 1),
        ("{:05d}", 1),
        ("frame-{:06d}.color", 0),
        ("2024_{:04d}", 1),
        ("{:04d}_end7", 0),
    ],
)
def test_a_missing_image_moves_no_pose(tmp_path, name, first, gone):
    write_row(tmp_path, name, first)
    (tmp_path / "color" / f"{name.format(gone + first)}.png").unlink()
    with pytest.warns(UserWarning, match=f"1 of its 6 poses belong to no image: {gone}"):
        assert row_of(load_dataset(tmp_path, test_every=0)) == [index for index in range(6) if index != gone]


@pytest.mark.parametrize("ids", [range(1, 7), range(6)])
@pytest.mark.parametrize("first", [0, 1])
def test_a_frame_without_images_moves_no_pose(tmp_path, ids, first):
    write_row(tmp_path, "{:05d}", first, ids)
    for folder in ("color", "depth"):
        (tmp_path / folder / f"{2 + first:05d}.png").unlink()
    with pytest.warns(UserWarning, match=f"1 of its 6 poses belong to no image: {ids[2]}"):
        assert row_of(load_dataset(tmp_path, test_every=0)) == [0, 1, 3, 4, 5]


def test_images_of_a_part_of_the_recording_are_joined_by_number(tmp_path):
    write_row(tmp_path, "{:05d}", count=30, ids=range(30))
    for index in range(30):
        if index % 10:
            (tmp_path / "color" / f"{index:05d}.png").unlink()
    with pytest.warns(UserWarning, match=r"27 of its 30 poses belong to no image: 1, 2, 3, .*\.\.\."):
        scene = load_dataset(tmp_path, test_every=0)
    ys = [float(view.camera.camera_to_world[1, 3]) for view in scene.train]
    np.testing.assert_allclose(ys, [0, 10, 20], atol=1e-4)


@pytest.mark.parametrize("count", [6, 3])
@pytest.mark.parametrize("names", ["abcdef", ["0", "10", "20", "30", "40", "50"]])
def test_other_names_go_by_order_if_the_counts_are_equal(tmp_path, names, count):
    write_row(tmp_path, count=count, ids=range(count))
    for index, name in enumerate(names[:count]):
        for folder in ("color", "depth"):
            (tmp_path / folder / f"{index:05d}.png").rename(tmp_path / folder / f"_{name}.png")
    assert row_of(load_dataset(tmp_path, test_every=0)) == list(range(count))
    (tmp_path / "color" / f"_{names[0]}.png").unlink()
    message = f"has {count} poses, but there are {count - 1} images in .*color, and the numbers"
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path)


@pytest.mark.parametrize(("first", "gone"), [(0, 0), (1, 5)])
def test_numbers_that_fit_in_two_ways_are_refused(tmp_path, first, gone):
    write_row(tmp_path, "{:05d}", first)
    for folder in ("color", "depth"):
        (tmp_path / folder / f"{gone + first:05d}.png").unlink()
    with pytest.raises(
        ValueError, match=r"has 6 poses, but there are 5 images in .*counted from 0 or from 1"
    ):
        load_dataset(tmp_path)


def test_depth_images_of_other_names_go_by_number(tmp_path):
    write_row(tmp_path)
    for index in range(6):
        path = tmp_path / "depth" / f"{index:05d}.png"
        path.rename(path.with_name(f"depth-{index + 1}.png"))
    (tmp_path / "depth" / "depth-3.png").unlink()
    scene = load_dataset(tmp_path, test_every=0)
    assert row_of(scene) == list(range(6))
    assert [view.has_depth for view in scene.train] == [True, True, False, True, True, True]


def test_depth_images_that_nothing_joins_are_refused_with_both_counts(tmp_path):
    write_row(tmp_path)
    for index, letter in enumerate("abcdef"):
        (tmp_path / "depth" / f"{index:05d}.png").rename(tmp_path / "depth" / f"{letter}.png")
    assert row_of(load_dataset(tmp_path, test_every=0)) == list(range(6))
    (tmp_path / "depth" / "c.png").unlink()
    with pytest.raises(
        ValueError, match=r"There are 6 images in .*color, but 5 depth images in .*depth, and neither"
    ):
        load_dataset(tmp_path)


def test_hidden_files_are_no_images_cameras_or_poses(tmp_path):
    write_row(tmp_path)
    for name in ("color/._00000.png", "depth/._00000.png", "._camera.json", ".a.log", "depth/.x.png"):
        (tmp_path / name).write_bytes(APPLE_DOUBLE)
    assert row_of(load_dataset(tmp_path, test_every=0)) == list(range(6))


def test_images_without_pose_are_left_out(tmp_path):
    with pytest.warns(UserWarning, match=r"1 of 3 frames left out. has no pose: 00002.jpg"):
        assert len(load_dataset(write_open3d(tmp_path, 3, log=log_of([POSE] * 2)), test_every=0).train) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"log": log_of([POSE])[:-60]},
            "trajectory.log is truncated or no trajectory: expected for each frame",
        ),
        (
            {"log": log_of([POSE]).replace("3.0", "three")},
            "trajectory.log is damaged at line 2: expected numbers",
        ),
        (
            {"log": log_of([POSE]).replace("3.0", "nan")},
            "trajectory.log holds NaN or infinite numbers at line 2",
        ),
        ({"log": log_of([2 * POSE])}, "the pose of 00000.jpg: its upper left 3 x 3 must be a rotation"),
        ({"log": ""}, "none of its 2 frames has a usable image. has no pose: 00000.jpg, 00001.jpg"),
        ({"intrinsics": None}, "has no json file with intrinsic_matrix"),
        (
            {"intrinsics": {"width": 64, "height": 48, "intrinsic_matrix": 5}},
            "camera.json is no camera of Open3D",
        ),
        ({"intrinsics": {**INTRINSICS, "width": 1e400}}, "camera.json is no camera of Open3D"),
        ({"intrinsics": {**INTRINSICS, "height": 64}}, "64 x 64 pixels but the image is 64 x 48"),
    ],
)
def test_unusable_rgbd_is_refused_in_one_line(tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset(write_open3d(tmp_path, **change))
    assert "\n" not in str(caught.value)


def write_tum(root: Path) -> Path:
    for index in range(3):
        write_image(root / "rgb" / f"{100 + index}.000000.png")
        write_image(root / "depth" / f"{100 + index}.004000.png", np.full((48, 64), 10_000, np.uint16))
    lines = ["# timestamp tx ty tz qx qy qz qw"]
    for index in (0, 2):  # none near 101
        # The same view as POSE, as a quaternion.
        lines += [f"{100 + index - 0.015:.4f} 3 0 0 0.5 -0.5 0.5 -0.5", f"{100.4 + index} 9 9 9 0 0 0 1"]
    (root / "groundtruth.txt").write_text("\n".join(lines))
    (root / "camera.json").write_text(json.dumps(INTRINSICS))
    return root


def test_tum_joins_by_time(tmp_path):
    with pytest.warns(UserWarning, match=r"1 of 3 frames left out. has no pose within 20 ms: 101.000000.png"):
        scene = load_dataset(write_tum(tmp_path), test_every=0)
    assert names(scene.train) == ["100.000000.png", "102.000000.png"]
    np.testing.assert_allclose(project(scene.train[0].camera, [5, -0.5, 0.25]), [57, 11.5], atol=1e-4)
    assert scene.train[0].depth is not None
    np.testing.assert_allclose(scene.train[0].depth, 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2 3", "groundtruth.txt is damaged: expected lines of 8 numbers"),
        ("100 0 0 0 0 0 0 0", "quaternion .* is not of length 1"),
    ],
)
def test_unusable_tum_is_refused(tmp_path, text, message):
    (write_tum(tmp_path) / "groundtruth.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path)


# --- finding out -------------------------------------------------------------------------------------


def test_the_first_format_found_is_read_unless_named(tmp_path):
    write_blender(tmp_path)
    write_llff(tmp_path, llff_rows(3))
    assert load_dataset(tmp_path).dataset_type == "blender"
    assert load_dataset(tmp_path, dataset_type="llff").dataset_type == "llff"
    with pytest.raises(ValueError, match=r"Looked for rgbd: .* But it is one of type 'blender' and 'llff'"):
        load_dataset(tmp_path, dataset_type="rgbd")


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_folder_is_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=f"Looked for {name}: "):
        load_dataset(tmp_path, dataset_type=name)


# --- real files --------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_lego(real_data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scene = load_dataset(real_data / "lego", downscale=4, white_background=True)
    assert (len(scene.train), len(scene.test)) == (56, 14)
    np.testing.assert_allclose(scene.train[0].camera.K[0, 0], 555.5555 / 4, rtol=1e-5)
    assert scene.train[0].image[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_allclose(scene.center, 0, atol=0.05)  # the object stands at the origin
    assert scene.radius == pytest.approx(4.03, abs=0.01)
    # The box that holds the object, from the data's README, contains what is not background in every view.
    low, high = np.array([-0.65, -1.16, -0.55]), np.array([0.65, 1.16, 1.02])
    corners = np.array([np.where(corner, high, low) for corner in np.ndindex(2, 2, 2)])
    for view in (*scene.train, *scene.test):
        rows, columns = np.nonzero((view.image < 200).any(-1))
        seen = project(view.camera, corners)
        assert seen[:, 0].min() - 1 < columns.min() and columns.max() < seen[:, 0].max() + 1
        assert seen[:, 1].min() - 1 < rows.min() and rows.max() < seen[:, 1].max() + 1


@pytest.mark.realdata
def test_rgbd(real_data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scene = load_dataset(real_data / "rgbd", test_every=0)
    assert len(scene.train) == 5
    first, last = scene.train[0], scene.train[4]
    assert first.depth is not None and last.depth is not None
    assert np.median(first.depth[first.depth > 0]) == pytest.approx(1.86, abs=0.01)
    assert first.depth.max() == pytest.approx(2.70, abs=0.01)
    assert (first.depth == 0).mean() == pytest.approx(0.13, abs=0.01)
    assert "depth     5 of 5 views" in describe_scene(scene)
    depth_error, color_error = warp(first, last)
    # As in the data's README, measured there by another program; 40 mm and 17.1 with identity poses.
    assert 0.0045 < depth_error < 0.006 and color_error < 4.5


def warp(view, other) -> tuple[float, float]:
    """Median difference of depth, and mean of colour, between a view and what another shows of its points."""
    rows, columns = np.nonzero(view.depth > 0)
    K = np.asarray(view.camera.K, np.float64)
    z = view.depth[rows, columns].astype(np.float64)
    local = np.stack(
        [(columns + 0.5 - K[0, 2]) / K[0, 0] * z, (rows + 0.5 - K[1, 2]) / K[1, 1] * z, z], axis=-1
    )
    pose = np.asarray(view.camera.camera_to_world, np.float64)
    world = local @ pose[:3, :3].T + pose[:3, 3]
    viewmat = np.asarray(other.camera.viewmat, np.float64)
    expected = (world @ viewmat[:3, :3].T + viewmat[:3, 3])[:, 2]
    pixels = np.floor(project(other.camera, world)).astype(int)
    inside = (pixels >= 0).all(-1) & (pixels < (other.camera.width, other.camera.height)).all(-1)
    u, v = pixels[inside].T
    measured = other.depth[v, u]
    known = measured > 0
    depth_error = np.abs(measured - expected[inside])[known]
    difference = other.image[v, u].astype(int) - view.image[rows[inside], columns[inside]].astype(int)
    color_error = np.abs(difference)[known]
    return float(np.median(depth_error)), float(color_error.mean())
