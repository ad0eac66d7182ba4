"""Backend: the functions that a backend of the renderer offers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

from splax.ops.projection import ProjectedGaussians
from splax.ops.settings import RenderSettings
from splax.ops.types import Parameters, RenderBuffers


@runtime_checkable
class Obstacle(Protocol):
    """Function that says why a backend cannot draw something, with the cure, as the rest of a sentence."""

    def __call__(self, settings: RenderSettings, arrays: Sequence[Array], camera: Any = None) -> str | None:
        """Returns the reason, or None if the backend can draw; it depends on shapes and types alone.

        Args:
            settings: the rasterizer's static settings.
            arrays: arrays of the projected Gaussians, centres in pixels first; with a camera, the stored arrays.
            camera: the :class:`splax.Camera`, if stored Gaussians are to be drawn in one go; None otherwise.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Backend:
    """A way to draw projected Gaussians; a row of :data:`splax.ops.backends.BACKENDS`.

    Attributes:
        obstacle: function that says why the backend cannot draw something.
        missing: function that says why the backend does not run on this machine, with the cure, as the rest of a
            sentence; it returns None if the backend runs.
        rasterize: function of settings, projected Gaussians, channels and a probe. It returns the channels of
            the pixels, [H, W, C], without a background, alpha, [H, W], and the number of pairs. If that number
            is above the capacity, the image is incomplete. The probe, [N, 2] or None, does not change the
            image; its gradient is that of the centres, summed over the pixels in absolute values.
        count: function of settings and projected Gaussians. It returns the number of pairs that ``rasterize``
            needs room for.
        render: function of settings, stored Gaussians, a camera and an offset of the centres, [N, 2] or None. It
            returns pixels in one go. None if the backend draws in separate steps only.
        ssim: function of two images, [..., H, W * C], the number of channels, and the indices of the images that
            are differentiated. It returns the mean SSIM and the gradients of those images. None if the backend
            has no such function.
        platform: platform that the backend runs on, as ``jax.lax.platform_dependent`` names it; None for all.
        keeps_order: whether the backend sums in a fixed order on a GPU if the settings are deterministic.
    """

    obstacle: Obstacle
    missing: Callable[[], str | None]
    rasterize: Callable[
        [RenderSettings, ProjectedGaussians, Float[Array, "n c"], Float[Array, "n 2"] | None],
        tuple[Float[Array, "h w c"], Float[Array, "h w"], Int[Array, ""]],
    ]
    count: Callable[[RenderSettings, ProjectedGaussians], Int[Array, ""]]
    render: Callable[[RenderSettings, Parameters, Any, Float[Array, "n 2"] | None], RenderBuffers] | None = (
        None
    )
    ssim: Callable[[Array, Array, int, tuple[int, ...]], tuple[Array, list[Array]]] | None = None
    platform: str | None = None
    keeps_order: bool = False
