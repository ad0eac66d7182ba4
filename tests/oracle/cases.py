"""The golden cases: which Gaussians, cameras and sizes. Numpy only, fixed seeds.

Most special cases share one shape (24 Gaussians, SH degree 1, 33x25 pixels), so that a renderer that compiles
does so once for all of them. Gaussian parameters are rounded to float16, so that the files stay small; every
renderer reads the same float32 values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Case = dict[str, np.ndarray]
CASES: dict[str, Callable[[], Case]] = {}


def _case(build: Callable[[], Case]) -> Callable[[], Case]:
    CASES[build.__name__] = build
    return build


def gaussians(
    rng: np.random.Generator,
    num: int = 24,
    *,
    sh_degree: int = 1,
    scale: float = 0.1,
    low: Sequence[float] = (-1.2, -1.0, -1.0),
    high: Sequence[float] = (1.2, 1.0, 1.0),
) -> Case:
    """Random Gaussians in a box around the origin, of about ``scale`` world units."""
    quats = rng.normal(size=(num, 4))
    return {
        "means": rng.uniform(low, high, size=(num, 3)),
        "quats": quats / np.linalg.norm(quats, axis=1, keepdims=True),
        "log_scales": np.log(scale) + rng.normal(scale=0.4, size=(num, 3)),
        "logit_opacities": rng.normal(0.3, 1.2, size=num),
        "sh0": rng.normal(scale=1.0, size=(num, 1, 3)),
        "shN": rng.normal(scale=0.25, size=(num, (sh_degree + 1) ** 2 - 1, 3)),
    }


def look_at(position: Sequence[float], target: Sequence[float] = (0, 0, 0)) -> np.ndarray:
    """World-to-camera [4, 4] in OpenCV axes; the world's -y is up."""
    eye = np.asarray(position, float)
    forward = np.asarray(target, float) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross([0, 1, 0], forward)
    right /= np.linalg.norm(right)
    viewmat = np.eye(4)
    viewmat[:3, :3] = right, np.cross(forward, right), forward
    viewmat[:3, 3] = -viewmat[:3, :3] @ eye
    return viewmat


def camera(
    width: int = 33,
    height: int = 25,
    *,
    viewmats: Sequence[np.ndarray] | None = None,
    focal: tuple[float, float] | None = None,
    centre: tuple[float, float] = (0.5, 0.5),
) -> Case:
    """Cameras of one size; the focal length, in pixels, is the width by default (a view of 53 degrees)."""
    viewmats = [look_at((0.6, -0.9, -3.0))] if viewmats is None else viewmats
    fx, fy = (width, width) if focal is None else focal
    K = np.array([[fx, 0, centre[0] * width], [0, fy, centre[1] * height], [0, 0, 1]])
    return {
        "viewmats": np.stack(viewmats),
        "Ks": np.stack([K] * len(viewmats)),
        "width": np.array(width),
        "height": np.array(height),
    }


def facing() -> list[np.ndarray]:
    """A camera at (0, 0, -3) whose axes are the world's, so that equal z is exactly equal depth."""
    viewmat = np.eye(4)
    viewmat[2, 3] = 3.0
    return [viewmat]


def join(*parts: Case, background: Sequence[float] = (0.2, 0.5, 0.8)) -> Case:
    """Gaussians, cameras and a background; values as every renderer reads them."""
    case = {name: value for part in parts for name, value in part.items()}
    case["background"] = np.asarray(background)
    for name in ("means", "quats", "log_scales", "logit_opacities", "sh0", "shN", "colors"):
        if name in case:
            case[name] = case[name].astype(np.float16)
    for name in ("viewmats", "Ks", "background"):
        case[name] = case[name].astype(np.float32)
    return case


@_case
def one() -> Case:
    return join(
        gaussians(np.random.default_rng(1), 1, sh_degree=0, scale=0.3, low=[-0.1] * 3, high=[0.1] * 3),
        camera(),
    )


@_case
def sixteen() -> Case:
    return join(gaussians(np.random.default_rng(2), 16, scale=0.15), camera(40, 32))


@_case
def three_hundred() -> Case:
    return join(gaussians(np.random.default_rng(3), 300, sh_degree=3), camera(64, 48))


@_case
def three_thousand() -> Case:
    return join(gaussians(np.random.default_rng(4), 3000, sh_degree=0, scale=0.04), camera(80, 60))


@_case
def two_cameras() -> Case:
    viewmats = [look_at((0.6, -0.9, -3.0)), look_at((-2.5, 0.4, 1.5), (0.1, 0, 0.2))]
    return join(gaussians(np.random.default_rng(5), 40, sh_degree=2), camera(viewmats=viewmats))


@_case
def off_centre() -> Case:
    cameras = camera(focal=(32.0, 41.0), centre=(0.2, 0.85))
    return join(gaussians(np.random.default_rng(6), scale=0.12), cameras)


@_case
def none_visible() -> Case:
    rows = gaussians(np.random.default_rng(7), low=(3, -1, -1), high=(5, 1, 1))
    return join(rows, camera(viewmats=facing()))


@_case
def all_behind() -> Case:
    rows = gaussians(np.random.default_rng(8), low=(-1, -1, -6), high=(1, 1, -3.5))
    return join(rows, camera(viewmats=facing()))


@_case
def opacity_at_clamp() -> Case:
    """Opacities of 0.9999, 1 and, below the alpha threshold, 0.0025; large ones clamp many pixels."""
    rows = gaussians(np.random.default_rng(9), scale=0.2)
    rows["logit_opacities"] = np.resize([np.log(0.9999 / 0.0001), 40.0, -6.0], 24)
    rows["log_scales"][::2] = np.log(3.0)
    return join(rows, camera())


@_case
def early_stop() -> Case:
    rows = gaussians(np.random.default_rng(10), 60, sh_degree=0, scale=0.5)
    rows["logit_opacities"] = np.random.default_rng(11).uniform(1.5, 4, size=60)
    return join(rows, camera())


@_case
def equal_depths() -> Case:
    """Two planes of equal depth, their rows interleaved: order within a plane is the order of rows."""
    rows = gaussians(np.random.default_rng(12), scale=0.25)
    rows["means"][:, 2] = np.where(np.arange(24) % 2, 0.25, -0.5)
    rows["logit_opacities"] += 1.0
    return join(rows, camera(viewmats=facing()))


@_case
def extreme_scales() -> Case:
    """Huge, tiny and needle-shaped Gaussians, eight of each."""
    rows = gaussians(np.random.default_rng(13))
    rows["log_scales"][:8] += np.log(200.0)
    rows["log_scales"][:4] += np.log(100.0)
    rows["logit_opacities"][:8] = -1.5
    rows["log_scales"][8:16] = -16.0
    rows["log_scales"][8:12] = -40.0
    rows["log_scales"][16:] = np.log([0.3, 1e-3, 1e-4])
    return join(rows, camera())


@_case
def quaternions() -> Case:
    """Quaternions of any length; three of them zero, which is no rotation: culled."""
    rng = np.random.default_rng(14)
    rows = gaussians(rng, scale=0.2)
    rows["quats"] *= np.exp(rng.uniform(-5, 5, size=(24, 1)))
    rows["quats"][[0, 7, 23]] = 0.0
    return join(rows, camera())


@_case
def bad_rows() -> Case:
    """NaN in each parameter and infinities in some: culled, and nothing of them in any other row."""
    rows = gaussians(np.random.default_rng(15), scale=0.2)
    for row, (name, value) in enumerate([
        ("means", np.nan), ("quats", np.nan), ("log_scales", np.nan), ("logit_opacities", np.nan),
        ("sh0", np.nan), ("shN", np.nan), ("means", np.inf), ("log_scales", np.inf), ("quats", -np.inf),
    ]):  # fmt: skip
        rows[name].reshape(24, -1)[2 * row, -1] = value
    return join(rows, camera())


@_case
def five_channels() -> Case:
    """Five feature channels in place of spherical harmonics; negative values are kept."""
    rng = np.random.default_rng(16)
    rows = gaussians(rng, 30, scale=0.12)
    del rows["sh0"], rows["shN"]
    rows["colors"] = rng.normal(size=(30, 5))
    return join(rows, camera(), background=(0.1, -0.3, 0.5, 0.0, 1.0))


@_case
def frustum_edges() -> Case:
    """Large Gaussians around the picture's edges and outside them, where the Jacobian is clamped."""
    rng = np.random.default_rng(17)
    rows = gaussians(rng, scale=0.4)
    angle = rng.uniform(0, 2 * np.pi, size=24)
    distance = rng.uniform(1.2, 3.0, size=24)
    rows["means"] = np.stack([distance * np.cos(angle), distance * np.sin(angle), rng.uniform(-1, 1, 24)], 1)
    return join(rows, camera(viewmats=facing(), centre=(0.4, 0.55)))
