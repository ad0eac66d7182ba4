"""What training compares with: photos as arrays of one size, on the device, and the cameras that took them."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Float32, Int, UInt8

from splax.cameras import Camera


class Targets(NamedTuple):
    """Photos of several views, or of one without the leading axis; a pytree.

    Attributes:
        images: uint8 RGB, [V, H, W, 3].
        masks: true where a pixel counts, [V, H, W]; None if all do.
        alphas: how opaque the photos are, uint8 [V, H, W]; None if all are opaque.
        depths: camera-space z in world units, [V, H, W], 0 where unknown; None if it is not used.
        points: surface points that the photos show, world coordinates [V, P, 3], NaN where there are fewer; None
            if they are not used.
        point_pixels: where the photos show those, [V, P, 2], NaN where it is not known; None if it is not used.
    """

    images: UInt8[Array, "*views h w 3"]
    masks: Bool[Array, "*views h w"] | None
    alphas: UInt8[Array, "*views h w"] | None
    depths: Float32[Array, "*views h w"] | None = None
    points: Float32[Array, "*views points 3"] | None = None
    point_pixels: Float32[Array, "*views points 2"] | None = None


class Photos(NamedTuple):
    """What steps of training need to know of several views, or of one without the leading axis; a pytree.

    Attributes:
        views: which of the training views, [V].
        cameras: those that took them, with the size of the targets, [V].
        targets: their pixels.
    """

    views: Int[Array, "*views"]
    cameras: Camera
    targets: Targets


def on_background(
    image: Float[Array, "h w 3"],
    alpha: UInt8[Array, "h w"] | None,
    old: Float[Array, " 3"],
    new: Float[Array, " 3"],
) -> Float[Array, "h w 3"]:
    """A photo in [0, 1] that was composited on one background, on another: what shines through changes."""
    if alpha is None:
        return image
    return image + (1 - alpha[..., None].astype(image.dtype) / 255) * (new - old)
