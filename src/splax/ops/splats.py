"""The first half of a rendering in plain JAX: stored Gaussians to 2D Gaussians with their channels."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from splax.ops.job import Job
from splax.ops.projection import ProjectedGaussians, finite_rows
from splax.ops.types import Parameters


def make_splats(
    params: Parameters, camera: Any, colors: Float[Array, "n c"] | None, job: Job
) -> tuple[ProjectedGaussians, Float[Array, "n d"]]:
    """Cleans rows, projects, colours.

    Args:
        params: stored Gaussians.
        camera: a :class:`splax.Camera`.
        colors: channels of each Gaussian; None: the job's shading makes them.
        job: settings.

    Returns:
        2D Gaussians, and their channels with depth as the last one if it is rendered; channels and opacities are
        0 in culled rows, so that nothing of these is ever read.
    """
    params = clean(params)
    projected = job.projection(params, camera, near_plane=job.near_plane, far_plane=job.far_plane)
    if colors is None:
        assert job.shading is not None
        colors = job.shading(params, camera)
    if job.render_depth:
        colors = jnp.concatenate([colors, projected.depths[:, None]], axis=1)
    opacities = jnp.where(projected.visible, projected.opacities, 0)
    return projected._replace(opacities=opacities), jnp.where(projected.visible[:, None], colors, 0)


def clean(params: Parameters) -> Parameters:
    """Gaussians whose rows can all be computed with: those that cannot be drawn are dead and neutral.

    Rendering starts from it, so a NaN in one row reaches neither the image nor any gradient.
    """
    valid = renderable_rows(params)
    arrays = [jnp.where(valid.reshape(-1, *[1] * (x.ndim - 1)), x, 0) for x in params[:6]]
    cleaned = Parameters(*arrays, alive=valid, active_sh_degree=params.active_sh_degree)
    identity = jnp.array([1, 0, 0, 0], cleaned.quats.dtype)
    return cleaned._replace(quats=jnp.where(valid[:, None], cleaned.quats, identity))


def renderable_rows(params: Parameters) -> Bool[Array, " n"]:
    """Rows that are alive, finite, and of a rotation that is one, [N]."""
    return params.alive & finite_rows(*params[:6]) & (params.quats != 0).any(axis=1)
