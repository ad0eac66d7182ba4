"""The intrinsics of transforms.json: per frame or for all, as focal lengths or as angles.

Keys: ``fl_x fl_y`` in pixels or ``camera_angle_x camera_angle_y`` in radians, ``cx cy`` (default: the image
centre), ``w h`` (default: the stored image's size), lens distortion ``k1 k2 p1 p2``. What a frame states
wins over what the file states for all.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from splax.data.json_file import read_number, shorten

# nerfstudio's and COLMAP's names for models that k1, k2, p1, p2 can express.
PINHOLE_MODELS = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "RADIAL", "SIMPLE_RADIAL")
UNSUPPORTED_COEFFICIENTS = ("k3", "k4", "k5", "k6")
UNDISTORT_CURE = "Undistort the photos first (such as with COLMAP's image_undistorter) and use those."


class Intrinsics(NamedTuple):
    """Focal lengths and principal point in pixels of the stored image, and Brown's lens distortion."""

    fx: float
    fy: float
    cx: float
    cy: float
    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0

    @property
    def K(self) -> Float[np.ndarray, "3 3"]:
        """The intrinsic matrix, [3, 3]."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], np.float64)

    @property
    def distortion(self) -> Float[np.ndarray, " 4"]:
        """(k1, k2, p1, p2)."""
        return np.array([self.k1, self.k2, self.p1, self.p2], np.float64)


def read_intrinsics(
    entry: dict[str, Any], meta: dict[str, Any], *, width: int, height: int, label: str
) -> Intrinsics:
    """Intrinsics of one frame, for an image stored at ``width`` x ``height``.

    Args:
        entry: the frame's object in the file.
        meta: the file's top-level object.
        width: width of the stored image in pixels.
        height: height of the stored image in pixels.
        label: names the file and the frame in errors.

    Raises:
        ValueError: on numbers that are none, a focal length that is missing or not positive, an aspect
            ratio other than the image's, or a lens model other than k1, k2, p1, p2.
    """
    both = {**meta, **entry}
    _require_pinhole(both, label)
    stated_width = read_number(both, "w", label, default=float(width))
    stated_height = read_number(both, "h", label, default=float(height))
    if stated_width < 1 or stated_height < 1:
        raise ValueError(
            f"{label}: w and h must be the image size in pixels, got {stated_width:g}, {stated_height:g}."
        )
    scale_x, scale_y = width / stated_width, height / stated_height
    # Sizes are rounded when photos are resized: allow a pixel, and 2 %.
    if abs(scale_x / scale_y - 1) > 0.02 + 1 / width + 1 / height:
        raise ValueError(
            f"{label}: the file says {stated_width:g} x {stated_height:g} pixels but the image is "
            f"{width} x {height}, of another shape. Is it rotated or cropped? Make w, h and the intrinsics "
            f"match the image."
        )
    focal = _focal(entry, stated_width, stated_height, label)
    focal = focal or _focal(meta, stated_width, stated_height, label)
    if focal is None:
        raise ValueError(
            f"{label}: no focal length. Expected fl_x (pixels) or camera_angle_x (radians) in the "
            f"frame or at the top of the file."
        )
    return Intrinsics(
        fx=focal[0] * scale_x,
        fy=focal[1] * scale_y,
        cx=read_number(both, "cx", label, default=stated_width / 2) * scale_x,
        cy=read_number(both, "cy", label, default=stated_height / 2) * scale_y,
        **{name: read_number(both, name, label, default=0.0) for name in ("k1", "k2", "p1", "p2")},
    )


def _require_pinhole(both: dict[str, Any], label: str) -> None:
    model = both.get("camera_model", "OPENCV")
    if both.get("is_fisheye") or (model is not None and model not in PINHOLE_MODELS):
        found = "is_fisheye" if both.get("is_fisheye") else f"camera_model {shorten(model)}"
        raise ValueError(
            f"{label}: {found} is not supported; expected one of "
            f"{', '.join(PINHOLE_MODELS)}. {UNDISTORT_CURE}"
        )
    for name in UNSUPPORTED_COEFFICIENTS:
        value = read_number(both, name, label, default=0.0)
        if value != 0:
            raise ValueError(
                f"{label}: distortion {name} = {value:g} is not supported, only k1, k2, p1, p2. "
                f"{UNDISTORT_CURE}"
            )


def _focal(source: dict[str, Any], width: float, height: float, label: str) -> tuple[float, float] | None:
    """Both focal lengths in pixels from one object; the other axis's where only one is given."""
    x = _axis_focal(source, "x", width, label)
    y = _axis_focal(source, "y", height, label)
    if x is None and y is None:
        return None
    return (x or y or 0.0, y or x or 0.0)


def _axis_focal(source: dict[str, Any], axis: str, size: float, label: str) -> float | None:
    if source.get(f"fl_{axis}") is not None:
        focal = read_number(source, f"fl_{axis}", label, default=math.nan)
        if not focal > 0:
            raise ValueError(f"{label}: fl_{axis} must be a positive number of pixels, got {focal:g}.")
        return focal
    if source.get(f"camera_angle_{axis}") is not None:
        angle = read_number(source, f"camera_angle_{axis}", label, default=math.nan)
        if not 0 < angle < math.pi:
            raise ValueError(
                f"{label}: camera_angle_{axis} must lie between 0 and pi radians, got {angle:g}."
            )
        return 0.5 * size / math.tan(0.5 * angle)
    return None
