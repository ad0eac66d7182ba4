"""Takes lens distortion out of photos, so that every camera is a pinhole.

The undistorted image has the same size, and intrinsics such that every pixel was seen by the lens: no black
borders. Masks and depth images go the same way.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from splax.data.colmap_lens import ColmapLens

# A pinhole stretches without end towards 90 degrees from its axis: wider lenses are cut at about 70.
MAX_TANGENT = 2.75
# Of Newton's method for points: it doubles the digits, and there are thousands in each photo.
_UNDISTORT_STEPS = 10
_ROWS = 64  # of the map computed at once, to keep memory small


class Undistorter:
    """Undistorts photos of one lens.

    Attributes:
        K: intrinsics of the undistorted image, [3, 3].

    Raises:
        ValueError: if the lens cannot be undone over the whole image.
    """

    K: Float[np.ndarray, "3 3"]

    def __init__(self, lens: ColmapLens) -> None:
        """Prepares for photos of ``lens.width`` x ``lens.height`` pixels."""
        self.K = undistorted_intrinsics(lens)
        self._map = _pixel_map(lens, self.K)

    def image(self, image: UInt8[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w *c"]:
        """The photo, or its alpha, as a pinhole camera with ``self.K`` would have taken it."""
        import cv2

        # Replicate: rounding may leave the image by a ten-thousandth of a pixel.
        undistorted = cv2.remap(image, *self._map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(undistorted, np.uint8)

    def mask(self, mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        """The mask of the undistorted photo: true where all pixels that went into one are."""
        import cv2

        bytes_ = mask.astype(np.uint8) * 255
        undistorted = cv2.remap(bytes_, *self._map, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(undistorted) == 255

    def depth(self, depth: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
        """The depth of the undistorted photo, from the nearest pixel: depths of two things do not mix."""
        import cv2

        undistorted = cv2.remap(depth, *self._map, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(undistorted, np.float32)


def undistorted_intrinsics(lens: ColmapLens) -> Float[np.ndarray, "3 3"]:
    """Intrinsics whose image of the same size lies inside the photo, as large as possible.

    The centres of the photo's border pixels are undistorted; the largest upright rectangle between the
    four curves they form becomes the border of the new image. It reaches at most :data:`MAX_TANGENT` from
    the axis.

    Args:
        lens: for images of at least 2 x 2 pixels.

    Raises:
        ValueError: if the lens cannot be undone over the whole image.
    """
    width, height = int(lens.width), int(lens.height)
    u, v = np.arange(width) + 0.5, np.arange(height) + 0.5
    focal, principal = np.array(lens.focal), lens.K[:2, 2]

    def seen(u, v, axis, worst, otherwise):
        pixels = np.stack(np.broadcast_arrays(u, v), axis=-1)
        border = lens.undistort((pixels - principal) / focal)[:, axis]
        # Border pixels that show nothing in front of the pinhole limit nothing.
        border = border[np.isfinite(border)]
        return np.clip(worst(border, initial=otherwise), -MAX_TANGENT, MAX_TANGENT)

    low = np.array([seen(u[0], v, 0, np.max, -np.inf), seen(u, v[0], 1, np.max, -np.inf)])
    high = np.array([seen(u[-1], v, 0, np.min, np.inf), seen(u, v[-1], 1, np.min, np.inf)])
    with np.errstate(all="ignore"):
        new_focal = np.array([width - 1, height - 1]) / (high - low)
        new_principal = 0.5 - new_focal * low
    # Within the rectangle the lens must neither leave the photo nor fold over.
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
    """Where the undistorted image shows what the photo shows at these pixels; NaN where the lens cannot be undone.

    Args:
        lens: of the photo.
        K: intrinsics of the undistorted image, of the same size.
        pixels: x and y, centres at +0.5.
    """
    if lens.is_pinhole:
        return pixels
    plane = lens.undistort((pixels - lens.K[:2, 2]) / np.array(lens.focal), _UNDISTORT_STEPS)
    return plane * np.diag(K)[:2] + K[:2, 2]


def _pixel_map(
    lens: ColmapLens, K: Float[np.ndarray, "3 3"]
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
    """Where the photo shows what each pixel of the new image shows, as OpenCV counts pixels."""
    width, height = int(lens.width), int(lens.height)
    x = (np.arange(width) + 0.5 - K[0, 2]) / K[0, 0]
    y = (np.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
    columns, rows = np.empty((2, height, width), np.float32)
    for start in range(0, height, _ROWS):
        part = slice(start, start + _ROWS)
        plane = np.stack(np.meshgrid(x, y[part]), axis=-1)
        # OpenCV puts the centre of the first pixel at (0, 0), half a pixel before ours.
        pixels = lens.distort(plane) * np.array(lens.focal) + lens.K[:2, 2] - 0.5
        columns[part], rows[part] = pixels[..., 0], pixels[..., 1]
    return columns, rows
