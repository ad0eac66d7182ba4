"""The orbit against its definition, by plain geometry."""

import numpy as np
import pytest

import splax


def make_scene(positions, target=(0.5, -0.3, 0.2), up=(0.0, 0.0, 1.0)) -> splax.Scene:
    cameras = [
        splax.Camera.look_at(position, target, up=up, fov_x=0.8, width=40, height=30)
        for position in positions
    ]
    image = np.zeros((30, 40, 3), np.uint8)
    return splax.Scene([splax.View(image, camera, str(i)) for i, camera in enumerate(cameras)], [])


def ring(radius=3.0, height=1.0, num=8) -> np.ndarray:
    angles = 2 * np.pi * np.arange(num) / num + 0.4
    circle = np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(num, height)], axis=1)
    return circle + np.array([0.5, -0.3, 0.2])


def test_orbit_of_a_ring_is_that_ring():
    positions = ring()
    scene = make_scene(positions)
    cameras = splax.orbit(scene, 8)
    actual = np.stack([np.asarray(camera.position) for camera in cameras])
    np.testing.assert_allclose(actual[0], positions[0], atol=1e-3)  # begins where the first camera stands
    distances = np.linalg.norm(actual[:, None] - positions, axis=-1)
    assert distances.min(axis=1).max() < 1e-3
    assert sorted(distances.argmin(axis=1)) == list(range(8))


def test_orbit_looks_at_the_centre_the_right_way_up():
    scene = make_scene(ring())
    for camera in splax.orbit(scene, 5):
        viewmat = np.asarray(camera.viewmat, np.float64)
        x, y, z = (viewmat @ [*scene.center, 1])[:3]
        assert abs(x) < 1e-4 and abs(y) < 1e-4 and z > 0
        assert viewmat[1, :3] @ [0, 0, 1] < 0  # the y axis points down
        assert (camera.width, camera.height) == (40, 30)
        np.testing.assert_array_equal(camera.K, scene.train[0].camera.K)


def test_orbit_does_not_favour_an_axis():
    """A world whose upward direction is -y, as structure from motion often has it."""
    turn = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], float)
    scene = make_scene(ring() @ turn.T, target=turn @ [0.5, -0.3, 0.2], up=turn @ [0, 0, 1])
    expected = [np.asarray(camera.position) @ turn.T for camera in splax.orbit(make_scene(ring()), 6)]
    actual = [np.asarray(camera.position) for camera in splax.orbit(scene, 6)]
    np.testing.assert_allclose(actual, expected, atol=1e-3)


@pytest.mark.parametrize(
    "positions",
    [[(0.5, -0.3, 4.0)], [(0.5, -0.3, 4.0), (0.5, -0.3, -4.0)], [(2.0, 0.0, 0.0)], [(2.0, 0.0, 0.0)] * 3],
    ids=["straight above", "above and below", "one camera", "one place"],
)
def test_orbit_of_degenerate_rigs_is_finite(positions):
    up = (0.0, 1.0, 0.0) if positions[0][2] == 4.0 else (0.0, 0.0, 1.0)
    cameras = splax.orbit(make_scene(positions, up=up), 4)
    assert len(cameras) == 4
    for camera in cameras:
        assert np.isfinite(np.asarray(camera.viewmat)).all()


def test_orbit_needs_a_camera():
    with pytest.raises(ValueError, match="num=0"):
        splax.orbit(make_scene(ring()), 0)
