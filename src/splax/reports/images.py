"""Images for people: PNG files, comparisons, curves, videos."""

import itertools
import os
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy.typing import ArrayLike

from splax.files.atomic import atomic_write, write_whole
from splax.reports.plots import plot_curve

# Mean absolute error over the channels that has the brightest colour in an error map.
_ERROR_RANGE = 0.25
_SEPARATOR = 4  # px


def to_uint8(image: ArrayLike) -> UInt8[np.ndarray, "..."]:
    """Converts floats in [0, 1] to uint8, rounded and clipped, NaN to 0; uint8 values are returned unchanged."""
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    values = np.nan_to_num(image.astype(np.float32), nan=0)
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def save_png(path: str | os.PathLike[str], image: ArrayLike) -> None:
    """Writes an image as a PNG file, which is whole or absent.

    Args:
        path: file to write.
        image: RGB image [H, W, 3] or grey image [H, W], floats in [0, 1] or uint8.

    Raises:
        ValueError: if the image has another shape, or the file cannot be written.
    """
    from splax.files.opencv import cv2

    pixels = to_uint8(image)
    if pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)) or pixels.size == 0:
        raise ValueError(f"An image must be [H, W, 3] or [H, W], got shape {pixels.shape}.")
    bgr = pixels if pixels.ndim == 2 else pixels[..., ::-1]
    _, data = cv2.imencode(".png", np.ascontiguousarray(bgr))
    write_whole(path, data.tobytes())


def side_by_side(truth: ArrayLike, render: ArrayLike) -> UInt8[np.ndarray, "h w2 3"]:
    """One image that shows the truth, the rendering and the error from left to right.

    The error is the absolute difference, averaged over the channels, from black (0) over red to yellow (0.25 or
    more).

    Args:
        truth: image [H, W, 3], floats in [0, 1] or uint8.
        render: rendered image of the same shape, floats in [0, 1] or uint8.

    Raises:
        ValueError: if the arguments are not two images of one shape.
    """
    from splax.files.opencv import cv2

    images = [to_uint8(truth), to_uint8(render)]
    if images[0].shape != images[1].shape or images[0].ndim != 3 or images[0].shape[-1] != 3:
        raise ValueError(
            f"side_by_side needs two images [H, W, 3] of one shape, got {images[0].shape}, {images[1].shape}."
        )
    error = np.abs(images[0].astype(np.float32) - images[1]).mean(axis=-1) / 255
    colored = cv2.applyColorMap(to_uint8(error / _ERROR_RANGE), cv2.COLORMAP_INFERNO)[..., ::-1]
    gap = np.full((len(error), _SEPARATOR, 3), 255, np.uint8)
    return np.concatenate([images[0], gap, images[1], gap, colored], axis=1)


def contact_sheet(images: Sequence[ArrayLike], width: int = 1200) -> UInt8[np.ndarray, "h w 3"]:
    """One image that shows images of one width below each other.

    Args:
        images: images [H, W, 3] of any sizes, floats in [0, 1] or uint8; at least one.
        width: width of the result in pixels; if all images are narrower, that of the widest one.

    Raises:
        ValueError: if there is no image.
    """
    from splax.files.opencv import cv2

    pixels = [to_uint8(image) for image in images]
    if not pixels:
        raise ValueError("contact_sheet needs at least one image, got none.")
    width = min(width, max(image.shape[1] for image in pixels))
    gap = np.full((_SEPARATOR, width, 3), 255, np.uint8)
    rows: list[np.ndarray] = []
    for image in pixels:
        height = max(1, round(image.shape[0] * width / image.shape[1]))
        rows += [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), gap]
    return np.concatenate(rows[:-1])


def save_curve(path: str | os.PathLike[str], x: ArrayLike, y: ArrayLike, **options: Any) -> None:
    """Writes a plot of ``y`` over ``x`` as a PNG file.

    Args:
        path: file to write.
        x: ascending numbers, [N].
        y: numbers to plot, [N].
        **options: further arguments of :func:`splax.reports.plots.plot_curve`.

    Raises:
        ValueError: if the series do not match, or the file cannot be written.
    """
    save_png(path, plot_curve(x, y, **options))


def save_video(path: str | os.PathLike[str], frames: Iterable[ArrayLike], *, fps: int = 30) -> None:
    """Writes an H.264 video (.mp4) that browsers play; the file is whole or absent.

    Args:
        path: file to write.
        frames: images [H, W, 3] of one size, floats in [0, 1] or uint8, which are read one at a time. If a side is
            odd, its last row or column is repeated.
        fps: frames per second.

    Raises:
        ImportError: if imageio-ffmpeg is not installed.
        ValueError: if there is no frame, the sizes of frames differ, or the file cannot be written.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError("Videos need imageio-ffmpeg: pip install 'imageio[ffmpeg]'.") from error

    frames = iter(frames)
    first = _even(next(frames, np.zeros(0)))
    with atomic_write(path) as temporary:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error"]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{first.shape[1]}x{first.shape[0]}"]
        command += ["-r", str(fps), "-i", "-", "-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p"]
        # imageio_ffmpeg's own writer is not used: it runs Python code after a fork, which JAX's threads may
        # deadlock.
        with subprocess.Popen([*command, str(temporary)], stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            for pixels in itertools.chain([first], map(_even, frames)):
                if pixels.shape != first.shape:
                    raise ValueError(f"Frames must be of one size, got {first.shape}, then {pixels.shape}.")
                process.stdin.write(pixels.tobytes())
        if process.returncode:
            raise ValueError(f"{path} cannot be written: ffmpeg failed with status {process.returncode}.")


def _even(frame: ArrayLike) -> UInt8[np.ndarray, "h w 3"]:
    """A frame whose sides are even, as the video format needs."""
    pixels = to_uint8(frame)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(f"A video needs at least one frame, and each [H, W, 3]; got shape {pixels.shape}.")
    return np.pad(pixels, [(0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)], mode="edge")
