"""What varies in the renderer is an object: projections, shadings, backends, each of a user's own."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import make_camera, make_gaussians

import splax
from splax.ops import backends
from splax.ops.backends import BACKENDS
from splax.ops.triton import backend

NUM = 40
CAMERA = make_camera(40, 24)
GAUSSIANS = splax.Gaussians(
    **{name: jnp.asarray(value) for name, value in make_gaussians(NUM, sh_degree=1).items()}
)


@dataclasses.dataclass(frozen=True)
class Upside:
    """A projection of one's own: EWA with the image turned by half a turn."""

    params: ClassVar[tuple[str, ...]] = splax.EWA.params

    def __call__(self, gaussians, camera, *, near_plane, far_plane):
        projected = splax.EWA()(gaussians, camera, near_plane=near_plane, far_plane=far_plane)
        size = jnp.array([camera.width, camera.height], projected.means2d.dtype)
        return projected._replace(means2d=size - projected.means2d)


class Tinted(nnx.Module):
    """A shading of one's own: a tint that is learned for each view, and a channel more."""

    def __init__(self, num_views: int):
        self.tints = nnx.Param(jnp.ones((num_views, 3)))

    def __call__(self, gaussians, camera, *, view=None):
        tints = self.tints[...]
        colors = gaussians.colors(camera) * (tints.mean(axis=0) if view is None else tints[view])
        return jnp.concatenate([colors, gaussians.opacities[:, None]], axis=1)


def test_a_projection_of_ones_own_draws(monkeypatch):
    turned = splax.TileRasterizer(8, projection=Upside())(GAUSSIANS, CAMERA)
    plain = splax.TileRasterizer(8)(GAUSSIANS, CAMERA)
    np.testing.assert_allclose(turned.image, plain.image[::-1, ::-1], atol=1e-5)
    assert plain.image.max() > 0.1
    monkeypatch.setattr(backend, "has_cuda", lambda: True)
    rasterizer = splax.TileRasterizer(8, isect_capacity=256, projection=Upside())
    assert "EWA, not by Upside" in rasterizer.explain(GAUSSIANS, CAMERA)


def test_antialiased_is_short_for_a_projection_and_must_not_contradict_it():
    assert splax.TileRasterizer(antialiased=True).projection == splax.EWA(antialiased=True)
    assert splax.TileRasterizer(antialiased=True, projection=splax.EWA(antialiased=True)).antialiased
    with pytest.raises(ValueError, match="contradicts"):
        splax.TileRasterizer(antialiased=True, projection=splax.EWA(eps2d=0.1))
    with pytest.raises(ValueError, match="eps2d must be at least 0"):
        splax.EWA(eps2d=-1)


def test_a_shading_of_ones_own_sees_the_view_and_learns():
    model = splax.SplatModel(GAUSSIANS, splax.TileRasterizer(8, isect_capacity=512), shading=Tinted(3))
    tints = jnp.array([[1, 1, 1], [0.5, 1, 2], [0, 0, 0]], jnp.float32)
    model.shading.tints[...] = tints  # pyright: ignore[reportAttributeAccessIssue]
    plain = splax.TileRasterizer(8, isect_capacity=512)(GAUSSIANS, CAMERA)
    for view in (0, 1, 2, None):
        tint = tints.mean(axis=0) if view is None else tints[view]
        image = model(CAMERA, view=view).image
        np.testing.assert_allclose(image[..., :3], plain.image * tint, atol=1e-5)
        assert image.shape == (24, 40, 4)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    grads = jax.grad(lambda params: nnx.merge(graphdef, params, rest)(CAMERA, view=1).image.sum())(params)
    assert (np.asarray(grads["shading"]["tints"][...]) != 0).any(axis=1).tolist() == [False, True, False]


def test_a_shading_that_is_a_module_trains():
    scene = splax.make_demo_scene(num_train=3, num_test=1, width=32, height=24)
    gaussians = splax.Gaussians.random(60, extent=1.5, center=scene.center, sh_degree=1, rngs=nnx.Rngs(0))
    model = splax.SplatModel(gaussians, splax.TileRasterizer(8), shading=Tinted(3))
    trainer = splax.Trainer(
        model, scene, splax.TrainConfig(steps=10, progress=False), strategy=splax.Strategy()
    )
    trainer.fit(6)
    tints = np.asarray(model.shading.tints[...])  # pyright: ignore[reportAttributeAccessIssue]
    assert (tints != 1).any(axis=1).all() and len({tuple(row) for row in tints}) == 3
    assert trainer.evaluate()["psnr"] > 0


def test_a_backend_is_a_line_in_the_table(monkeypatch):
    calls = []

    def rasterize(settings, projection, channels, probe):
        calls.append(settings)
        return BACKENDS["xla"].rasterize(settings, projection, channels, probe)

    def obstacle(settings, arrays, camera=None):
        return "draws tiles of 8 pixels: pass 8" if settings.tile_grid.tile_size != 8 else None

    mine = dataclasses.replace(BACKENDS["xla"], rasterize=rasterize, obstacle=obstacle)
    monkeypatch.setattr(backends, "BACKENDS", {"mine": mine, **BACKENDS})
    jax.clear_caches()
    drawn = splax.TileRasterizer(8)(GAUSSIANS, CAMERA)
    assert len(calls) == 1 and calls[0].tile_grid.tile_size == 8
    np.testing.assert_array_equal(drawn.image, splax.TileRasterizer(8, "xla")(GAUSSIANS, CAMERA).image)
    splax.TileRasterizer(16)(GAUSSIANS, CAMERA)
    assert len(calls) == 1
    assert (
        splax.TileRasterizer(16).explain(GAUSSIANS, CAMERA).endswith("mine draws tiles of 8 pixels: pass 8.")
    )
    with pytest.raises(ValueError, match="implementation='mine' draws tiles of 8 pixels"):
        splax.TileRasterizer(16, "mine")(GAUSSIANS, CAMERA)


def test_explain_says_what_draws_on_a_machine_without_a_gpu():
    explain = splax.TileRasterizer(8).explain(splax.SplatModel(GAUSSIANS), CAMERA)
    assert explain.startswith("xla_vjp, in separate steps: triton needs an NVIDIA GPU")
    named = splax.TileRasterizer(8, "triton").explain(GAUSSIANS, CAMERA)
    assert named.startswith("triton cannot: it needs an NVIDIA GPU")


def test_a_rasterizer_sized_for_views_has_room_for_all_of_them():
    cameras = [make_camera(40, 24), make_camera(24, 20)]
    rasterizer = splax.TileRasterizer(8, antialiased=True, render_depth=False)
    sized = rasterizer.sized_for(GAUSSIANS, cameras, margin=1)
    most = max(int(rasterizer.count_isects(GAUSSIANS, camera)) for camera in cameras)
    assert sized.isect_capacity is not None and sized.isect_capacity >= most
    assert sized.antialiased and not sized.render_depth and rasterizer.isect_capacity is None
    batch = splax.Camera.stack([CAMERA, CAMERA])
    assert sized.sized_for(GAUSSIANS, batch, margin=1).isect_capacity == sized.isect_capacity
    images = jax.jit(jax.vmap(lambda camera: sized(GAUSSIANS, camera).image))(batch)
    np.testing.assert_allclose(images[1], rasterizer(GAUSSIANS, CAMERA).image, atol=1e-6)
    with pytest.raises(ValueError, match="margin must be at least 1"):
        rasterizer.sized_for(GAUSSIANS, cameras, margin=0.5)
    with pytest.raises(ValueError, match="at least one camera"):
        rasterizer.sized_for(GAUSSIANS, [])
    with pytest.raises(ValueError, match="sized_for"):
        jax.jit(lambda camera: rasterizer(GAUSSIANS, camera).image)(CAMERA)
