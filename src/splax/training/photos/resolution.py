"""Training from coarse to fine: small photos first, so that the rough shape is found before the details."""

from __future__ import annotations

import dataclasses

import jax
from jaxtyping import Array, Bool, Float

from splax.cameras import Camera


@dataclasses.dataclass(frozen=True)
class CoarseToFine:
    """A schedule of resolutions: photos are small at the start, and double at regular steps (as in splatfacto).

    Each resolution compiles the step once.

    Attributes:
        halvings: number of times that the photos are halved for the first steps, 0 to 6; 0 uses them as they are.
        every: number of steps after which the resolution doubles, at least 1.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> import splax
        >>> resolution = splax.CoarseToFine(halvings=2, every=1000)
        >>> [resolution.factor(step) for step in (0, 999, 1000, 2000)]
        [4, 4, 2, 1]
        >>> resolution.next_change(1500)
        2000
        >>> config = splax.TrainConfig(resolution=resolution)
    """

    halvings: int = 0
    every: int = 3000

    def __post_init__(self) -> None:
        if not 0 <= self.halvings <= 6 or self.every < 1:
            raise ValueError(
                f"CoarseToFine needs 0 to 6 halvings and every >= 1, got {self.halvings} and {self.every}."
            )

    def factor(self, step: int) -> int:
        """Factor by which width and height of photos are reduced at this step, counted from 0."""
        return 2 ** max(self.halvings - step // self.every, 0)

    def next_change(self, step: int) -> int | None:
        """The first step after this one that has another resolution; None if none has."""
        return (step // self.every + 1) * self.every if step // self.every < self.halvings else None


def shrink_camera(camera: Camera, factor: int) -> Camera:
    """The camera of an image whose blocks of ``factor`` x ``factor`` pixels become one pixel each.

    Pixels at the right and at the bottom that do not fill a block are cut off.
    """
    if factor == 1:
        return camera
    return dataclasses.replace(
        camera,
        lens=camera.lens.resize(1 / factor, 1 / factor),
        width=camera.width // factor,
        height=camera.height // factor,
    )


def shrink_image(image: Float[Array, "h w *c"], factor: int) -> Float[Array, "h2 w2 *c"]:
    """The image of the means of all blocks of ``factor`` x ``factor`` pixels."""
    return image if factor == 1 else _blocks(image, factor).mean(axis=(1, 3))


def shrink_mask(mask: Bool[Array, "h w"], factor: int) -> Bool[Array, "h2 w2"]:
    """The mask of blocks of ``factor`` x ``factor`` pixels: a block counts if all of its pixels count."""
    return mask if factor == 1 else _blocks(mask, factor).all(axis=(1, 3))


def _blocks(image: jax.Array, factor: int) -> jax.Array:
    height, width = image.shape[0] // factor, image.shape[1] // factor
    cut = image[: height * factor, : width * factor]
    return cut.reshape(height, factor, width, factor, *image.shape[2:])
