"""What several test files share: small scenes, the goldens, and comparisons with a tolerance band."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import cv2
import jax
import numpy as np
import pytest
from jaxtyping import ArrayLike, Bool

from splax import devices
from splax.cameras import Camera
from splax.scene import View

GOLDENS = pathlib.Path(__file__).with_name("goldens")
GAUSSIAN_PARAMS = ("means", "quats", "log_scales", "logit_opacities", "sh0", "shN")


def make_gaussians(
    num: int, *, sh_degree: int = 0, scale: float = 0.15, seed: int = 0, dtype: type = np.float32
) -> dict[str, np.ndarray]:
    """Stored parameters of random Gaussians in the cube [-1, 1]^3, about ``scale`` in size, by Param name."""
    rng = np.random.default_rng(seed)
    params = {
        "means": rng.uniform(-1, 1, size=(num, 3)),
        "quats": rng.normal(size=(num, 4)),
        "log_scales": np.log(scale) + rng.normal(scale=0.4, size=(num, 3)),
        "logit_opacities": rng.normal(scale=1.2, size=num),
        "sh0": rng.normal(size=(num, 1, 3)),
        "shN": rng.normal(scale=0.25, size=(num, (sh_degree + 1) ** 2 - 1, 3)),
    }
    return {name: value.astype(dtype) for name, value in params.items()}


def make_camera(
    width: int = 40,
    height: int = 32,
    *,
    position: Sequence[float] = (0.8, -3.2, 1.0),
    target: Sequence[float] = (0.0, 0.0, 0.0),
    fov_x: float = 0.9,
) -> Camera:
    """A camera outside the cube [-1, 1]^3 that sees most of it."""
    return Camera.look_at(position, target, fov_x=fov_x, width=width, height=height)


def write_transforms(folder: pathlib.Path, views: Sequence[View]) -> pathlib.Path:
    """Writes views as a dataset with a transforms.json, in OpenGL's axes; returns the folder."""
    (folder / "images").mkdir(parents=True)
    camera = views[0].camera
    K = np.asarray(camera.K, np.float64)
    meta = {"w": camera.width, "h": camera.height, "cx": K[0, 2], "cy": K[1, 2]}
    frames = []
    for view in views:
        file_path = f"images/{view.name}.png"
        assert cv2.imwrite(str(folder / file_path), view.image[..., ::-1])
        pose = np.linalg.inv(np.asarray(view.camera.viewmat, np.float64)) @ np.diag([1, -1, -1, 1])
        frames.append({"file_path": file_path, "transform_matrix": pose.tolist()})
    content = {**meta, "fl_x": K[0, 0], "fl_y": K[1, 1], "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def write_image(
    path: pathlib.Path, image: np.ndarray | None = None, size: tuple[int, int] = (64, 48)
) -> None:
    """Writes pixels in OpenCV's order of channels, by default all 100, and the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((size[1], size[0], 3), 100, np.uint8) if image is None else image
    assert cv2.imwrite(str(path), image)


def project(camera: Camera, points: Any) -> np.ndarray:
    """Pixels of world points [..., 3], straight from the definition of viewmat and K."""
    viewmat, K = np.asarray(camera.viewmat, np.float64), np.asarray(camera.K, np.float64)
    local = np.asarray(points, np.float64) @ viewmat[:3, :3].T + viewmat[:3, 3]
    return (local @ K.T)[..., :2] / local[..., 2:]


def golden_names() -> list[str]:
    """The cases in tests/goldens; how they were made: tests/oracle/README.md."""
    return sorted(path.stem for path in GOLDENS.glob("*.npz"))


def load_golden(name: str) -> dict[str, np.ndarray]:
    """One case: every float as float32, the rest as stored."""
    with np.load(GOLDENS / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return {
        key: value.astype(np.float32) if value.dtype.kind == "f" else value for key, value in arrays.items()
    }


def assert_close_outside_band(
    actual: ArrayLike,
    expected: ArrayLike,
    *,
    atol: float,
    band: Bool[np.ndarray, "..."] | None = None,
    name: str = "",
) -> None:
    """Every entry within ``atol``, except where ``band`` is true; ``band`` covers the leading axes.

    A NaN never passes outside the band.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    error = np.abs(actual - expected)
    if band is not None:
        error = error[~band]
    bad = ~(error <= atol)
    assert not bad.any(), (
        f"{name}: {bad.sum()} of {bad.size} entries off by more than {atol:g}; worst {error.max():g}"
    )


def assert_gradients_close(
    actual: ArrayLike,
    expected: ArrayLike,
    *,
    rtol: float = 1e-3,
    atol: float = 3e-5,
    max_outliers: float = 1e-3,
    name: str = "",
) -> None:
    """Entries within ``rtol`` of their own size plus ``atol`` of the largest; a few outliers may fail.

    Args:
        actual: the gradient under test.
        expected: the same from elsewhere.
        rtol: relative to each expected entry.
        atol: relative to the largest expected entry: where large terms cancel, float32 keeps no digits of its
            own. Measured need: under 1e-6, but 1e-5 where alpha is at its clamp.
        max_outliers: share of entries that may be out of tolerance. They must be finite all the same.
        name: shown in the error.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    assert np.isfinite(actual).all(), f"{name}: {(~np.isfinite(actual)).sum()} entries are not finite"
    if not expected.size:
        return
    error = np.abs(actual - expected)
    bad = error > rtol * np.abs(expected) + atol * np.abs(expected).max()
    assert bad.mean() <= max_outliers, (
        f"{name}: {bad.sum()} of {bad.size} entries off by more than {rtol:g} of themselves + {atol:g} of "
        f"the largest ({np.abs(expected).max():g}); worst {error.max():g}"
    )


def write_garden(path: pathlib.Path, lefts: Sequence[float] = (0, 0, 0)) -> pathlib.Path:
    """Writes 40 points and three cameras, each so far to the left, as gsplat's ``test_garden.npz`` has them."""
    rng = np.random.default_rng(0)
    viewmats = np.tile(np.eye(4), (3, 1, 1))
    viewmats[:, 0, 3], viewmats[:, 2, 3] = lefts, 6
    np.savez(
        path,
        means3d=rng.uniform(-2, 2, (40, 3)),
        colors=rng.integers(0, 256, (40, 3)),
        viewmats=viewmats,
        Ks=np.tile([[40.0, 0, 20], [0, 40, 16], [0, 0, 1]], (3, 1, 1)),
        width=40,
        height=32,
    )
    return path


def set_device_policy(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Changes what splax decides by the kind of device, for the device that the tests run on."""
    policy = dataclasses.replace(devices.device_policy(), **changes)
    monkeypatch.setattr(devices, "POLICIES", {jax.default_backend(): policy})
