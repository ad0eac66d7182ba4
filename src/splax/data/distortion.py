"""Takes lens distortion out of photos, so that every camera is a pinhole.

Model: radial k1, k2 and tangential p1, p2 of Brown (1966), as in COLMAP's OPENCV camera and OpenCV. The
undistorted image has the same size, and intrinsics such that every pixel was seen by the lens: no black
borders.

Convention: as everywhere in splax, the centre of the top left pixel is at (0.5, 0.5). OpenCV counts from
(0, 0); the shift happens here and only here.
"""

import numpy as np
from jaxtyping import Float, UInt8

# OpenCV's pixel coordinates are ours minus half a pixel.
_TO_OPENCV = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])


def distort(
    points: Float[np.ndarray, "*n 2"], coefficients: Float[np.ndarray, " 4"]
) -> Float[np.ndarray, "*n 2"]:
    """Where a lens moves points of the plane z = 1.

    Args:
        points: x / z and y / z in camera space, [..., 2].
        coefficients: (k1, k2, p1, p2).
    """
    k1, k2, p1, p2 = coefficients
    x, y = points[..., 0], points[..., 1]
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * k2)
    return np.stack(
        [
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ],
        axis=-1,
    )


def undistort_points(
    points: Float[np.ndarray, "*n 2"], coefficients: Float[np.ndarray, " 4"], num_iterations: int = 100
) -> Float[np.ndarray, "*n 2"]:
    """Inverse of :func:`distort` by fixed-point iteration; NaN or wrong where none exists nearby."""
    k1, k2, _, _ = coefficients
    result = points
    with np.errstate(all="ignore"):
        for _ in range(num_iterations):
            r2 = np.sum(result * result, -1, keepdims=True)
            radial = 1 + r2 * (k1 + r2 * k2)
            tangential = distort(result, coefficients) - result * radial
            result = (points - tangential) / radial
    return result


class Undistorter:
    """Undistorts photos of one camera.

    Attributes:
        K: intrinsics of the undistorted image, [3, 3].

    Raises:
        ValueError: if the coefficients cannot be undone over the whole image.
    """

    K: Float[np.ndarray, "3 3"]

    def __init__(
        self,
        K: Float[np.ndarray, "3 3"],
        coefficients: Float[np.ndarray, " 4"],
        width: int,
        height: int,
    ) -> None:
        import cv2

        self.K = inner_intrinsics(K, coefficients, width, height)
        self._map = cv2.initUndistortRectifyMap(
            K - _TO_OPENCV, coefficients, np.eye(3), self.K - _TO_OPENCV, (width, height), cv2.CV_32FC1
        )

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """The image as a pinhole camera with ``self.K`` would have taken it."""
        import cv2

        # Replicate: rounding may leave the image by a ten-thousandth of a pixel.
        undistorted = cv2.remap(image, *self._map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(undistorted, np.uint8)


def inner_intrinsics(
    K: Float[np.ndarray, "3 3"], coefficients: Float[np.ndarray, " 4"], width: int, height: int
) -> Float[np.ndarray, "3 3"]:
    """Intrinsics whose image of the same size lies inside the photo, as large as possible.

    The centres of the photo's border pixels are undistorted; the largest upright rectangle between the
    four curves they form becomes the border of the new image.

    Args:
        K: intrinsics of the photo, [3, 3].
        coefficients: (k1, k2, p1, p2).
        width: image width in pixels, at least 2.
        height: image height in pixels, at least 2.

    Raises:
        ValueError: if the coefficients cannot be undone over the whole image.
    """
    u, v = np.arange(width) + 0.5, np.arange(height) + 0.5
    focal, principal = np.diag(K)[:2], K[:2, 2]

    def seen(u, v):
        pixels = np.stack(np.broadcast_arrays(u, v), axis=-1)
        return undistort_points((pixels - principal) / focal, coefficients)

    low = np.array([seen(u[0], v)[:, 0].max(), seen(u, v[0])[:, 1].max()])
    high = np.array([seen(u[-1], v)[:, 0].min(), seen(u, v[-1])[:, 1].min()])
    with np.errstate(all="ignore"):
        new_focal = np.array([width - 1, height - 1]) / (high - low)
        new_principal = 0.5 - new_focal * low
        border = np.concatenate([_border(low, high, axis) for axis in (0, 1)])
        pixels = distort(border, coefficients) * focal + principal
    inside = (pixels > 0.49) & (pixels < np.array([width, height]) - 0.49)
    if not ((new_focal > 0).all() and inside.all()):
        names = ", ".join(f"{n} {c:g}" for n, c in zip(("k1", "k2", "p1", "p2"), coefficients, strict=True))
        raise ValueError(
            f"the lens distortion ({names}) folds over inside the {width} x {height} image and cannot be "
            f"undone. Check the coefficients, or undistort the photos with the tool that estimated them "
            f"and set them to 0."
        )
    return np.array(
        [[new_focal[0], 0, new_principal[0]], [0, new_focal[1], new_principal[1]], [0, 0, 1]], np.float64
    )


def _border(
    low: Float[np.ndarray, " 2"], high: Float[np.ndarray, " 2"], axis: int
) -> Float[np.ndarray, "n 2"]:
    """Points on the two sides of a rectangle that run along ``axis``."""
    t = np.linspace(0, 1, 257)
    sides = np.empty((2, len(t), 2))
    sides[..., axis] = low[axis] + t * (high - low)[axis]
    sides[0, :, 1 - axis], sides[1, :, 1 - axis] = low[1 - axis], high[1 - axis]
    return sides.reshape(-1, 2)
