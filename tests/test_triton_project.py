"""The kernels from stored parameters to rows and back, interpreted on a CPU, against the same in plain XLA."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import GAUSSIAN_PARAMS, make_camera, make_gaussians

import splax
from splax.ops.ewa import EWA
from splax.ops.project_and_shade import project_and_shade
from splax.ops.projection import (
    PinholeComponents,
    half_extents,
    is_in_image,
    may_reach_image,
    project_components,
)
from splax.ops.render import render_in_steps
from splax.ops.settings import RenderSettings
from splax.ops.shading import SphericalHarmonics
from splax.ops.spherical_harmonics import SH_C0
from splax.ops.tile_grid import TileGrid
from splax.ops.triton import backend
from splax.ops.triton import render as triton
from splax.ops.triton.binning.pack import form_gradients, pack, quadratic_form
from splax.ops.triton.lanes.warp import LANES, Warp
from splax.ops.triton.pixel_regions import QuadraticForm
from splax.ops.triton.projection.project import PixelSums, project, project_gradients
from splax.ops.types import CompositingInputs, KernelSettings, Parameters

NUM = 64
ROOM = 1_000  # for pairs
SIZE = TileGrid(width=24, height=20, tile_size=8)
CAMERA = make_camera(SIZE.width, SIZE.height)
RENDER_SETTINGS = RenderSettings(
    tile_grid=SIZE,
    projection=EWA(),
    shading=SphericalHarmonics(),
    near_plane=0.01,
    far_plane=1e10,
    render_depth=True,
    absgrad=False,
    deterministic=False,
    isect_capacity=ROOM,
)
KERNEL_SETTINGS = triton.kernel_settings(RENDER_SETTINGS)
INTERPRETED = Warp(interpret=True)
# What is compiled here runs once.
jit_quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make_parameters(sh_degree: int, active_degree: int) -> Parameters:
    """Gaussians of which ten cannot be drawn: not finite, dead, without a rotation, behind the camera, outside."""
    params = make_gaussians(NUM, sh_degree=sh_degree)
    params["log_scales"] -= 0.5
    for row, name in enumerate(GAUSSIAN_PARAMS):
        if params[name].size:
            params[name].reshape(NUM, -1)[row, -1] = (np.nan, np.inf)[row % 2]
    params["quats"][6] = 0
    params["means"][7] = 3 * np.asarray(CAMERA.position)
    params["means"][8, 2] += 6
    # A colour of exactly zero, where max(x, 0) has no derivative, and one below.
    params["sh0"][10:12] = -0.5 / SH_C0
    params["sh0"][11] -= 0.1
    params["shN"][10:12] = 0
    alive = np.arange(NUM) != 9
    params |= {"alive": alive, "active_sh_degree": np.int32(active_degree)}
    return Parameters(**{name: jnp.asarray(value) for name, value in params.items()})


def compositing_inputs(params: Parameters, offset, kernel_settings: KernelSettings):
    """The compositing inputs, radii and depths that the separate steps of the rasterizer make."""
    projection_of_settings = EWA(
        kernel_settings.eps2d, kernel_settings.radius_clip, kernel_settings.antialiased
    )
    settings = RENDER_SETTINGS._replace(
        projection=projection_of_settings, render_depth=kernel_settings.render_depth
    )
    projected, channels = project_and_shade(params, CAMERA, None, settings)
    means2d = projected.means2d if offset is None else projected.means2d + offset
    inputs = CompositingInputs(means2d, projected.conics, projected.opacities, channels)
    return inputs, projected.radii, projected.depths


def rows_with_sums(sums, counts, first):
    """Rows of pairs that add up to these sums, [columns, N]: all of it in the last pair of each Gaussian."""
    last = jnp.where(counts > 0, first + counts - 1, ROOM)
    return jnp.zeros((ROOM, sums.shape[0])).at[last].set(sums.T, mode="drop")


def rows_of(inputs: CompositingInputs):
    """Form and channels of each splat, one array a column."""
    opacities = jnp.where(inputs.opacities > 0, inputs.opacities, 1)
    form = quadratic_form(inputs.means2d[:, 0], inputs.means2d[:, 1], tuple(inputs.conics.T), opacities)
    return [*form, *inputs.channels.T]


@pytest.fixture(
    scope="module",
    params=[(3, 1, KERNEL_SETTINGS), (0, 0, KERNEL_SETTINGS._replace(antialiased=True, render_depth=False))],
    ids=["degree 3, depth", "degree 0, antialiased"],
)
def both(request):
    """What the kernels and the separate steps make of the same Gaussians, forward and backward."""
    sh_degree, active_degree, kernel_settings = request.param
    params = make_parameters(sh_degree, active_degree)
    rng = np.random.default_rng(0)
    offset = jnp.asarray(rng.normal(size=(NUM, 2)), jnp.float32) if sh_degree else None
    width = 6 + 3 + kernel_settings.render_depth
    sums = jnp.asarray(rng.normal(size=(width, NUM)), jnp.float32)
    v_means2d = jnp.asarray(rng.normal(size=(NUM, 2)), jnp.float32)
    v_means2d = v_means2d.at[::2].set(0)

    @jit_quickly
    def fused(params, offset):
        projected = project(params, CAMERA, offset, kernel_settings, SIZE, INTERPRETED)
        counts = projected.packed.counts
        first = jnp.cumsum(counts) - counts
        rows = rows_with_sums(sums, counts, first)
        summed = PixelSums(counts, projected.clamp_grad, (rows,), first, v_means2d)
        grads, v_offset = project_gradients(params, CAMERA, summed, kernel_settings, SIZE, INTERPRETED)
        return projected, (*grads[:6], v_offset)

    @jit_quickly
    def unfused(params, offset):
        inputs, radii, depths = compositing_inputs(params, offset, kernel_settings)
        clean = CompositingInputs(*(jnp.where(jnp.isfinite(x), x, 0) for x in inputs))
        packed = pack(clean, radii, SIZE, INTERPRETED)

        def rows(floats, offset):
            inputs, _, _ = compositing_inputs(Parameters(*floats, *params[6:]), offset, kernel_settings)
            return rows_of(inputs), inputs.means2d

        offset = jnp.zeros((NUM, 2)) if offset is None else offset
        (columns, _), vjp = jax.vjp(rows, params[:6], offset)
        drawn = packed.counts > 0
        v_form = form_gradients(QuadraticForm(*columns[:6]), sums[:6])
        v_columns = [jnp.where(drawn, v, 0) for v in (*v_form, *sums[6:])]
        v_params, v_offset = vjp((v_columns, v_means2d))
        return (packed, depths, inputs.means2d, radii), (*v_params, v_offset)

    return fused(params, offset), unfused(params, offset)


def test_rows_equal_those_of_the_separate_steps(both):
    (
        ((packed, _, depths, means2d, radii), _),
        ((expected, wanted_depths, wanted_means2d, wanted_radii), _),
    ) = both
    visible = np.asarray(wanted_radii > 0).all(axis=1)
    assert 40 < visible.sum() <= NUM - 9
    np.testing.assert_array_equal(np.asarray(radii > 0).all(axis=1), visible)
    np.testing.assert_array_equal(packed.counts, expected.counts)
    np.testing.assert_array_equal(packed.boxes[visible], expected.boxes[visible])
    np.testing.assert_allclose(radii, wanted_radii, rtol=1e-5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(packed.attributes[visible], expected.attributes[visible])
    close(depths[visible], wanted_depths[visible])
    close(means2d[visible], wanted_means2d[visible])


def test_warps_that_see_nothing_write_what_the_separate_steps_do():
    params = make_parameters(0, 0)
    right = np.asarray(CAMERA.viewmat)[0, :3]
    # Half of the rows, which are a warp of their own, to the right of the image.
    means = params.means + 10 * right * (np.arange(NUM) >= LANES)[:, None]
    params = params._replace(means=means)
    projected = project(params, CAMERA, None, KERNEL_SETTINGS, SIZE, INTERPRETED)
    inputs, radii, _ = compositing_inputs(params, None, KERNEL_SETTINGS)
    assert (radii[:LANES] > 0).any() and not (radii[LANES:] > 0).any()
    np.testing.assert_allclose(projected.radii, radii, rtol=1e-5)
    np.testing.assert_allclose(projected.means2d[LANES:], inputs.means2d[LANES:], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(projected.packed.counts == 0, (radii == 0).any(axis=1))
    assert np.isinf(projected.depths[LANES:]).all()


def test_no_gaussian_in_the_image_is_thought_out_of_reach():
    rng = np.random.default_rng(5)
    means = rng.normal(size=(20_000, 3)) * (3, 3, 1) + (0, 0, 2)
    means, quats = jnp.asarray(means[means[:, 2] > 0.02]), rng.normal(size=(4, 20_000))
    num = len(means)
    scales = jnp.asarray(np.exp(rng.uniform(-6, 0, (3, num))))
    turned = list(jnp.asarray(quats / np.linalg.norm(quats, axis=0))[:, :num])
    rows = [[float(value) for value in row] for row in np.eye(4)[:3]]
    pinhole = PinholeComponents(rows, 30.0, 26.0, 11.0, 9.0, SIZE.width, SIZE.height)
    projected = project_components(list(means.T), turned, list(scales), pinhole, 0.3)
    seen = is_in_image(projected, half_extents(projected, 0.999), pinhole, 0.0)
    reaches, center = may_reach_image(list(means.T), scales.max(axis=0), pinhole, 0.3)
    assert (reaches | ~seen).all()
    assert 0.1 < seen.mean() < reaches.mean() < 0.8
    np.testing.assert_array_equal(center, [projected.x, projected.y])


def test_gradients_equal_those_of_the_separate_steps(both):
    ((packed, *_), grads), (_, expected) = both
    for grad, wanted in zip(grads, expected, strict=True):
        if grad.size:
            np.testing.assert_allclose(grad, wanted, rtol=1e-3, atol=1e-4 * float(jnp.abs(wanted).max()))
    # Where there is no cotangent of the centre either.
    hidden = np.flatnonzero(np.asarray(packed.counts) == 0)
    for grad in grads:
        assert not np.asarray(grad)[hidden[hidden % 2 == 0]].any()


def verify_triton_modules(monkeypatch):
    """Has Triton's own verifier look at every kernel that is lowered, which JAX leaves to the GPU's compiler."""
    from jax._src.pallas.triton import lowering

    lower = lowering.lower_jaxpr_to_triton_module

    def lower_and_verify(*args, **kwargs):
        lowered = lower(*args, **kwargs)
        assert lowered.module.operation.verify()
        return lowered

    monkeypatch.setattr(lowering, "lower_jaxpr_to_triton_module", lower_and_verify)


def test_the_kernels_can_be_lowered_for_a_gpu(monkeypatch, abstract_gpu):
    verify_triton_modules(monkeypatch)
    params = make_parameters(3, 3)

    def there_and_back(params, offset, v_channels):
        def draw(floats, offset):
            whole = Parameters(*floats, *params[6:])
            rendered: Any = triton.render(whole, CAMERA, offset, RENDER_SETTINGS, Warp(interpret=False))
            return rendered.channels, rendered.alpha, rendered.means2d

        (_, alpha, _), pull = jax.vjp(draw, params[:6], offset)
        return pull((v_channels, alpha, offset))

    v_channels = jnp.zeros((SIZE.height, SIZE.width, 4))
    traced = jax.jit(there_and_back).trace(params, jnp.zeros((NUM, 2)), v_channels)
    assert "triton" in traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("learned", [(0, 1), (1,)])
def test_gradients_of_the_camera_equal_those_of_the_separate_steps(learned):
    params = make_parameters(0, 0)
    args = (CAMERA.viewmat, CAMERA.K)
    weights = jnp.asarray(np.random.default_rng(3).normal(size=(SIZE.height, SIZE.width, 4)), jnp.float32)

    def loss(rendered):
        return (rendered.channels * weights).sum() + (rendered.means2d * weights[0, 0, :2]).sum()

    def fused(viewmat, intrinsics):
        camera = dataclasses.replace(CAMERA, viewmat=viewmat, K=intrinsics)
        return loss(triton.render(params, camera, None, RENDER_SETTINGS, INTERPRETED))

    def separate(viewmat, intrinsics):
        camera = dataclasses.replace(CAMERA, viewmat=viewmat, K=intrinsics)
        return loss(render_in_steps(params, camera, None, RENDER_SETTINGS, "xla_vjp"))

    gradients = jax.grad(fused, argnums=learned)(*args)
    for gradient, wanted in zip(gradients, jax.grad(separate, argnums=learned)(*args), strict=True):
        np.testing.assert_allclose(gradient, wanted, rtol=1e-3, atol=1e-4 * float(jnp.abs(wanted).max()))


class BrighterModel(splax.SplatModel):
    """Another colour."""

    def colors(self, gaussians, camera):
        return gaussians.colors(camera) + 0.1


class TaggedGaussians(splax.Gaussians):
    """A Param more."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.tags = nnx.Param(jnp.zeros(self.capacity))


def test_a_param_more_does_not_change_how_gaussians_are_drawn(monkeypatch):
    monkeypatch.setattr(backend, "has_cuda", lambda: True)
    params = {name: jnp.asarray(value) for name, value in make_gaussians(8, sh_degree=1).items()}
    gaussians, rasterizer = splax.Gaussians(**params), splax.TileRasterizer(8, isect_capacity=64)
    for base in (gaussians, TaggedGaussians(**params)):
        assert (
            rasterizer.explain(splax.SplatModel(base, rasterizer), CAMERA)
            == "triton, from parameters to pixels."
        )
    explain = functools.partial(rasterizer.explain, camera=CAMERA)
    assert "not by ColorsOfModel" in explain(BrighterModel(gaussians, rasterizer))
    assert "give TileRasterizer an isect_capacity" in splax.TileRasterizer(8).explain(gaussians, CAMERA)
    assert "triton draws tiles of" in splax.TileRasterizer(4, isect_capacity=64).explain(gaussians, CAMERA)
    assert "xla was asked for" in splax.TileRasterizer(8, "xla", 64).explain(gaussians, CAMERA)


def test_what_would_not_be_drawn_cannot_be_overridden():
    with pytest.raises(TypeError, match="projection"):

        class ShiftedRasterizer(splax.TileRasterizer):
            def project(self, gaussians, camera):
                return super().project(gaussians, camera)

    with pytest.raises(TypeError, match="projection"):

        class FainterGaussians(splax.Gaussians):
            @property
            def opacities(self):
                return 0.5 * super().opacities


# A tile of 32 pixels has four rows for each pair, in the backward pass, or adds four times.
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(("tile_size", "absgrad"), [(8, True), (32, False)])
def test_a_model_drawn_by_kernels_alone_looks_and_learns_the_same(
    monkeypatch, tile_size, absgrad, deterministic
):
    camera, offset = make_camera(tile_size, tile_size), jnp.zeros((12, 2))
    gaussians = splax.Gaussians(*(jnp.asarray(value) for value in make_gaussians(12).values()))

    def loss(model, offset):
        output = model(camera, means2d_offset=offset, background=jnp.ones(3))
        return (output.image**2).sum(), output

    def look_and_learn(implementation):
        rasterizer = splax.TileRasterizer(
            tile_size, implementation, 256, absgrad=absgrad, deterministic=deterministic
        )
        model = splax.SplatModel(gaussians, rasterizer)
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        @jit_quickly
        def grads(params, offset):
            return jax.grad(
                lambda params, offset: loss(nnx.merge(graphdef, params, rest), offset), (0, 1), has_aux=True
            )(params, offset)

        grads, output = grads(params, offset)
        return [output.image, output.alpha, output.depth, *jax.tree.leaves(nnx.as_pure(grads))]

    expected = look_and_learn("xla_vjp")
    choose = jax.lax.platform_dependent
    monkeypatch.setattr(backend, "has_cuda", lambda: True)
    monkeypatch.setattr(triton, "Warp", lambda interpret: INTERPRETED)
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *args, cuda, default: choose(*args, cpu=cuda, default=default)
    )
    for value, wanted in zip(look_and_learn(None), expected, strict=True):
        if value.size:
            atol = 1e-4 * float(jnp.abs(wanted).max())
            np.testing.assert_allclose(value, wanted, rtol=1e-3, atol=atol)
