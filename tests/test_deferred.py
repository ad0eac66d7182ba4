"""Functions that are traced where they are compiled do what they do elsewhere, and only there."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_camera, make_gaussians

import splax
from splax.ops import backends, render
from splax.ops.jax_internals.deferred_tracing import deferred
from splax.ops.triton import backend


class Line(NamedTuple):
    """A tree with an integer and a hole."""

    slope: Any
    times: Any
    hole: None = None


def on_line(line: Line, x):
    """Floats, and an integer."""
    return {"y": line.slope * x**2 * line.times, "floor": jnp.floor(x).astype(jnp.int32)}


SHAPES = {"y": jax.ShapeDtypeStruct((3,), jnp.float32), "floor": jax.ShapeDtypeStruct((3,), jnp.int32)}
LATER = deferred(on_line, SHAPES)
LINE, X = Line(jnp.float32(1.5), jnp.int32(2)), jnp.array([0.5, -1.0, 2.0])


def assert_same(found, expected, rtol=1e-6, atol=0.0):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), found, expected)


@pytest.mark.parametrize("outer", [lambda f: f, jax.jit, jax.checkpoint])
def test_values_and_gradients_are_those_of_the_function(outer):
    def gradients(function):
        def total(slope, x):
            return (function(Line(slope, LINE.times), x)["y"] * jnp.arange(3.0)).sum()

        return outer(jax.grad(total, (0, 1)))(LINE.slope, X)

    assert_same(outer(LATER)(LINE, X), on_line(LINE, X))
    assert_same(gradients(LATER), gradients(on_line))


@pytest.mark.parametrize("axes", [(None, 0), (Line(0, None, None), None), (Line(0, 0, None), 1)])
def test_it_maps(axes):
    xs = jnp.stack([X, 2 * X], axis=axes[1] or 0) if axes[1] is not None else X
    slopes = jnp.array([1.0, -2.0]) if axes[0] is not None else LINE.slope
    times = jnp.array([2, 5]) if axes[0] is not None and axes[0].times == 0 else LINE.times

    def mapped(function):
        def square(slope, times, x):
            return (function(Line(slope, times), x)["y"] ** 2).sum()

        slope_axis, times_axis = (None, None) if axes[0] is None else axes[0][:2]
        gradients = jax.vmap(jax.grad(square, (0, 2)), (slope_axis, times_axis, axes[1]))(slopes, times, xs)
        return jax.jit(jax.vmap(function, axes))(Line(slopes, times), xs), gradients

    assert_same(mapped(LATER), mapped(on_line))


def test_it_maps_over_two_axes_and_runs_in_a_loop():
    xs = X * jnp.arange(1.0, 5.0).reshape(2, 2, 1)
    twice = jax.vmap(jax.vmap(LATER, (None, 0)), (None, 0))
    assert_same(twice(LINE, xs)["y"], on_line(LINE, xs)["y"])

    def total(slope):
        return jax.lax.scan(lambda sum, x: (sum + LATER(Line(slope, 2), x)["y"].sum(), None), 0.0, xs[0])[0]

    assert_same(jax.grad(total)(LINE.slope), 2 * (xs[0] ** 2).sum())


def test_it_is_traced_where_it_is_compiled_and_nowhere_else():
    traces = []

    def traced(x):
        traces.append(x)
        return 2 * x

    def choose(x, **branches):
        return jax.lax.platform_dependent(x, **branches).sum()

    later = deferred(traced, jax.ShapeDtypeStruct((3,), jnp.float32))
    elsewhere = jax.jit(jax.grad(functools.partial(choose, cpu=jnp.sin, default=later)))
    assert_same(elsewhere(X), jnp.cos(X))
    assert not traces
    here = jax.jit(jax.grad(functools.partial(choose, cuda=jnp.sin, default=later)))
    assert_same(here(X), jnp.full(3, 2.0))
    assert traces


def test_wrong_shapes_are_told_where_both_branches_are_known():
    later = deferred(lambda x: 2 * x, jax.ShapeDtypeStruct((4,), jnp.float32))
    with pytest.raises(TypeError, match="equal output types"):
        jax.jit(lambda x: jax.lax.platform_dependent(x, cuda=jnp.sin, default=later))(X)


# --- where the machine has a GPU, what is compiled for its CPU ---------------------------------------------------


def draw_and_learn(implementation, *, own_colors: bool):
    """Image, alpha, pairs and gradients of a view."""
    camera = make_camera(40, 24)
    means, *others = (jnp.asarray(value) for value in make_gaussians(30, sh_degree=1).values())
    rasterizer = splax.TileRasterizer(8, implementation, 1024, render_depth=True)
    colors = None if own_colors else jnp.linspace(0, 1, 30 * 5).reshape(30, 5)

    def total(means, offset, background):
        gaussians = splax.Gaussians(means, *others)
        output = rasterizer(gaussians, camera, colors=colors, background=background, means2d_offset=offset)
        return (output.image**2).sum() + output.depth.sum(), (output.image, output.alpha, output.num_isects)

    background = jnp.ones(3 if own_colors else 5)
    draw = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))
    return draw(means, jnp.zeros((30, 2)), background)


@pytest.mark.parametrize("own_colors", [True, False])
def test_the_cpu_of_a_machine_with_a_gpu_draws_as_any_cpu(monkeypatch, own_colors):
    expected = draw_and_learn("xla_vjp", own_colors=own_colors)
    monkeypatch.setattr(backend, "has_cuda", lambda: True)
    assert_same(draw_and_learn(None, own_colors=own_colors), expected, rtol=1e-5, atol=5e-5)


def test_what_is_compiled_for_a_gpu_is_not_traced_for_a_cpu(monkeypatch, abstract_gpu):
    def fail(*_, **__):
        raise AssertionError("the path of other platforms was traced")

    monkeypatch.setattr(backend, "has_cuda", lambda: True)
    monkeypatch.setattr(render, "render_in_steps", fail)
    for name in ("xla", "xla_vjp"):
        plain = dataclasses.replace(backends.BACKENDS[name], rasterize=fail)
        monkeypatch.setitem(backends.BACKENDS, name, plain)
    gaussians = splax.Gaussians(*(jnp.asarray(value) for value in make_gaussians(10).values()))
    draw = splax.TileRasterizer(8, isect_capacity=256)

    def images(camera):
        return draw(gaussians, camera).image, draw(gaussians, camera, colors=jnp.ones((10, 2))).image

    camera = make_camera(8, 8)
    text = jax.jit(images).trace(camera).lower(lowering_platforms=("cuda",)).as_text()
    assert "triton" in text
    with pytest.raises(AssertionError, match="other platforms"):
        jax.jit(images)(camera)
