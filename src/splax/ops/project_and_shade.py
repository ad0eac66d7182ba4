"""The first half of a rendering in plain JAX: stored Gaussians to projected Gaussians with their channels."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from splax.ops.projection import ProjectedGaussians, finite_rows
from splax.ops.settings import RenderSettings
from splax.ops.types import Parameters


def project_and_shade(
    params: Parameters, camera: Any, colors: Float[Array, "n c"] | None, settings: RenderSettings
) -> tuple[ProjectedGaussians, Float[Array, "n d"]]:
    """Neutralises rows that cannot be drawn, projects the others and colours them.

    Args:
        params: stored Gaussians, N rows.
        camera: the :class:`splax.Camera` that looks at them.
        colors: channels of each Gaussian, [N, C]; None if the settings' shading makes them.
        settings: static settings of the rendering.

    Returns:
        The projected Gaussians, and their channels, [N, D]. Depth is the last channel if it is rendered. Channels
        and opacities are 0 in culled rows, so that no value of a culled row reaches the image.
    """
    params = renderable_only(params)
    projected = settings.projection(
        params, camera, near_plane=settings.near_plane, far_plane=settings.far_plane
    )
    if colors is None:
        assert settings.shading is not None
        colors = settings.shading(params, camera)
    if settings.render_depth:
        colors = jnp.concatenate([colors, projected.depths[:, None]], axis=1)
    opacities = jnp.where(projected.visible, projected.opacities, 0)
    return projected._replace(opacities=opacities), jnp.where(projected.visible[:, None], colors, 0)


def renderable_only(params: Parameters) -> Parameters:
    """Returns Gaussians whose rows can all be computed with: rows that cannot be drawn are dead and harmless.

    Rendering starts from them, so a NaN in one row reaches neither the image nor any gradient.
    """
    valid = renderable_rows(params)
    arrays = [jnp.where(valid.reshape(-1, *[1] * (x.ndim - 1)), x, 0) for x in params[:6]]
    cleaned = Parameters(*arrays, alive=valid, active_sh_degree=params.active_sh_degree)
    identity = jnp.array([1, 0, 0, 0], cleaned.quats.dtype)
    return cleaned._replace(quats=jnp.where(valid[:, None], cleaned.quats, identity))


def renderable_rows(params: Parameters) -> Bool[Array, " n"]:
    """Returns the mask of rows that are alive, finite in every array, and whose quaternion is not zero, [N]."""
    return params.alive & finite_rows(*params[:6]) & (params.quats != 0).any(axis=1)
