"""The camera models of COLMAP 4: formulas that map directions to pixels.

Every camera model here is ``pixel = focal * distort(x / z, y / z) + principal point``; for a pinhole, ``distort``
is the identity. Coefficients are in COLMAP's order, which is OpenCV's order where OpenCV has the model. Sources:
Brown 1966 (radial and tangential terms), Kannala and Brandt 2006 (fisheye), Devernay and Faugeras 2001 (FOV),
Fitzgibbon 2001 (division), Khomutenko et al. 2016 (EUCM), Weng et al. 1992 (thin prism).

As everywhere in splax, the centre of the top left pixel is at (0.5, 0.5).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_Points = Float[np.ndarray, "*n 2"]


class _CameraModel(NamedTuple):
    """One camera model.

    Attributes:
        id: number of the model in COLMAP's binary files.
        num_focal: number of focal lengths: 1 if both axes share one, else 2.
        num_coefficients: number of coefficients, which follow the principal point.
        distort: function that moves points of the plane z = 1; its further arguments are the coefficients.
    """

    id: int
    num_focal: int
    num_coefficients: int
    distort: Callable[..., _Points]

    @property
    def num_params(self) -> int:
        """Number of all params: focal lengths, principal point and coefficients."""
        return self.num_focal + 2 + self.num_coefficients


@dataclasses.dataclass(frozen=True)
class ColmapLens:
    """A camera model with its numbers, for images of one size.

    Attributes:
        model: name of the camera model, a key of :data:`CAMERA_MODELS`.
        params: one or two focal lengths and the principal point in pixels, then the coefficients.
        width: width in pixels of the images that ``params`` belong to.
        height: height in pixels of the images that ``params`` belong to.

    Raises:
        ValueError: if the model is unknown, the number of params is wrong, a number is not finite, or a focal
            length or the size is not positive. The message does not name the file.
    """

    model: str
    params: tuple[float, ...]
    width: float
    height: float

    def __post_init__(self) -> None:
        if self.model not in CAMERA_MODELS:
            raise ValueError(
                f"camera model {self.model} is not supported; expected one of {', '.join(CAMERA_MODELS)}"
            )
        expected = CAMERA_MODELS[self.model].num_params
        if len(self.params) != expected:
            raise ValueError(f"camera model {self.model} takes {expected} numbers, got {len(self.params)}")
        if not all(abs(value) < 1e30 for value in self.params):
            raise ValueError(f"the camera's numbers must be finite, got {list(self.params)}")
        if min(self.focal) <= 0:
            raise ValueError(f"focal lengths must be positive, got {self.focal[0]:g} and {self.focal[1]:g}")
        if not (1 <= self.width < 1e6 and 1 <= self.height < 1e6):
            raise ValueError(f"the camera's size must be in pixels, got {self.width:g} x {self.height:g}")

    @property
    def focal(self) -> tuple[float, float]:
        """Focal lengths (fx, fy) in pixels."""
        return self.params[0], self.params[CAMERA_MODELS[self.model].num_focal - 1]

    @property
    def K(self) -> Float[np.ndarray, "3 3"]:
        """The intrinsic matrix, [3, 3]."""
        (fx, fy), start = self.focal, CAMERA_MODELS[self.model].num_focal
        cx, cy = self.params[start : start + 2]
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The numbers after the principal point."""
        return self.params[CAMERA_MODELS[self.model].num_focal + 2 :]

    @property
    def is_pinhole(self) -> bool:
        """Whether the lens distorts nothing, within rounding."""
        grid = np.stack(np.meshgrid([-0.7, 0.3, 0.6], [-0.5, 0.2, 0.8]), axis=-1)
        return bool(np.abs(self.distort(grid) - grid).max() < 1e-12)

    def distort(self, points: _Points) -> _Points:
        """Distorted positions of points (x / z, y / z), [..., 2]; NaN for points that the lens does not see."""
        with np.errstate(all="ignore"):
            return CAMERA_MODELS[self.model].distort(points, *self.coefficients)

    def undistort(self, points: _Points, num_iterations: int = 50) -> _Points:
        """Inverse of :meth:`distort` by Newton's method, [..., 2]; NaN where the method does not converge.

        Args:
            points: distorted points, [..., 2].
            num_iterations: most steps of Newton's method.
        """
        result = np.asarray(points, np.float64)
        with np.errstate(all="ignore"):
            for _ in range(num_iterations):
                error = self.distort(result) - points
                if not (np.abs(error) > 1e-14).any():
                    break
                a, b, c, d = np.moveaxis(self.jacobian(result).reshape(*result.shape[:-1], 4), -1, 0)
                step = np.stack(
                    [d * error[..., 0] - b * error[..., 1], a * error[..., 1] - c * error[..., 0]]
                )
                result = result - np.moveaxis(step / (a * d - b * c), 0, -1)
            found = np.abs(self.distort(result) - points).max(axis=-1) < 1e-6
            # Beyond the radius where the lens folds over there may be other solutions, on the far side or
            # mirrored.
            found &= np.linalg.det(self.jacobian(result)) > 0
            found &= np.sum(result * points, axis=-1) >= 0
        return np.where(found[..., None], result, np.nan)

    def jacobian(self, points: _Points) -> Float[np.ndarray, "*n 2 2"]:
        """Derivatives of :meth:`distort` by central differences, [..., 2, 2]; the first index is the result's."""
        h = 1e-6 * (1 + np.abs(points).max(axis=-1, keepdims=True))
        columns = [
            (self.distort(points + h * axis) - self.distort(points - h * axis)) / (2 * h)
            for axis in np.eye(2)
        ]
        return np.stack(columns, axis=-1)

    def project(self, points: Float[np.ndarray, "*n 3"]) -> _Points:
        """Pixels of points in camera space, [..., 3]; meaningless where z is not positive."""
        with np.errstate(all="ignore"):
            plane = points[..., :2] / points[..., 2:]
        return self.distort(plane) * np.array(self.focal) + self.K[:2, 2]

    def resize(self, width: int, height: int) -> ColmapLens:
        """The lens for the same images at another size.

        Args:
            width: new width of the images in pixels.
            height: new height of the images in pixels.

        Raises:
            ValueError: if the aspect ratio differs by more than rounding of sizes explains.
        """
        if not same_aspect_ratio((width, height), (self.width, self.height)):
            raise ValueError(
                f"the file says {self.width:g} x {self.height:g} pixels but the image is {width} x {height}, of "
                f"another shape. Is it rotated or cropped? Make the size and the intrinsics match the image"
            )
        scale_x, scale_y = width / self.width, height / self.height
        # Rounded sizes stretch the image a little, so each axis gets its own focal length.
        model = _TWO_FOCAL.get(self.model, self.model)
        K = self.K
        params = (K[0, 0] * scale_x, K[1, 1] * scale_y, K[0, 2] * scale_x, K[1, 2] * scale_y)
        params += self.coefficients
        params += (0.0,) * (CAMERA_MODELS[model].num_params - len(params))
        return ColmapLens(model, tuple(float(p) for p in params), width, height)


def same_aspect_ratio(size: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two sizes (width, height) have one aspect ratio, up to rounding by a pixel and 2 %."""
    ratio = (size[0] / other[0]) / (size[1] / other[1])
    return abs(ratio - 1) <= 0.02 + 1 / size[0] + 1 / size[1]


def _pinhole(points: _Points) -> _Points:
    return points


def _brown(
    points: _Points,
    k1: float = 0.0,
    k2: float = 0.0,
    p1: float = 0.0,
    p2: float = 0.0,
    k3: float = 0.0,
    k4: float = 0.0,
    k5: float = 0.0,
    k6: float = 0.0,
) -> _Points:
    r2 = _squared(points)
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return points * radial + _tangential(points, p1, p2)


def _tangential(points: _Points, p1: float, p2: float) -> _Points:
    x, y = points[..., 0], points[..., 1]
    r2 = x * x + y * y
    return np.stack([2 * p1 * x * y + p2 * (r2 + 2 * x * x), p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], axis=-1)


def _equidistant(points: _Points) -> _Points:
    """Points whose distance from the centre is replaced by the angle from the optical axis."""
    r = np.sqrt(_squared(points))
    return points * np.where(r > 1e-9, np.arctan(r) / np.maximum(r, 1e-9), 1.0)


def _fisheye(points: _Points, k1: float = 0.0, k2: float = 0.0, k3: float = 0.0, k4: float = 0.0) -> _Points:
    angles = _equidistant(points)
    t2 = _squared(angles)
    return angles * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))


def _thin_prism_fisheye(
    points: _Points, k1: float, k2: float, p1: float, p2: float, k3: float, k4: float, sx1: float, sy1: float
) -> _Points:
    angles = _equidistant(points)
    t2 = _squared(angles)
    radial = 1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))
    return angles * radial + _tangential(angles, p1, p2) + t2 * np.array([sx1, sy1])


def _rad_tan_thin_prism_fisheye(points: _Points, *coefficients: float) -> _Points:
    k, (p0, p1), (s0, s1, s2, s3) = coefficients[:6], coefficients[6:8], coefficients[8:]
    angles = _equidistant(points)
    t2 = _squared(angles)
    radial = np.ones_like(t2)
    for power, value in enumerate(k, start=1):
        radial = radial + value * t2**power
    angles = angles * radial
    r2 = _squared(angles)
    # The order of the tangential coefficients is the reverse of Brown's.
    return angles + _tangential(angles, p1, p0) + r2 * np.array([s0, s2]) + r2**2 * np.array([s1, s3])


def _fov(points: _Points, omega: float) -> _Points:
    r = np.sqrt(_squared(points))
    if abs(omega) < 1e-6:
        return points
    slope = 2 * math.tan(omega / 2)
    return points * np.where(r > 1e-9, np.arctan(slope * r) / (omega * np.maximum(r, 1e-9)), slope / omega)


def _division(points: _Points, k: float) -> _Points:
    # The model is defined by its inverse: undistorted = distorted / (1 + k |distorted|^2).
    return points * 2 / (1 + np.sqrt(1 - 4 * k * _squared(points)))


def _eucm(points: _Points, alpha: float, beta: float) -> _Points:
    return points / (alpha * np.sqrt(beta * _squared(points) + 1) + 1 - alpha)


def _squared(points: _Points) -> Float[np.ndarray, "*n 1"]:
    return np.sum(points * points, axis=-1, keepdims=True)


CAMERA_MODELS = {
    "SIMPLE_PINHOLE": _CameraModel(0, 1, 0, _pinhole),
    "PINHOLE": _CameraModel(1, 2, 0, _pinhole),
    "SIMPLE_RADIAL": _CameraModel(2, 1, 1, _brown),
    "RADIAL": _CameraModel(3, 1, 2, _brown),
    "OPENCV": _CameraModel(4, 2, 4, _brown),
    "OPENCV_FISHEYE": _CameraModel(5, 2, 4, _fisheye),
    "FULL_OPENCV": _CameraModel(6, 2, 8, _brown),
    "FOV": _CameraModel(7, 2, 1, _fov),
    "SIMPLE_RADIAL_FISHEYE": _CameraModel(8, 1, 1, _fisheye),
    "RADIAL_FISHEYE": _CameraModel(9, 1, 2, _fisheye),
    "THIN_PRISM_FISHEYE": _CameraModel(10, 2, 8, _thin_prism_fisheye),
    "RAD_TAN_THIN_PRISM_FISHEYE": _CameraModel(11, 2, 12, _rad_tan_thin_prism_fisheye),
    "SIMPLE_DIVISION": _CameraModel(12, 1, 1, _division),
    "DIVISION": _CameraModel(13, 2, 1, _division),
    "SIMPLE_FISHEYE": _CameraModel(14, 1, 0, _fisheye),
    "FISHEYE": _CameraModel(15, 2, 0, _fisheye),
    "EUCM": _CameraModel(16, 2, 2, _eucm),
}
# Names of the models by COLMAP's number. Number 17 cannot be undistorted to a pinhole; it has a name for its
# error.
CAMERA_MODEL_NAMES = {model.id: name for name, model in CAMERA_MODELS.items()} | {17: "EQUIRECTANGULAR"}

# For each model with one focal length, the same model with two; coefficients that it adds are 0.
_TWO_FOCAL = {
    "SIMPLE_PINHOLE": "PINHOLE",
    "SIMPLE_RADIAL": "OPENCV",
    "RADIAL": "OPENCV",
    "SIMPLE_RADIAL_FISHEYE": "OPENCV_FISHEYE",
    "RADIAL_FISHEYE": "OPENCV_FISHEYE",
    "SIMPLE_DIVISION": "DIVISION",
    "SIMPLE_FISHEYE": "FISHEYE",
}
