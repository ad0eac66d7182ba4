"""Takes sharp frames from a video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from splax.capture.progress import progress_bar

# Longer side, in pixels, at which sharpness is compared: at a small size the noise of the sensor counts less.
_LONG_SIDE = 640
_QUALITY = 95

_Frame = UInt8[np.ndarray, "h w 3"]


def write_sharp_frames(video: Path, folder: Path, num_frames: int, *, progress: bool | None = None) -> int:
    """Writes the sharpest frame of each of ``num_frames`` equal parts of a video, as JPEG files.

    Args:
        video: video file.
        folder: folder to write to; must exist.
        num_frames: number of parts.
        progress: whether to show a progress bar; None shows it only on a terminal.

    Returns:
        The number of files written, which is less than ``num_frames`` if the video has fewer frames.

    Raises:
        ValueError: if there is no frame, or the disk is full.
    """
    from splax.files.opencv import cv2

    total = count_frames(video)
    if total == 0:
        raise ValueError(
            f"{video} holds no frame that OpenCV can decode. Is it a video? Try to convert it to .mp4."
        )
    flags = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    written = 0
    for index, frame in sharp_frames(video, total, num_frames, progress=progress):
        path = folder / f"frame_{index:06d}.jpg"
        if not cv2.imwrite(str(path), frame, flags):
            raise ValueError(f"{path} cannot be written; is the disk full?")
        written += 1
    return written


def sharp_frames(
    video: Path, total: int, num_frames: int, *, progress: bool | None = None
) -> Iterator[tuple[int, _Frame]]:
    """Yields the sharpest frame of each of ``num_frames`` equal parts of a video.

    Args:
        video: video file.
        total: number of frames of the video.
        num_frames: number of parts.
        progress: whether to show a progress bar; None shows it only on a terminal.

    Yields:
        The number of the frame in the video, and its pixels in OpenCV's order of channels, [H, W, 3].
    """
    num_frames = min(num_frames, total)
    part, best, found = 0, -1.0, None
    with progress_bar("Frames", total, progress) as bar:
        for index, frame in enumerate(_frames(video)):
            if found is not None and index * num_frames // total > part:
                yield found
                part, best = index * num_frames // total, -1.0
            if (value := sharpness(frame)) > best:
                best, found = value, (index, frame)
            bar.update()
    if found is not None:
        yield found


def sharpness(frame: _Frame) -> float:
    """Sharpness of a frame: the variance of the Laplacian of its brightness (Pech-Pacheco et al. 2000)."""
    from splax.files.opencv import cv2

    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    scale = _LONG_SIDE / max(grey.shape)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def count_frames(video: Path) -> int:
    """Number of frames that a video states, or that are counted if it states none; 0 if it cannot be read."""
    from splax.files.opencv import cv2

    capture = cv2.VideoCapture(str(video))
    try:
        if not capture.isOpened() or not capture.grab():
            return 0
        stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        if stated > 0:
            return stated
        count = 1
        while capture.grab():
            count += 1
        return count
    finally:
        capture.release()


def _frames(video: Path) -> Iterator[_Frame]:
    from splax.files.opencv import cv2

    capture = cv2.VideoCapture(str(video))
    try:
        while True:
            found, frame = capture.read()
            if not found:
                return
            yield np.asarray(frame, np.uint8)
    finally:
        capture.release()
