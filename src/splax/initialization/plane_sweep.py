"""Depth of posed photos by sweeping planes through the scene: no network, nothing to download.

Each photo gets a stack of planes, parallel to it and evenly spaced in inverse depth (Collins 1996, "A Space-Sweep
Approach to True Multi-Image Matching"). Neighbouring photos are projected onto each plane and compared with the
photo in small windows, by normalised cross-correlation; each pixel takes the plane that fits best. Doubtful depth
is left out: weak or ambiguous matches, and depth that the depth of other photos does not confirm.

A first sweep of tiny photos, over all depths that matter, finds the range of depths of each photo. The second
sweep covers this range.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int
from tqdm import tqdm

from splax.initialization.consistency import count_support
from splax.initialization.depth_source import DepthError
from splax.initialization.small_photos import (
    SmallPhotos,
    Warps,
    homogeneous_pixels,
    shrink_photos,
    warps_between,
)
from splax.initialization.view_selection import focus_depths, select_views
from splax.scene import Scene

# Pixels and planes of the first sweep, and the relative difference of depth up to which two photos agree in it.
_COARSE_PIXELS, _COARSE_PLANES, _COARSE_TOLERANCE = 6_000, 128, 0.05
# Least depth of the first sweep, as a share of the depth at which a camera looks; the largest is infinity.
_NEAREST = 0.15
# Quantiles of the inverse depths of the first sweep that bound the range of the second, and a margin in shares of
# the range.
_QUANTILES, _MARGIN = (0.005, 0.995), 0.15
_MIN_RANGE_PIXELS = 50
# Variance of grey values below which there is only noise, not texture (a standard deviation of 0.8 of 255).
_NOISE_VARIANCE = 1e-5
# Other photos whose depth is compared with that of a photo.
_WITNESSES = 10
# Distance from the best plane, in planes, up to which others belong to the same peak.
_PEAK = 2


class _Matches(NamedTuple):
    """The best match of each pixel.

    Attributes:
        inverse_depth: 1 / z of the best match, [H, W].
        score: correlation of the best match, in [-1, 1]; -1 if it is at an end of the range, [H, W].
        ambiguity: score of the second best peak relative to the best, from 0 (far worse) to 1 (as good), [H, W].
    """

    inverse_depth: Float[Array, "h w"]
    score: Float[Array, "h w"]
    ambiguity: Float[Array, "h w"]


@dataclasses.dataclass(frozen=True)
class PlaneSweep:
    """Depth from posed photos by a plane sweep, as a source of depth for ``Gaussians.from_depth``.

    Attributes:
        max_pixels: number of pixels of a depth map, approximately; larger photos are made smaller. At least 64.
        num_planes: number of planes per photo, at least 8.
        num_neighbors: number of other photos that each photo is compared with, at least 1.
        window: side of the windows that are compared, in pixels, odd, at least 3.
        min_score: least correlation of a match that counts, in (0, 1].
        max_ambiguity: largest ambiguity of a match that counts, in (0, 1]: 1 means that a second depth fits as
            well as the best one.
        tolerance: relative difference up to which two depths agree, in (0, 1].
        min_support: number of other photos whose depth must agree, at least 1; fewer if there are fewer photos.
        max_views: most photos to match, at least 3; of more photos, that many are taken at even steps.
        min_coverage: least share of all pixels whose depth must be found, in (0, 1].

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> import splax
        >>> scene = splax.make_demo_scene(num_train=12, num_test=0, width=64, height=48)
        >>> sweep = splax.PlaneSweep(max_pixels=3072, num_planes=32)
        >>> depths = sweep(scene)
        >>> len(depths), depths[0].shape
        (12, (48, 64))
    """

    max_pixels: int = 36_000
    num_planes: int = 64
    num_neighbors: int = 4
    window: int = 7
    min_score: float = 0.5
    max_ambiguity: float = 0.9
    tolerance: float = 0.02
    min_support: int = 2
    max_views: int = 200
    min_coverage: float = 0.05

    def __post_init__(self) -> None:
        least = {
            "max_pixels": 64,
            "num_planes": 8,
            "num_neighbors": 1,
            "window": 3,
            "min_support": 1,
            "max_views": 3,
        }
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"PlaneSweep {name} must be {low} or more, got {getattr(self, name)}.")
        if self.window % 2 == 0:
            raise ValueError(f"PlaneSweep window must be odd, got {self.window}.")
        for name in ("min_score", "max_ambiguity", "tolerance", "min_coverage"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"PlaneSweep {name} must lie in (0, 1], got {getattr(self, name)}.")

    def __call__(self, scene: Scene) -> list[Float32[np.ndarray, "h w"] | None]:
        """Returns the depth maps of the training views, [H, W] each; None for views that were not matched.

        Raises:
            DepthError: if too few views show the same from different places, or too little depth is found.
        """
        rows = self._chosen(len(scene.train))
        views = [scene.train[row] for row in rows]
        coarse = shrink_photos(views, _COARSE_PIXELS)
        if len(views) < 3:
            raise DepthError(f"a plane sweep needs at least 3 views, the scene has {len(views)}")
        focus = focus_depths(coarse, scene)
        whole = np.stack([np.zeros_like(focus), 1 / (_NEAREST * focus)], axis=-1)
        inverse, good = self._sweep(coarse, focus, whole, _COARSE_PLANES, _COARSE_TOLERANCE)
        self._check(good, coarse)
        ranges, focus = _fit_ranges(inverse, good, focus)
        fine = shrink_photos(views, self.max_pixels)
        inverse, good = self._sweep(fine, focus, ranges, self.num_planes, self.tolerance)
        self._check(good, fine)
        depths: list[Float32[np.ndarray, "h w"] | None] = [None] * len(scene.train)
        for row, values, known, (width, height) in zip(rows, inverse, good, fine.sizes, strict=True):
            depth = np.where(known, 1 / np.where(known, values, 1), 0)
            depths[row] = depth[:height, :width].astype(np.float32)
        return depths

    def __str__(self) -> str:
        return "a plane sweep"

    def _chosen(self, num_views: int) -> Int[np.ndarray, " n"]:
        return np.unique(np.linspace(0, num_views - 1, min(num_views, self.max_views)).round().astype(int))

    def _sweep(
        self,
        photos: SmallPhotos,
        focus: Float[np.ndarray, " v"],
        ranges: Float[np.ndarray, "v 2"],
        num_planes: int,
        tolerance: float,
    ) -> tuple[Float[np.ndarray, "v h w"], Bool[np.ndarray, "v h w"]]:
        """The inverse depth of all photos, and whether it can be trusted, [V, H, W] each.

        Args:
            photos: photos to match.
            focus: depth at which each camera looks, world units, [V].
            ranges: least and largest inverse depth of the planes of each photo, [V, 2].
            num_planes: number of planes per photo.
            tolerance: relative difference up to which two depths agree.
        """
        neighbors, weights = select_views(photos, focus, self.num_neighbors)
        if (weights.max(axis=1) > 0).sum() < 3:
            raise DepthError("the views do not see the same things from different places")
        found = []
        # The progress bar is shown if standard error is a terminal.
        for index in tqdm(range(len(neighbors)), "Matching photos", unit="photo", disable=None, leave=False):
            others, weight = neighbors[index], weights[index]
            matches = _match(
                photos.grey[index],
                photos.grey[others],
                photos.valid[others] & (weight > 0)[:, None, None],
                warps_between(photos, index, others),
                jnp.asarray(np.linspace(ranges[index, 0], ranges[index, 1], num_planes), jnp.float32),
                window=self.window,
            )
            clear = (matches.score >= self.min_score) & (matches.ambiguity <= self.max_ambiguity)
            found.append((matches.inverse_depth, clear & photos.valid[index] & (matches.inverse_depth > 0)))
        inverse, clear = (
            np.stack([np.asarray(part) for part in parts]) for parts in zip(*found, strict=True)
        )
        support, conflicts = count_support(
            photos, inverse, clear, *select_views(photos, focus, _WITNESSES), tolerance
        )
        enough = min(self.min_support, max(1, neighbors.shape[1] - 1))
        return inverse, clear & (support >= enough) & (support > conflicts)

    def _check(self, good: Bool[np.ndarray, "v h w"], photos: SmallPhotos) -> None:
        share = good.sum() / max(1, int(photos.valid.sum()))
        if share < self.min_coverage:
            raise DepthError(
                f"the plane sweep found the depth of {share:.1%} of the pixels, fewer than {self.min_coverage:.0%}"
            )


@partial(jax.jit, static_argnames="window")
def _match(
    photo: Float[Array, "h w"],
    others: Float[Array, "s h w"],
    valid: Bool[Array, "s h w"],
    warps: Warps,
    inverse_depths: Float[Array, " d"],
    *,
    window: int,
) -> _Matches:
    """Sweeps planes through one photo.

    Args:
        photo: grey values of the photo, [H, W].
        others: grey values of the photos to compare it with, [S, H, W].
        valid: whether a pixel of the other photos may be used, [S, H, W].
        warps: maps from the pixels of the photo to those of the others.
        inverse_depths: inverse depths of the planes, evenly spaced, ascending, [D].
        window: side of the windows in pixels, odd.
    """
    height, width = photo.shape
    # The default precision of matrix products on a GPU is too low.
    rays = jnp.einsum("src,chw->srhw", warps.A, homogeneous_pixels(height, width), precision="highest")
    mean = _box(photo, window)
    variance = _box(photo * photo, window) - mean * mean

    def score(inverse_depth: Float[Array, ""]) -> Float[Array, "h w"]:
        x, y, z = jnp.moveaxis(rays + inverse_depth * warps.b[:, :, None, None], 1, 0)
        in_front = z > 1e-6
        x, y = x / jnp.where(in_front, z, 1), y / jnp.where(in_front, z, 1)
        inside = in_front & (x > 0) & (x < width) & (y > 0) & (y < height)
        warped = jax.vmap(_sample)(others, x, y)
        seen = inside & jax.vmap(_sample_nearest)(valid, x, y)
        warped_mean = _box(warped, window)
        warped_variance = _box(warped * warped, window) - warped_mean**2
        covariance = _box(photo * warped, window) - mean * warped_mean
        spread = jnp.maximum(variance, 0) + _NOISE_VARIANCE
        warped_spread = jnp.maximum(warped_variance, 0) + _NOISE_VARIANCE
        return _mean_of_better_half(covariance * jax.lax.rsqrt(spread * warped_spread), seen)

    return _best(jax.lax.map(score, inverse_depths), inverse_depths)


def _mean_of_better_half(scores: Float[Array, "s h w"], seen: Bool[Array, "s h w"]) -> Float[Array, "h w"]:
    """Mean score of the better half of the photos that see a point; -1 if none does.

    If something hides the point from some photos, their scores are in the worse half.
    """
    num = seen.sum(axis=0)
    half = (num + 1) // 2
    ordered = jnp.sort(jnp.where(seen, scores, -jnp.inf), axis=0, descending=True)
    counted = jnp.arange(len(scores))[:, None, None] < half
    return jnp.where(num > 0, jnp.where(counted, ordered, 0).sum(axis=0) / jnp.maximum(half, 1), -1)


def _best(scores: Float[Array, "d h w"], inverse_depths: Float[Array, " d"]) -> _Matches:
    """The highest peak of the scores; a parabola through three planes gives its position between planes."""
    num = len(scores)
    best = scores.argmax(axis=0)
    top = scores.max(axis=0)
    elsewhere = jnp.abs(jnp.arange(num)[:, None, None] - best) > _PEAK
    second = jnp.where(elsewhere, scores, -1).max(axis=0)

    inner = best.clip(1, num - 2)
    below, at, above = (jnp.take_along_axis(scores, (inner + i)[None], axis=0)[0] for i in (-1, 0, 1))
    bend = below - 2 * at + above
    shift = jnp.where(bend < 0, 0.5 * (below - above) / jnp.where(bend < 0, bend, -1), 0).clip(-1, 1)
    step = inverse_depths[1] - inverse_depths[0]
    at_end = (best == 0) | (best == num - 1)
    return _Matches(
        inverse_depth=inverse_depths[inner] + shift * step,
        score=jnp.where(at_end, -1, top),
        ambiguity=(1 - top) / jnp.maximum(1 - second, 1e-6),
    )


def _sample(
    image: Float[Array, "h w"], x: Float[Array, "h w"], y: Float[Array, "h w"]
) -> Float[Array, "h w"]:
    """Bilinear interpolation of an image at pixels (x, y); values at the edge are repeated beyond it."""
    height, width = image.shape
    x, y = (x - 0.5).clip(0, width - 1), (y - 0.5).clip(0, height - 1)
    column, row = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    column, row = jnp.minimum(column, width - 2), jnp.minimum(row, height - 2)
    right, down = x - column, y - row
    first, flat = row * width + column, image.ravel()
    upper = flat[first] * (1 - right) + flat[first + 1] * right
    lower = flat[first + width] * (1 - right) + flat[first + width + 1] * right
    return upper * (1 - down) + lower * down


def _sample_nearest(
    mask: Bool[Array, "h w"], x: Float[Array, "h w"], y: Float[Array, "h w"]
) -> Bool[Array, "h w"]:
    height, width = mask.shape
    column, row = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    return mask[row.clip(0, height - 1), column.clip(0, width - 1)]


def _box(values: Float[Array, "*n h w"], window: int) -> Float[Array, "*n h w"]:
    """Mean over square windows; values at the edge are repeated beyond it."""
    for axis in (-1, -2):
        num = values.shape[axis]
        pad = [(0, 0)] * values.ndim
        pad[axis] = (window // 2, window // 2)
        padded = jnp.pad(values, pad, mode="edge")
        parts = [jax.lax.slice_in_dim(padded, k, k + num, axis=axis) for k in range(window)]
        values = sum(parts[1:], parts[0]) / window
    return values


def _fit_ranges(
    inverse: Float[np.ndarray, "v h w"], good: Bool[np.ndarray, "v h w"], focus: Float[np.ndarray, " v"]
) -> tuple[Float[np.ndarray, "v 2"], Float[np.ndarray, " v"]]:
    """The range of inverse depth of each photo, [V, 2], and the depth at which its camera looks, [V].

    Args:
        inverse: inverse depth that the first sweep found, [V, H, W].
        good: whether the inverse depth can be trusted, [V, H, W].
        focus: depth at which each camera looks, estimated from the cameras, [V].
    """
    ranges, depths = [], []
    everywhere = np.quantile(inverse[good], _QUANTILES)
    for values, known, depth in zip(inverse, good, focus, strict=True):
        enough = known.sum() >= _MIN_RANGE_PIXELS
        low, high = np.quantile(values[known], _QUANTILES) if enough else everywhere
        margin = _MARGIN * (high - low) + 0.02 * high
        ranges.append((max(low - margin, 0), high + margin))
        depths.append(1 / np.median(values[known]) if enough else depth)
    return np.array(ranges), np.array(depths)
