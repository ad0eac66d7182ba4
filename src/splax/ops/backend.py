"""What a backend has to offer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

from splax.ops.job import Job
from splax.ops.projection import ProjectedGaussians
from splax.ops.types import Parameters, RenderBuffers


@runtime_checkable
class Obstacle(Protocol):
    """Why a backend cannot draw something, with the cure, as the rest of a sentence; None: it can."""

    def __call__(self, job: Job, arrays: Sequence[Array], camera: Any = None) -> str | None:
        """Looks at shapes and types alone.

        Args:
            job: settings.
            arrays: what describes the Gaussians: centres in pixels first, then colours and others; or, with a
                camera, the stored ones.
            camera: where they are to be drawn from as they are stored, in one go.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Backend:
    """A way to draw 2D Gaussians; a row of :data:`splax.ops.backends.BACKENDS`.

    Attributes:
        obstacle: why it cannot draw something.
        missing: why it does not run on this machine, with the cure, as the rest of a sentence; None: it does.
        rasterize: from a job, 2D Gaussians, channels and a probe to the channels of pixels [H, W, C] without a
            background, alpha [H, W], and the number of pairs; where that is above the capacity the image is
            incomplete. The probe [N, 2] has no value of its own, or is None; its gradient is that of the centres,
            with absolute values of what each pixel adds.
        count: from a job and 2D Gaussians to the number of pairs that ``rasterize`` needs room for.
        render: from a job, stored Gaussians, a camera, and an offset of the centres [N, 2] or None, to pixels in
            one go; None: it cannot.
        ssim: from two images [..., H, W * C], the number of channels, and which of the two are differentiated, to
            the mean SSIM and the gradients of those; None: it cannot.
        platform: on which it runs, as ``jax.lax.platform_dependent`` names it; None: on all.
        keeps_order: whether it sums in a fixed order on a GPU when the job is deterministic.
    """

    obstacle: Obstacle
    missing: Callable[[], str | None]
    rasterize: Callable[
        [Job, ProjectedGaussians, Float[Array, "n c"], Float[Array, "n 2"] | None],
        tuple[Float[Array, "h w c"], Float[Array, "h w"], Int[Array, ""]],
    ]
    count: Callable[[Job, ProjectedGaussians], Int[Array, ""]]
    render: Callable[[Job, Parameters, Any, Float[Array, "n 2"] | None], RenderBuffers] | None = None
    ssim: Callable[[Array, Array, int, tuple[int, ...]], tuple[Array, list[Array]]] | None = None
    platform: str | None = None
    keeps_order: bool = False
