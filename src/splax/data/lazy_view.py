"""Views whose photos stay on disk until their pixels are read.

A dataset may be far larger than memory. A cache of bounded size keeps the photos that were used last.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from splax.cameras import Camera
from splax.scene import View


class Pixels(NamedTuple):
    """The image of a photo, its alpha, mask and depth image, all of one size; see :class:`splax.View`."""

    image: UInt8[np.ndarray, "h w 3"]
    alpha: UInt8[np.ndarray, "h w"] | None
    mask: Bool[np.ndarray, "h w"] | None
    depth: Float32[np.ndarray, "h w"] | None

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take, in bytes."""
        return sum(values.nbytes for values in self if values is not None)

    def apply(self, image: Callable, mask: Callable, depth: Callable) -> Pixels:
        """Applies a function to each array that is there.

        Args:
            image: function for the image and for alpha.
            mask: function for the mask.
            depth: function for the depth image.
        """
        return Pixels(
            image(self.image),
            None if self.alpha is None else image(self.alpha),
            None if self.mask is None else mask(self.mask),
            None if self.depth is None else depth(self.depth),
        )


class PixelCache:
    """Keeps the pixels that were used last, up to a number of bytes. Several threads may use one cache.

    Attributes:
        limit: most bytes to keep; pixels that are larger than this are not kept at all.
        nbytes: bytes that are kept now.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._entries: OrderedDict[Hashable, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Pixels]) -> Pixels:
        """The pixels that are kept for ``key``; if there are none, those that ``make`` returns."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        pixels = make()
        with self._lock:
            if key not in self._entries and pixels.nbytes <= self.limit:
                self._entries[key] = pixels
                self.nbytes += pixels.nbytes
            while self.nbytes > self.limit:
                self.nbytes -= self._entries.popitem(last=False)[1].nbytes
        return pixels


class LazyView(View):
    """A view whose pixels are decoded when they are read, and once more when the cache has dropped them.

    ``dataclasses.replace`` makes a plain :class:`splax.View` of it, which holds its pixels.
    """

    _source: Callable[[], Pixels]
    _transparent: bool
    _masked: bool
    _deep: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Makes a plain view: ``dataclasses.replace`` calls this."""
        return View(*args, **kwargs)

    @classmethod
    def on_disk(
        cls,
        camera: Camera,
        name: str,
        source: Callable[[], Pixels],
        *,
        has_alpha: bool,
        has_mask: bool,
        has_depth: bool,
        points: Float32[np.ndarray, "points 3"] | None = None,
        point_pixels: Float32[np.ndarray, "points 2"] | None = None,
    ) -> LazyView:
        """Makes a view of a photo on disk.

        Args:
            camera: camera of the width and height that the pixels will have.
            name: name of the view.
            source: function that returns the pixels, and raises ValueError if they cannot be read.
            has_alpha: whether some pixels may be transparent.
            has_mask: whether there is a mask.
            has_depth: whether there is a depth image.
            points: surface points that the photo shows, float32 [P, 3], or None.
            point_pixels: pixels that show the points, float32 [P, 2], or None.
        """
        view = object.__new__(cls)
        attributes = {"camera": camera, "name": name, "points": points, "point_pixels": point_pixels}
        attributes |= {"_source": source, "_transparent": has_alpha}
        view.__dict__.update(attributes, _masked=has_mask, _deep=has_depth)
        return view

    @property
    def has_alpha(self) -> bool:
        """Whether some pixels may be transparent, without decoding them."""
        return self._transparent

    @property
    def has_mask(self) -> bool:
        """Whether there is a mask, without decoding it."""
        return self._masked

    @property
    def has_depth(self) -> bool:
        """Whether there is a depth image, without decoding it."""
        return self._deep

    def __getattribute__(self, name: str) -> Any:
        """Attributes of :class:`splax.View`; image, alpha, mask and depth come from the source."""
        if name in Pixels._fields:
            return getattr(self._source(), name)
        return super().__getattribute__(name)

    def __repr__(self) -> str:
        size = f"{self.camera.width} x {self.camera.height}"
        return f"LazyView({self.name!r}, {size})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are plain views."""
        pixels = self.image, self.camera, self.name, self.mask, self.depth, self.alpha
        return View, (*pixels, self.points, self.point_pixels)
