"""What must hold for any rasterizer, whatever its numbers: symmetries, derivatives, and clear refusals.

The numbers themselves are compared with an independent renderer in test_goldens.py.
"""

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import GAUSSIAN_PARAMS, assert_gradients_close, make_camera, make_gaussians
from jax.flatten_util import ravel_pytree
from scipy.spatial.transform import Rotation

import splax
from splax.gaussians import Gaussians
from splax.ops.intersection import intersect_tiles
from splax.ops.xla import compositing, vjp
from splax.rasterizer import round_capacity

IMPLEMENTATIONS: tuple[str, ...] = ("xla", "xla_vjp")
# One size and one buffer for most tests, so that they share compiled programs. No multiple of any tile.
WIDTH, HEIGHT, NUM, CAPACITY = 45, 34, 60, 4096


def rasterizer(tile_size: int = 8, **options) -> splax.TileRasterizer:
    return splax.TileRasterizer(tile_size, **{"isect_capacity": CAPACITY, **options})


def camera(**options) -> splax.Camera:
    return make_camera(WIDTH, HEIGHT, **options)


def gaussians(num: int = NUM, *, seed: int = 0, **options) -> Gaussians:
    params = make_gaussians(num, seed=seed, **{"sh_degree": 1, **options})
    return Gaussians(**{name: jnp.asarray(value) for name, value in params.items()})


def edited(splats: Gaussians, **params) -> Gaussians:
    """A copy with other values of some Params."""
    copy = nnx.clone(splats)
    for name, value in params.items():
        getattr(copy, name).set_value(jnp.asarray(value))
    return copy


def assert_same_picture(actual: splax.RenderOutput, expected: splax.RenderOutput, atol: float = 2e-6) -> None:
    for name in ("image", "alpha", "accumulated_depth"):
        np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), atol=atol, err_msg=name)


# --- symmetries ----------------------------------------------------------------------------------------


def test_the_order_of_the_gaussians_does_not_matter():
    splats = gaussians()
    shuffled = splats.take(np.random.default_rng(0).permutation(NUM))
    assert_same_picture(rasterizer()(shuffled, camera()), rasterizer()(splats, camera()))


def test_moving_world_and_camera_together_changes_nothing():
    splats, view = gaussians(sh_degree=0), camera()
    turn = Rotation.from_rotvec([0.3, -1.1, 0.7])
    shift = np.array([2.0, -1.0, 0.5])
    quats_xyzw = np.roll(np.asarray(splats.quats[...]), -1, axis=1)
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = turn.as_matrix(), shift
    moved = edited(
        splats,
        means=(np.asarray(splats.means[...]) @ turn.as_matrix().T + shift).astype(np.float32),
        quats=np.roll((turn * Rotation.from_quat(quats_xyzw)).as_quat(), 1, axis=1).astype(np.float32),
    )
    viewmat = np.asarray(view.viewmat, np.float64) @ np.linalg.inv(motion)
    moved_view = dataclasses.replace(view, viewmat=jnp.asarray(viewmat, jnp.float32))
    assert_same_picture(rasterizer()(moved, moved_view), rasterizer()(splats, view), atol=5e-5)


def test_scaling_the_world_scales_only_the_depth():
    splats, view = gaussians(sh_degree=0), camera()
    means, log_scales = splats.means[...] * 4, splats.log_scales[...] + np.log(4)
    viewmat = view.viewmat.at[:3, 3].multiply(4)
    scaled = rasterizer()(
        edited(splats, means=means, log_scales=log_scales), dataclasses.replace(view, viewmat=viewmat)
    )
    plain = rasterizer()(splats, view)
    np.testing.assert_allclose(scaled.image, plain.image, atol=1e-5)
    np.testing.assert_allclose(scaled.depth, 4 * plain.depth, rtol=1e-4, atol=1e-4)


def test_quaternions_need_not_be_normalised():
    splats = gaussians()
    factors = jnp.linspace(-3, 5, NUM)[:, None]
    longer = edited(splats, quats=splats.quats[...] * factors)
    assert_same_picture(rasterizer()(longer, camera()), rasterizer()(splats, camera()), atol=1e-5)


def test_the_background_shines_through_what_is_left():
    splats = gaussians()
    black = rasterizer()(splats, camera())
    background = jnp.array([0.2, 0.5, 0.9])
    actual = rasterizer()(splats, camera(), background=background)
    expected = np.asarray(black.image) + (1 - np.asarray(black.alpha))[..., None] * np.asarray(background)
    np.testing.assert_allclose(actual.image, expected, atol=1e-6)
    np.testing.assert_array_equal(actual.alpha, black.alpha)


def test_the_image_is_linear_in_the_colours():
    splats, rng = gaussians(), np.random.default_rng(0)
    first, second = (jnp.asarray(rng.normal(size=(NUM, 3)), jnp.float32) for _ in range(2))
    images = [
        np.asarray(rasterizer()(splats, camera(), colors=colors).image)
        for colors in (first, second, 2 * first - 3 * second)
    ]
    np.testing.assert_allclose(images[2], 2 * images[0] - 3 * images[1], atol=1e-5)


def test_colours_of_one_give_alpha_and_depths_give_depth():
    splats = gaussians()
    depths = (splats.means[...] @ camera().viewmat[2, :3] + camera().viewmat[2, 3])[:, None]
    output = rasterizer()(splats, camera(), colors=jnp.concatenate([jnp.ones((NUM, 2)), depths], axis=1))
    np.testing.assert_allclose(output.image[..., 0], output.alpha, atol=1e-6)
    np.testing.assert_allclose(output.image[..., 2], output.accumulated_depth, atol=1e-5)


def test_the_image_fades_with_the_opacities():
    splats = gaussians()
    alphas = []
    for shift in (0, -2, -4, -20):
        faint = edited(splats, logit_opacities=splats.logit_opacities[...] + shift)
        alphas.append(float(rasterizer()(faint, camera()).alpha.mean()))
    assert alphas[0] > alphas[1] > alphas[2] > alphas[3] == 0


@pytest.mark.parametrize(
    ("width", "height", "tile_sizes"), [(WIDTH, HEIGHT, (8, 4, 16, 32)), (7, 50, (16, 4))]
)
def test_the_tile_size_does_not_change_the_image(width, height, tile_sizes):
    splats, view = gaussians(), make_camera(width, height)
    outputs = [rasterizer(tile_size)(splats, view).check() for tile_size in tile_sizes]
    assert outputs[0].image.shape == (height, width, 3)
    for output in outputs[1:]:
        assert_same_picture(output, outputs[0])


@pytest.mark.parametrize("channels", [1, 5, 17])
def test_channels_are_independent(channels):
    splats = gaussians()
    colors = jnp.asarray(np.random.default_rng(0).random((NUM, channels)), jnp.float32)
    output = rasterizer()(splats, camera(), colors=colors, background=jnp.full(channels, 0.3))
    assert output.image.shape == (HEIGHT, WIDTH, channels)
    three = jnp.tile(colors[:, -1:], (1, 3))
    expected = rasterizer()(splats, camera(), colors=three, background=jnp.full(3, 0.3)).image
    np.testing.assert_allclose(output.image[..., -1], expected[..., 0], atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_colours_may_be_of_another_type_and_depth_is_none_the_less_exact(dtype):
    colors = jnp.asarray(np.random.default_rng(0).uniform(0, 9, size=(NUM, 2)), dtype)
    draw = rasterizer(render_depth=True)
    picture = draw(gaussians(), camera(), colors=colors)
    assert_same_picture(picture, draw(gaussians(), camera(), colors=colors.astype(jnp.float32)), atol=0.0)
    assert picture.image.dtype == picture.depth.dtype == jnp.float32


def test_a_single_gaussian_has_the_shape_of_the_formula():
    """At the principal point, isotropic and facing the camera: exp(-r^2 / 2 sigma^2), by hand."""
    K = jnp.array([[50.0, 0, 22.5], [0, 50.0, 17.5], [0, 0, 1]])
    view = splax.Camera(viewmat=jnp.eye(4), K=K, width=WIDTH, height=HEIGHT)
    opacity, depth, scale = 0.8, 4.0, 0.3
    splat = Gaussians.from_points(np.array([[0, 0, depth]]), np.array([[0.9, 0.5, 0.1]]), opacity=opacity)
    splat.log_scales[...] = jnp.full((1, 3), np.log(scale))
    output = splax.TileRasterizer(8)(splat, view)
    variance = (50 * scale / depth) ** 2 + 0.3
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    expected = opacity * np.exp(-((x - 22.5) ** 2 + (y - 17.5) ** 2) / (2 * variance))
    clear = np.abs(expected * 255 - 1) > 1e-3
    expected = np.where(expected >= 1 / 255, expected, 0)
    np.testing.assert_allclose(np.asarray(output.alpha)[clear], expected[clear], atol=1e-6)
    assert output.visible.tolist() == [True]
    np.testing.assert_allclose(output.depth[17, 22], depth, rtol=1e-5)
    np.testing.assert_allclose(output.image[17, 22] / output.alpha[17, 22], [0.9, 0.5, 0.1], atol=1e-5)


def test_nothing_in_view_is_the_background():
    view = camera(target=(0.8, -9.0, 1.0))  # everything lies behind it
    background = jnp.array([0.1, 0.2, 0.3])
    output = splax.TileRasterizer(8)(gaussians(), view, background=background)
    assert output.num_isects == 0 and not output.overflow and not output.visible.any()
    np.testing.assert_array_equal(output.image, jnp.broadcast_to(background, output.image.shape))
    for array in (output.alpha, output.accumulated_depth, output.depth, output.radii):
        assert not np.asarray(array).any()


def test_dead_rows_are_not_drawn():
    splats = gaussians()
    more = splats.with_capacity(NUM + 30)
    assert_same_picture(rasterizer()(more, camera()), rasterizer()(splats, camera()))
    fewer = nnx.clone(splats)
    fewer.alive[...] = jnp.arange(NUM) % 2 == 0
    faint = edited(splats, logit_opacities=jnp.where(fewer.alive[...], splats.logit_opacities[...], -30))
    assert_same_picture(rasterizer()(fewer, camera()), rasterizer()(faint, camera()))


# --- what cannot be drawn ------------------------------------------------------------------------------


def bad_rows(splats: Gaussians) -> tuple[Gaussians, list[int]]:
    """NaN or infinity in one entry of one row of each Param, and a quaternion that is zero."""
    bad = nnx.clone(splats)
    names = ("means", "quats", "log_scales", "logit_opacities", "sh0", "shN")
    values = (np.nan, np.inf, -np.inf)
    rows = []
    for i, name in enumerate(names):
        param = getattr(bad, name)
        for j, value in enumerate(values):
            row = 3 * i + j
            entry = (row,) + (0,) * (param[...].ndim - 1)
            param[...] = param[...].at[entry].set(value)
            rows.append(row)
    bad.quats[...] = bad.quats[...].at[18].set(0)
    return bad, [*rows, 18]


def test_rows_that_are_not_finite_are_culled():
    bad, rows = bad_rows(gaussians())
    good = np.isin(np.arange(NUM), rows, invert=True)
    without = nnx.clone(gaussians())
    without.alive[...] = jnp.asarray(good)
    output = rasterizer()(bad, camera())
    assert not output.visible[np.array(rows)].any()
    assert_same_picture(output, rasterizer()(without, camera()))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_rows_that_are_not_finite_spread_to_no_gradient(implementation):
    bad, rows = bad_rows(gaussians())
    graphdef, params, rest = nnx.split(bad, nnx.Param, ...)
    cotangent = jnp.asarray(np.random.default_rng(0).normal(size=(HEIGHT, WIDTH, 3)), jnp.float32)

    @jax.jit
    @jax.grad
    def gradients(inputs):
        params, view, background = inputs
        splats = nnx.merge(graphdef, params, rest)
        output = rasterizer(implementation=implementation)(splats, view, background=background)
        return (output.image * cotangent).sum() + output.depth.sum()

    grads, *others = gradients((params, camera(), jnp.zeros(3)))
    for leaf in jax.tree.leaves((grads, others)):
        assert np.isfinite(leaf).all()
    for name, grad in nnx.to_pure_dict(grads).items():
        assert not np.asarray(grad)[rows].any(), name
        assert np.asarray(grad).any(), name


# --- derivatives ---------------------------------------------------------------------------------------


def small_problem(num: int, width: int, height: int, implementation: str) -> tuple[dict, Callable]:
    """Every differentiable input in float64, and a scalar function of all outputs."""
    params = make_gaussians(num, sh_degree=1, scale=0.4, seed=3, dtype=np.float64)
    params["logit_opacities"][0] = 3.0
    view = make_camera(width, height)
    inputs = {
        **params,
        "viewmat": np.asarray(view.viewmat, np.float64),
        "K": np.add(view.K, [[0, 0, 0.7], [0, 1.1, -0.4], [0, 0, 0]], dtype=np.float64),
        "background": np.array([0.2, 0.4, 0.9]),
    }
    rng = np.random.default_rng(1)
    weights = jnp.asarray(rng.normal(size=(height, width, 5)))

    def loss(inputs: dict) -> jax.Array:
        inputs = dict(inputs)
        K, viewmat, background = (inputs.pop(name) for name in ("K", "viewmat", "background"))
        view = splax.Camera(viewmat=viewmat, K=K, width=width, height=height)
        output = splax.TileRasterizer(8, implementation, 64)(Gaussians(**inputs), view, background=background)
        outputs = [output.image, output.alpha[..., None], output.depth[..., None]]
        return (jnp.concatenate(outputs, axis=-1) * weights).sum()

    return jax.tree.map(jnp.asarray, inputs), loss


@pytest.fixture
def small_groups(monkeypatch) -> None:
    """Composites little at once: less to compute in tiny images, and steps that depend on each other."""
    monkeypatch.setattr(compositing, "_GROUP_ELEMENTS", 1)
    monkeypatch.setattr(vjp, "_STEP_ELEMENTS", 1)
    monkeypatch.setattr(vjp, "STEP_SIZE", 4)


def central_difference(function: Callable, x: jax.Array, step: float = 1e-6) -> np.ndarray:
    """Derivative of ``function`` by every entry of ``x``, entries first."""
    columns = []
    for index in np.ndindex(x.shape):
        ahead, behind = (function(x.at[index].add(sign * step)) for sign in (1, -1))
        columns.append((np.asarray(ahead) - np.asarray(behind)) / (2 * step))
    return np.stack(columns).reshape(*x.shape, *columns[0].shape)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_match_finite_differences(implementation, small_groups):
    with jax.enable_x64(True):
        inputs, loss = small_problem(5, 14, 11, implementation)
        grads = jax.jit(jax.grad(loss))(inputs)
        loss = jax.jit(loss)
        for name, grad in grads.items():
            expected = central_difference(lambda x, name=name: loss({**inputs, name: x}), inputs[name])
            size = np.abs(expected).max()
            assert size > 0, name
            np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-6 * size, err_msg=name)


def test_forward_mode_and_second_derivatives(small_groups):
    with jax.enable_x64(True):
        inputs, loss = small_problem(2, 8, 8, "xla")
        flat, unravel = ravel_pytree(inputs)
        gradient = jax.jit(jax.grad(lambda flat: loss(unravel(flat))))
        tangent = jnp.asarray(np.random.default_rng(2).normal(size=flat.shape))
        push = jax.jit(lambda flat, tangent: jax.jvp(lambda x: loss(unravel(x)), (flat,), (tangent,)))
        _, slope = push(flat, tangent)
        np.testing.assert_allclose(slope, gradient(flat) @ tangent, rtol=1e-9)

        hessian = np.asarray(jax.jit(jax.hessian(lambda flat: loss(unravel(flat))))(flat))
        expected = central_difference(gradient, flat)
        np.testing.assert_allclose(hessian, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
        np.testing.assert_allclose(hessian, hessian.T, atol=1e-9 * np.abs(hessian).max())


def test_the_two_backward_passes_agree_on_long_lists():
    """Hundreds of Gaussians a tile, most of them behind the early stop."""
    tile_size, channels = 8, 3
    num, view = 2000, make_camera(64, 48)
    splats = gaussians(num, scale=0.12)
    projection = rasterizer().project(splats, view)
    size = {"width": 64, "height": 48, "tile_size": tile_size}
    lists = np.diff(intersect_tiles(projection, isect_capacity=32_768, **size).tile_offsets)
    assert lists.max() > 256 and (lists > 128).mean() > 0.3 and lists.sum() < 32_768

    rng = np.random.default_rng(0)
    cotangent = jnp.asarray(rng.normal(size=(48, 64, channels + 1)), jnp.float32)
    graphdef, params, rest = nnx.split(splats, nnx.Param, ...)
    colors = jnp.asarray(rng.random((num, channels)), jnp.float32)

    def gradients(implementation):
        draw = splax.TileRasterizer(tile_size, implementation, 32_768)

        def loss(params, colors, view):
            output = draw(nnx.merge(graphdef, params, rest), view, colors=colors)
            pixels = jnp.concatenate([output.image, output.accumulated_depth[..., None]], axis=-1)
            return (pixels * cotangent).sum(), output.alpha

        (params_grad, colors_grad, view_grad), alpha = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(
            params, colors, view
        )
        return {**nnx.to_pure_dict(params_grad), "colors": colors_grad, "viewmat": view_grad.viewmat}, alpha

    plain, alpha = gradients("xla")
    fast, _ = gradients("xla_vjp")
    assert (np.asarray(alpha) > 0.999).mean() > 0.1  # pixels that stopped early
    for name, grad in plain.items():
        # The fast one subtracts running sums, so what lies far behind is lost to rounding.
        assert_gradients_close(fast[name], grad, rtol=2e-3, atol=1e-4, name=name)


def view_loss(implementation: str) -> Callable:
    """Loss and output of one view, with gradients of the Params and the camera."""
    graphdef, _, rest = nnx.split(gaussians(), nnx.Param, ...)
    draw = rasterizer(implementation=implementation)

    def loss(params, view, weights):
        output = draw(nnx.merge(graphdef, params, rest), view)
        return (output.image * weights).sum(), output

    return jax.grad(loss, argnums=(0, 1), has_aux=True)


@pytest.fixture(scope="module")
def three_views() -> dict:
    """Inputs for three cameras, and what a loop over them gives."""
    positions = [(0.8, -3.2, 1.0), (-2.0, -2.5, 0.3), (0.0, 3.0, 2.0)]
    cameras = [camera(position=position) for position in positions]
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(3, HEIGHT, WIDTH, 3)), jnp.float32)
    params = nnx.state(gaussians(), nnx.Param)
    grad = jax.jit(view_loss("xla_vjp"))
    loop = [grad(params, view, weight) for view, weight in zip(cameras, weights, strict=True)]
    return {"inputs": (params, splax.Camera.stack(cameras), weights), "loop": loop}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_vmap_over_cameras_is_a_loop_over_cameras(implementation, three_views):
    batched = jax.jit(jax.vmap(view_loss(implementation), in_axes=(None, 0, 0)))
    grads, outputs = batched(*three_views["inputs"])
    assert outputs.image.shape == (3, HEIGHT, WIDTH, 3)
    assert outputs.depth.shape == (3, HEIGHT, WIDTH) and outputs.visible.shape == (3, NUM)
    assert not outputs.overflow.any() and outputs.check() is outputs
    for i, (expected_grads, expected) in enumerate(three_views["loop"]):
        assert_same_picture(jax.tree.map(lambda x, i=i: x[i], outputs), expected)
        pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True)
        for actual_grad, expected_grad in pairs:
            assert_gradients_close(actual_grad[i], expected_grad, max_outliers=0)


def test_jit_is_the_same_as_eager():
    model = splax.SplatModel(gaussians(), rasterizer())
    jitted = nnx.jit(lambda model, view: model(view))(model, camera())
    assert_same_picture(jitted, model(camera()))
    assert_same_picture(jitted, splax.SplatModel(gaussians(), splax.TileRasterizer(8))(camera()))


def test_the_offset_of_the_centres_moves_the_picture():
    splats, shift = gaussians(), np.array([8.0, 8.0])
    moved = rasterizer()(splats, camera(), means2d_offset=jnp.tile(jnp.asarray(shift, jnp.float32), (NUM, 1)))
    expected = rasterizer()(splats, camera())
    np.testing.assert_allclose(moved.means2d, expected.means2d + shift, rtol=1e-6)
    np.testing.assert_allclose(moved.image[8:, 8:], expected.image[:-8, :-8], atol=1e-5)


def test_antialiasing_keeps_a_shrinking_gaussian_as_bright_as_its_area():
    """Without it a point far below a pixel covers as much as one of a pixel (Yu et al. 2024)."""
    sums = []
    for scale in (0.02, 0.002):
        splat = Gaussians.from_points(np.zeros((1, 3)), opacity=0.5)
        splat.log_scales[...] = jnp.full((1, 3), np.log(scale))
        sums.append(float(splax.TileRasterizer(8, antialiased=True)(splat, camera()).alpha.sum()))
    K, z = np.asarray(camera().K), np.linalg.norm(np.asarray(camera().position))
    sigmas = np.array([0.02, 0.002]) * K[0, 0] / z
    compensation = sigmas**2 / (sigmas**2 + 0.3)
    assert sums[1] / sums[0] <= 1.05 * compensation[1] / compensation[0]


# --- sizes ---------------------------------------------------------------------------------------------


def test_more_tiles_than_16_bits_can_count():
    splats, view = gaussians(20, scale=0.05), make_camera(1200, 900)
    many = splax.TileRasterizer(4)(splats, view)
    assert (1200 // 4) * (900 // 4) > 65_535
    assert_same_picture(many, splax.TileRasterizer(32)(splats, view), atol=5e-6)


def test_count_isects_is_what_rendering_needs():
    splats = gaussians()
    count = int(rasterizer().count_isects(splats, camera()))
    assert rasterizer()(splats, camera()).num_isects == count
    short = splax.TileRasterizer(8, isect_capacity=count - 1)(splats, camera())
    assert short.overflow and short.num_isects == count
    with pytest.raises(ValueError, match=f"{count} intersections but isect_capacity is {count - 1}"):
        short.check()


def test_round_capacity_is_a_coarse_grid():
    sizes = {round_capacity(needed) for needed in range(1, 20_000)}
    assert len(sizes) < 20
    for needed in (1, 1024, 1025, 3000, 10**6, 10**9):
        assert needed <= round_capacity(needed) <= max(1024, 1.25 * needed)
    with pytest.raises(ValueError, match=r"32-bit.*larger tile_size"):
        round_capacity(2**31 - 1)


_LARGE = """
import resource, time
import jax.numpy as jnp, numpy as np, splax
rng = np.random.default_rng(0)
points = rng.uniform(-1, 1, (200_000, 3))
gaussians = splax.Gaussians.from_points(points, rng.random((200_000, 3)))
camera = splax.Camera.look_at((0.8, -3.2, 1.0), (0, 0, 0), fov_x=0.9, width=1920, height=1080)
for _ in range(2):
    started = time.perf_counter()
    output = splax.TileRasterizer(16)(gaussians, camera)
    output.image.block_until_ready()
    print(time.perf_counter() - started, end=" ")
print(int(output.num_isects), bool(jnp.isfinite(output.image).all()))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
def test_memory_is_in_proportion_to_the_intersections():
    """200,000 Gaussians at full HD; 8,160 tiles x 200,000 Gaussians would be 6.5 GB of floats for one array."""
    result = subprocess.run([sys.executable, "-c", _LARGE], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    timings, gigabytes = result.stdout.splitlines()
    print(timings, gigabytes)
    assert timings.endswith("True")
    assert float(gigabytes) < 8


# --- refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_size": 12}, r"tile_size must be one of \(4, 8, 16, 32\).*got 12"),
        ({"isect_capacity": 0}, "isect_capacity must be None or at least 1, got 0"),
        ({"near_plane": 0.0}, "0 < near_plane < far_plane"),
        ({"near_plane": 2.0, "far_plane": 1.0}, "0 < near_plane < far_plane, got 2.0 and 1.0"),
    ],
)
def test_settings_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        splax.TileRasterizer(**options)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match=r"implementation must be one of .*'xla' or None, got 'cuda'"):
        splax.TileRasterizer(implementation="cuda")


def test_colours_and_background_must_fit():
    with pytest.raises(ValueError, match=rf"colors must be \[{NUM}, C\], got shape \({NUM - 1}, 3\)"):
        rasterizer()(gaussians(), camera(), colors=jnp.zeros((NUM - 1, 3)))
    with pytest.raises(ValueError, match=r"background must be \[3\].*got \(4,\)"):
        rasterizer()(gaussians(), camera(), background=jnp.zeros(4))


@pytest.mark.parametrize("implementation", ["xla", "xla_vjp"])
def test_absolute_gradients_add_up_what_each_pixel_pulls(implementation: str):
    gaussians = splax.Gaussians.random(12, extent=1.0, sh_degree=0, rngs=nnx.Rngs(0))
    camera = splax.Camera.look_at((0, -4, 1), (0, 0, 0), fov_x=0.8, width=20, height=12)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(12, 20, 3)), jnp.float32)

    def pixels(offset, absgrad):
        rasterizer = splax.TileRasterizer(16, implementation, 200, absgrad=absgrad)
        return (rasterizer(gaussians, camera, means2d_offset=offset).image * weights).sum(axis=-1)

    zero = jnp.zeros((12, 2))
    of_each_pixel = jax.jacrev(functools.partial(pixels, absgrad=False))(zero)
    gradient = jax.grad(lambda offset: pixels(offset, absgrad=True).sum())(zero)
    np.testing.assert_allclose(gradient, jnp.abs(of_each_pixel).sum(axis=(0, 1)), rtol=1e-4, atol=1e-6)
    # The Gaussians themselves learn as ever.
    means = gaussians.means[...]
    gradients = []
    for absgrad in (False, True):

        def loss(means, absgrad=absgrad):
            moved = splax.Gaussians(means, *(getattr(gaussians, name)[...] for name in GAUSSIAN_PARAMS[1:]))
            rasterizer = splax.TileRasterizer(16, implementation, 200, absgrad=absgrad)
            return (rasterizer(moved, camera, means2d_offset=zero).image * weights).sum()

        gradients.append(jax.grad(loss)(means))
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)


def test_deterministic_refuses_what_adds_in_any_order(monkeypatch):
    gaussians = splax.Gaussians.random(20, extent=1.0, rngs=nnx.Rngs(0))
    camera = splax.Camera.look_at((0, -4, 1), (0, 0, 0), fov_x=0.8, width=20, height=10)
    rasterizer = splax.TileRasterizer(16, "xla", deterministic=True)
    expected = splax.TileRasterizer(16, "xla")(gaussians, camera).image
    np.testing.assert_array_equal(rasterizer(gaussians, camera).image, expected)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match=r"deterministic=True .* implementation='xla'"):
        rasterizer(gaussians, camera)
