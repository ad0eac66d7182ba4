"""Surfaces that rays can meet: closed forms in float32, vectorised over rays."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Float

Vectors = Float[np.ndarray, "n 3"]
Scalars = Float[np.ndarray, " n"]


class Shape(ABC):
    """A surface that rays can meet."""

    @abstractmethod
    def intersect(self, origins: Vectors, directions: Vectors) -> Scalars:
        """Distance along each ray to the first point of the surface in front of its origin, [n]; inf if none.

        Args:
            origins: start of each ray, [n, 3].
            directions: unit direction of each ray, [n, 3].
        """

    @abstractmethod
    def normals(self, points: Vectors) -> Vectors:
        """Outward unit normals at points of the surface, [n, 3]."""

    @abstractmethod
    def local(self, points: Vectors) -> Vectors:
        """The points in the shape's own frame, in which its texture is defined, [n, 3]."""


@dataclasses.dataclass(frozen=True)
class Sphere(Shape):
    """A sphere. Its own frame is centred on it and rotated by ``rotation``."""

    center: Float[np.ndarray, " 3"]
    radius: float
    rotation: Float[np.ndarray, "3 3"] = dataclasses.field(
        default_factory=lambda: np.eye(3, dtype=np.float32)
    )

    def intersect(self, origins: Vectors, directions: Vectors) -> Scalars:  # noqa: D102
        offset = origins - self.center
        along = np.einsum("ni,ni->n", offset, directions)
        # The squared distance of the centre from the ray is that of the perpendicular: no cancellation.
        across = offset - along[:, None] * directions
        discriminant = self.radius**2 - np.einsum("ni,ni->n", across, across)
        distance = -along - np.sqrt(np.maximum(discriminant, 0))
        return np.where((discriminant > 0) & (distance > 0), distance, np.inf).astype(np.float32)

    def normals(self, points: Vectors) -> Vectors:  # noqa: D102
        return (points - self.center) / self.radius

    def local(self, points: Vectors) -> Vectors:  # noqa: D102
        return (points - self.center) @ self.rotation


@dataclasses.dataclass(frozen=True)
class Box(Shape):
    """A box with half sizes ``half``. The columns of ``rotation`` are its axes in the world."""

    center: Float[np.ndarray, " 3"]
    half: Float[np.ndarray, " 3"]
    rotation: Float[np.ndarray, "3 3"] = dataclasses.field(
        default_factory=lambda: np.eye(3, dtype=np.float32)
    )

    def intersect(self, origins: Vectors, directions: Vectors) -> Scalars:  # noqa: D102
        starts, slopes = self.local(origins).T, (directions @ self.rotation).T
        enter = np.zeros(len(origins), np.float32)
        leave = np.full(len(origins), np.inf, np.float32)
        for start, slope, half in zip(starts, slopes, self.half, strict=True):
            # A ray parallel to these faces meets them very far away, not at 0 times infinity.
            inverse = 1 / np.where(slope == 0, np.float32(1e-12), slope)
            middle, reach = -start * inverse, np.abs(half * inverse)
            np.maximum(enter, middle - reach, out=enter)
            np.minimum(leave, middle + reach, out=leave)
        return np.where((enter < leave) & (enter > 0), enter, np.float32(np.inf))

    def normals(self, points: Vectors) -> Vectors:  # noqa: D102
        local = self.local(points) / self.half
        face = np.abs(local).argmax(-1)
        sign = np.sign(np.take_along_axis(local, face[:, None], -1))
        return (self.rotation.T[face] * sign).astype(np.float32)

    def local(self, points: Vectors) -> Vectors:  # noqa: D102
        return (points - self.center) @ self.rotation


@dataclasses.dataclass(frozen=True)
class Disc(Shape):
    """A flat round disc that faces up (+z)."""

    center: Float[np.ndarray, " 3"]
    radius: float

    def intersect(self, origins: Vectors, directions: Vectors) -> Scalars:  # noqa: D102
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = (self.center[2] - origins[:, 2]) / directions[:, 2]
            on_plane = (origins + distance[:, None] * directions - self.center)[:, :2]
            inside = np.einsum("ni,ni->n", on_plane, on_plane) <= self.radius**2
        return np.where(inside & (distance > 0), distance, np.inf).astype(np.float32)

    def normals(self, points: Vectors) -> Vectors:  # noqa: D102
        return np.broadcast_to(np.array([0, 0, 1], np.float32), points.shape)

    def local(self, points: Vectors) -> Vectors:  # noqa: D102
        return points - self.center
