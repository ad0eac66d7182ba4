"""Pictures that are written, read back by OpenCV."""

import sys
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from splax.reports.images import save_curve, save_png, save_video, side_by_side, to_uint8
from splax.reports.plots import plot_curve


def make_image(height=20, width=30, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


def read_png(path: Path) -> np.ndarray:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def test_floats_become_bytes():
    values = np.array([0, 0.5 / 255 + 1e-6, 0.4 / 255, 1, 1.7, -0.2, np.nan, np.inf, -np.inf], np.float32)
    np.testing.assert_array_equal(to_uint8(values), [0, 1, 0, 255, 255, 0, 0, 255, 0])
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(jnp.asarray(every / 255.0)), every)
    assert to_uint8(every) is every


def test_png_holds_the_pixels(tmp_path):
    image = make_image()
    save_png(tmp_path / "a" / "rgb.png", image)
    np.testing.assert_array_equal(read_png(tmp_path / "a" / "rgb.png")[..., ::-1], image)
    save_png(tmp_path / "grey.png", jnp.asarray(image[..., 0] / 255.0))
    np.testing.assert_array_equal(read_png(tmp_path / "grey.png"), image[..., 0])


@pytest.mark.parametrize("shape", [(4,), (4, 4, 4), (4, 4, 1), (2, 4, 4, 3), (0, 4, 3)])
def test_png_of_other_shapes_is_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="got shape"):
        save_png(tmp_path / "bad.png", np.zeros(shape, np.uint8))
    assert not list(tmp_path.iterdir())


def test_side_by_side_shows_where_the_error_is():
    truth = make_image() // 2
    render = truth.copy()
    render[3:6, 7:9] += 100
    picture = side_by_side(truth, render)
    assert picture.shape == (20, 3 * 30 + 2 * 4, 3)
    np.testing.assert_array_equal(picture[:, :30], truth)
    np.testing.assert_array_equal(picture[:, 34:64], render)
    error = picture[:, 68:].astype(int).sum(axis=-1)
    wrong = np.zeros((20, 30), bool)
    wrong[3:6, 7:9] = True
    assert error[wrong].min() > 400 and error[~wrong].max() < 20  # bright yellow, nearly black
    np.testing.assert_array_equal(side_by_side(truth, render / 255), picture)
    with pytest.raises(ValueError, match=r"one shape, got \(20, 30, 3\), \(20, 29, 3\)"):
        side_by_side(truth, render[:, 1:])


def curve_pixels(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the curve, the only bluish thing in a plot."""
    rows, columns = np.nonzero(picture[..., 2].astype(int) - picture[..., 0] > 40)
    return rows, columns


def test_curve_goes_where_the_values_go():
    rows, columns = curve_pixels(plot_curve([0, 1, 2], [0.0, 5.0, 1.0], log=False))
    peak = columns[rows.argmin()]
    assert abs(peak - (76 + 800 - 24) / 2) < 4  # the middle of the axes
    left, right = rows[columns == columns.min()].mean(), rows[columns == columns.max()].mean()
    assert right == pytest.approx(left + 0.2 * (rows.min() - left), abs=4)


def test_logarithmic_curve_of_an_exponential_is_straight():
    steps = np.arange(50)
    rows, columns = curve_pixels(plot_curve(steps, np.exp(-steps / 5.0)))
    fit = np.polyval(np.polyfit(columns, rows, 1), columns)
    assert np.abs(rows - fit).max() < 4


@pytest.mark.parametrize(
    "values", [[], [1.0], [2.0, 2.0], [np.nan, np.inf], [0.0, -1.0, 1e9], [1e-30, 1e30], list(range(5000))]
)
@pytest.mark.parametrize("log", [None, False, True])
def test_any_series_gives_a_picture(tmp_path, values, log):
    save_curve(tmp_path / "curve.png", np.arange(len(values)), values, log=log, title="loss")
    assert read_png(tmp_path / "curve.png").shape == (400, 800, 3)


def test_curve_of_unequal_lengths_is_refused():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        plot_curve([1, 2], [1, 2, 3])


def test_video_has_the_frames(tmp_path):
    pytest.importorskip("imageio_ffmpeg", reason="the `video` extra is not installed")
    frames = [np.full((33, 47, 3), [level, 0.5, 1 - level], np.float32) for level in (0.2, 0.5, 0.8)]
    save_video(tmp_path / "film.mp4", iter(frames), fps=10)
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]
    film = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    assert film.get(cv2.CAP_PROP_FPS) == 10
    for frame in frames:
        found, pixels = film.read()
        assert found and pixels.shape == (34, 48, 3)
        np.testing.assert_allclose(pixels[..., ::-1].mean(axis=(0, 1)), 255 * frame[0, 0], atol=8)
    assert not film.read()[0]
    film.release()


def test_video_errors(tmp_path, monkeypatch):
    pytest.importorskip("imageio_ffmpeg", reason="the `video` extra is not installed")
    with pytest.raises(ValueError, match="at least one frame"):
        save_video(tmp_path / "film.mp4", [])
    with pytest.raises(ValueError, match="one size"):
        save_video(tmp_path / "film.mp4", [make_image(), make_image(22)])
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r"pip install 'imageio\[ffmpeg\]'"):
        save_video(tmp_path / "film.mp4", [make_image()])
