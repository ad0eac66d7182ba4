"""Photos as arrays of one size on the device, with the cameras that took them, for training to compare with."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Float32, Int, UInt8

from splax.cameras import Camera


class Targets(NamedTuple):
    """Photos of several views, or of one without the leading axis; a pytree.

    Attributes:
        images: uint8 RGB, [V, H, W, 3].
        masks: the pixels that count, [V, H, W] bool; None if all count.
        alphas: opacity of the photos' pixels, uint8 [V, H, W], 255 where opaque; None if all are opaque.
        depths: camera-space z in world units, [V, H, W], 0 where unknown; None if depth is not used.
        points: surface points that the photos show, [V, P, 3] in world coordinates, NaN in rows that a view does
            not need; None if points are not used.
        point_pixels: position of each point in its photo in pixels, [V, P, 2], NaN where unknown; None if not
            used.
    """

    images: UInt8[Array, "*views h w 3"]
    masks: Bool[Array, "*views h w"] | None
    alphas: UInt8[Array, "*views h w"] | None
    depths: Float32[Array, "*views h w"] | None = None
    points: Float32[Array, "*views points 3"] | None = None
    point_pixels: Float32[Array, "*views points 2"] | None = None


class Photos(NamedTuple):
    """All that training steps need of several views, or of one without the leading axis; a pytree.

    Attributes:
        views: numbers of the training views, int32 [V].
        cameras: the cameras that took the photos, with the size of the targets, [V].
        targets: the pixels of the photos, with masks, depth and points.
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
    """A photo composited on a new background.

    Args:
        image: the photo composited on the old background, [H, W, 3] in [0, 1].
        alpha: opacity of the pixels, uint8 [H, W]; None if all are opaque, so that nothing changes.
        old: the old background, RGB in [0, 1].
        new: the new background, RGB in [0, 1].
    """
    if alpha is None:
        return image
    return image + (1 - alpha[..., None].astype(image.dtype) / 255) * (new - old)
