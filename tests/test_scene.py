"""Scenes: what they measure of themselves, how they split, and what they refuse."""

import numpy as np
import pytest
from jaxtyping import config

from splax.cameras import Camera
from splax.cli.describe import describe_scene
from splax.scene import Scene, View, scene_bounds, split_views


def make_view(name: str, position=(3.0, 0.0, 0.0), target=(0.0, 0.0, 0.0), width=8, height=6) -> View:
    camera = Camera.look_at(position, target, fov_x=1.0, width=width, height=height)
    return View(np.zeros((height, width, 3), np.uint8), camera, name)


def make_ring(count: int, center, radius: float, height: float) -> list[View]:
    angles = 2 * np.pi * np.arange(count) / count
    return [
        make_view(f"{i:02d}", center + np.array([radius * np.cos(a), radius * np.sin(a), height]), center)
        for i, a in enumerate(angles)
    ]


@pytest.fixture
def unchecked(monkeypatch):
    """As users run splax: without the type checks of the test run."""
    monkeypatch.setattr(config, "jaxtyping_disable", True)


def test_ring_of_cameras_has_known_bounds():
    center = np.array([1.0, -2.0, 0.5])
    scene = Scene(make_ring(12, center, radius=4.0, height=3.0), [])
    np.testing.assert_allclose(scene.center, center, atol=1e-5)
    assert scene.radius == pytest.approx(5.0, rel=1e-5)  # 3, 4, 5
    assert scene.extent == pytest.approx(1.1 * 4.0, rel=1e-5)  # the mean camera is above the centre


def test_center_is_the_least_squares_point_of_the_axes():
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (20, 1, 1))
    poses[:, :3, 3] = rng.normal(size=(20, 3))
    poses[:, :3, :3] = np.linalg.qr(rng.normal(size=(20, 3, 3)))[0]
    center = scene_bounds(poses).center

    def cost(x):
        offset, forward = x - poses[:, :3, 3], poses[:, :3, 2]
        return (np.cross(offset, forward) ** 2).sum()

    for step in 1e-3 * np.concatenate([np.eye(3), -np.eye(3)]):
        assert cost(center) < cost(center + step)


def make_far(name: str, distance: float) -> View:
    """A camera far along x that looks past the scene."""
    return make_view(name, (distance, 0.0, 0.0), (distance, 50.0, 0.0))


@pytest.mark.parametrize("distance", [60.0, -3e3, 6e4])
@pytest.mark.parametrize("count", [5, 12, 100])
def test_one_camera_that_is_far_off_does_not_count_and_is_named(count, distance):
    ring = make_ring(count, np.zeros(3), radius=4.0, height=3.0)
    scene = Scene([*ring[:2], make_far("far.png", distance), *ring[2:]], [])
    with pytest.warns(
        UserWarning, match=rf"1 of {count + 1} training cameras .* middle: 'far.png' \("
    ) as caught:
        assert scene.extent == pytest.approx(1.1 * 4.0, rel=1e-5)
    np.testing.assert_allclose(scene.center, 0, atol=1e-4)
    assert scene.radius == pytest.approx(5.0, rel=1e-5) and len(caught) == 1


def test_a_tenth_of_the_cameras_may_be_far_off():
    ring = make_ring(30, np.zeros(3), radius=4.0, height=0.0)
    scene = Scene([*ring, make_far("a", 90.0), make_far("b", 7e4), make_far("c", -7e6)], [])
    with pytest.warns(
        UserWarning, match=r"3 of 33 .*: 'a' \(90 away\), 'b' \(7e\+04 away\), 'c' \(7e\+06 away\)"
    ):
        assert scene.extent == pytest.approx(1.1 * 4.0, rel=1e-5)


def spread(positions) -> float:
    """1.1 times the largest distance from the mean, as the extent of cameras that all count."""
    positions = np.asarray(positions, float)
    return 1.1 * np.linalg.norm(positions - positions.mean(0), axis=1).max()


@pytest.mark.parametrize(
    "positions",
    [
        [(3, 0, 0), (0, 3, 0), (60, 0, 0)],  # of three, each may be the odd one
        [(3, 0, 0), (0, 3, 0), (0, 0, 3), (-3, 0, 0), (11, 0, 0)],
        [(x, 0.1 * x**2, 0) for x in range(20)],
        [(1.3**x, 0, 0) for x in range(20)],  # no gap
        [(np.cos(a), np.sin(a), 0) for a in range(16)] + [(40, a, 0) for a in range(4)],  # a second group
        [(0, 0, 0)] * 9 + [(1, 0, 0)],
    ],
)
def test_cameras_of_one_recording_all_count(positions):
    views = [make_view(str(i), np.array(p, float), np.add(p, (0.5, 1, 0))) for i, p in enumerate(positions)]
    assert Scene(views, []).extent == pytest.approx(spread(positions), rel=1e-5)


def test_only_training_views_count():
    ring = make_ring(12, np.zeros(3), radius=4.0, height=0.0)
    far = make_view("far", (100.0, 0.0, 0.0), (100.0, 50.0, 0.0))
    assert Scene(ring, [far]).bounds.extent == Scene(ring, []).bounds.extent


@pytest.mark.parametrize("count", [1, 3])
def test_cameras_in_one_place_looking_one_way(count):
    views = [make_view(str(i), (2.0, 0.0, 0.0), (0.0, 0.0, 0.0)) for i in range(count)]
    scene = Scene(views, [])
    assert scene.extent == 1.0
    np.testing.assert_allclose(scene.center, [1.0, 0.0, 0.0], atol=1e-6)  # forward by the extent
    assert scene.radius == pytest.approx(1.0)


def test_parallel_cameras_look_at_a_point_ahead_of_their_middle():
    views = [make_view(str(y), (0.0, y, 0.0), (10.0, y, 0.0)) for y in (-1.0, 0.0, 1.0)]
    scene = Scene(views, [])
    assert scene.extent == pytest.approx(1.1)
    np.testing.assert_allclose(scene.center, [1.1, 0.0, 0.0], atol=1e-5)


def test_panorama_has_a_positive_radius():
    views = [make_view(str(a), (0, 0, 0), (np.cos(a), np.sin(a), 0)) for a in np.arange(0, 6, 0.5)]
    scene = Scene(views, [])
    np.testing.assert_allclose(scene.center, 0, atol=1e-6)
    assert scene.radius == scene.extent == 1.0


def test_split_sorts_and_holds_out_every_eighth_from_the_first():
    views = [make_view(f"{i:02d}") for i in range(17)]
    train, test = split_views(views[::-1], test_every=8)
    assert [view.name for view in test] == ["00", "08", "16"]
    assert [view.name for view in train] == [f"{i:02d}" for i in range(17) if i not in (0, 8, 16)]


@pytest.mark.parametrize(
    ("count", "test_every", "expected"), [(1, 8, (1, 0)), (2, 8, (1, 1)), (5, 0, (5, 0))]
)
def test_split_always_leaves_a_training_view(count, test_every, expected):
    train, test = split_views([make_view(str(i)) for i in range(count)], test_every)
    assert (len(train), len(test)) == expected


@pytest.mark.parametrize("test_every", [1, -8])
def test_split_refuses_what_leaves_nothing_to_train_on(test_every):
    with pytest.raises(ValueError, match="at least 2"):
        split_views([make_view("a")], test_every)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((6, 8, 3), np.float32), "uint8"),
        (np.zeros((6, 8), np.uint8), r"\[6, 8\]"),
        (np.zeros((8, 6, 3), np.uint8), "needs one camera of the image's size"),
    ],
)
def test_view_refuses_an_image_that_does_not_fit(unchecked, image, message):
    with pytest.raises(ValueError, match=message):
        View(image, make_view("a").camera, "a")


def test_scene_refuses_no_training_view():
    with pytest.raises(ValueError, match="at least one training view"):
        Scene([], [make_view("a")])


def test_view_refuses_masks_and_depths_that_do_not_fit(unchecked):
    camera, image = make_view("a").camera, np.zeros((6, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"mask must be bool \[6, 8\], got uint8 \[6, 8\]"):
        View(image, camera, "a", mask=np.ones((6, 8), np.uint8))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"depth must be float32 \[6, 8\], got float32 \[3, 4\]"):
        View(image, camera, "a", depth=np.ones((3, 4), np.float32))


def test_description_of_masks_depths_and_sizes():
    small, wide = make_view("a"), make_view("b", width=9)
    depth = np.zeros((6, 8), np.float32)
    depth[:3] = 2.0
    masked = View(small.image, small.camera, "c", mask=depth == 0, depth=depth)
    text = describe_scene(Scene([small, wide, masked], [], dataset_type="colmap"))
    for part in (
        "format    colmap",
        "2 sizes: 8 x 6 (2 views), 9 x 6 (1 views)",
        "masks     1 of 3 views; they leave 50.0% of the pixels",
        "depth     1 of 3 views, known for 50.0% of their pixels; median 2, nearly all from 2 to 2",
        "points    none",
    ):
        assert part in text, part


def test_scene_refuses_repeated_names():
    with pytest.raises(ValueError, match=r"\['a'\]"):
        Scene([make_view("a")], [make_view("a")])


@pytest.mark.parametrize(
    ("points", "colors"),
    [
        (np.zeros((5, 2), np.float32), None),
        (None, np.zeros((5, 3), np.uint8)),
        (np.zeros((5, 3), np.float32), np.zeros((4, 3), np.uint8)),
    ],
)
def test_scene_refuses_points_that_do_not_fit(unchecked, points, colors):
    with pytest.raises(ValueError, match="points"):
        Scene([make_view("a")], [], points=points, point_colors=colors)


def test_description_names_what_was_found():
    train = make_ring(12, np.zeros(3), radius=4.0, height=3.0)
    points = np.zeros((1234, 3), np.float32)
    scene = Scene(train, [make_view("test")], points=points, warnings=("one odd thing",), source="somewhere")
    text = describe_scene(scene)
    for part in ("somewhere", "13: 12 train, 1 test", "8 x 6", "4.400", "5.000", "1,234", "one odd thing"):
        assert part in text, part
    assert "shared by all views" in text  # every camera has the same intrinsics
