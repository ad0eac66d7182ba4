"""Kernels stay within their arrays: a whole frame and its gradients, interpreted, with every access looked at."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from kernel_bounds import watched
from test_triton_project import CAMERA, RENDER_SETTINGS, SIZE, Parameters, jit_quickly, make_parameters

from splax.ops.triton import render as triton
from splax.ops.triton.lanes.warp import LANES, Warp, lanes, load, store

INTERPRETED = Warp(interpret=True)
FILES = (
    "backward",
    "forward",
    "geometry",
    "harmonics",
    "pair_offsets",
    "project",
    "tile_lists",
    "tile_ranges",
)


@pytest.mark.parametrize(
    ("tile_size", "room", "options"),
    [
        (8, 1_000, {"absgrad": True}),
        (16, 50, {}),  # not all 84 pairs fit
        (16, 1_000, {"deterministic": True}),
    ],
    ids=["small tiles", "too little room", "fixed order"],
)
def test_a_frame_and_its_gradients_stay_within_their_arrays(tile_size, room, options):
    params = make_parameters(3, 3)
    tile_grid = SIZE._replace(tile_size=tile_size)
    settings = RENDER_SETTINGS._replace(tile_grid=tile_grid, isect_capacity=room, **options)

    @jit_quickly
    def there_and_back(floats, offset):
        def draw(floats, offset):
            whole = params._replace(**dict(zip(Parameters._fields, floats, strict=False)))
            rendered: Any = triton.render(whole, CAMERA, offset, settings, INTERPRETED)
            return (rendered.channels, rendered.alpha, rendered.means2d), rendered.num_isects

        (drawn, pull, num_isects) = jax.vjp(draw, floats, offset, has_aux=True)
        return num_isects, pull(jax.tree.map(jnp.ones_like, drawn))

    with watched() as accesses:
        num_isects, grads = there_and_back(params[:6], jnp.zeros_like(params.means[:, :2]))
        jax.block_until_ready(grads)
    assert not accesses.outside, accesses.outside
    assert (int(num_isects) > room) == (room == 50)
    seen = {place.split(".py")[0] for place in accesses.places}
    assert seen >= {*FILES, "row_io" if options.get("deterministic") else "atomic_sums"}


@pytest.mark.parametrize("wrong", ["load", "store"])
def test_an_access_outside_is_seen(wrong):
    def kernel(source, out):
        load(source, lanes() + (1 if wrong == "load" else 0), lanes() < 31 if wrong == "store" else None)
        store(out, lanes() - (1 if wrong == "store" else 0), lanes())
        store(out, lanes() + 1, lanes(), lanes() < 31)  # the last lane, which would be outside, is off

    with watched() as accesses:
        shape = jax.ShapeDtypeStruct((LANES,), jnp.int32)
        out = INTERPRETED.launch("wrong", kernel, (1,), shape, jnp.zeros(LANES))
        jax.block_until_ready(out)
    (place,) = accesses.outside
    assert place.endswith("1 to 32 of 32" if wrong == "load" else "-1 to 30 of 32")
