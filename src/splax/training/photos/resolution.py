"""From coarse to fine: small photos first, so that the rough shape is found before the details."""

from __future__ import annotations

import dataclasses

import jax
from jaxtyping import Array, Bool, Float

from splax.cameras import Camera


@dataclasses.dataclass(frozen=True)
class CoarseToFine:
    """A resolution that doubles every so often (splatfacto).

    Each resolution compiles the step once.

    Attributes:
        halvings: how often the photos are halved at the start; 0: never.
        every: steps after which the resolution doubles.

    Raises:
        ValueError: on a negative number of halvings, or of steps that is not positive.
    """

    halvings: int = 0
    every: int = 3000

    def __post_init__(self) -> None:
        if not 0 <= self.halvings <= 6 or self.every < 1:
            raise ValueError(
                f"CoarseToFine needs 0 to 6 halvings and every >= 1, got {self.halvings} and {self.every}."
            )

    def factor(self, step: int) -> int:
        """Pixels of a photo, per axis, to one that this step (counted from 0) compares."""
        return 2 ** max(self.halvings - step // self.every, 0)

    def next_change(self, step: int) -> int | None:
        """The first step after this one of another resolution."""
        return (step // self.every + 1) * self.every if step // self.every < self.halvings else None


def shrink_camera(camera: Camera, factor: int) -> Camera:
    """The camera of an image whose blocks of pixels become one; what is left at the right and below is cut off."""
    if factor == 1:
        return camera
    return dataclasses.replace(
        camera,
        lens=camera.lens.resize(1 / factor, 1 / factor),
        width=camera.width // factor,
        height=camera.height // factor,
    )


def shrink_image(image: Float[Array, "h w *c"], factor: int) -> Float[Array, "h2 w2 *c"]:
    """Means of blocks of ``factor`` x ``factor`` pixels."""
    return image if factor == 1 else _blocks(image, factor).mean(axis=(1, 3))


def shrink_mask(mask: Bool[Array, "h w"], factor: int) -> Bool[Array, "h2 w2"]:
    """Blocks all of whose pixels count."""
    return mask if factor == 1 else _blocks(mask, factor).all(axis=(1, 3))


def _blocks(image: jax.Array, factor: int) -> jax.Array:
    height, width = image.shape[0] // factor, image.shape[1] // factor
    cut = image[: height * factor, : width * factor]
    return cut.reshape(height, factor, width, factor, *image.shape[2:])
