"""Depth from posed photos, against the depth of ray-traced scenes and of structure from motion."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import make_camera, write_image
from jaxtyping import Float

import splax
from splax.cameras import Camera
from splax.data.raytracer import ray_trace, trace
from splax.data.synthetic import demo_camera, demo_lighting, demo_solids
from splax.initialization.depth_source import DepthError
from splax.initialization.plane_sweep import PlaneSweep
from splax.initialization.small_photos import shrink_photos
from splax.initialization.view_selection import focus_depths, select_views
from splax.scene import Scene, View

WIDTH, HEIGHT = 112, 84


def true_depth(camera: Camera) -> Float[np.ndarray, "h w"]:
    """Camera-space z of the demo's surfaces under the pixels' centres, by rays; inf beside them."""
    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    K = np.asarray(camera.K)
    local = np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones_like(rows)], -1)
    length = np.linalg.norm(local, axis=-1)
    rotation = np.asarray(camera.camera_to_world)[:3, :3]
    directions = (local / length[..., None]).reshape(-1, 3) @ rotation.T
    origins = np.broadcast_to(np.asarray(camera.position), directions.shape)
    solids = demo_solids(np.random.default_rng(0))
    distance, _ = trace(solids, origins.astype(np.float32), directions.astype(np.float32))
    return distance.reshape(length.shape) / length


def photograph(cameras: Sequence[Camera]) -> list[View]:
    solids, lighting = demo_solids(np.random.default_rng(0)), demo_lighting()
    return [View(ray_trace(solids, lighting, c, samples=2), c, f"{i}") for i, c in enumerate(cameras)]


def sweep(scene: Scene, **settings: float) -> list[np.ndarray]:
    """Depth maps of all views."""
    maps = PlaneSweep(**settings)(scene)  # pyright: ignore[reportArgumentType]
    found = [depth for depth in maps if depth is not None]
    assert len(found) == len(scene.train)
    return found


@pytest.fixture(scope="module")
def arc() -> Scene:
    """Eight photos of the demo's still life, taken on an arc of 48 degrees at two heights."""
    turns = np.linspace(0, 2 / 15, 8)
    return Scene(
        photograph([demo_camera(t, 0.5 + 0.1 * (-1) ** i, WIDTH, HEIGHT) for i, t in enumerate(turns)]), []
    )


@pytest.fixture(scope="module")
def depths(arc):
    return sweep(arc)


def test_depth_is_that_of_the_ray_tracer(arc, depths):
    errors, found, beside, there = [], 0, 0, 0
    for view, depth in zip(arc.train, depths, strict=True):
        truth = true_depth(view.camera)
        assert depth.shape == truth.shape and depth.dtype == np.float32
        known, surface = depth > 0, np.isfinite(truth)
        errors.append((depth / truth - 1)[known & surface])
        found, there = found + (known & surface).sum(), there + surface.sum()
        beside += (known & ~surface).sum()
    errors = np.concatenate(errors)
    # A hundredth of the depth is a fifth of a pixel of parallax here.
    assert np.abs(np.median(errors)) < 0.005
    assert np.median(np.abs(errors)) < 0.015
    assert (np.abs(errors) < 0.05).mean() > 0.85
    assert found / there > 0.7
    # Windows reach over edges, by three pixels.
    assert beside / there < 0.15


def test_the_same_in_another_unit(arc, depths):
    """A scene a hundred times as large, moved and turned, has the same depth a hundred times as large."""
    turn, _ = cv2.Rodrigues(np.array([0.3, -1.2, 0.5]))
    views = []
    for view in arc.train:
        pose = np.asarray(view.camera.camera_to_world, np.float64)
        moved = np.eye(4)
        moved[:3, :3] = turn @ pose[:3, :3]
        moved[:3, 3] = 100 * (turn @ pose[:3, 3]) + (5, -7, 9)
        camera = Camera(
            viewmat=jnp.asarray(np.linalg.inv(moved), jnp.float32),
            K=view.camera.K,
            width=WIDTH,
            height=HEIGHT,
        )
        views.append(View(view.image, camera, view.name))
    for depth, moved in zip(depths, sweep(Scene(views, [])), strict=True):
        both = (depth > 0) & (moved > 0)
        assert both.sum() > 0.95 * (depth > 0).sum()
        assert np.median(np.abs(moved[both] / (100 * depth[both]) - 1)) < 1e-4


def test_masked_and_transparent_pixels_have_no_depth(arc):
    views = []
    for index, view in enumerate(arc.train):
        mask = np.ones((HEIGHT, WIDTH), bool)
        mask[:, : WIDTH // 2] = False
        alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
        alpha[: HEIGHT // 2] = 0
        even = index % 2 == 0
        views.append(
            View(
                view.image, view.camera, view.name, mask=mask if even else None, alpha=None if even else alpha
            )
        )
    for index, depth in enumerate(sweep(Scene(views, []), min_coverage=1e-3)):
        assert depth.any()
        assert not (depth[:, : WIDTH // 2] if index % 2 == 0 else depth[: HEIGHT // 2]).any()


def test_photos_of_several_sizes(arc):
    """Two of the photos are cropped: depth maps have their sizes, and what the whole ones have."""
    views = []
    for index, view in enumerate(arc.train):
        if index in (3, 6):
            camera = Camera(viewmat=view.camera.viewmat, K=view.camera.K, width=WIDTH - 16, height=HEIGHT - 8)
            views.append(View(view.image[:-8, :-16].copy(), camera, view.name))
        else:
            views.append(view)
    depth = sweep(Scene(views, []))[3]
    assert depth.shape == (HEIGHT - 8, WIDTH - 16)
    truth = true_depth(views[3].camera)
    known = (depth > 0) & np.isfinite(truth)
    assert known.mean() > 0.3 and np.median(np.abs(depth / truth - 1)[known]) < 0.02


def test_smaller_maps_and_fewer_views(arc):
    maps = PlaneSweep(max_pixels=WIDTH * HEIGHT // 4, max_views=5)(arc)
    assert [index for index, depth in enumerate(maps) if depth is not None] == [0, 2, 4, 5, 7]
    assert maps[0] is not None and maps[0].shape == (HEIGHT // 2, WIDTH // 2)


def test_no_depth_is_an_error_that_says_why(arc):
    with pytest.raises(DepthError, match="at least 3 views, the scene has 2"):
        PlaneSweep()(Scene(arc.train[:2], []))
    same = [View(view.image, arc.train[0].camera, view.name) for view in arc.train]
    with pytest.raises(DepthError, match="from different places"):
        PlaneSweep()(Scene(same, []))
    grey = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    with pytest.raises(DepthError, match=r"found the depth of 0.0% of the pixels"):
        PlaneSweep()(Scene([View(grey, view.camera, view.name) for view in arc.train], []))


def test_noise_is_not_depth(arc):
    rng = np.random.default_rng(0)
    views = [
        View(rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8), view.camera, view.name)
        for view in arc.train
    ]
    with pytest.raises(DepthError, match="pixels, fewer than"):
        PlaneSweep()(Scene(views, []))


@pytest.mark.parametrize(
    "setting",
    [
        {"window": 4},
        {"num_planes": 2},
        {"min_score": 0},
        {"tolerance": 1.5},
        {"max_views": 2},
        {"num_neighbors": 0},
    ],
)
def test_bad_settings(setting):
    with pytest.raises(ValueError, match=f"PlaneSweep {next(iter(setting))} must"):
        PlaneSweep(**setting)


def test_neighbors_see_the_same_from_a_few_degrees_beside():
    """Cameras on a circle, 3.5 degrees apart: those at 7 degrees are the best, and one that looks away is none."""
    angles = np.radians(3.5 * np.arange(9))
    cameras = [make_camera(position=(4 * np.cos(a), 4 * np.sin(a), 0)) for a in angles]
    cameras.append(make_camera(position=(4, 1, 0), target=(8, 1, 0)))
    image = np.zeros((32, 40, 3), np.uint8)
    scene = Scene([View(image, camera, f"{i}") for i, camera in enumerate(cameras)], [])
    photos = shrink_photos(scene.train, 4000)
    neighbors, weights = select_views(photos, np.full(10, 4.0), 4)
    assert set(neighbors[4][:2]) == {2, 6}
    np.testing.assert_allclose(weights[4][:2], 1, atol=1e-5)
    assert 9 not in neighbors[:9] and not weights[9].any()
    assert focus_depths(photos, Scene(scene.train[:9], []))[:9] == pytest.approx(4, rel=1e-4)


@pytest.mark.realdata
def test_fox_has_the_depth_that_structure_from_motion_found(real_data, tmp_path):
    """COLMAP's points in its own frame; some are hidden behind others, hence the median."""
    names = [path.name for path in sorted((real_data / "fox" / "images").glob("*.jpg"))[:12]]
    folder = copy_fox(real_data, tmp_path, names)
    with pytest.warns(UserWarning, match="38 of 50 frames left out"):
        scene = splax.load_dataset(folder, test_every=0)
    assert scene.points is not None
    errors = []
    maps = sweep(scene)
    for view, depth in zip(scene.train, maps, strict=True):
        viewmat, K = np.asarray(view.camera.viewmat, np.float64), np.asarray(view.camera.K, np.float64)
        local = scene.points @ viewmat[:3, :3].T + viewmat[:3, 3]
        pixels = local @ K.T
        x, y = pixels[:, 0] / pixels[:, 2], pixels[:, 1] / pixels[:, 2]
        seen = (local[:, 2] > 0) & (x > 0) & (x < view.camera.width) & (y > 0) & (y < view.camera.height)
        found = depth[y[seen].astype(int), x[seen].astype(int)]
        errors.append(np.abs(found / local[seen, 2] - 1)[found > 0])
    assert np.median(np.concatenate(errors)) < 0.01
    assert np.mean([(depth > 0).mean() for depth in maps]) > 0.6


@pytest.mark.realdata
def test_a_room_has_the_depth_that_a_depth_camera_measured(real_data):
    """The cameras stand so near to each other that a hundredth of the depth is a tenth of a pixel of parallax."""
    scene = splax.load_dataset(real_data / "rgbd", downscale=4, test_every=0)
    errors = []
    for view, depth in zip(scene.train, sweep(scene), strict=True):
        assert view.depth is not None and depth.shape == view.depth.shape
        both = (depth > 0) & (view.depth > 0)
        errors.append(np.abs(depth[both] / view.depth[both] - 1))
        assert both.mean() > 0.2
    assert np.median(np.concatenate(errors)) < 0.03
    assert (np.concatenate(errors) < 0.1).mean() > 0.85


def copy_fox(real_data: Path, folder: Path, names: list[str]) -> Path:
    """The COLMAP model of the fox with some of its photos, small."""
    shutil.copytree(real_data / "fox_colmap" / "sparse", folder / "sparse")
    for name in names:
        photo = cv2.imread(str(real_data / "fox" / "images" / name), cv2.IMREAD_REDUCED_COLOR_8)
        assert photo is not None
        write_image(folder / "images" / name, photo)
    return folder
