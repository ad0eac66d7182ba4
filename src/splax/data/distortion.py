"""Undistorts photos, so that every camera is a pinhole.

The undistorted image has the size of the photo. Its intrinsics are such that the lens saw every pixel: there are
no black borders. Masks and depth images are undistorted in the same way.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from splax.data.colmap_lens import ColmapLens

# A pinhole image grows without bound towards 90 degrees from its axis: wider lenses are cut at about 70 degrees.
MAX_TANGENT = 2.75
# Steps of Newton's method for points. Each step doubles the digits, and a photo has thousands of points.
_UNDISTORT_STEPS = 10
_ROWS = 64  # rows of the map that are computed together, which keeps memory small


class Undistorter:
    """Undistorts the photos of one lens.

    Attributes:
        K: intrinsics of the undistorted image, [3, 3].

    Raises:
        ValueError: if the distortion cannot be inverted over the whole image.
    """

    K: Float[np.ndarray, "3 3"]

    def __init__(self, lens: ColmapLens) -> None:
        """Prepares the map for photos of ``lens.width`` x ``lens.height`` pixels."""
        self.K = undistorted_intrinsics(lens)
        self._map = _pixel_map(lens, self.K)

    def image(self, image: UInt8[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w *c"]:
        """The photo, or its alpha, as a pinhole camera with ``self.K`` would have taken it."""
        from splax.files.opencv import cv2

        # Border pixels are replicated, as rounding may lead out of the photo by a ten-thousandth of a pixel.
        undistorted = cv2.remap(image, *self._map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(undistorted, np.uint8)

    def mask(self, mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        """The mask of the undistorted photo: a pixel is true if all pixels of the mask that it mixes are true."""
        from splax.files.opencv import cv2

        bytes_ = mask.astype(np.uint8) * 255
        undistorted = cv2.remap(bytes_, *self._map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(undistorted) == 255

    def depth(self, depth: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
        """The depth of the undistorted photo, from the nearest pixel, as depths of two surfaces must not mix."""
        from splax.files.opencv import cv2

        undistorted = cv2.remap(depth, *self._map, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(undistorted, np.float32)


def undistorted_intrinsics(lens: ColmapLens) -> Float[np.ndarray, "3 3"]:
    """Intrinsics of the undistorted image: of the photo's size, inside the photo, with the widest view possible.

    The centres of the photo's border pixels are undistorted, which gives four curves. The largest upright
    rectangle between the curves becomes the border of the undistorted image. It reaches at most
    :data:`MAX_TANGENT` from the axis.

    Args:
        lens: lens of photos of at least 2 x 2 pixels.

    Raises:
        ValueError: if the distortion cannot be inverted over the whole image.
    """
    width, height = int(lens.width), int(lens.height)
    u, v = np.arange(width) + 0.5, np.arange(height) + 0.5
    focal, principal = np.array(lens.focal), lens.K[:2, 2]

    def seen(u, v, axis, worst, otherwise):
        pixels = np.stack(np.broadcast_arrays(u, v), axis=-1)
        border = lens.undistort((pixels - principal) / focal)[:, axis]
        # Border pixels that show nothing in front of the pinhole set no limit.
        border = border[np.isfinite(border)]
        return np.clip(worst(border, initial=otherwise), -MAX_TANGENT, MAX_TANGENT)

    low = np.array([seen(u[0], v, 0, np.max, -np.inf), seen(u, v[0], 1, np.max, -np.inf)])
    high = np.array([seen(u[-1], v, 0, np.min, np.inf), seen(u, v[-1], 1, np.min, np.inf)])
    with np.errstate(all="ignore"):
        new_focal = np.array([width - 1, height - 1]) / (high - low)
        new_principal = 0.5 - new_focal * low
    # Inside the rectangle, the lens must neither lead out of the photo nor fold over.
    grid = low + (high - low) * np.stack(np.meshgrid(*[np.linspace(0, 1, 129)] * 2), axis=-1)
    with np.errstate(all="ignore"):
        pixels = lens.distort(grid) * focal + principal
        unfolded = np.linalg.det(lens.jacobian(grid)) > 0
    inside = (pixels > 0.49) & (pixels < np.array([width, height]) - 0.49)
    if not ((new_focal > 0).all() and inside.all() and unfolded.all()):
        numbers = ", ".join(f"{c:g}" for c in lens.coefficients)
        raise ValueError(
            f"the lens distortion ({lens.model} {numbers}) folds over inside the {width} x {height} image and "
            f"cannot be undone. Check the coefficients, or undistort the photos with the tool that estimated "
            f"them and set them to 0."
        )
    return np.array(
        [[new_focal[0], 0, new_principal[0]], [0, new_focal[1], new_principal[1]], [0, 0, 1]], np.float64
    )


def undistort_pixels(
    lens: ColmapLens, K: Float[np.ndarray, "3 3"], pixels: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 2"]:
    """Moves pixels of a photo to the pixels of its undistorted image that show the same; NaN where that fails.

    Args:
        lens: lens of the photo.
        K: intrinsics of the undistorted image, which has the photo's size, [3, 3].
        pixels: x and y in pixels of the photo, centres at +0.5, [n, 2].
    """
    if lens.is_pinhole:
        return pixels
    plane = lens.undistort((pixels - lens.K[:2, 2]) / np.array(lens.focal), _UNDISTORT_STEPS)
    return plane * np.diag(K)[:2] + K[:2, 2]


def _pixel_map(
    lens: ColmapLens, K: Float[np.ndarray, "3 3"]
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """For each pixel of the undistorted image, the column and row of the photo that show the same, for OpenCV."""
    width, height = int(lens.width), int(lens.height)
    x = (np.arange(width) + 0.5 - K[0, 2]) / K[0, 0]
    y = (np.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
    columns, rows = np.empty((2, height, width), np.float32)
    for start in range(0, height, _ROWS):
        part = slice(start, start + _ROWS)
        plane = np.stack(np.meshgrid(x, y[part]), axis=-1)
        # OpenCV has the centre of the first pixel at (0, 0), splax at (0.5, 0.5).
        pixels = lens.distort(plane) * np.array(lens.focal) + lens.K[:2, 2] - 0.5
        columns[part], rows[part] = pixels[..., 0], pixels[..., 1]
    return columns, rows
