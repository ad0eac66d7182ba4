"""Makes the Gaussians that training starts from: the best that a scene's data allow, or those requested."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from splax.data.points import read_ply_points
from splax.files.ply import read_ply_header
from splax.gaussians import Gaussians
from splax.initialization.back_projection import points_from_depth
from splax.initialization.default_depth import default_depth
from splax.initialization.depth_source import DepthError, DepthSource, has_depth, stored_depth
from splax.initialization.plane_sweep import PlaneSweep
from splax.initialization.random_start import random_points
from splax.io.formats import load_splats
from splax.scene import Scene

AUTO, SFM, DEPTH, RANDOM, FILE = "auto", "sfm", "depth", "random", "file"
KINDS = (AUTO, SFM, DEPTH, RANDOM)
# Default numbers of Gaussians of a random start and of a start from depth, which has places for more.
NUM_RANDOM, NUM_DEPTH = 50_000, 100_000
# Fewer points than this are too few to start from alone: points from depth are added.
FEW_POINTS = 20_000
_GREY = 128  # colour of points that have none
# Least number of views for which a plane sweep of the photos gives enough depth to start from.
_MIN_SWEEP_VIEWS = 8


class Start(NamedTuple):
    """The Gaussians that training starts from, and their origin.

    Attributes:
        gaussians: the Gaussians to train, N rows.
        kind: origin of the Gaussians: "sfm" (the scene's points), "depth", "random" or "file".
        reason: a sentence for people that says why this start was chosen.
        trained: whether the Gaussians were trained before, as those of a splat file were.

    Example:
        >>> import splax
        >>> scene = splax.make_demo_scene(num_train=2, num_test=1, width=16, height=12)
        >>> start = splax.choose_start(scene, "random", num=100)
        >>> start.describe()
        {'kind': 'random', 'reason': 'it was asked for', 'num': 100}
        >>> model = splax.SplatModel(start.gaussians)
    """

    gaussians: Gaussians
    kind: str
    reason: str
    trained: bool = False

    def describe(self) -> dict[str, Any]:
        """The kind, the reason and the number of Gaussians, as JSON, for the config of a run."""
        return {"kind": self.kind, "reason": self.reason, "num": int(self.gaussians.num_alive)}


def choose_start(
    scene: Scene,
    init: str | Path = AUTO,
    *,
    depth: DepthSource | None = None,
    num: int | None = None,
    most: int | None = None,
    sh_degree: int = 3,
    seed: int = 0,
) -> Start:
    """Makes the Gaussians that training starts from.

    ``"auto"`` takes the scene's points. If the scene has none, or fewer than 20,000, it adds points from the
    scene's depth images, or from a plane sweep of the photos if there are no depth images. If that finds too few
    points and the scene has none, it takes random points.

    Args:
        scene: the scene to train on.
        init: kind of the start: "auto", "sfm" (the scene's points), "depth" or "random"; or the path of a splat
            file or a point cloud.
        depth: the source of depth; if None, the scene's depth images, or a plane sweep if it has none.
        num: number of Gaussians in addition to the scene's points; for depth it is the largest number. Ignored for
            "sfm" and files.
        most: largest number of Gaussians, the scene's points included, if ``num`` is None. Ignored for "sfm" and
            files.
        sh_degree: degree of the spherical harmonics of the colour, 0 to 3; a splat file has its own degree.
        seed: seed of random points, 0 or more.

    Raises:
        ValueError: if the scene does not allow this ``init``, a file cannot be read, or a number is out of range.

    Example:
        >>> import splax
        >>> scene = splax.make_demo_scene(num_train=2, num_test=1, width=16, height=12)
        >>> start = splax.choose_start(scene)
        >>> start.kind, start.reason
        ('random', 'the scene has no points, and too few views (2) to find depth')
        >>> splax.choose_start(scene, "random", num=100, sh_degree=0).gaussians.capacity
        100
    """
    for name, value in (("num", num), ("most", most)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}.")
    maker = _Maker(scene, num, most, sh_degree, seed)
    if init == AUTO:
        return maker.best(depth)
    if init == SFM:
        return maker.from_points("it was asked for")
    if init == DEPTH:
        source = default_depth(scene) if depth is None else depth
        return maker.from_depth(source, f"it was asked for; depth {_origin(source)}")
    if init == RANDOM:
        return maker.random("it was asked for")
    return _from_file(Path(init).expanduser(), sh_degree, f"{init} was asked for")


class _Maker(NamedTuple):
    """Makes each kind of start with the arguments of :func:`choose_start`."""

    scene: Scene
    num: int | None
    most: int | None
    sh_degree: int
    seed: int

    def best(self, depth: DepthSource | None) -> Start:
        scene = self.scene
        if depth is not None:
            return self.from_depth(depth, "a source of depth was given")
        points = 0 if scene.points is None else len(scene.points)
        if points >= FEW_POINTS:
            return self.from_points(f"the scene has {points:,} points")
        if points and self.num is None and self.most is not None and points >= self.most:
            return self.from_points(f"the scene has {points:,} points, as many as there may be")
        has = f"the scene has only {points:,} points" if points else "the scene has no points"
        try:
            source = self._own_or_swept()
            found = "its depth images give" if source is stored_depth else "a plane sweep found"
            return self.from_depth(
                source, f"{has}; {found} {'more' if points else 'depth'}", add_to_points=True
            )
        except DepthError as error:
            reason = f"{has}, and {error}"
            return self.from_points(reason) if points else self.random(reason)

    def _own_or_swept(self) -> DepthSource:
        """The source of depth if the caller gave none: the scene's depth images, else a plane sweep."""
        if has_depth(self.scene):
            return stored_depth
        if (num := len(self.scene.train)) < _MIN_SWEEP_VIEWS:
            raise DepthError(f"too few views ({num}) to find depth")
        return PlaneSweep()

    def from_points(self, reason: str) -> Start:
        if self.scene.points is None:
            raise ValueError(
                "init 'sfm' needs a scene with points, as COLMAP gives them; this one has none. Use 'auto'."
            )
        points, colors = self.scene.points, self.scene.point_colors
        return Start(Gaussians.from_points(points, colors, sh_degree=self.sh_degree), SFM, reason)

    def from_depth(self, depth: DepthSource, reason: str, *, add_to_points: bool = False) -> Start:
        """A start on the surfaces that depth shows and, if ``add_to_points``, on the scene's points as well."""
        sfm = self.scene.points if add_to_points else None
        surface = points_from_depth(self.scene, depth, self._num(NUM_DEPTH, 0 if sfm is None else len(sfm)))
        points, colors = surface.positions, surface.colors
        if sfm is not None and colors is not None:
            sfm_colors = self.scene.point_colors
            sfm_colors = np.full(sfm.shape, _GREY, np.uint8) if sfm_colors is None else sfm_colors
            points, colors = np.concatenate([sfm, points]), np.concatenate([sfm_colors, colors])
        return Start(Gaussians.from_points(points, colors, sh_degree=self.sh_degree), DEPTH, reason)

    def _num(self, default: int, num_points: int = 0) -> int:
        """Number of Gaussians to make in addition to ``num_points`` points of the scene."""
        if self.num is not None:
            return self.num
        return default if self.most is None else min(default, self.most - num_points)

    def random(self, reason: str) -> Start:
        rng = np.random.default_rng(self.seed)
        points = random_points(self.scene, self._num(NUM_RANDOM), rng).astype(np.float32)
        colors = rng.random(points.shape, np.float32)
        return Start(Gaussians.from_points(points, colors, sh_degree=self.sh_degree), RANDOM, reason)


def _origin(depth: DepthSource) -> str:
    """The origin of depth, as the rest of a sentence for people."""
    return "is the scene's own" if depth is stored_depth else f"comes from {depth}"


def _from_file(path: Path, sh_degree: int, reason: str) -> Start:
    """A splat file's Gaussians, or new ones on the points of a .ply file."""
    if not path.exists():
        raise ValueError(
            f"init {str(path)!r} is neither one of {', '.join(KINDS)} nor a file. Give one of those, or the path "
            "of a splat file or of a point cloud (.ply)."
        )
    if path.suffix.lower() != ".ply" or not _is_point_cloud(path):
        return Start(load_splats(path), FILE, reason, trained=True)
    points = read_ply_points(path)
    if points is None:
        raise ValueError(f"{path} holds no point that is finite.")
    return Start(Gaussians.from_points(points.positions, points.colors, sh_degree=sh_degree), FILE, reason)


def _is_point_cloud(path: Path) -> bool:
    """Whether a .ply file has points, but no other property of Gaussians; false if it cannot be read."""
    try:
        with open(path, "rb") as file:
            header = read_ply_header(file)
    except (OSError, ValueError):
        return False
    vertices = next((e for e in header.elements if e.name == "vertex"), None)
    if vertices is None:
        return False
    of_splats = {"opacity", "scale_0", "rot_0", "packed_position"}
    return {"x", "y", "z"} <= vertices.properties.keys() and not of_splats & vertices.properties.keys()
