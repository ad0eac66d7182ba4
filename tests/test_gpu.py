"""The same code on an NVIDIA GPU: against the CPU's results, which the other tests hold against the oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import splax
from splax.losses.ssim import mean_ssim
from splax.ops.triton.binning.depth_sort import sort_by_depth
from splax.ops.triton.lanes.warp import Warp
from splax.training.recovery.checkpoints import Checkpoints
from splax.training.refiner import split_fields

pytestmark = pytest.mark.gpu


def on(platform: str):
    """Where JAX computes within this context."""
    return jax.default_device(jax.devices(platform)[0])


def make_model(implementation, tile_size: int = 16) -> splax.SplatModel:
    gaussians = splax.Gaussians.random(2_000, extent=1.5, rngs=nnx.Rngs(0))
    key = jax.random.key(1)
    gaussians.quats[...] = jax.random.normal(key, gaussians.quats.shape)
    gaussians.log_scales[...] = gaussians.log_scales[...] - 0.5 + 0.3 * jax.random.normal(key, (2_000, 3))
    return splax.SplatModel(gaussians, splax.TileRasterizer(tile_size, implementation))


def render_and_grads(platform, implementation, tile_size: int = 16):
    with on(platform):
        model = make_model(implementation, tile_size)
        camera = splax.Camera.look_at((0, -4, 1), (0, 0, 0), fov_x=0.8, width=75, height=50)
        weights = jnp.asarray(np.random.default_rng(0).normal(size=(50, 75, 3)), jnp.float32)

        def loss(model, camera):
            return (model(camera).image * weights).sum()

        image = model(camera).image
        grads = nnx.grad(loss, argnums=(0, 1))(model, camera)
        return np.asarray(image), [np.asarray(x) for x in jax.tree.leaves(nnx.as_pure(grads))]


@pytest.mark.parametrize("implementation", ["xla", "xla_vjp", "triton", None])
@pytest.mark.parametrize("tile_size", [8, 16, 32])
def test_image_and_gradients_equal_the_cpus(implementation, tile_size):
    image, grads = render_and_grads("gpu", implementation, tile_size)
    on_cpu = None if implementation == "triton" else implementation
    expected, expected_grads = render_and_grads("cpu", on_cpu, tile_size)
    # A pixel beside a threshold may fall on either side of it.
    assert (np.abs(image - expected) > 1e-5).mean() < 1e-3
    for grad, wanted in zip(grads, expected_grads, strict=True):
        far = np.abs(grad - wanted) > 1e-3 * np.abs(wanted) + 1e-4 * np.abs(wanted).max()
        assert far.mean() < 1e-3


@pytest.mark.parametrize("num", [1, 1000, 300_000, 3_000_000])
@pytest.mark.parametrize("part", [1, 0.2])
def test_what_is_drawn_is_sorted_by_depth(num, part):
    """Rows of a batch of two views, as the interpreted kernels sort them in test_triton_depth_sort.py."""
    rng = np.random.default_rng(num)
    counts = rng.integers(1, 9, (2, num)) * (rng.uniform(size=(2, num)) < 0.4)
    depths = np.exp(rng.uniform(-7, 20, (2, num))).astype(np.float32)
    depths[rng.uniform(size=(2, num)) < 0.3] = 1.5
    room = max(int(part * num), 1)
    warp = Warp(interpret=False)
    sort = jax.jit(jax.vmap(lambda counts, depths: sort_by_depth(counts, depths, room, warp)))
    ranks = sort(jnp.asarray(counts, jnp.int32), jnp.asarray(depths))
    for view in range(2):
        drawn = np.flatnonzero(counts[view])[:room]
        assert int(ranks.num[view, 0]) == len(drawn)
        wanted = drawn[np.argsort(depths[view][drawn], kind="stable")]
        np.testing.assert_array_equal(ranks.rows[view][: len(drawn)], wanted)


CAMERA = splax.Camera.look_at((0, -4, 1), (0, 0, 0), fov_x=0.8, width=75, height=50)


def assert_gradients_close(gradients, expected):
    for grad, wanted in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        far = np.abs(grad - wanted) > 1e-3 * np.abs(wanted) + 1e-4 * np.abs(wanted).max()
        assert far.mean() < 1e-3


@pytest.mark.parametrize("num_channels", [1, 4, 9, 32, 70])
@pytest.mark.parametrize("tile_size", [8, 16, 32])
def test_any_number_of_channels(num_channels, tile_size):
    rng = np.random.default_rng(num_channels)
    colors = rng.uniform(size=(2_000, num_channels)).astype(np.float32)
    v_image = rng.normal(size=(50, 75, num_channels)).astype(np.float32)
    v_alpha = rng.normal(size=(50, 75)).astype(np.float32)

    def objective(colors, background, implementation):
        model = make_model(implementation, tile_size)
        out = model.rasterizer(model.gaussians, CAMERA, colors=colors, background=background)
        return (out.image * v_image).sum() + ((out.alpha + out.accumulated_depth) * v_alpha).sum(), out.image

    background = np.linspace(0, 1, num_channels, dtype=np.float32)
    grad = jax.grad(objective, argnums=(0, 1), has_aux=True)
    gradients, image = jax.device_get(grad(colors, background, "triton"))
    with on("cpu"):
        expected, expected_image = jax.device_get(grad(colors, background, "xla_vjp"))
    assert (np.abs(image - expected_image) > 1e-5).mean() < 1e-3
    assert_gradients_close(gradients, expected)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_colours_of_another_type(dtype):
    colors = jnp.asarray(np.random.default_rng(0).uniform(0, 9, size=(2_000, 5)), dtype)
    model = make_model(None, 16)
    image, expected = (
        model.rasterizer(model.gaussians, CAMERA, colors=colors.astype(each)).image
        for each in (dtype, jnp.float32)
    )
    assert image.dtype == jnp.float32 and (image == expected).all()


@pytest.mark.parametrize(("num", "sh_degree"), [(1, 0), (40, 1), (2_000, 2), (200_000, 3)])
def test_scenes_of_any_size_and_degree(num, sh_degree):
    rng = np.random.default_rng(num)
    shapes = {"means": (3,), "quats": (4,), "log_scales": (3,), "logit_opacities": (), "sh0": (1, 3)}
    shapes["shN"] = ((sh_degree + 1) ** 2 - 1, 3)
    arrays = {name: rng.normal(size=(num, *shape)).astype(np.float32) for name, shape in shapes.items()}
    arrays["log_scales"] = 0.4 * arrays["log_scales"] - (2 if num < 10_000 else 4)
    arrays["shN"] *= 0.1
    weights = rng.normal(size=(50, 75, 3)).astype(np.float32)

    def draw(platform, implementation):
        def objective(gaussians):
            image = splax.TileRasterizer(16, implementation)(gaussians, CAMERA).image
            return (image * weights).sum(), image

        with on(platform):
            gaussians = splax.Gaussians(**{name: jnp.asarray(x) for name, x in arrays.items()})
            gradients, image = nnx.grad(objective, has_aux=True)(gaussians)
            return np.asarray(image), jax.device_get(jax.tree.leaves(nnx.as_pure(gradients)))

    (image, gradients), (expected_image, expected) = draw("gpu", None), draw("cpu", "xla_vjp")
    assert expected_image.any()
    assert (np.abs(image - expected_image) > 1e-5).mean() < 1e-3
    assert_gradients_close([x for x in gradients if x.size], [x for x in expected if x.size])


def test_loops_of_steps_that_recompute_and_reuse_their_memory():
    """Descent in a scan, under jit with the Params donated, each step's rendering recomputed (remat)."""

    def descend(platform, implementation):
        with on(platform):
            state, view = jitted_view(implementation)
            params, rest = nnx.filter_state(state, nnx.Param), nnx.filter_state(state, nnx.Not(nnx.Param))

            @jax.checkpoint
            def loss(params):
                return ((view(nnx.merge_state(params, rest), CAMERA).image - 0.5) ** 2).mean()

            def step(params, _):
                value, grads = jax.value_and_grad(loss)(params)
                return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

            run = jax.jit(lambda params: jax.lax.scan(step, params, length=5), donate_argnums=0)
            params, losses = run(jax.tree.map(jnp.copy, params))
            return jax.device_get((params, losses))

    (params, losses), (expected, expected_losses) = descend("gpu", None), descend("cpu", "xla_vjp")
    assert (np.diff(losses) < 0).all()
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    for param, wanted in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        assert (np.abs(param - wanted) > 1e-4 + 1e-4 * np.abs(wanted)).mean() < 1e-3


def jitted_view(implementation, isect_capacity=20_000, deterministic=False):
    model = make_model(implementation)
    model.rasterizer.isect_capacity, model.rasterizer.deterministic = isect_capacity, deterministic
    graphdef, state = nnx.split(model)
    return state, lambda state, camera: nnx.merge(graphdef, state)(camera)


def test_a_batch_of_cameras():
    state, view = jitted_view(None)
    cameras = [
        splax.Camera.look_at((x, -4, 1), (0, 0, 0), fov_x=0.8, width=75, height=50) for x in (-1, 0, 1, 2)
    ]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cameras)

    def objective(state):
        return (jax.vmap(lambda camera: view(state, camera).image)(batch) ** 2).sum()

    def objective_one_by_one(state):
        return sum((view(state, camera).image ** 2).sum() for camera in cameras)

    images = jax.jit(jax.vmap(lambda camera: view(state, camera).image))(batch)
    for image, camera in zip(images, cameras, strict=True):
        np.testing.assert_allclose(image, view(state, camera).image, atol=1e-5)
    params = jax.tree.map(lambda x: x, nnx.filter_state(state, nnx.Param))
    rest = nnx.filter_state(state, nnx.Not(nnx.Param))
    gradients = jax.jit(jax.grad(lambda p: objective(nnx.merge_state(p, rest))))(params)
    expected = jax.jit(jax.grad(lambda p: objective_one_by_one(nnx.merge_state(p, rest))))(params)
    assert_gradients_close(gradients, expected)


def test_a_batch_of_batches_of_cameras():
    state, view = jitted_view(None)
    cameras = [
        [
            splax.Camera.look_at((x, -4, z), (0, 0, 0), fov_x=0.8, width=75, height=50)
            for x in (-1.0, 0.0, 1.0)
        ]
        for z in (0.5, 1.5)
    ]
    rows = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *row) for row in cameras]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    params, rest = nnx.filter_state(state, nnx.Param), nnx.filter_state(state, nnx.Not(nnx.Param))

    def grads(params, camera):
        return jax.grad(lambda p: (view(nnx.merge_state(p, rest), camera).image ** 2).sum())(params)

    of_all = jax.jit(jax.vmap(jax.vmap(grads, (None, 0)), (None, 0)))(params, batch)
    alone = jax.jit(grads)
    for i, row in enumerate(cameras):
        for j, camera in enumerate(row):
            assert_gradients_close(jax.tree.map(lambda x: x[i, j], of_all), alone(params, camera))  # noqa: B023


def test_the_same_bits_in_every_run():
    model = make_model("xla")
    model.rasterizer.deterministic = True
    with pytest.raises(ValueError, match="deterministic=True"):
        model(CAMERA)
    state, view = jitted_view("triton", deterministic=True)
    params, rest = nnx.filter_state(state, nnx.Param), nnx.filter_state(state, nnx.Not(nnx.Param))
    grad = jax.jit(jax.value_and_grad(lambda p: (view(nnx.merge_state(p, rest), CAMERA).image ** 2).sum()))
    first, again = (jax.device_get(grad(params)) for _ in range(2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_overflow_is_reported():
    state, view = jitted_view("triton", isect_capacity=1_000)
    out = jax.jit(view)(state, CAMERA)
    assert bool(out.overflow) and int(out.num_isects) > 1_000
    assert np.isfinite(np.asarray(out.image)).all()
    with pytest.raises(ValueError, match="isect_capacity"):
        out.check()


def test_nothing_visible_and_rows_that_are_not_finite():
    model = make_model("triton")
    expected = np.asarray(model(CAMERA).image)
    bad = model.gaussians.with_capacity(2_003)
    bad.alive[...] = jnp.ones(2_003, bool)
    bad.quats[...] = bad.quats[...].at[2_000:, 0].set(1)
    bad.means[...] = bad.means[...].at[2_000].set(jnp.nan)
    bad.log_scales[...] = bad.log_scales[...].at[2_001].set(jnp.inf)
    bad.shN[...] = bad.shN[...].at[2_002].set(jnp.nan)
    np.testing.assert_allclose(model.rasterizer(bad, CAMERA).image, expected, atol=1e-6)
    away = splax.Camera.look_at((0, -4, 1), (0, -8, 0), fov_x=0.8, width=75, height=50)
    assert float(jnp.abs(model(away).image).max()) == 0


def test_one_tile_that_holds_very_many():
    num = 100_000
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.1, 0.1, (num, 3)).astype(np.float32)
    colors = rng.uniform(size=(num, 3)).astype(np.float32)

    def draw(platform, implementation):
        def objective(gaussians):
            camera = splax.Camera.look_at((0, -4, 0), (0, 0, 0), fov_x=0.3, width=16, height=16)
            image = splax.TileRasterizer(16, implementation)(gaussians, camera).image
            return (image**2).sum(), image

        with on(platform):
            gaussians = splax.Gaussians.from_points(points, colors, sh_degree=0, opacity=0.01)
            gradients, image = nnx.grad(objective, has_aux=True)(gaussians)
            return np.asarray(image), jax.device_get(jax.tree.leaves(nnx.as_pure(gradients)))

    (image, gradients), (expected_image, expected) = draw("gpu", "triton"), draw("cpu", "xla_vjp")
    np.testing.assert_allclose(image, expected_image, atol=2e-4)
    for grad, wanted in zip(gradients, expected, strict=True):
        assert np.linalg.norm(grad - wanted) <= 2e-3 * np.linalg.norm(wanted) + 1e-8


def test_more_than_65535_tiles():
    def draw(platform, implementation):
        with on(platform):
            camera = splax.Camera.look_at((0, -4, 1), (0, 0, 0), fov_x=0.8, width=2_560, height=2_048)
            return np.asarray(make_model(implementation, 8)(camera).image)

    assert (np.abs(draw("gpu", "triton") - draw("cpu", "xla_vjp")) > 1e-5).mean() < 1e-3


def test_an_image_of_8192_x_4096():
    def draw(platform, implementation):
        with on(platform):
            camera = splax.Camera.look_at((0, -4, 1), (0, 0, 0), fov_x=0.8, width=8_192, height=4_096)
            return np.asarray(make_model(implementation)(camera).image)

    assert (np.abs(draw("gpu", None) - draw("cpu", "xla_vjp")) > 1e-5).mean() < 1e-3


def draw_and_differentiate(platform, implementation, isect_capacity, tile_size, absgrad, deterministic=False):
    """Image, and gradients of the Params and the projected centres: all that training needs."""
    with on(platform):
        model = make_model(implementation, tile_size)
        model.rasterizer.isect_capacity, model.rasterizer.absgrad = isect_capacity, absgrad
        model.rasterizer.deterministic = deterministic
        # Rows that cannot be drawn: not finite, dead, without a rotation, behind the camera.
        gaussians = model.gaussians
        for row, name in enumerate(("means", "quats", "log_scales", "logit_opacities", "sh0", "shN")):
            param = getattr(gaussians, name)
            param[...] = param[...].at[(row,) + (0,) * (param.ndim - 1)].set(jnp.nan)
        gaussians.shN[...] = gaussians.shN[...] + 0.1 * jax.random.normal(
            jax.random.key(2), gaussians.shN.shape
        )
        gaussians.alive[...] = gaussians.alive[...].at[6].set(False)
        gaussians.quats[...] = gaussians.quats[...].at[7].set(0)
        gaussians.means[...] = gaussians.means[...].at[8].set(jnp.array([0.0, -9.0, 1.0]))
        gaussians.active_sh_degree[...] = jnp.asarray(2)
        weights = jnp.asarray(np.random.default_rng(0).normal(size=(50, 75, 3)), jnp.float32)

        @nnx.jit
        def grads(model, offset):
            def loss(model, offset):
                output = model(CAMERA, means2d_offset=offset, background=jnp.ones(3))
                return (output.image * weights).sum() + (output.depth * weights[..., 0]).sum(), output.image

            return nnx.grad(loss, argnums=(0, 1), has_aux=True)(model, offset)

        grads, image = grads(model, jnp.zeros((2_000, 2)))
        return np.asarray(image), [np.asarray(x) for x in jax.tree.leaves(nnx.as_pure(grads))]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(("tile_size", "absgrad"), [(8, False), (16, False), (16, True), (32, False)])
def test_kernels_alone_give_the_image_and_gradients_of_separate_steps(tile_size, absgrad, deterministic):
    image, grads = draw_and_differentiate("gpu", None, 100_000, tile_size, absgrad, deterministic)
    expected, expected_grads = draw_and_differentiate("cpu", "xla_vjp", 100_000, tile_size, absgrad)
    assert (np.abs(image - expected) > 1e-4).mean() < 1e-3
    for grad in grads:
        assert np.isfinite(grad).all()
        assert not grad[:9].any()
    assert_gradients_close(grads, expected_grads)


@pytest.mark.parametrize("shape", [(11, 11, 3), (211, 130, 3), (2, 40, 50, 3), (70, 60, 1)])
def test_ssim_and_its_gradients_are_those_of_the_metric(shape):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.random(shape), jnp.float32)
    target = jnp.clip(image + jnp.asarray(rng.normal(scale=0.1, size=shape), jnp.float32), 0, 1)
    value, grads = jax.value_and_grad(lambda x, y: mean_ssim(x, y).sum(), argnums=(0, 1))(image, target)
    with on("cpu"):
        args = [jnp.asarray(np.asarray(x)) for x in (image, target)]
        expected, others = jax.value_and_grad(lambda x, y: splax.ssim(x, y).sum(), argnums=(0, 1))(*args)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    for grad, other in zip(grads, others, strict=True):
        np.testing.assert_allclose(grad, other, atol=1e-3 * float(jnp.abs(other).max()))


def test_training_learns_and_densifies():
    scene = splax.make_demo_scene(num_train=12, num_test=2, width=64, height=48)
    gaussians = splax.Gaussians.random(
        1_000, extent=0.5 * scene.radius, center=scene.center, rngs=nnx.Rngs(0)
    )
    model = splax.SplatModel(gaussians)
    strategy = splax.DefaultStrategy(refine_start=100, refine_every=50, grow_grad2d=1e-4)
    trainer = splax.Trainer(model, scene, splax.TrainConfig(steps=400, progress=False), strategy=strategy)
    before = trainer.evaluate()["psnr"]
    trainer.fit()
    assert trainer.evaluate()["psnr"] > before + 3
    assert int(model.gaussians.num_alive) > 1_000
    assert all(device.platform == "gpu" for device in model.gaussians.means[...].devices())


def test_a_refinement_needs_memory_for_little_more_than_one_part():
    """What XLA sets aside beside the state, 76 % of which are three arrays of one shape: less than two of them."""
    model = splax.SplatModel(splax.Gaussians.random(50_000, extent=1.5, rngs=nnx.Rngs(0)))
    scene = splax.make_demo_scene(num_train=2, num_test=1, width=32, height=24)
    trainer = splax.Trainer(model, scene, splax.TrainConfig(progress=False))
    refiner = trainer._refine
    changing, unchanged = split_fields(trainer._state)
    static = {"extent": scene.extent, "strategy": trainer.strategy, "optimizer": trainer.optimizer}
    analysis = refiner._refine.compile(changing, unchanged, **static).memory_analysis()
    assert analysis.temp_size_in_bytes < 2 * trainer.model.gaussians.shN[...].nbytes


def test_training_makes_room_for_pairs_that_did_not_fit():
    scene = splax.make_demo_scene(num_train=4, num_test=1, width=64, height=48)
    start = splax.Gaussians.random(1_000, extent=0.5 * scene.radius, center=scene.center, rngs=nnx.Rngs(0))
    model = splax.SplatModel(start, splax.TileRasterizer(isect_capacity=100))
    trainer = splax.Trainer(
        model, scene, splax.TrainConfig(steps=20, progress=False), strategy=splax.Strategy()
    )
    trainer.fit()
    assert trainer.step == 20
    assert max(entry.num_isects for entry in trainer.history) > 100
    assert trainer.history[-1].loss < trainer.history[0].loss


def test_an_interrupted_run_goes_on_with_the_same_bits(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    scene = splax.make_demo_scene(num_train=6, num_test=1, width=64, height=48)

    def make():
        start = splax.Gaussians.random(
            1_000, extent=0.5 * scene.radius, center=scene.center, rngs=nnx.Rngs(0)
        )
        model = splax.SplatModel(start, splax.TileRasterizer(deterministic=True))
        config = splax.TrainConfig(steps=300, deterministic=True, progress=False)
        strategy = splax.DefaultStrategy(refine_start=50, refine_every=50, grow_grad2d=1e-4)
        return splax.Trainer(model, scene, config, strategy=strategy)

    whole, first, second = make(), make(), make()
    whole.fit(200)
    first.fit(120)
    first.save(Checkpoints(tmp_path))
    second.resume(Checkpoints(tmp_path))
    second.fit(80)
    assert int(whole.model.gaussians.num_alive) > 1_000
    states = (jax.tree.leaves(nnx.state(trainer.model)) for trainer in (second, whole))
    for actual, expected in zip(*states, strict=True):
        np.testing.assert_array_equal(actual, expected)
