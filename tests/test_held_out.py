"""Views held out are drawn as what was learned for other views says: against disturbances that are known."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import write_transforms

import splax
from splax.cli import main as cli
from splax.cli.run_folder import RunFolder
from splax.cli.run_results import write_evaluation
from splax.corrections.base import Correction
from splax.corrections.bilateral_grid import BilateralGrid
from splax.corrections.camera_alignment import Similarity, motions_between
from splax.corrections.exposure import Exposure, apply_affine
from splax.corrections.intrinsics import IntrinsicsRefinement
from splax.corrections.poses import PoseRefinement
from splax.corrections.rigid import move_camera
from splax.reports.images import to_uint8
from splax.training.view_scores import scores_line

VIEWS, WIDTH, HEIGHT = 8, 32, 24
SPLIT = [0, 2, 3, 5, 6, 8, 9, 11], [1, 4, 10]  # numbers in the sequence: training, held out


@pytest.fixture(scope="module")
def model():
    """Gaussians that stay as they are."""
    gaussians = splax.Gaussians.random(80, extent=1, sh_degree=0, rngs=nnx.Rngs(1))
    gaussians.logit_opacities[...] += 4
    return splax.SplatModel(gaussians, splax.TileRasterizer(8, isect_capacity=4096))


@pytest.fixture(scope="module")
def scene(model):
    """A sequence of pictures of them along an arc, and what it is named by."""
    draw = jax.jit(lambda camera: model(camera).image)

    def view(number):
        angle = 0.15 * number
        position = (3.2 * np.cos(angle), 3.2 * np.sin(angle), 0.8)
        camera = splax.Camera.look_at(position, (0, 0, 0), fov_x=0.9, width=WIDTH, height=HEIGHT)
        return splax.View(to_uint8(draw(camera)), camera, f"frame_{number:03d}.png")

    return splax.Scene([view(n) for n in SPLIT[0]], [view(n) for n in SPLIT[1]])


def gain_of(number):
    return 0.5 + 0.04 * number


def brightened(scene, gains):
    """The scene with the photo of each number multiplied."""

    def change(view):
        gain = gains[int(view.name[6:9])]
        return dataclasses.replace(view, image=to_uint8(jnp.asarray(view.image * gain / 255, jnp.float32)))

    return dataclasses.replace(
        scene, train=[change(v) for v in scene.train], test=[change(v) for v in scene.test]
    )


def maps(gains):
    return {"exposure": np.stack([g * np.eye(3, 4) for g in gains]).astype(np.float32)}


def make_trainer(model, scene, *corrections, params=None):
    trainer = splax.Trainer(
        model, scene, splax.TrainConfig(steps=10, progress=False, corrections=corrections)
    )
    if params is not None:
        trainer.load_corrections(params)
    return trainer


# --- colours ---------------------------------------------------------------------------------------------


def test_of_a_film_that_brightens_views_held_out_are_as_bright_as_their_neighbours(model, scene):
    gains = {number: gain_of(number) for number in range(12)}
    trainer = make_trainer(
        model, brightened(scene, gains), Exposure(), params=maps([gains[n] for n in SPLIT[0]])
    )
    held_out = trainer.held_out()
    assert held_out.description["exposure"].startswith("neighbours by time")
    for number, view in zip(SPLIT[1], scene.test, strict=True):
        found = held_out.of(view.name, view.camera).params["exposure"]
        np.testing.assert_allclose(found, gains[number] * np.eye(3, 4)[None], atol=1e-6)
    scores = trainer.evaluate()
    assert scores["psnr"] > 45 and scores["psnr"] > scores["psnr_identity"] + 10


def test_of_photos_without_order_views_held_out_have_the_mean(model, scene):
    gains = {number: 0.7 + 0.2 * (SPLIT[0].index(number) % 2) for number in SPLIT[0]}
    trainer = make_trainer(model, scene, Exposure(), params=maps(gains.values()))
    held_out = trainer.held_out()
    assert held_out.description["exposure"].startswith("the mean, not neighbours by time")
    assert held_out.is_mean
    view = scene.test[0]
    found = held_out.of(view.name, view.camera).params["exposure"]
    np.testing.assert_allclose(found, 0.8 * np.eye(3, 4)[None], atol=1e-6)
    scores = trainer.evaluate()
    assert scores["psnr"] == scores["psnr_identity"]


@pytest.mark.parametrize("correction", [BilateralGrid(2, 3, 4), IntrinsicsRefinement(shared=False)])
def test_rows_of_neighbours_are_averaged(model, scene, correction):
    ramp = np.array(SPLIT[0], np.float32)
    start = np.asarray(correction.init(splax.Camera.stack([view.camera for view in scene.train])))
    params = start + 0.01 * ramp.reshape(-1, *[1] * (start.ndim - 1))
    held_out = make_trainer(model, scene, correction, params={correction.name: params}).held_out()
    view = scene.test[1]
    found = held_out.of(view.name, view.camera).params[correction.name]
    np.testing.assert_allclose(found, start[:1] + 0.04, atol=1e-6)
    image = jnp.full((HEIGHT, WIDTH, 3), 0.5)
    if isinstance(correction, BilateralGrid):
        expected = apply_affine(jnp.eye(3, 4) + 0.04, image)
        np.testing.assert_allclose(held_out.image({correction.name: found}, image), expected, atol=1e-5)
    else:
        moved = held_out.of(view.name, view.camera).camera
        assert moved.K[0, 0] == pytest.approx(float(view.camera.K[0, 0]) * np.exp(0.04), rel=1e-5)


def test_shared_intrinsics_hold_for_all(model, scene):
    params = {"intrinsics": np.array([[0.01, 0.02, 0.03, 0.04]], np.float32)}
    held_out = make_trainer(model, scene, IntrinsicsRefinement(), params=params).held_out()
    assert held_out.description["intrinsics"] == "the mean, which all training views have"
    camera = held_out.of(scene.test[0].name, scene.test[0].camera).camera
    assert camera.K[1, 1] == pytest.approx(float(scene.test[0].camera.K[1, 1]) * np.exp(0.02), rel=1e-5)


@dataclasses.dataclass(frozen=True)
class Darker(Correction):
    """Somebody's own: says nothing of views held out."""

    name = "darker"

    def init(self, cameras):
        return jnp.zeros(len(cameras.viewmat))

    def optimizer(self, steps, extent):
        return optax.set_to_zero()

    def image(self, params, view, image):
        return image if view is None else image - params[view]


def test_corrections_that_say_nothing_leave_views_held_out_as_they_are(model, scene):
    trainer = make_trainer(model, scene, Darker(), params={"darker": np.linspace(0, 1, VIEWS)})
    held_out = trainer.held_out()
    assert held_out.is_mean and held_out.description == {"camera": "as given"}
    image = jnp.full((2, 2, 3), 0.5)
    appearance = held_out.of(scene.test[0].name, scene.test[0].camera)
    np.testing.assert_array_equal(held_out.image(appearance.params, image), image)


# --- cameras ---------------------------------------------------------------------------------------------


def moved_scene(scene, similarity):
    """The scene with all cameras given in another frame than that of the Gaussians."""

    def change(view):
        viewmat = similarity.inverse().move(np.asarray(view.camera.viewmat, np.float64))
        camera = dataclasses.replace(view.camera, viewmat=jnp.asarray(viewmat, jnp.float32))
        return dataclasses.replace(view, camera=camera)

    return dataclasses.replace(
        scene, train=[change(v) for v in scene.train], test=[change(v) for v in scene.test]
    )


def motions_to(given, truth):
    """Params of pose refinement that take given views to true ones."""
    start, end = (
        np.stack([np.asarray(view.camera.viewmat, np.float64) for view in views]) for views in (given, truth)
    )
    return motions_between(start, end).astype(np.float32)


JOINT = Similarity(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([0.2, -0.1, 0.05]), 1.05)


@pytest.fixture(scope="module")
def drifted(model, scene):
    given = moved_scene(scene, JOINT)
    params = {"poses": motions_to(given.train, scene.train)}
    return make_trainer(model, given, PoseRefinement(), params=params)


def test_a_camera_held_out_moves_as_the_training_cameras_moved(drifted, scene):
    held_out = drifted.held_out()
    np.testing.assert_allclose(held_out.motion.similarity.matrix, JOINT.matrix, atol=1e-4)
    for view, true in zip(drifted.scene.test, scene.test, strict=True):
        found = held_out.of(view.name, view.camera).camera
        np.testing.assert_allclose(found.viewmat, true.camera.viewmat, atol=1e-3)
    scores = drifted.evaluate()
    assert scores["psnr"] > 40 and scores["psnr"] > scores["psnr_identity"] + 10
    assert "without corrections" in scores_line(scores)


def test_cameras_are_exported_in_the_frame_of_the_input(drifted, tmp_path):
    folder = RunFolder.create(tmp_path / "run", overwrite=False)
    metrics = write_evaluation(folder, drifted, {})
    np.testing.assert_allclose(metrics["world"]["splat_to_input"], JOINT.inverse().matrix, atol=1e-4)
    assert metrics["protocol"]["held_out"]["camera"].startswith("moved by the similarity")
    exported = json.loads((folder.path / "corrections" / "cameras.json").read_text())
    assert "dataset" in exported["frame"] and "OpenCV" in exported["axes"]
    assert [view["name"] for view in exported["views"]] == [view.name for view in drifted.scene.train]
    for view, true in zip(exported["views"], drifted.scene.train, strict=True):
        np.testing.assert_allclose(view["camera_to_world"], true.camera.camera_to_world, atol=1e-3)


def test_what_neighbours_moved_by_themselves_is_added_where_it_predicts(model, scene):
    """Cameras that wander slowly along the sequence, held out ones too."""

    def wander(view):
        turn = 0.02 * np.sin(0.5 * int(view.name[6:9]))
        motion = jnp.asarray([0, 0, turn, 0, 0, 0], jnp.float32)
        camera = dataclasses.replace(view.camera, viewmat=move_camera(view.camera.viewmat, motion))
        return dataclasses.replace(view, camera=camera)

    given = dataclasses.replace(
        scene, train=[wander(v) for v in scene.train], test=[wander(v) for v in scene.test]
    )
    params = {"poses": motions_to(given.train, scene.train)}
    held_out = make_trainer(model, given, PoseRefinement(), params=params).held_out()
    assert "and by neighbours by time" in held_out.description["camera"]

    def error(view, true, camera):
        del view
        return np.abs(np.asarray(camera.viewmat) - np.asarray(true.camera.viewmat)).max()

    for view, true in zip(given.test, scene.test, strict=True):
        alone = held_out.motion.move(view.camera)
        assert error(view, true, held_out.of(view.name, view.camera).camera) < 0.7 * error(view, true, alone)


def test_too_few_cameras_leave_views_held_out_as_given_and_say_so(model, scene):
    few = dataclasses.replace(scene, train=scene.train[:2])
    trainer = make_trainer(model, few, PoseRefinement(), params={"poses": np.full((2, 6), 0.01, np.float32)})
    held_out = trainer.held_out()
    assert held_out.motion.similarity is None and "fewer than 3" in held_out.description["camera"]
    view = scene.test[0]
    np.testing.assert_array_equal(held_out.of(view.name, view.camera).camera.viewmat, view.camera.viewmat)


def test_a_camera_that_is_a_little_off_is_found_by_its_photo(model, scene):
    def spoil(view):
        motion = jnp.asarray([0.004, -0.006, 0.005, 0.01, -0.01, 0.01], jnp.float32)
        camera = dataclasses.replace(view.camera, viewmat=move_camera(view.camera.viewmat, motion))
        mask = np.ones((HEIGHT, WIDTH), bool)
        mask[:4] = False
        return dataclasses.replace(view, camera=camera, mask=mask)

    trainer = make_trainer(model, dataclasses.replace(scene, test=[spoil(scene.test[0])]))
    scores = trainer.evaluate(pose_align=True)
    assert scores["psnr"] == scores["psnr_identity"]
    assert scores["psnr_pose_aligned"] > scores["psnr"] + 6
    assert trainer.evaluate([], pose_align=True)["psnr_pose_aligned"] is None


# --- saved runs ------------------------------------------------------------------------------------------


def test_params_of_other_runs_are_refused(model, scene):
    with pytest.raises(ValueError, match="one row for each training view"):
        make_trainer(model, scene, Exposure(), params=maps([1.0] * 3))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("exposure", np.ones((VIEWS, 3, 3)), "expected V x 3 x 4 finite floats"),
        ("exposure", np.full((VIEWS, 3, 4), np.nan), "expected V x 3 x 4 finite floats"),
        ("exposure", np.ones((5, 3, 4)), "learned from 5 training views, and the data has 8"),
        ("bilateral_grid", np.ones((VIEWS, 1, 4, 4, 3, 4)), "at least 2 cells"),
        ("intrinsics", np.ones((1, 5)), "expected V x 4 finite floats"),
        ("poses", np.ones((VIEWS, 6), int), "expected V x 6 finite floats"),
    ],
)
def test_damaged_params_are_refused(tmp_path, name, values, message):
    (tmp_path / "corrections").mkdir()
    np.save(tmp_path / "corrections" / f"{name}.npy", values)
    with pytest.raises(ValueError, match=message):
        RunFolder(tmp_path).load_corrections(VIEWS)


@pytest.mark.slow
def test_a_saved_run_is_scored_and_drawn_as_at_its_end(scene, tmp_path):
    views = sorted([*scene.train, *scene.test], key=lambda view: view.name)
    data = write_transforms(
        tmp_path / "data", [dataclasses.replace(v, name=v.name.removesuffix(".png")) for v in views]
    )
    out = tmp_path / "run"
    flags = [
        "--steps",
        "20",
        "--sh-degree",
        "0",
        "--num-gaussians",
        "50",
        "--init",
        "random",
        "--test-every",
        "4",
    ]

    def run(*args):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(arg) for arg in args])
        return stop.value.code

    assert run("train", data, "--out", out, *flags, "--exposure", "--refine-poses") == 0
    before = json.loads((out / "metrics.json").read_text())
    assert {"psnr_pose_aligned", "psnr_color_corrected", "psnr_identity"} <= before.keys()
    assert run("eval", out) == 0
    after = json.loads((out / "metrics.json").read_text())
    for name in ("psnr", "ssim", "psnr_identity", "psnr_color_corrected", "psnr_pose_aligned"):
        assert after[name] == pytest.approx(before[name], abs=2e-3), name
    np.testing.assert_allclose(after["world"]["splat_to_input"], before["world"]["splat_to_input"], atol=1e-4)
    # As written by a version that knew none of it.
    (out / "corrections" / "cameras.json").unlink()
    old = {key: value for key, value in before.items() if key not in ("world", "psnr_identity")}
    (out / "metrics.json").write_text(json.dumps(old | {"cc_psnr": 1.0}))
    assert run("eval", out) == 0 and run("render", out, "--out", tmp_path / "pictures", "--frames", "1") == 0
    assert "cc_psnr" not in json.loads((out / "metrics.json").read_text())
