"""From stored Gaussians to pixels in kernels alone, with a backward pass of its own."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from splax.ops.parameters import DrawSettings, Parameters
from splax.ops.triton.forward import draw
from splax.ops.triton.intersection import make_lists
from splax.ops.triton.prepare import Prepared
from splax.ops.triton.project import project, project_gradients
from splax.ops.triton.rasterize import Drawn, draw_and_save, sum_gradients
from splax.ops.triton.tiling import Tiling
from splax.ops.triton.warp import Warp


class Rendered(NamedTuple):
    """One view.

    Attributes:
        channels: colours, and depth if it is rendered, without background, [H, W, 3 or 4].
        alpha: [H, W].
        means2d: centres in pixels, [N, 2].
        radii: half extents in pixels, [N, 2]; 0 where culled.
        num_isects: number of pairs; above the capacity the image is incomplete.
    """

    channels: jax.Array
    alpha: jax.Array
    means2d: jax.Array
    radii: jax.Array
    num_isects: jax.Array


class Job(NamedTuple):
    """What is static in :func:`render`.

    Attributes:
        settings: of the rasterizer.
        tiling: static sizes.
        capacity: room for pairs.
        warp: how kernels run.
        unfused: the same function of the four arrays, step by step: it is differentiated where gradients of the
            camera are wanted, which the kernels do not compute.
    """

    settings: DrawSettings
    tiling: Tiling
    capacity: int
    warp: Warp
    unfused: Callable[..., Rendered]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def render(
    params: Parameters, viewmat: jax.Array, intrinsics: jax.Array, offset: jax.Array | None, job: Job
) -> Rendered:
    """Renders Gaussians in their own colours.

    Args:
        params: the Gaussians.
        viewmat: world-to-camera, [4, 4].
        intrinsics: K in pixels, [3, 3].
        offset: added to the centres, pixels, [N, 2]; None is zero.
        job: the rest.
    """
    prepared, depths, means2d, radii = project(
        params, viewmat, intrinsics, offset, job.settings, job.tiling, job.warp
    )
    lists = make_lists(prepared, depths, job.tiling, job.capacity, job.warp, with_slots=False)
    channels, alpha, _ = draw(lists, prepared.attributes, job.tiling, job.warp, save=False)
    return Rendered(channels, alpha, means2d, radii, lists.num_isects)


class _Saved(NamedTuple):
    """What the backward pass of the kernels needs."""

    params: Parameters
    viewmat: jax.Array
    intrinsics: jax.Array
    prepared: Prepared
    drawn: Drawn


def _render_fwd(params, viewmat, intrinsics, offset, job):
    camera_moves = viewmat.perturbed or intrinsics.perturbed
    args = jax.tree.map(lambda primal: primal.value, (params, viewmat, intrinsics, offset))
    if camera_moves:
        return jax.vjp(job.unfused, *args)
    projected = project(*args, job.settings, job.tiling, job.warp)
    drawn = draw_and_save(projected.prepared, projected.depths, job.tiling, job.capacity, job.warp)
    rendered = Rendered(
        drawn.image, drawn.alpha, projected.means2d, projected.radii, drawn.lists.num_isects
    )
    return rendered, _Saved(*args[:3], projected.prepared, drawn)


def _render_bwd(job, saved, cotangents):
    cotangents = Rendered(*(_instantiate(v) for v in cotangents))
    if not isinstance(saved, _Saved):
        return saved(cotangents)
    sums = sum_gradients(saved.drawn, cotangents.channels, cotangents.alpha, job.tiling, job.warp)
    v_params, v_offset = project_gradients(
        *saved[:4], sums, cotangents.means2d, job.settings, job.tiling, job.warp
    )
    return v_params, None, None, v_offset


def _instantiate(cotangent):
    """Zeros for a zero that was only a symbol."""
    if not isinstance(cotangent, SymbolicZero):
        return cotangent
    if jnp.issubdtype(cotangent.dtype, jnp.floating):
        return jnp.zeros(cotangent.shape, cotangent.dtype)
    return np.zeros(cotangent.shape, jax.dtypes.float0)


render.defvjp(_render_fwd, _render_bwd, symbolic_zeros=True)
