"""The ray tracer against closed forms, and the demo scene made with it."""

import numpy as np
import pytest

from splax.cameras import Camera
from splax.data.raytracer import Lighting, Solid, occluded, ray_trace, trace
from splax.data.shapes import Box, Disc, Sphere
from splax.data.synthetic import TABLE_RADIUS, demo_camera, demo_lighting, demo_solids, make_demo_scene
from splax.scene import Scene

RED = (1.0, 0.0, 0.0)


def vector(*values) -> np.ndarray:
    return np.array(values, np.float32)


def matte(shape, color=RED, **options) -> Solid:
    return Solid(shape, lambda points: np.broadcast_to(vector(*color), points.shape), **options)


def daylight(samples: int = 1) -> Lighting:
    """A lamp high above and a sky that lights everything a little."""
    up = np.tile(vector(0, 0, 1), (samples**2, 1))
    return Lighting(
        lamp=100 * up, sky=up, lamp_color=vector(0.5, 0.5, 0.5), sky_color=vector(0.5, 0.5, 0.5),
        background=vector(0, 0, 0),
    )  # fmt: skip


def random_rays(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    origins = rng.normal(size=(count, 3))
    origins = 4 * origins / np.linalg.norm(origins, axis=-1, keepdims=True)
    directions = rng.normal(size=(count, 3), scale=0.5) - origins
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    return origins.astype(np.float32), directions.astype(np.float32)


def turn(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)


def project(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Pixels of world points, straight from the definition of viewmat and K."""
    viewmat, K = np.asarray(camera.viewmat, np.float64), np.asarray(camera.K, np.float64)
    seen = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    image = seen @ K.T
    return image[:, :2] / image[:, 2:]


def colors_at(image: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    columns, rows = np.floor(pixels).astype(int).T  # pixel (0, 0) spans 0 to 1
    return image[rows, columns].astype(int)


# --- hits and shadows --------------------------------------------------------------------------------


def test_sphere_is_hit_at_the_smaller_root():
    origins, directions = random_rays(500, seed=0)
    center, radius = vector(0.2, -0.1, 0.3), 0.8
    distance = Sphere(center, radius).intersect(origins, directions)
    o, d = origins.astype(np.float64) - center, directions.astype(np.float64)
    b, c = (o * d).sum(-1), (o * o).sum(-1) - radius**2
    with np.errstate(invalid="ignore"):
        root = -b - np.sqrt(b * b - c)
    assert 100 < np.isfinite(root).sum() < 450
    np.testing.assert_allclose(distance, np.where(np.isnan(root), np.inf, root), atol=2e-4)


def test_box_is_hit_on_its_surface_and_nowhere_before():
    origins, directions = random_rays(500, seed=1)
    half, rotation, center = np.array([0.3, 0.6, 0.4], np.float32), turn(0.7), vector(0.1, 0.2, -0.1)
    box = Box(center, half, rotation)
    distance = box.intersect(origins, directions)
    steps = np.linspace(2, 6, 4001)
    points = origins[:, None] + steps[:, None] * directions[:, None]  # march through it
    inside = (np.abs((points - center) @ rotation) <= half).all(-1)
    first = np.where(inside.any(-1), steps[inside.argmax(-1)], np.inf)
    clear = np.isfinite(distance) == np.isfinite(first)
    assert clear.mean() > 0.995  # corners thinner than a step
    assert 100 < np.isfinite(distance).sum() < 450
    np.testing.assert_allclose(distance[clear], first[clear], atol=1.1e-3)


def test_rays_parallel_to_a_box_hit_only_between_its_faces():
    origins = np.array([[-3, 0.2, 0], [-3, 0.6, 0], [-3, 0, -0.6], [0.2, 0.2, 3]], np.float32)
    directions = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, -1]], np.float32)
    distance = Box(vector(0, 0, 0), vector(0.5, 0.5, 0.5)).intersect(origins, directions)
    np.testing.assert_allclose(distance, [2.5, np.inf, np.inf, 2.5])


def test_normals_are_unit_outward_and_those_of_the_face_hit():
    origins, directions = random_rays(300, seed=2)
    box = Box(vector(0, 0, 0), vector(0.5, 0.5, 0.5), turn(0.4))
    for shape in (Sphere(vector(0, 0, 0), 0.7), box):
        distance = shape.intersect(origins, directions)
        hit = np.isfinite(distance)
        points = origins[hit] + distance[hit, None] * directions[hit]
        normals = shape.normals(points)
        np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1, atol=1e-4)
        assert ((normals * directions[hit]).sum(-1) < 0).all()
    np.testing.assert_allclose(np.abs((points * normals).sum(-1)), 0.5, atol=1e-4)


def test_disc_is_hit_within_its_radius():
    origins = np.array([[0, 0, 2], [0.9, 0, 2], [1.1, 0, 2], [0, 0, -1]], np.float32)
    down = np.tile(vector(0, 0, -1), (4, 1))
    distance = Disc(vector(0, 0, 0.5), 1.0).intersect(origins, down)
    np.testing.assert_allclose(distance, [1.5, 1.5, np.inf, np.inf])


def test_nearest_solid_wins():
    solids = [matte(Sphere(vector(0, 0, 0), 0.5)), matte(Sphere(vector(2, 0, 0), 0.5))]
    origins = np.array([[5, 0, 0], [-5, 0, 0], [0, 5, 0], [0, 0, 5]], np.float32)
    directions = np.array([[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0]], np.float32)
    distance, index = trace(solids, origins, directions)
    assert index.tolist() == [1, 0, 0, -1]
    np.testing.assert_allclose(distance, [2.5, 4.5, 4.5, np.inf])


def test_shadow_of_a_sphere_is_its_central_projection():
    lamp, center, radius = np.array([1.0, 0.5, 4.0]), np.array([0.0, 0.0, 1.0]), 0.5
    x, y = np.meshgrid(np.linspace(-2, 2, 60), np.linspace(-2, 2, 60))
    ground = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], -1)
    to_lamp = lamp - ground
    distance = np.linalg.norm(to_lamp, axis=-1)
    # A point is in the shadow cone where, seen from the lamp, it is nearer the axis than the sphere's edge.
    axis = (center - lamp) / np.linalg.norm(center - lamp)
    cosine = (-to_lamp / distance[:, None]) @ axis
    expected = cosine > np.sqrt(1 - (radius / np.linalg.norm(center - lamp)) ** 2)
    found = occluded(
        [matte(Sphere(center.astype(np.float32), radius))],
        ground.astype(np.float32),
        (to_lamp / distance[:, None]).astype(np.float32),
        distance.astype(np.float32),
    )
    assert 100 < expected.sum() < 1000
    assert (found == expected).mean() > 0.999


def test_a_lamp_before_the_obstacle_is_not_shadowed():
    sphere = [matte(Sphere(vector(0, 0, 5), 0.5))]
    up, ground = np.array([[0, 0, 1]], np.float32), np.zeros((1, 3), np.float32)
    assert occluded(sphere, ground, up, vector(10)).tolist() == [True]
    assert occluded(sphere, ground, up, vector(4)).tolist() == [False]


# --- pictures ----------------------------------------------------------------------------------------


def test_silhouette_of_a_sphere_is_where_the_camera_projects_it():
    center, radius, eye = np.array([0.3, -0.2, 0.1]), 0.6, np.array([2.0, 3.0, 1.0])
    camera = Camera.look_at(eye, (0, 0, 0), fov_x=0.9, width=160, height=120)
    image = ray_trace([matte(Sphere(center.astype(np.float32), radius))], daylight(), camera, samples=1)
    axis = center - eye
    distance = np.linalg.norm(axis)
    axis /= distance
    side = np.cross(axis, [0.0, 0.0, 1.0])
    side /= np.linalg.norm(side)
    circle = np.linspace(0, 2 * np.pi, 64)[:, None]
    across = np.cos(circle) * side + np.sin(circle) * np.cross(axis, side)
    cone = np.arcsin(radius / distance)  # rays of the outline make this angle with the axis
    for scale, is_red in ((0.97, True), (1.03, False)):
        rays = np.cos(scale * cone) * axis + np.sin(scale * cone) * across
        red = colors_at(image, project(camera, eye + distance * rays))[:, 0]
        assert (red > 0).all() == is_red
        assert (red == 0).all() != is_red


def test_corners_of_a_box_are_where_the_camera_projects_them():
    half, rotation, center = np.array([0.5, 0.3, 0.4], np.float32), turn(0.5), vector(0.2, 0.1, 0.3)
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    camera = Camera.look_at((3, 2, 2), (0, 0, 0), fov_x=0.7, width=320, height=240)
    image = ray_trace([matte(Box(center, half, rotation))], daylight(), camera, samples=1)
    corner_pixels = project(camera, (corners * half) @ rotation.T + center)
    red = np.argwhere(image[..., 0] > 0)[:, ::-1] + 0.5
    np.testing.assert_allclose(red.min(0), corner_pixels.min(0), atol=1.5)
    np.testing.assert_allclose(red.max(0), corner_pixels.max(0), atol=1.5)


def test_brightness_of_matte_ground_follows_the_cosine():
    # Lamp at 60 degrees from the vertical, sky only by slope and open ray: 0.5 * cos(60) + 0.5 = 0.75.
    light = daylight()
    lamp = np.array([[1e4 * np.sin(np.pi / 3), 0, 1e4 * np.cos(np.pi / 3)]], np.float32)
    light = Lighting(lamp, light.sky, light.lamp_color, light.sky_color, light.background)
    camera = Camera.look_at((0, -3, 3), (0, 0, 0), fov_x=0.3, width=8, height=8)
    image = ray_trace([matte(Disc(vector(0, 0, 0), 50.0), (1, 1, 1))], light, camera, samples=1)
    np.testing.assert_allclose(image, 255 * 0.75 ** (1 / 2.2), atol=1)


def test_a_mirror_shows_the_mirrored_sphere():
    floor = matte(Disc(vector(0, 0, 0), 5.0), (0, 0, 0), gloss=1.0)
    ball = matte(Sphere(vector(0, 0, 1.0), 0.3))
    camera = Camera.look_at((0, -4, 2), (0, 0, 0), fov_x=1.0, width=160, height=120)
    image = ray_trace([floor, ball], daylight(), camera, samples=1)
    mirrored = colors_at(image, project(camera, np.array([[0, 0, -1.0]])))[0]
    assert mirrored[0] > 40  # its shaded underside
    assert mirrored[0] > 2 * max(mirrored[1], mirrored[2])
    beside = colors_at(image, project(camera, np.array([[1.0, 0, -1.0]])))[0]
    assert beside[1] > 50  # the sky


# --- the demo ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo() -> Scene:
    return make_demo_scene(num_train=12, num_test=4, width=64, height=48)


def test_demo_is_what_was_asked_for(demo):
    assert (len(demo.train), len(demo.test)) == (12, 4)
    assert all(view.image.shape == (48, 64, 3) for view in (*demo.train, *demo.test))
    assert len({view.name for view in (*demo.train, *demo.test)}) == 16


def test_demo_is_deterministic(demo):
    again = make_demo_scene(num_train=12, num_test=4, width=64, height=48)
    other = make_demo_scene(num_train=12, num_test=4, width=64, height=48, seed=1)
    for first, second in zip(demo.train, again.train, strict=True):
        assert (first.image == second.image).all()
        assert (np.asarray(first.camera.viewmat) == np.asarray(second.camera.viewmat)).all()
    assert (demo.train[0].image != other.train[0].image).any()


def test_demo_cameras_are_rigid_and_look_at_the_table(demo):
    for view in (*demo.train, *demo.test):
        viewmat = np.asarray(view.camera.viewmat, np.float64)
        np.testing.assert_allclose(viewmat[:3, :3] @ viewmat[:3, :3].T, np.eye(3), atol=1e-6)
        assert np.linalg.det(viewmat[:3, :3]) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(demo.center, [0, 0, 0.2], atol=1e-4)
    assert demo.radius > TABLE_RADIUS


def test_demo_test_views_stand_between_the_training_views(demo):
    train = np.stack([np.asarray(view.camera.position) for view in demo.train])
    for view in demo.test:
        offset = train - np.asarray(view.camera.position)
        nearest = np.linalg.norm(offset, axis=-1).min()
        assert 0.2 < nearest < 3.0
        azimuth = np.arctan2(view.camera.position[1], view.camera.position[0])
        gaps = np.angle(np.exp(1j * (np.arctan2(train[:, 1], train[:, 0]) - float(azimuth))))
        np.testing.assert_allclose(np.abs(gaps).min(), np.pi / 12, atol=1e-4)  # half a step of 12


def test_demo_shows_its_solids_where_they_are(demo):
    background = np.round(255 * np.array(demo.background))
    camera = demo_camera(0.0, 1.0, 200, 150)
    image = ray_trace(demo_solids(np.random.default_rng(0)), demo_lighting(), camera, samples=2)
    # The marble's centre, the middle of the toy block's top, and a point off the table.
    pixels = project(camera, np.array([[1.4, 0.2, 0.2], [-0.75, 1.0, 0.64], [-2.2, 0.0, 0.0]]))
    marble, block, outside = colors_at(image, pixels)
    assert marble[2] > marble[0] > 1.3 * marble[1]  # purple
    assert block[0] > 1.5 * max(block[1], block[2])  # red
    assert outside.tolist() == background.tolist()


def test_demo_is_neither_dark_nor_burnt_out(demo):
    pixels = np.stack([view.image for view in demo.train]).reshape(-1, 3)
    lit = pixels[(pixels > 0).any(-1)]
    assert 0.3 < len(lit) / len(pixels) < 0.9
    assert 70 < lit.mean() < 190
    assert (lit == 255).any(-1).mean() < 0.02


@pytest.mark.parametrize(("num_train", "num_test"), [(0, 8), (4, -1)])
def test_demo_refuses_numbers_that_make_no_scene(num_train, num_test):
    with pytest.raises(ValueError, match="num_train >= 1"):
        make_demo_scene(num_train, num_test)


def test_demo_needs_no_test_views():
    assert len(make_demo_scene(2, 0, width=16, height=12).test) == 0
