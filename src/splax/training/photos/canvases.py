"""Puts views of many sizes into a few groups; all views of a group are trained on canvases of one size.

Each further size compiles the step again, and each change of size ends a compiled call. A canvas that is larger
than the photo costs time at every step. So sizes that differ by little share a canvas, and others do not.
"""

import dataclasses
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from splax.cameras import Camera, check_alike

# Largest ratio of a canvas' pixels to those of the smallest photo on it.
MAX_CANVAS = 1.2
# Most groups, each of which compiles a step. If there were more, sizes share canvases at any cost.
MAX_GROUPS = 4
# Most steps in a row that show views of one group.
RUN_LENGTH = 16


class Group(NamedTuple):
    """Views that are trained on canvases of one size.

    Attributes:
        width: width of the canvas in pixels.
        height: height of the canvas in pixels.
        views: numbers of the training views.
    """

    width: int
    height: int
    views: tuple[int, ...]

    def joined(self, other: "Group") -> "Group":
        """One group of the views of both, on a canvas that holds them all."""
        views = tuple(sorted(self.views + other.views))
        return Group(max(self.width, other.width), max(self.height, other.height), views)

    def added_pixels(self, other: "Group") -> int:
        """Number of pixels that the canvases of all views have in addition if both groups are joined."""
        canvas = max(self.width, other.width) * max(self.height, other.height)
        num = len(self.views), len(other.views)
        return sum(num) * canvas - num[0] * self.width * self.height - num[1] * other.width * other.height


def group_views(sizes: Sequence[tuple[int, int]]) -> list[Group]:
    """Groups of views of similar sizes; each view is in one group.

    Args:
        sizes: width and height of each view in pixels.
    """
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        by_size.setdefault(size, []).append(index)
    groups: list[Group] = []
    # The largest first: a later size is the smallest of the group that it joins.
    for (width, height), views in sorted(by_size.items(), key=lambda item: (-np.prod(item[0]), item)):
        alone = Group(width, height, tuple(views))
        for index, group in enumerate(groups):
            joined = group.joined(alone)
            if joined.width * joined.height <= MAX_CANVAS * width * height:
                groups[index] = joined
                break
        else:
            groups.append(alone)
    while len(groups) > MAX_GROUPS:
        first, second = min(combinations(groups, 2), key=lambda pair: pair[0].added_pixels(pair[1]))
        groups = [group for group in groups if group not in (first, second)] + [first.joined(second)]
    return groups


def view_order(groups: Sequence[Group], steps: int, seed: int) -> Int[np.ndarray, " steps"]:
    """The view of each step: every view of the groups once, in random order, then every view once more, and so on.

    The view of a step does not depend on ``steps``. If there are several groups, views of one group follow each
    other, up to :data:`RUN_LENGTH` of them.

    Args:
        groups: groups of the views to show.
        steps: number of steps.
        seed: seed of the random order.
    """
    views = np.array(sorted(view for group in groups for view in group.views))
    group_of = np.empty(views[-1] + 1, np.int32)
    for index, group in enumerate(groups):
        group_of[list(group.views)] = index
    rng = np.random.default_rng(seed)
    epochs = [_in_runs(rng.permutation(views), group_of) for _ in range(steps // len(views) + 1)]
    return np.concatenate(epochs)[:steps].astype(np.int32)


def _in_runs(views: Int[np.ndarray, " n"], group_of: Int[np.ndarray, " m"]) -> Int[np.ndarray, " n"]:
    """The views in another order: those of a group are gathered in runs, each at the place of its first view."""
    groups = group_of[views]
    runs: list[tuple[int, Int[np.ndarray, " run"]]] = []
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        runs += [
            (int(places[start]), views[places[start : start + RUN_LENGTH]])
            for start in range(0, len(places), RUN_LENGTH)
        ]
    return np.concatenate([run for _, run in sorted(runs, key=lambda item: item[0])])


def stack_cameras(cameras: Sequence[Camera], width: int = 1, height: int = 1) -> Camera:
    """Cameras as a batch that renders canvases; each photo fills the top left corner of its canvas.

    So the lenses do not change. (Projection limits the slant of Gaussians far outside of the image by the image's
    size; for such Gaussians a canvas differs a little from the photo.)

    Args:
        cameras: the cameras to stack, V of them.
        width: least width of the canvas in pixels; it also holds every camera's image.
        height: least height of the canvas in pixels.
    """
    width = max(width, *(camera.width for camera in cameras))
    height = max(height, *(camera.height for camera in cameras))
    same_size = [dataclasses.replace(camera, width=width, height=height) for camera in cameras]
    check_alike(same_size)
    # numpy stacks them, because jax would compile a program for each number of cameras.
    return jax.tree.map(
        lambda *leaves: jnp.asarray(np.stack([np.asarray(leaf) for leaf in leaves])), *same_size
    )
