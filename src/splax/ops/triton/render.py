"""From stored Gaussians to pixels in kernels alone, with a backward pass of its own."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from splax.ops.parameters import DrawSettings, Parameters, Rendered
from splax.ops.triton.forward import draw
from splax.ops.triton.intersection import make_lists
from splax.ops.triton.prepare import Prepared
from splax.ops.triton.project import project, project_gradients
from splax.ops.triton.rasterize import Drawn, draw_and_save, sum_gradients
from splax.ops.triton.tiling import Tiling
from splax.ops.triton.warp import Warp


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
    params, viewmat, intrinsics, offset = args
    prepared, depths, means2d, radii = project(
        params, viewmat, intrinsics, offset, job.settings, job.tiling, job.warp
    )
    drawn = draw_and_save(prepared, depths, job.tiling, job.capacity, job.warp)
    rendered = Rendered(drawn.image, drawn.alpha, means2d, radii, drawn.lists.num_isects)
    return rendered, _Saved(params, viewmat, intrinsics, prepared, drawn)


def _render_bwd(job, saved, cotangents):
    cotangents = Rendered(*(_instantiate(v) for v in cotangents))
    if not isinstance(saved, _Saved):
        return saved(cotangents)
    params, viewmat, intrinsics, prepared, drawn = saved
    sums = sum_gradients(drawn, cotangents.channels, cotangents.alpha, job.tiling, job.warp)
    v_params, v_offset = project_gradients(
        params, viewmat, intrinsics, prepared, sums, cotangents.means2d, job.settings, job.tiling, job.warp
    )
    return v_params, None, None, v_offset


def _instantiate(cotangent: Any) -> Any:
    """Zeros for a zero that was only a symbol."""
    if not isinstance(cotangent, SymbolicZero):
        return cotangent
    aval: Any = cotangent.aval
    if jnp.issubdtype(aval.dtype, jnp.floating):
        return jnp.zeros(aval.shape, aval.dtype)
    return np.zeros(aval.shape, jax.dtypes.float0)


render.defvjp(_render_fwd, _render_bwd, symbolic_zeros=True)
