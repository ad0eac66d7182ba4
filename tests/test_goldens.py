"""splax's XLA renderers against an independent one (tests/oracle), forward and backward.

The committed goldens need no torch; how they were made, and what is in them: tests/oracle/README.md.
"""

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import (
    GAUSSIAN_PARAMS,
    GOLDENS,
    assert_close_outside_band,
    assert_gradients_close,
    golden_names,
    load_golden,
)
from jax.typing import DTypeLike

from splax.cameras import Camera
from splax.gaussians import Gaussians
from splax.model import SplatModel
from splax.rasterizer import RenderOutput, TileRasterizer, round_capacity

IMPLEMENTATIONS: tuple[str, ...] = ("xla", "xla_vjp")
INPUTS = (*GAUSSIAN_PARAMS, "colors", "background", "viewmats", "Ks")
OUTPUTS = {"image": "image", "alpha": "alpha", "accumulated_depth": "depth"}
COTANGENTS = {"image": "v_image", "alpha": "v_alpha", "accumulated_depth": "v_depth"}
ATOL = dict.fromkeys(OUTPUTS, 1e-5)


class FeatureGaussians(Gaussians):
    """Gaussians of constant features, any number of channels, in place of spherical harmonics."""

    def __init__(self, *args, features, **kwargs):
        super().__init__(*args, **kwargs)
        self.features = nnx.Param(jnp.asarray(features))

    def colors(self, camera):
        return self.features[...]


def make_model(inputs: dict, rasterizer: TileRasterizer) -> SplatModel:
    geometry = {name: inputs[name] for name in ("means", "quats", "log_scales", "logit_opacities")}
    if "colors" in inputs:
        num = len(inputs["colors"])
        unused = {"sh0": jnp.zeros((num, 1, 3)), "shN": jnp.zeros((num, 0, 3))}
        gaussians = FeatureGaussians(**geometry, **unused, features=inputs["colors"])
    else:
        gaussians = Gaussians(**geometry, sh0=inputs["sh0"], shN=inputs["shN"])
    return SplatModel(gaussians, rasterizer)


def render_view(inputs: dict, view: int, size: tuple[int, int], rasterizer: TileRasterizer) -> RenderOutput:
    width, height = size
    camera = Camera(viewmat=inputs["viewmats"][view], K=inputs["Ks"][view], width=width, height=height)
    return make_model(inputs, rasterizer)(camera, background=inputs["background"])


def inputs_of(golden: dict, dtype: DTypeLike = jnp.float32) -> dict:
    return {name: jnp.asarray(golden[name], dtype) for name in INPUTS if name in golden}


def size_of(golden: dict) -> tuple[int, int]:
    return int(golden["width"]), int(golden["height"])


def gradients_of(
    golden: dict,
    *,
    tile_size: int = 16,
    implementation: str = "xla",
    dtype: DTypeLike = jnp.float32,
) -> dict[str, np.ndarray]:
    """Gradients of the golden's loss with respect to every input."""
    inputs, size = inputs_of(golden, dtype), size_of(golden)
    eager = TileRasterizer(tile_size)
    counts = [render_view(inputs, v, size, eager).num_isects for v in range(len(golden["viewmats"]))]
    cotangents = {name: jnp.asarray(golden[key], dtype) for name, key in COTANGENTS.items()}
    settings = (tile_size, implementation, round_capacity(int(max(counts))))
    return {
        name: np.asarray(grad) for name, grad in loss_gradient(inputs, cotangents, size, settings).items()
    }


@functools.partial(jax.jit, static_argnames=("size", "settings"))
@jax.grad
def loss_gradient(inputs: dict, cotangents: dict, size: tuple[int, int], settings: tuple) -> jax.Array:
    """One program for all goldens of the same shapes."""
    rasterizer = TileRasterizer(*settings)
    total = jnp.zeros((), inputs["means"].dtype)
    for view in range(len(inputs["viewmats"])):
        output = render_view(inputs, view, size, rasterizer)
        for name, cotangent in cotangents.items():
            total += (getattr(output, name) * cotangent[view]).sum()
    return total


def used_entries(name: str, grad: np.ndarray) -> np.ndarray:
    """What splax reads of an input: of K only fx, fy, cx, cy; of viewmat not the last row."""
    if name == "Ks":
        return np.stack([grad[:, 0, 0], grad[:, 1, 1], grad[:, 0, 2], grad[:, 1, 2]])
    return grad[:, :3] if name == "viewmats" else grad


def assert_forward_close(
    golden: dict,
    *,
    tile_size: int,
    atol: dict,
    dtype: DTypeLike = jnp.float32,
    implementation: str = "xla",
) -> None:
    inputs, size = inputs_of(golden, dtype), size_of(golden)
    rasterizer = TileRasterizer(tile_size, implementation)
    for view in range(len(golden["viewmats"])):
        output = render_view(inputs, view, size, rasterizer)
        band = golden["band"][view]
        for name, expected in OUTPUTS.items():
            actual = getattr(output, name)
            assert_close_outside_band(actual, golden[expected][view], atol=atol[name], band=band, name=name)


def assert_backward_close(golden: dict, gradients: dict, **tolerance: float) -> None:
    for name, grad in gradients.items():
        expected = used_entries(name, golden[f"grad_{name}"])
        assert_gradients_close(used_entries(name, grad), expected, name=f"grad {name}", **tolerance)


def culled_rows(golden: dict) -> np.ndarray:
    """Rows with a zero quaternion, a NaN or an infinity, [N]."""
    usable = np.any(golden["quats"] != 0, axis=1)
    for name in GAUSSIAN_PARAMS:
        if name in golden:
            usable &= np.isfinite(golden[name]).reshape(len(usable), -1).all(axis=1)
    return ~usable


def test_goldens_are_small_and_their_bands_thin() -> None:
    assert sum(path.stat().st_size for path in GOLDENS.glob("*.npz")) < 1_000_000
    for name in golden_names():
        golden = load_golden(name)
        assert golden["band"].mean() < 0.02, name
        assert not golden["v_image"][golden["band"]].any(), name


@pytest.mark.parametrize("tile_size", [8, 16, 32])
@pytest.mark.parametrize("name", golden_names())
def test_forward_matches_the_oracle(name: str, tile_size: int) -> None:
    assert_forward_close(load_golden(name), tile_size=tile_size, atol=ATOL)


@pytest.mark.gpu
@pytest.mark.parametrize("tile_size", [8, 16, 32])
@pytest.mark.parametrize("name", golden_names())
def test_forward_of_the_gpu_kernels_matches_the_oracle(name: str, tile_size: int) -> None:
    assert_forward_close(load_golden(name), tile_size=tile_size, atol=ATOL, implementation="triton")


def gradient_cases() -> Iterator:
    """Every golden with either backward; JAX's own is compiled for each shape, so some of it is marked slow."""
    for name, implementation in itertools.product(golden_names(), IMPLEMENTATIONS):
        slow = implementation == "xla" and name in ("early_stop", "one", "sixteen", "three_thousand")
        yield pytest.param(name, implementation, marks=pytest.mark.slow if slow else ())
    for name in golden_names():
        yield pytest.param(name, "triton", marks=pytest.mark.gpu)


@pytest.mark.parametrize(("name", "implementation"), list(gradient_cases()))
def test_gradients_match_the_oracle(name: str, implementation: str) -> None:
    golden = load_golden(name)
    gradients = gradients_of(golden, implementation=implementation)
    assert_backward_close(golden, gradients)
    culled = culled_rows(golden)
    for param in GAUSSIAN_PARAMS:
        if param in gradients:
            assert not gradients[param][culled].any(), f"{param}: a culled row has a gradient"


@pytest.mark.parametrize("tile_size", [8, 32])
@pytest.mark.parametrize("name", ["equal_depths", "frustum_edges", "off_centre"])
def test_gradients_match_the_oracle_at_other_tile_sizes(name: str, tile_size: int) -> None:
    golden = load_golden(name)
    assert_backward_close(golden, gradients_of(golden, tile_size=tile_size, implementation="xla_vjp"))


@pytest.mark.parametrize("name", ["bad_rows", "extreme_scales", "frustum_edges", "opacity_at_clamp"])
def test_float64_matches_the_oracle_to_the_last_stored_digit(name: str) -> None:
    golden = load_golden(name)
    with jax.enable_x64(True):
        assert_forward_close(golden, tile_size=16, atol=dict.fromkeys(OUTPUTS, 5e-7), dtype=jnp.float64)
        gradients = gradients_of(golden, implementation="xla_vjp", dtype=jnp.float64)
    assert_backward_close(golden, gradients, rtol=2e-7, atol=2e-7, max_outliers=0.0)


def test_depth_is_accumulated_depth_over_alpha() -> None:
    golden = load_golden("off_centre")
    output = render_view(inputs_of(golden), 0, size_of(golden), TileRasterizer())
    expected = golden["depth"][0] / np.maximum(golden["alpha"][0], 1e-10)
    seen = golden["alpha"][0] > 0.01
    np.testing.assert_allclose(np.asarray(output.depth)[seen], expected[seen], rtol=1e-4)
    assert not np.asarray(output.depth)[golden["alpha"][0] == 0].any()


@pytest.mark.oracle
@pytest.mark.parametrize("name", golden_names())
def test_the_oracle_still_gives_the_goldens(name: str) -> None:
    for module in ("torch", "gsplat"):
        pytest.importorskip(module, reason="the live oracle needs the `oracle` extra")
    from oracle.render import differentiate_case, render_case

    golden = load_golden(name)
    for key, value in {**render_case(golden), **differentiate_case(golden)}.items():
        atol = 1e-6 * np.abs(golden[key]).max(initial=0)
        np.testing.assert_allclose(value, golden[key], rtol=1e-6, atol=atol, err_msg=key)
