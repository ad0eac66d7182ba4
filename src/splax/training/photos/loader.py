"""Brings photos to the device in the order of the steps.

If the device has room for all photos, they stay there. If not, the steps are divided into segments: while the
device computes one segment, the photos of the next are decoded and sent. Steps and their order are the same either
way.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from splax.devices import device_policy, free_memory
from splax.scene import View
from splax.training.photos.canvases import Group, group_views, stack_cameras, view_order
from splax.training.photos.targets import Photos, Targets

# Most bytes of photos that are sent at once: the host needs as many, and the device twice as many.
MAX_LOAD = 1 << 30
# Most steps whose photos are sent at once.
MAX_ROWS = 100
# Bytes that photos may take where the free memory is not known.
_UNKNOWN_MEMORY = 4 << 30
_MAX_THREADS = 8

Segment = tuple[int, int]
"""First step, and the step after the last, of the steps whose photos are sent at once."""


class PhotoLoader:
    """The photos of training views, step by step.

    Args:
        views: the training views. A view that cannot be decoded is replaced by the next of its group.
        seed: seed of the order of the views.
        limit: bytes of device memory for photos; None for a share of the free memory.
        depths: whether to load depth images and known points.
        tracks: whether to load known points and the pixels where photos show them.
        shows_held: whether to show photos of views that are held back, for corrections to learn from.

    Attributes:
        cameras: the cameras of all views as a batch, [V], each with the size of the largest image.
        held: whether each view is held back, so that it does not teach the model at present, [V] bool.
        groups: the views by the size of their canvas; see :mod:`splax.training.photos.canvases`.
        streams: whether photos are sent when they are needed, because the device has no room for all.
        unreadable: error of each view that could not be decoded so far, by the view's name.
    """

    def __init__(
        self,
        views: Sequence[View],
        *,
        seed: int,
        limit: int | None = None,
        depths: bool = False,
        tracks: bool = False,
        shows_held: bool = False,
    ) -> None:
        limit = photo_memory() if limit is None else limit
        self.groups = group_views([(view.camera.width, view.camera.height) for view in views])
        self.cameras = stack_cameras([view.camera for view in views])
        self.unreadable: dict[str, str] = {}
        self._views, self._seed = views, seed
        self.held = np.zeros(len(views), bool)
        self._held: tuple[tuple[int, ...], int | None] = ((), None)
        self._shows_held = shows_held
        self._num_reported = 0
        # One thread prepares the next segment; other threads decode photos for it.
        self._background = ThreadPoolExecutor(1, "splax-photos")
        decoders = ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1), "splax-decode")
        self._loaders = [
            _GroupLoader(views, group, self.unreadable, decoders, depths, tracks) for group in self.groups
        ]
        self.streams = sum(loader.num_bytes * len(loader.group.views) for loader in self._loaders) > limit
        self._max_rows = [
            int(np.clip(min(MAX_LOAD, limit // 2) // loader.num_bytes, 1, MAX_ROWS))
            for loader in self._loaders
        ]
        self._group_of, self._row_of = np.empty((2, len(views)), np.int32)
        for index, group in enumerate(self.groups):
            self._group_of[list(group.views)] = index
            self._row_of[list(group.views)] = np.arange(len(group.views))
        self._order = np.empty(0, np.int32)
        self._segments: list[Segment] = []
        self._starts = np.empty(0, np.int32)
        self._resident: list[Photos] = []
        self._now: tuple[Segment, Photos] | None = None
        self._next: tuple[Segment, Future[Photos]] | None = None

    def hold_back(self, views: tuple[int, ...], until: int | None) -> None:
        """Holds some views back; call :meth:`plan` afterwards.

        Args:
            views: numbers of the training views to hold back.
            until: step before which they were held back, which the run has reached; None if they stay held back.
        """
        if (views, until) != self._held:
            self._held, self._now, self._next = (views, until), None, None
            self.held = np.zeros(len(self._views), bool)
            self.held[list(views if until is None else ())] = True

    def order(self, end: int) -> Int[np.ndarray, " steps"]:
        """The view of each step before step ``end``."""
        views, until = self._held
        if not views or self._shows_held:
            return self.order_of_all(end)
        groups = [
            group._replace(views=tuple(v for v in group.views if v not in views)) for group in self.groups
        ]
        order = view_order([group for group in groups if group.views], end, self._seed)
        return order if until is None else np.concatenate([order[:until], self.order_of_all(end)[until:]])

    def order_of_all(self, end: int) -> Int[np.ndarray, " steps"]:
        """The view of each step before step ``end`` if no view were held back."""
        return view_order(self.groups, end, self._seed)

    def take_view(self, view: int) -> tuple[Photos, int]:
        """Photos on the device that include the photo of one view, and its row in them."""
        group = self._group_of[view]
        if self.streams:
            return self._loaders[group].load(np.array([view]), self._max_rows[group]), 0
        return self._all_photos()[group], int(self._row_of[view])

    def plan(self, end: int) -> None:
        """Fixes the order of the views, and the segments, of all steps before step ``end``."""
        self._order = self.order(end)
        groups = self._group_of[self._order]
        changes = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), end]
        starts = []
        for start, stop in pairwise(changes):
            starts += range(start, stop, self._max_rows[groups[start]] if self.streams else end)
        self._segments = list(pairwise([*starts, end]))
        self._starts = np.array(starts)

    def view_at(self, step: int) -> View:
        """The planned view of a step; if its photo cannot be decoded, the step shows another view."""
        return self._views[self._order[step]]

    def newly_unreadable(self) -> dict[str, str]:
        """The entries that were added to ``unreadable`` since the last call of this method."""
        entries = list(self.unreadable.items())
        new, self._num_reported = entries[self._num_reported :], len(entries)
        return dict(new)

    def take(self, step: int, num_steps: int) -> tuple[Photos, Int[np.ndarray, " steps"]]:
        """Photos on the device for some of the next steps, at least one.

        Args:
            step: number of steps made before.
            num_steps: largest number of steps to take photos for.

        Returns:
            The photos, and the row of each step's photo in them.
        """
        index = int(np.searchsorted(self._starts, step, side="right")) - 1
        start, stop = self._segments[index]
        stop = min(stop, step + num_steps)
        if self.streams:
            return self._stream(index), np.arange(step - start, stop - start, dtype=np.int32)
        views = self._order[step:stop]
        return self._all_photos()[self._group_of[views[0]]], self._row_of[views]

    def _all_photos(self) -> list[Photos]:
        """The photos of each group, all on the device."""
        if not self._resident:
            self._resident = [loader.load_all() for loader in self._loaders]
        return self._resident

    def _stream(self, index: int) -> Photos:
        """Photos of a segment; starts to load those of the next segment."""
        segment = self._segments[index]
        if self._now is not None and self._now[0] == segment:
            return self._now[1]
        self._now = None
        if self._next is not None and self._next[0] == segment:
            photos = self._next[1].result()
        else:
            photos = self._load(segment)
        self._now, self._next = (segment, photos), None
        if index + 1 < len(self._segments):
            following = self._segments[index + 1]
            self._next = following, self._background.submit(self._load, following)
        return photos

    def _load(self, segment: Segment) -> Photos:
        views = self._order[slice(*segment)]
        group = self._group_of[views[0]]
        return self._loaders[group].load(views, self._max_rows[group])


class _GroupLoader:
    """Decodes views of one group and sends them to the device.

    Attributes:
        num_bytes: device memory of one photo, with all that belongs to it, in bytes.
    """

    def __init__(
        self,
        views: Sequence[View],
        group: Group,
        unreadable: dict[str, str],
        decoders: ThreadPoolExecutor,
        depths: bool,
        tracks: bool,
    ) -> None:
        members = [views[index] for index in group.views]
        sizes = {(view.camera.width, view.camera.height) for view in members}
        self.group = group
        self.has_masks = len(sizes) > 1 or any(view.has_mask for view in members)
        self.has_alphas = any(view.has_alpha for view in members)
        self.has_depths = depths and any(view.has_depth for view in members)
        self.has_tracks = tracks and any(view.point_pixels is not None for view in members)
        num_points = max(len(() if view.points is None else view.points) for view in members)
        self.num_points = num_points * (depths or self.has_tracks)
        bytes_each = 3 + self.has_masks + self.has_alphas + 4 * self.has_depths
        self.num_bytes = group.width * group.height * bytes_each
        self.num_bytes += (12 + 8 * self.has_tracks) * self.num_points
        self._views, self._unreadable, self._decoders = views, unreadable, decoders

    def load(self, views: Int[np.ndarray, " n"], num_rows: int) -> Photos:
        """Photos of the views on the device.

        Args:
            views: numbers of the views to load, all of this group.
            num_rows: number of rows of the result; rows beyond the views are empty.
        """
        shape = (num_rows, self.group.height, self.group.width)
        images = np.zeros((*shape, 3), np.uint8)
        masks = np.zeros(shape, bool) if self.has_masks else None
        alphas = np.full(shape, 255, np.uint8) if self.has_alphas else None
        depths = np.zeros(shape, np.float32) if self.has_depths else None
        points = np.full((num_rows, self.num_points, 3), np.nan, np.float32) if self.num_points else None
        pixels = np.full((num_rows, self.num_points, 2), np.nan, np.float32) if self.has_tracks else None
        decoded = np.zeros(num_rows, np.int32)  # number of the view whose photo is in each row

        def fill(row: int) -> None:
            decoded[row], image, mask, alpha, depth = self._decode(int(views[row]))
            part = np.s_[row, : image.shape[0], : image.shape[1]]
            images[part] = image
            if masks is not None:
                masks[part] = True if mask is None else mask
            if alphas is not None and alpha is not None:
                alphas[part] = alpha
            if depths is not None and depth is not None:
                depths[part] = depth
            view = self._views[decoded[row]]
            if points is not None and view.points is not None:
                points[row, : len(view.points)] = view.points
            if pixels is not None and view.point_pixels is not None:
                pixels[row, : len(view.point_pixels)] = view.point_pixels

        for _ in self._decoders.map(fill, range(len(views))):
            pass
        cameras = stack_cameras(
            [self._views[int(index)].camera for index in decoded], self.group.width, self.group.height
        )
        targets = Targets(
            jnp.asarray(images),
            None if masks is None else jnp.asarray(masks),
            None if alphas is None else jnp.asarray(alphas),
            None if depths is None else jnp.asarray(depths),
            None if points is None else jnp.asarray(points),
            None if pixels is None else jnp.asarray(pixels),
        )
        return Photos(jnp.asarray(decoded), cameras, targets)

    def load_all(self) -> Photos:
        """Photos of all views of the group, sent in parts that the host has room for."""
        views = np.array(self.group.views)
        num_rows = max(1, MAX_LOAD // self.num_bytes)
        if len(views) <= num_rows:
            return self.load(views, len(views))
        photos: Photos | None = None
        for start in range(0, len(views), num_rows):
            part = self.load(views[start : start + num_rows], len(views[start : start + num_rows]))
            if photos is None:
                photos = jax.tree.map(lambda x: jnp.zeros((len(views), *x.shape[1:]), x.dtype), part)
            photos = _put(photos, part, start)
        assert photos is not None
        return photos

    def _decode(
        self, index: int
    ) -> tuple[int, np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """The number of a view, with its image, mask, alpha and depth.

        If the view cannot be decoded, the next view of the group that can be decoded replaces it.

        Raises:
            ValueError: if no view of the group can be decoded.
        """
        first = self.group.views.index(index)
        for candidate in self.group.views[first:] + self.group.views[:first]:
            view = self._views[candidate]
            if view.name in self._unreadable:
                continue
            try:
                image = view.image
                mask = view.mask if view.has_mask else None
                alpha = view.alpha if view.has_alpha else None
                depth = view.depth if self.has_depths and view.has_depth else None
            except ValueError as error:
                self._unreadable[view.name] = str(error)
                continue
            return candidate, image, mask, alpha, depth
        reason = self._unreadable[self._views[index].name]
        raise ValueError(f"No photo of {len(self.group.views)} can be read: {reason}")


@partial(jax.jit, donate_argnums=0)
def _put(photos: Photos, part: Photos, start: Int[jax.Array, ""]) -> Photos:
    """The photos with the rows from ``start`` on replaced by those of ``part``."""
    return jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, start, 0), photos, part)


def photo_memory() -> int:
    """Bytes of the device's memory that photos may take."""
    free = free_memory()
    return _UNKNOWN_MEMORY if free is None else int(device_policy().photo_share * free)
