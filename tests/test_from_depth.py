"""Gaussians on what depth shows: back-projection against closed forms and the ray tracer, and merging."""

import numpy as np
import pytest
from helpers import make_camera, project
from test_plane_sweep import photograph, true_depth

import splax
from splax.data.synthetic import demo_camera
from splax.initialization.back_projection import back_project
from splax.initialization.depth_source import DepthError
from splax.initialization.voxels import contract, merge_points
from splax.scene import Scene, View

WIDTH, HEIGHT = 40, 32


@pytest.fixture
def view() -> View:
    rng = np.random.default_rng(0)
    return View(rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8), make_camera(WIDTH, HEIGHT), "view")


def constant(value: float, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.full((height, width), value, np.float32)


def test_a_pixel_comes_back_to_its_place(view):
    """Each point projects to the centre of its pixel, has the depth of the map and the colour of the photo."""
    depth = np.random.default_rng(1).uniform(1, 5, (HEIGHT, WIDTH)).astype(np.float32)
    points, colors = back_project(view, depth)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].reshape(2, -1)
    np.testing.assert_allclose(project(view.camera, points), np.stack([columns, rows], -1) + 0.5, atol=1e-4)
    viewmat = np.asarray(view.camera.viewmat, np.float64)
    np.testing.assert_allclose(points @ viewmat[2, :3] + viewmat[2, 3], depth.ravel(), rtol=1e-5)
    np.testing.assert_array_equal(colors, view.image.reshape(-1, 3))


def test_a_map_of_another_size_shows_the_same(view):
    """A quarter of the pixels: their centres are the corners between four of the photo's."""
    points, colors = back_project(view, constant(2, WIDTH // 2, HEIGHT // 2))
    rows, columns = np.mgrid[: HEIGHT // 2, : WIDTH // 2].reshape(2, -1)
    np.testing.assert_allclose(project(view.camera, points), 2 * np.stack([columns, rows], -1) + 1, atol=1e-4)
    mean = view.image.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(1, 3)).reshape(-1, 3)
    assert np.abs(colors - mean).max() <= 1


@pytest.mark.parametrize("unknown", [0, -1, np.nan, np.inf])
def test_what_is_unknown_is_left_out(view, unknown):
    depth = constant(2)
    depth[3:] = unknown
    assert len(back_project(view, depth)[0]) == 3 * WIDTH


def test_masked_and_transparent_pixels_are_left_out(view):
    mask, alpha = np.ones((HEIGHT, WIDTH), bool), np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:, :10] = False
    alpha[:, 30:] = 200
    cut = View(view.image, view.camera, "cut", mask=mask, alpha=alpha)
    points, _ = back_project(cut, constant(2))
    columns = project(view.camera, points)[:, 0]
    assert len(points) == 20 * HEIGHT and columns.min() > 10 and columns.max() < 30


def test_from_depth_of_the_ray_tracer_lies_on_its_surfaces():
    """From true depth, points lie on the table or on what stands on it."""
    views = photograph([demo_camera(turn, 0.5, 96, 72) for turn in np.linspace(0, 1, 6, endpoint=False)])
    scene = Scene(views, [])
    depths = [np.nan_to_num(true_depth(v.camera), posinf=0).astype(np.float32) for v in views]
    gaussians = splax.Gaussians.from_depth(scene, depths, 3000, sh_degree=1)
    means = np.asarray(gaussians.means[...])
    assert 2500 < len(means) <= 3000 and gaussians.sh_degree == 1
    on_table = np.abs(means[:, 2]) < 0.01
    assert on_table.mean() > 0.4 and (np.hypot(*means[:, :2].T) < 2.01).all()
    assert means[:, 2].min() > -0.01 and means[:, 2].max() < 1.21
    # The glossy sphere of radius 0.5 stands apart from the rest at its top.
    top = (np.linalg.norm(means[:, :2] - (0.1, 0.2), axis=1) < 0.25) & (means[:, 2] > 0.8)
    assert top.sum() > 10
    np.testing.assert_allclose(np.linalg.norm(means[top] - (0.1, 0.2, 0.5), axis=1), 0.5, atol=0.01)
    # As wide as they are apart: on a plane that many points share their area.
    spacing = np.sqrt(np.pi * 2**2 / on_table.sum())
    assert np.median(np.asarray(gaussians.scales)[on_table]) == pytest.approx(spacing, rel=0.3)


def test_views_of_one_surface_leave_one_layer():
    """Two views of the same plane give about as many points as one of them."""
    image = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    views, depths = [], []
    for index, x in enumerate((-0.2, 0.2)):
        camera = splax.Camera.look_at(
            (x, 0, -3), (x, 0, 0), up=(0, -1, 0), fov_x=0.9, width=WIDTH, height=HEIGHT
        )
        views.append(View(image, camera, f"{index}"))
        depths.append(constant(3))
    both = splax.Gaussians.from_depth(Scene(views, []), depths, 300)
    means = np.asarray(both.means[...])
    assert 200 < len(means) <= 300
    np.testing.assert_allclose(means[:, 2], 0, atol=1e-5)
    distances = np.linalg.norm(means[:, None] - means, axis=-1) + 9 * np.eye(len(means))
    assert np.median(distances.min(axis=1)) > 0.5 * np.median(np.asarray(both.scales))
    np.testing.assert_allclose(np.asarray(both.sh0[...]) * 0.28209479 + 0.5, 120 / 255, atol=0.003)


def test_the_scenes_own_depth_is_the_default(view):
    own = View(view.image, view.camera, "own", depth=constant(2.5))
    gaussians = splax.Gaussians.from_depth(Scene([own], []), num=10_000)
    assert gaussians.capacity == WIDTH * HEIGHT
    viewmat = np.asarray(view.camera.viewmat)
    z = np.asarray(gaussians.means[...]) @ viewmat[2, :3] + viewmat[2, 3]
    np.testing.assert_allclose(z, 2.5, rtol=1e-5)


def test_merging_keeps_the_mean():
    """Voxels partition the points: weighted by how many each holds, the means have the mean of all."""
    rng = np.random.default_rng(0)
    points, colors = rng.normal(size=(5000, 3)), rng.integers(0, 256, (5000, 3)).astype(np.uint8)
    for num in (1, 7, 500, 4999, 6000):
        merged = merge_points(points, colors, num, center=np.zeros(3), radius=1.0)
        assert len(merged.positions) <= num
        assert len(merged.positions) > 0.7 * min(num, 5000) or num == 7
    one = merge_points(points, colors, 1, center=np.zeros(3), radius=1.0)
    np.testing.assert_allclose(one.positions[0], points.mean(axis=0), atol=1e-6)
    assert one.colors is not None
    np.testing.assert_allclose(one.colors[0], colors.mean(axis=0), atol=0.5)


def test_far_points_are_merged_more():
    """On a line from 0.1 to 100 units, contraction gives the last 90 % of it about a twentieth of the points."""
    line = np.stack([np.geomspace(0.1, 100, 20_000), np.zeros(20_000), np.zeros(20_000)], -1)
    merged = merge_points(line, np.zeros((20_000, 3), np.uint8), 400, center=np.zeros(3), radius=1.0)
    distance = np.linalg.norm(merged.positions, axis=1)
    assert (distance > 10).mean() == pytest.approx(0.09 / 1.89, abs=0.01)


def test_contraction():
    """Mip-NeRF 360, eq. 10."""
    points = np.array([[0.3, 0, 0], [0, 1, 0], [0, 0, 4.0], [3, 4, 0]])
    expected = [[0.3, 0, 0], [0, 1, 0], [0, 0, 1.75], [1.8 * 0.6, 1.8 * 0.8, 0]]
    np.testing.assert_allclose(contract(points), expected, atol=1e-12)


def test_more_pixels_than_memory_is_meant_for(view, monkeypatch):
    monkeypatch.setattr("splax.initialization.back_projection._MAX_PIXELS", 300)
    gaussians = splax.Gaussians.from_depth(Scene([view], []), [constant(2)], 10_000)
    assert 200 < gaussians.capacity <= 300
    pixels = project(view.camera, np.asarray(gaussians.means[...]))
    assert pixels.min() > 0 and (pixels.max(axis=0) > (WIDTH - 3, HEIGHT - 3)).all()


def test_errors_say_what_is_wrong(view):
    scene = Scene([view], [])
    with pytest.raises(DepthError, match="no pixel of the training views has a depth"):
        splax.Gaussians.from_depth(scene, [None])
    with pytest.raises(ValueError, match=r"one map, or None, for each of the 1 training views.*more"):
        splax.Gaussians.from_depth(scene, [constant(1), constant(1)])
    with pytest.raises(ValueError, match=r"1 training views.*fewer"):
        splax.Gaussians.from_depth(scene, [])
    with pytest.raises(ValueError, match=r"'view'.*the photo's aspect ratio, that of 32 x 40.*\[40, 32\]"):
        splax.Gaussians.from_depth(scene, [constant(1, HEIGHT, WIDTH)])
    with pytest.raises(ValueError, match="num must be at least 1"):
        splax.Gaussians.from_depth(scene, [constant(1)], 0)


def test_a_subclass_gets_what_it_takes(view):
    class Named(splax.Gaussians):
        def __init__(self, *arguments, label: str = "", **params):
            super().__init__(*arguments, **params)
            self.label = label

    gaussians = Named.from_depth(Scene([view], []), [constant(2)], 50, label="depth", opacity=0.3)
    assert isinstance(gaussians, Named) and gaussians.label == "depth"
    np.testing.assert_allclose(np.asarray(gaussians.opacities), 0.3, rtol=1e-5)


@pytest.mark.realdata
def test_frames_of_a_depth_camera_agree(real_data):
    """Points of all five frames but the first, seen by the first one, are at the depth that it measured."""
    scene = splax.load_dataset(real_data / "rgbd", downscale=2, test_every=0)
    others = Scene(scene.train[1:], [])
    means = np.asarray(splax.Gaussians.from_depth(others, num=20_000).means[...], np.float64)
    assert 15_000 < len(means) <= 20_000
    first = scene.train[0]
    assert first.depth is not None
    viewmat = np.asarray(first.camera.viewmat, np.float64)
    z = means @ viewmat[2, :3] + viewmat[2, 3]
    x, y = project(first.camera, means).T
    seen = (z > 0) & (x > 0) & (x < first.camera.width) & (y > 0) & (y < first.camera.height)
    measured = first.depth[y[seen].astype(int), x[seen].astype(int)]
    error = np.abs(z[seen] - measured)[measured > 0]
    assert np.median(error) < 0.01  # metres; the dataset's README has 5 mm for a single pair of frames
