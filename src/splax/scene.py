"""Scenes: posed photos, split into training and test views.

Readers of files make a :class:`Scene`; training, evaluation and the command line only see scenes.

Photos have no scale: "far" and "small" have a meaning only relative to the cameras. Training uses two measures of
the training cameras. ``extent`` is the unit of depth errors and of camera motions (``getNerfppNorm`` of Kerbl et
al. 2023, "3D Gaussian Splatting for Real-Time Radiance Field Rendering"). ``center`` and ``radius`` say where the
cameras look; a random start uses them.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from splax.cameras import Camera

# Factor of the 3D Gaussian splatting reference implementation.
_EXTENT_MARGIN = 1.1
# A camera is far off if it is this many times as far from the middle as the next nearer camera. Such cameras are a
# tenth of all at most, or one of at least four: more are a part of the scene.
_FAR_OFF = 5.0
_MAX_FAR_OFF = 10
_MIN_CAMERAS = 4
_MAX_LISTED = 5
# Camera axes whose mean squared sine to their common direction is below this value (about half a degree) count as
# parallel: the point where they meet would be noise.
_PARALLEL = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A photo and the camera that took it.

    A dataset that is larger than the cache of :func:`splax.load_dataset` gives views that decode their photos when
    the pixels are read. Reading them may then raise ValueError; the message names the file.

    Attributes:
        image: RGB pixels, uint8 [H, W, 3].
        camera: one camera (not a batch) of the same width and height. Its ``time`` is when the photo was taken.
        name: name of the view, unique in its scene; for photos the path below the image folder, such as
            ``"0001.jpg"``.
        mask: true where the image is to be used, bool [H, W]; None: everywhere.
        depth: camera-space z in world units, float32 [H, W], 0 where unknown; None: unknown everywhere.
        alpha: opacity of the photo, uint8 [H, W], 0 (transparent) to 255 (opaque); None: 255 everywhere.
            ``image`` is composited on the scene's background already.
        points: surface points that the photo shows, float32 [P, 3], world coordinates; None: no point is known.
        point_pixels: pixels at which the photo shows the points, float32 [P, 2], x and y in pixels of ``image``
            with centres at +0.5, NaN where unknown; None: all are unknown. A few may lie outside the image,
            because undistortion crops it.

    Raises:
        ValueError: if the image is not uint8 [H, W, 3]; if the camera, the mask, the depth or alpha has another
            size or type; if the points are not float32 [P, 3] and finite; or if their pixels are not float32
            [P, 2].

    Example:
        >>> import numpy as np
        >>> import splax
        >>> camera = splax.Camera.look_at((0, -2, 0), (0, 0, 0), fov_x=1.0, width=4, height=3)
        >>> view = splax.View(image=np.zeros((3, 4, 3), np.uint8), camera=camera, name="0001.jpg")
        >>> view.name, view.image.shape, view.time, view.has_mask
        ('0001.jpg', (3, 4, 3), None, False)
    """

    image: UInt8[np.ndarray, "h w 3"]
    camera: Camera
    name: str
    mask: Bool[np.ndarray, "h w"] | None = None
    depth: Float32[np.ndarray, "h w"] | None = None
    alpha: UInt8[np.ndarray, "h w"] | None = None
    points: Float32[np.ndarray, "points 3"] | None = None
    point_pixels: Float32[np.ndarray, "points 2"] | None = None

    def __post_init__(self) -> None:
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[-1] != 3:
            raise ValueError(
                f"View {self.name!r}: image must be uint8 [height, width, 3], "
                f"got {self.image.dtype} {list(self.image.shape)}."
            )
        size = (self.camera.height, self.camera.width)
        if self.image.shape[:2] != size or self.camera.viewmat.ndim != 2:
            raise ValueError(
                f"View {self.name!r}: needs one camera of the image's size; the image has height, width "
                f"{self.image.shape[:2]}, the camera {size} and viewmat {list(self.camera.viewmat.shape)}."
            )
        for name, dtype in (("mask", np.bool_), ("depth", np.float32), ("alpha", np.uint8)):
            values = getattr(self, name)
            if values is not None and (values.dtype != dtype or values.shape != size):
                raise ValueError(
                    f"View {self.name!r}: {name} must be {np.dtype(dtype)} {list(size)}, "
                    f"got {values.dtype} {list(values.shape)}."
                )
        points = self.points
        if points is not None and (
            points.dtype != np.float32
            or points.ndim != 2
            or points.shape[-1] != 3
            or not np.isfinite(points).all()
        ):
            raise ValueError(
                f"View {self.name!r}: points must be float32 [P, 3] and finite, got {points.dtype} "
                f"{list(points.shape)}. Leave out points that are not finite."
            )
        pixels, num = self.point_pixels, None if points is None else len(points)
        if pixels is not None and (
            pixels.dtype != np.float32 or pixels.shape != (num, 2) or np.isinf(pixels).any()
        ):
            raise ValueError(
                f"View {self.name!r}: point_pixels must be float32 [P, 2], one row for each of the {num} points, "
                f"finite or NaN; got {pixels.dtype} {list(pixels.shape)}."
            )

    @property
    def time(self) -> float | None:
        """Time at which the photo was taken: ``camera.time``, in the unit of the dataset; None if unknown."""
        return None if self.camera.time is None else float(self.camera.time)

    @property
    def has_alpha(self) -> bool:
        """Whether some pixels may be transparent. Views on disk know it without decoding the photo."""
        return self.alpha is not None

    @property
    def has_mask(self) -> bool:
        """Whether there is a mask. Views on disk know it without decoding the mask."""
        return self.mask is not None

    @property
    def has_depth(self) -> bool:
        """Whether there is a depth image. Views on disk know it without decoding the image."""
        return self.depth is not None


class SceneBounds(NamedTuple):
    """Position and size of a scene in world units.

    Attributes:
        center: point nearest to all camera axes, [3].
        radius: median distance of the cameras from ``center``; positive.
        extent: 1.1 times the largest distance of a camera from the mean camera position; positive.

    Cameras that are far off are left out of all three; see :func:`far_off_cameras`.
    """

    center: Float[np.ndarray, " 3"]
    radius: float
    extent: float


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """Posed photos of one place, of any sizes, and what is known about the place before training.

    Attributes:
        train: views to train on, at least one.
        test: views held out for evaluation; may be empty.
        points: known surface points in world coordinates, float32 [P, 3], or None.
        point_colors: RGB colours of the points, uint8 [P, 3], or None.
        warnings: warnings of the reader, one line for each thing that it left out or had to assume.
        source: file or program that the scene came from, for people to read.
        background: colour behind everything, RGB in [0, 1], on which transparent pixels were composited. Black for
            photos, which do not say what is behind them.
        dataset_type: name of the format that the scene was read from, as :func:`splax.load_dataset` takes it.
        applied_transform: matrix that takes homogeneous points of an earlier world to the world of the scene,
            [4, 4], as files of nerfstudio have it for the world of COLMAP; None if the file states no matrix.

    Raises:
        ValueError: if there is no training view, a name is repeated, or the points are not [P, 3].

    Example:
        >>> import splax
        >>> scene = splax.make_demo_scene(num_train=3, num_test=1, width=16, height=12)
        >>> len(scene.train), len(scene.test), scene.train[0].image.shape
        (3, 1, (12, 16, 3))
        >>> larger = splax.Scene(train=[*scene.train, *scene.test], test=[])
        >>> [view.name for view in larger.train]
        ['train_000', 'train_001', 'train_002', 'test_000']
    """

    train: Sequence[View]
    test: Sequence[View]
    points: Float[np.ndarray, "points 3"] | None = None
    point_colors: UInt8[np.ndarray, "points 3"] | None = None
    warnings: tuple[str, ...] = ()
    source: str = ""
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    dataset_type: str = ""
    applied_transform: Float[np.ndarray, "4 4"] | None = None

    def __post_init__(self) -> None:
        if len(self.train) == 0:
            raise ValueError(f"A Scene needs at least one training view, got none ({len(self.test)} test).")
        views = [*self.train, *self.test]
        repeated = [name for name, count in Counter(view.name for view in views).items() if count > 1]
        if repeated:
            raise ValueError(f"View names must differ within a Scene; used more than once: {repeated[:5]}.")
        if self.points is not None and (self.points.ndim != 2 or self.points.shape[-1] != 3):
            raise ValueError(f"Scene points must be [P, 3], got {list(self.points.shape)}.")
        if self.point_colors is not None and (
            self.points is None or self.point_colors.shape != self.points.shape
        ):
            raise ValueError(
                f"Scene point_colors must be given with points and have their shape, got "
                f"{list(self.point_colors.shape)}."
            )

    @cached_property
    def bounds(self) -> SceneBounds:
        """Center, radius and extent of the training cameras; see :func:`splax.scene.scene_bounds`."""
        note = far_off_note(self.train)
        if note and not any(note in warning for warning in self.warnings):  # else the reader has said it
            warnings.warn(note, stacklevel=4)
        return scene_bounds(_poses(self.train))

    @property
    def extent(self) -> float:
        """Size of the camera rig in world units; positive.

        The extent is 1.1 times the largest distance of a training camera from the mean camera position, and 1 if
        all cameras stand in one place. A camera that is far off, as a wrong pose puts it, does not count, and a
        warning names it. The extent is the unit of depth errors and of camera motions. If the cameras
        surround the scene, the extent is about the distance from which they photographed it; otherwise it is
        less. The unit of training is that distance itself, see :mod:`splax.training.photographed_distance`.
        """
        return self.bounds.extent

    @property
    def center(self) -> Float[np.ndarray, " 3"]:
        """Point at which the training cameras look: the point nearest to all their axes, [3].

        If the axes are parallel, it is the mean camera position moved forward by ``extent``.
        """
        return self.bounds.center

    @property
    def radius(self) -> float:
        """Median distance of the training cameras from ``center``; positive."""
        return self.bounds.radius


def split_views(views: Sequence[View], test_every: int) -> tuple[list[View], list[View]]:
    """Sorts views by name and holds out every ``test_every``-th, starting with the first.

    Args:
        views: views to split, at least one.
        test_every: step between held out views, at least 2 (8 is usual in the field); 0 holds out none. A single
            view is always for training.

    Returns:
        The training views and the test views.

    Raises:
        ValueError: if ``test_every`` is 1 or negative.
    """
    if test_every < 0 or test_every == 1:
        raise ValueError(
            f"test_every must be 0 (hold out no view) or at least 2, got {test_every}: "
            f"1 would leave no view to train on."
        )
    ordered = sorted(views, key=lambda view: view.name)
    if test_every == 0 or len(ordered) == 1:
        return ordered, []
    train = [view for index, view in enumerate(ordered) if index % test_every]
    return train, ordered[::test_every]


def scene_bounds(camera_to_world: Float[np.ndarray, "views 4 4"]) -> SceneBounds:
    """Measures a scene by its cameras.

    ``center`` minimises the sum of squared distances to the camera axes. If the axes are parallel, or there is
    only one view, no such point exists: then ``center`` is the mean camera position moved forward, along the mean
    viewing direction, by ``extent``. If all cameras stand in one place, ``extent`` is 1, since nothing fixes the
    scale. A ``radius`` of zero is replaced by ``extent``. Cameras of :func:`far_off_cameras` do not count.

    Args:
        camera_to_world: camera poses with OpenCV axes (+z forward), [V, 4, 4]; at least one.
    """
    poses = np.asarray(camera_to_world, np.float64)
    poses = poses[~far_off_cameras(poses[:, :3, 3])]
    positions, forward = poses[:, :3, 3], poses[:, :3, 2]
    forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
    mean_position = positions.mean(0)
    spread = np.linalg.norm(positions - mean_position, axis=-1).max()
    # A spread below the rounding of float32 positions means that all cameras are at one place.
    one_place = spread <= 1e-6 * (1 + np.abs(mean_position).max())
    extent = 1.0 if one_place else _EXTENT_MARGIN * float(spread)

    # The distance of x from an axis is |(I - d dᵀ)(x - p)|; the normal equations sum the projectors.
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    normal_matrix = across.mean(0)
    if np.linalg.eigvalsh(normal_matrix)[0] > _PARALLEL:
        center = np.linalg.solve(normal_matrix, np.einsum("vij,vj->i", across, positions) / len(poses))
    else:
        center = mean_position + extent * forward.mean(0) / max(np.linalg.norm(forward.mean(0)), 1e-12)
    radius = float(np.median(np.linalg.norm(positions - center, axis=-1)))
    return SceneBounds(center, radius if radius > 1e-6 * extent else extent, extent)


def far_off_cameras(positions: Float[np.ndarray, "views 3"]) -> Bool[np.ndarray, " views"]:
    """Which cameras stand so far from the others that their poses are probably wrong, [V].

    Cameras are sorted by their distance from the median position. Those behind the first gap, where the distance
    grows by a factor of 5 or more from one camera to the next, are far off if they are a tenth of all cameras at
    most, or a single one. None of fewer than 4 cameras is far off, and none if the others are in one place.

    Args:
        positions: positions of the cameras in world units, [V, 3]; at least one.
    """
    middle = np.median(positions, axis=0)
    distances = np.linalg.norm(positions - middle, axis=-1)
    ordered = np.sort(distances)
    if len(ordered) >= _MIN_CAMERAS:
        rounding = 1e-6 * (1 + np.abs(middle).max())
        for count in range(max(1, len(ordered) // _MAX_FAR_OFF), 0, -1):
            near, far = ordered[-count - 1], ordered[-count]
            if near > rounding and far >= _FAR_OFF * near:
                return distances >= far
    return np.zeros(len(ordered), bool)


def far_off_note(views: Sequence[View]) -> str:
    """The warning that names the views whose cameras are far off; empty if there are none."""
    positions = _poses(views)[:, :3, 3]
    far_off = far_off_cameras(positions)
    if not far_off.any():
        return ""
    middle = positions[~far_off].mean(0)
    distances = np.linalg.norm(positions - middle, axis=-1)
    indices = np.flatnonzero(far_off)
    listed = ", ".join(f"{views[i].name!r} ({distances[i]:,.4g} away)" for i in indices[:_MAX_LISTED])
    more = f" and {len(indices) - _MAX_LISTED} more" if len(indices) > _MAX_LISTED else ""
    return (
        f"{len(indices)} of {len(views)} training cameras stand far from the others, which are up to "
        f"{distances[~far_off].max():,.4g} from their middle: {listed}{more}. The scene's extent, center and "
        "radius leave them out. Check their poses, or take the photos out."
    )


def _poses(views: Sequence[View]) -> Float[np.ndarray, "views 4 4"]:
    return np.stack([_camera_to_world(view.camera) for view in views])


def _camera_to_world(camera: Camera) -> Float[np.ndarray, "4 4"]:
    return np.linalg.inv(np.asarray(camera.viewmat, np.float64))
