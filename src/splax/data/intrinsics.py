"""Reads the intrinsics of transforms.json: for each frame or for all, as focal lengths or as angles.

Keys: ``fl_x fl_y`` in pixels or ``camera_angle_x camera_angle_y`` in radians, ``cx cy`` (default: the image
centre), ``w h`` (default: the stored image's size), ``camera_model`` and lens distortion: ``k1 k2 p1 p2 k3``,
or ``k1`` to ``k4`` of a fisheye. A value of a frame takes precedence over the value for all frames.
"""

import math
from collections import ChainMap
from collections.abc import Mapping
from typing import Any

from splax.data.colmap_lens import ColmapLens
from splax.files.json import read_number
from splax.files.limits import shorten

# Camera models by the names of nerfstudio and COLMAP, and the camera model here that takes their coefficients.
_COLMAP_MODELS = {
    "OPENCV": "FULL_OPENCV",
    "PINHOLE": "FULL_OPENCV",
    "SIMPLE_PINHOLE": "FULL_OPENCV",
    "PERSPECTIVE": "FULL_OPENCV",
    "RADIAL": "FULL_OPENCV",
    "SIMPLE_RADIAL": "FULL_OPENCV",
    "FULL_OPENCV": "FULL_OPENCV",
    "OPENCV_FISHEYE": "OPENCV_FISHEYE",
    "RADIAL_FISHEYE": "OPENCV_FISHEYE",
    "SIMPLE_RADIAL_FISHEYE": "OPENCV_FISHEYE",
}
_COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
_UNDISTORT_CURE = "Undistort the photos first (such as with COLMAP's image_undistorter) and use those."


def read_lens(
    width: int, height: int, *, entry: dict[str, Any], meta: dict[str, Any], label: str
) -> ColmapLens:
    """The lens of one frame, for an image stored at ``width`` x ``height``.

    Args:
        width: width of the stored image in pixels.
        height: height of the stored image in pixels.
        entry: object of the frame in the file.
        meta: top-level object of the file.
        label: text for errors that names the file and the frame.

    Raises:
        ValueError: if a value is not a number, a focal length is missing or not positive, the aspect ratio is not
            the image's, or the camera model is not supported.
    """
    both = ChainMap(entry, meta)  # does not copy the top-level object for each frame
    stated = stated_size(both, label) or (width, height)
    focal = _focal(entry, *stated, label) or _focal(meta, *stated, label)
    if focal is None:
        raise ValueError(
            f"{label}: no focal length. Expected fl_x (pixels) or camera_angle_x (radians) in the "
            f"frame or at the top of the file."
        )
    cx = read_number(both, "cx", label, default=stated[0] / 2)
    cy = read_number(both, "cy", label, default=stated[1] / 2)
    model, coefficients = _distortion(both, label)
    try:
        return ColmapLens(model, (*focal, cx, cy, *coefficients), *stated).resize(width, height)
    except ValueError as error:
        raise ValueError(f"{label}: {error}.") from error


def stated_size(both: Mapping[str, Any], label: str) -> tuple[float, float] | None:
    """The values of ``w`` and ``h`` in pixels; None unless the file states both.

    Raises:
        ValueError: if one of them is not a number of at least 1.
    """
    width = read_number(both, "w", label, default=math.nan)
    height = read_number(both, "h", label, default=math.nan)
    if width < 1 or height < 1:
        raise ValueError(f"{label}: w and h must be the image size in pixels, got {width:g}, {height:g}.")
    return None if math.isnan(width) or math.isnan(height) else (width, height)


def _distortion(both: Mapping[str, Any], label: str) -> tuple[str, tuple[float, ...]]:
    """The camera model and its coefficients, as :class:`ColmapLens` takes them."""
    name = both.get("camera_model") or "OPENCV"
    if name not in _COLMAP_MODELS if isinstance(name, str) else True:
        raise ValueError(
            f"{label}: camera_model {shorten(name)} is not supported; expected one of "
            f"{', '.join(_COLMAP_MODELS)}. {_UNDISTORT_CURE}"
        )
    model = "OPENCV_FISHEYE" if both.get("is_fisheye") else _COLMAP_MODELS[name]
    values = {key: read_number(both, key, label, default=0.0) for key in _COEFFICIENTS}
    if model == "OPENCV_FISHEYE":
        used = ("k1", "k2", "k3", "k4")
    elif name == "FULL_OPENCV":
        used = _COEFFICIENTS
    else:
        # OpenCV divides by a polynomial of k4, nerfstudio multiplies by one.
        used = _COEFFICIENTS[:5]
    for key, value in values.items():
        if value != 0 and key not in used:
            raise ValueError(
                f"{label}: distortion {key} = {value:g} is not supported with camera_model {name}, only "
                f"{', '.join(used)}. {_UNDISTORT_CURE}"
            )
    kept = used if model == "OPENCV_FISHEYE" else _COEFFICIENTS
    return model, tuple(values[key] for key in kept)


def _focal(source: dict[str, Any], width: float, height: float, label: str) -> tuple[float, float] | None:
    """Both focal lengths in pixels from one object; if only one is given, it is used for both axes."""
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
