"""Plots curves with OpenCV: enough for the folder of a run, without a plotting library."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike

_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 24, 40, 52  # margins around the axes, px
_INK, _GRID = (60, 60, 60), (228, 228, 228)
_FAINT, _STRONG = (176, 206, 238), (22, 84, 166)
_SMOOTH_ABOVE = 100  # a curve with more values than this gets a running mean over 1/50 of them


@dataclass(frozen=True)
class _Axis:
    """An axis on which values from ``low`` to ``high`` lie along the pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: int
    end: int
    log: bool = False

    def pixels(self, values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        low, high = self.low, self.high
        if self.log:
            values, low, high = np.log(values), math.log(low), math.log(high)
        return self.start + (values - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """About five round values between ``low`` and ``high``."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for mantissas in ((1,), (1, 3), (1, 2, 5)):
                ticks = [
                    m * 10.0**d for d in decades for m in mantissas if self.low <= m * 10.0**d <= self.high
                ]
                if len(ticks) >= 4:
                    break
            return ticks
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * min((1, 2, 5, 10), key=lambda m: abs(m * power - rough))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def plot_curve(
    x: ArrayLike,
    y: ArrayLike,
    *,
    title: str = "",
    xlabel: str = "step",
    log: bool | None = None,
    width: int = 800,
    height: int = 400,
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws ``y`` over ``x``. Long curves are drawn faintly, with their running mean on top.

    ``np.concatenate`` joins plots of one width to one image.

    Args:
        x: ascending numbers, [N].
        y: numbers to plot, [N]; those that are not finite, or not positive on a logarithmic axis, are left out.
        title: text above the axes, ASCII.
        xlabel: text below the axes, ASCII.
        log: whether the vertical axis is logarithmic; None: true if ``y`` is positive and spans a factor of 20.
        width: width of the image in pixels.
        height: height of the image in pixels.

    Raises:
        ValueError: if ``x`` and ``y`` are not series of one length.
    """
    from splax.files.opencv import cv2

    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"plot_curve needs two series of one length, got shapes {x.shape} and {y.shape}.")
    usable = np.isfinite(x) & np.isfinite(y)
    if log is None:
        positive = y[usable & (y > 0)]
        log = bool(len(positive) == usable.sum() > 0 and positive.max() > 20 * positive.min())
    usable &= (y > 0) | (not log)
    x, y = x[usable], y[usable]

    canvas = np.full((height, width, 3), 255, np.uint8)
    across = _Axis(*_range(x, margin=0), _LEFT, width - _RIGHT)
    up = _Axis(*_range(y, margin=0.05, log=log), height - _BOTTOM, _TOP, log=log)
    _draw_axes(canvas, across, up)
    _write(canvas, title, (width + _LEFT - _RIGHT) // 2, _TOP - 16, scale=0.55)
    _write(canvas, xlabel, (width + _LEFT - _RIGHT) // 2, height - 10)
    smooth = _running_mean(y) if len(y) > _SMOOTH_ABOVE else None
    for values, color in ((y, _STRONG if smooth is None else _FAINT), (smooth, _STRONG)):
        if values is not None and len(values):
            points = np.stack([across.pixels(x), up.pixels(values)], axis=-1)
            # OpenCV takes fixed-point coordinates, here in 1/16 of a pixel.
            fixed = np.rint(points * 16).astype(np.int32)
            cv2.polylines(canvas, [fixed], False, color, 2 if len(x) < 2000 else 1, cv2.LINE_AA, 4)
            if len(x) == 1:
                cv2.circle(canvas, np.rint(points[0]).astype(int).tolist(), 3, color, -1, cv2.LINE_AA)
    return canvas


def _range(values: Float[np.ndarray, " n"], *, margin: float, log: bool = False) -> tuple[float, float]:
    """Ends of an axis: the least and the largest value with a margin, and never equal."""
    if not len(values):
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if log:
        factor = max((high / low) ** margin, 1.01)
        return low / factor, high * factor
    pad = max((high - low) * margin, 0 if high > low else 0.5, abs(high) * 1e-9)
    return low - pad, high + pad


def _running_mean(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    half = len(values) // 100
    sums = np.concatenate([[0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _draw_axes(canvas: UInt8[np.ndarray, "h w 3"], across: _Axis, up: _Axis) -> None:
    from splax.files.opencv import cv2

    for tick in across.ticks():
        column = int(across.pixels(np.array([tick]))[0])
        cv2.line(canvas, (column, up.end), (column, up.start), _GRID, 1)
        _write(canvas, f"{tick:g}", column, up.start + 20)
    for tick in up.ticks():
        row = int(up.pixels(np.array([tick]))[0])
        cv2.line(canvas, (across.start, row), (across.end, row), _GRID, 1)
        _write(canvas, f"{tick:g}", across.start - 8, row + 5, align_right=True)
    cv2.rectangle(canvas, (across.start, up.end), (across.end, up.start), _INK, 1)


def _write(
    canvas: UInt8[np.ndarray, "h w 3"],
    text: str,
    column: int,
    row: int,
    *,
    scale: float = 0.45,
    align_right: bool = False,
) -> None:
    """Writes text with its baseline at ``row``, either centred on ``column`` or ending there."""
    from splax.files.opencv import cv2

    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    left = column - width if align_right else column - width // 2
    cv2.putText(canvas, text, (left, row), cv2.FONT_HERSHEY_SIMPLEX, scale, _INK, 1, cv2.LINE_AA)
