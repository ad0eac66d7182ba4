"""Photos and videos without cameras to datasets. What pycolmap finds is compared with known cameras."""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers import write_image

from splax.capture import dataset as dataset_module
from splax.capture import structure_from_motion
from splax.capture.dataset import make_dataset
from splax.capture.frames import count_frames, sharp_frames, sharpness, write_sharp_frames
from splax.capture.progress import run_with_bar
from splax.capture.structure_from_motion import Reconstruction
from splax.cli import main as cli
from splax.data.formats import load_dataset

# --- frames ------------------------------------------------------------------------------------------


def noise(seed: int = 0, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """Grey detail of a few pixels, which video codecs keep."""
    coarse = np.random.default_rng(seed).integers(0, 256, (size[1] // 4, size[0] // 4), np.uint8)
    return np.repeat(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)[..., None], 3, axis=-1)


def write_video(path: Path, frames: list[np.ndarray]) -> Path:
    size = frames[0].shape[1], frames[0].shape[0]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, size)
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def blurred(frame: np.ndarray, radius: float = 3) -> np.ndarray:
    return cv2.GaussianBlur(frame, (0, 0), radius)


def test_sharpness_falls_with_blur():
    values = [sharpness(blurred(noise(), radius)) for radius in (0.1, 0.5, 1, 2, 4)]
    assert values == sorted(values, reverse=True) and values[-1] > 0
    assert sharpness(np.full((48, 64, 3), 7, np.uint8)) == 0


@pytest.mark.parametrize(("num_frames", "expected"), [(4, [2, 3, 8, 10]), (1, [2]), (3, [2, 4, 8])])
def test_the_sharpest_frame_of_each_part_is_taken(tmp_path, num_frames, expected):
    radii = [3, 2, 0.1, 0.8, 1, 2, 2, 2, 0.5, 2, 1, 3]
    video = write_video(tmp_path / "a.avi", [blurred(noise(7), radius) for radius in radii])
    found = dict(sharp_frames(video, count_frames(video), num_frames))
    assert list(found) == expected
    for index, frame in found.items():
        assert np.abs(frame.astype(int) - blurred(noise(7), radii[index])).mean() < 10


def test_a_short_video_gives_all_its_frames(tmp_path):
    video = write_video(tmp_path / "a.avi", [noise(seed) for seed in range(5)])
    assert write_sharp_frames(video, tmp_path, 100) == 5
    assert [path.name for path in sorted(tmp_path.glob("*.jpg"))] == [f"frame_{i:06d}.jpg" for i in range(5)]
    for index in range(5):
        written = np.asarray(cv2.imread(str(tmp_path / f"frame_{index:06d}.jpg")))
        assert np.abs(written.astype(int) - noise(index)).mean() < 10


# --- what is copied, and what is refused -------------------------------------------------------------


@pytest.fixture
def found(monkeypatch) -> dict[str, Any]:
    """In place of pycolmap; ``found["model"]`` is what it finds, the rest what it was asked."""
    found: dict[str, Any] = {"model": Reconstruction(4, 100, 0.5, 1)}

    def estimate(images, names, model, scratch, **options):
        found.update(options, names=names)
        assert images.is_dir() and model.is_dir() and scratch.is_dir()
        return found["model"]

    monkeypatch.setattr(dataset_module, "estimate_cameras", estimate)
    monkeypatch.setattr(dataset_module, "require_pycolmap", lambda: None)
    return found


@pytest.fixture
def photos(tmp_path) -> Path:
    for name in "dabc":
        write_image(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def nothing_left(folder: Path) -> bool:
    return not list(folder.glob(".splax-*"))


def test_photos_and_masks_are_copied_byte_for_byte(tmp_path, photos, found):
    write_image(photos / "masks" / "b.png", np.zeros((48, 64), np.uint8))
    (photos / "notes.txt").write_text("not a photo")
    report = make_dataset(photos, tmp_path / "out" / "data")
    assert report == (tmp_path / "out" / "data", 4, found["model"])
    assert found["names"] == ["a.png", "b.png", "c.png", "d.png"]
    assert found["one_camera"] and not found["is_video"]
    files = {path.relative_to(report.out).as_posix() for path in report.out.rglob("*") if path.is_file()}
    assert files == {f"images/{name}.png" for name in "abcd"} | {"masks/b.png", "process.json"}
    for name in "abcd":
        assert (report.out / "images" / f"{name}.png").read_bytes() == (photos / f"{name}.png").read_bytes()
    assert json.loads((report.out / "process.json").read_text())["num_points"] == 100
    assert nothing_left(tmp_path / "out")


def test_photos_of_several_sizes_are_of_several_cameras(tmp_path, photos, found):
    write_image(photos / "e.png", size=(48, 64))
    make_dataset(photos, tmp_path / "out")
    assert not found["one_camera"]
    with pytest.raises(
        ValueError, match="photos of one camera at one zoom have one size, but these have 2 sizes"
    ):
        make_dataset(photos, tmp_path / "other", one_camera=True)


def test_damaged_photos_are_left_out_by_name(tmp_path, photos, found):
    (photos / "b.png").write_bytes(b"nothing")
    with pytest.warns(UserWarning, match=r"1 of 4 photos left out: b.png is neither a PNG nor a JPEG"):
        make_dataset(photos, tmp_path / "out")
    assert found["names"] == ["a.png", "c.png", "d.png"]


def test_frames_of_a_video(tmp_path, found):
    video = write_video(tmp_path / "a.avi", [noise(seed) for seed in range(12)])
    report = make_dataset(video, tmp_path / "out", num_frames=6)
    assert found["is_video"] and report.num_photos == 6
    assert len(list((tmp_path / "out" / "images").iterdir())) == 6


def spoil_nothing(tmp_path: Path, photos: Path) -> Path:
    return photos


def empty_folder(tmp_path: Path, photos: Path) -> Path:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.heic").write_bytes(b"")
    return tmp_path / "empty"


def two_photos(tmp_path: Path, photos: Path) -> Path:
    for name in "ab":
        (photos / f"{name}.png").unlink()
    return photos


def no_video(tmp_path: Path, photos: Path) -> Path:
    (tmp_path / "a.mp4").write_bytes(b"not a video")
    return tmp_path / "a.mp4"


REFUSED = {
    "nothing there": (lambda tmp_path, photos: tmp_path / "none", {}, "no such file or folder"),
    "a photo": (lambda tmp_path, photos: photos / "a.png", {}, "is a single photo; give the folder"),
    "no photos": (empty_folder, {}, r"has no photos: expected PNG or JPEG files; there are .heic"),
    "two photos": (two_photos, {}, "has 2 usable photos; cameras can be estimated from 3 or more"),
    "no video": (no_video, {}, "holds no frame that OpenCV can decode"),
    "few frames": (spoil_nothing, {"num_frames": 2}, "num_frames must be at least 3, got 2"),
    "share": (spoil_nothing, {"min_registered": 1.5}, r"min_registered must lie in \[0, 1\], got 1.5"),
    "size": (spoil_nothing, {"max_size": 10}, "max_size must be at least 100 pixels, got 10"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_and_nothing_is_left(tmp_path, photos, found, case):
    spoil, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        make_dataset(spoil(tmp_path, photos), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists() and nothing_left(tmp_path)


def test_a_folder_in_use_is_not_replaced(tmp_path, photos, found):
    (tmp_path / "out").mkdir()
    make_dataset(photos, tmp_path / "out")  # an empty one is not in use
    with pytest.raises(ValueError, match="out is there already, and is not replaced"):
        make_dataset(photos, tmp_path / "out")
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("model", [None, Reconstruction(2, 9, 0.1, 1)])
def test_too_few_cameras_are_an_error_of_the_command(tmp_path, photos, found, capsys, model):
    found["model"] = model
    with pytest.raises(SystemExit) as stop:
        cli.main(["process", str(photos), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"splax: error: {photos}: cameras were found for {2 if model else 0} of 4 photos")
    assert not (tmp_path / "out").exists() and nothing_left(tmp_path)


def test_the_command_says_what_was_found(tmp_path, photos, found, capsys):
    found["model"] = Reconstruction(3, 1234, 0.456, 2)
    with pytest.raises(SystemExit) as stop:
        cli.main(["process", str(photos), "--out", str(tmp_path / "out"), "--max-size", "800"])
    assert stop.value.code == 0 and found["max_size"] == 800
    text = capsys.readouterr().out
    for part in ("3 of 4 photos", "1,234 points", "0.46 pixels", "fell into 2 parts", "splax train"):
        assert part in text


def test_without_pycolmap_the_command_names_what_to_install(tmp_path, photos, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(SystemExit) as stop:
        cli.main(["process", str(photos), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "pip install pycolmap, or with splax: pip install -e '.[sfm]'" in capsys.readouterr().err


def test_training_names_the_command_for_photos_and_videos(tmp_path, photos, capsys):
    (tmp_path / "a.MP4").write_bytes(b"")
    for path, what in ((photos, "holds 4 photos without cameras"), (tmp_path / "a.MP4", "is a video")):
        with pytest.raises(SystemExit) as stop:
            cli.main(["train", str(path), "--out", str(tmp_path / "run")])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert what in error and f"On the command line: splax process {path} --out DATA." in error


# --- structure from motion ---------------------------------------------------------------------------


def centers(scene) -> dict[str, np.ndarray]:
    views = [*scene.train, *scene.test]
    return {view.name: np.linalg.inv(np.asarray(view.camera.viewmat, np.float64))[:3, 3] for view in views}


def fit_similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """``points`` moved, turned and scaled to be nearest to ``target`` (Umeyama 1991)."""
    a, b = points - points.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    return a @ (u @ flip @ vt).T * (s @ np.diag(flip)) / (a**2).sum() + target.mean(0)


def camera_errors(found: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Distances of camera centres after the best similarity, relative to how far they are from their middle."""
    spread = np.linalg.norm(known - known.mean(0), axis=1).mean()
    return np.linalg.norm(fit_similarity(found, known) - known, axis=1) / spread


@pytest.mark.slow
@pytest.mark.realdata
def test_cameras_of_a_video_of_real_photos(real_data, tmp_path):
    """Every other frame is blurred: the sharp ones are the photos, whose cameras are known."""
    pytest.importorskip("pycolmap")
    paths = sorted((real_data / "fox" / "images").glob("*.jpg"))[:10]
    images = [np.asarray(cv2.imread(str(path), cv2.IMREAD_REDUCED_COLOR_4)) for path in paths]
    frames = [frame for image in images for frame in (blurred(image), image)]
    report = make_dataset(write_video(tmp_path / "fox.avi", frames), tmp_path / "data", num_frames=10)
    assert report.num_photos == report.model.num_images == 10
    assert report.model.num_points > 500 and report.model.error < 0.7
    scene = load_dataset(tmp_path / "data", test_every=0)
    assert scene.dataset_type == "colmap" and scene.points is not None
    with pytest.warns(UserWarning, match="17 of 67 frames left out"):
        known = load_dataset(real_data / "fox", downscale=4)
    names = [f"frame_{index:06d}.jpg" for index in range(1, 20, 2)]
    found = np.stack([centers(scene)[name] for name in names])
    target = np.stack([centers(known)[path.name] for path in paths])
    assert camera_errors(found, target).max() < 0.03
    # Photos at a quarter of the size: so is the focal length.
    focal = np.asarray(scene.train[0].camera.K)[0, 0]
    assert focal == pytest.approx(np.asarray(known.train[0].camera.K)[0, 0], rel=0.05)


@pytest.mark.slow
@pytest.mark.realdata
def test_cameras_of_photos_of_several_sizes(real_data, tmp_path):
    """Each has a camera of its own."""
    pytest.importorskip("pycolmap")
    report = make_dataset(
        real_data / "king", tmp_path / "data"
    )  # its images/ folder: the model is not looked at
    assert report.num_photos == 23
    assert report.model.num_images >= 20 and report.model.num_points > 1400 and report.model.error < 0.6
    found, known = (
        centers(load_dataset(path, test_every=0)) for path in (tmp_path / "data", real_data / "king")
    )
    names = sorted(found)
    errors = camera_errors(*(np.stack([each[name] for name in names]) for each in (found, known)))
    assert np.median(errors) < 0.02


@pytest.mark.realdata
def test_colmap_is_quiet_and_says_so_if_nothing_goes_together(tmp_path, capfd):
    pytest.importorskip("pycolmap")
    for name in "abcd":
        write_image(tmp_path / "photos" / f"{name}.png", noise(ord(name), (160, 120)))
    with pytest.raises(ValueError, match="cameras were found for 0 of 4 photos, too few"):
        make_dataset(tmp_path / "photos", tmp_path / "out", max_size=160)
    assert capfd.readouterr().err == ""
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("show", [True, False])
def test_the_bar_shows_how_far_work_is_and_passes_on_what_it_does(capfd, show):
    def work():
        done.append(1)
        time.sleep(0.5)
        return "result"

    done = []
    options = {"cancel": lambda: None, "show": show}
    assert run_with_bar("Work", 3, work, lambda: len(done), **options) == "result"
    error = capfd.readouterr().err
    assert ("Work" in error and "1/3" in error and "3/3" in error) if show else error == ""

    def fail():
        raise OSError("disk is full")

    with pytest.raises(OSError, match="disk is full"):
        run_with_bar("Work", 3, fail, lambda: 0, **options)


def test_ctrl_c_cancels_the_work_and_waits_for_its_end():
    stop, ended = threading.Event(), []

    def work():
        assert stop.wait(20)
        ended.append(True)

    def interrupt() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_with_bar("Work", None, work, interrupt, cancel=stop.set, show=False)
    assert ended == [True]


def test_a_database_that_is_not_there_counts_nothing(tmp_path):
    assert structure_from_motion._count(tmp_path / "none.db", "descriptors") == 0
