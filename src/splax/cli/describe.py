"""Describes a dataset in words, for ``splax info`` and ``splax train``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from splax.scene import Scene, View

# The largest number of photos that are read for a description.
_MAX_LOOKED_AT = 64


def describe_scene(scene: Scene) -> str:
    """Describes a scene in a few lines for people."""
    views = [*scene.train, *scene.test]
    intrinsics = list(dict.fromkeys(tuple(np.asarray(view.camera.K).ravel().tolist()) for view in views))
    fx, _, cx, _, fy, cy = intrinsics[0][:6]
    center = ", ".join(f"{value:.3f}" for value in scene.center)
    same = "shared by all views" if len(intrinsics) == 1 else f"first of {len(intrinsics)} different ones"
    megabytes = sum(view.camera.width * view.camera.height for view in views) * 3 / 1e6
    sample = _readable(views[:: -(-len(views) // _MAX_LOOKED_AT)])
    of_sample = "" if len(sample) == len(views) else f"; of a sample of {len(sample)} views"
    lines = [
        f"source    {scene.source or 'made in memory'}",
        *([f"format    {scene.dataset_type}"] if scene.dataset_type else []),
        f"views     {len(views)}: {len(scene.train)} train, {len(scene.test)} test",
        f"size      {describe_sizes(views)}, {megabytes:.1f} MB decoded",
        f"camera    fx {fx:.2f}  fy {fy:.2f}  cx {cx:.2f}  cy {cy:.2f} ({same})",
        f"center    ({center}), median camera distance {scene.radius:.3f}",
        f"extent    {scene.extent:.3f}",
        f"points    {_describe_points(scene)}",
        f"alpha     {_describe_alpha(sample)}{of_sample}",
        f"masks     {_describe_masks(sample)}{of_sample}",
        f"depth     {_describe_depth(sample)}{of_sample}",
        *_describe_times(views),
        *(f"warning   {warning}" for warning in scene.warnings),
    ]
    return "\n".join(lines)


def describe_sizes(views: Sequence[View]) -> str:
    """The sizes of views in words, the most frequent size first."""
    sizes = Counter((view.camera.width, view.camera.height) for view in views).most_common()
    if len(sizes) == 1:
        return "{} x {} pixels".format(*sizes[0][0])
    listed = ", ".join(f"{width} x {height} ({count} views)" for (width, height), count in sizes[:4])
    return f"{len(sizes)} sizes: {listed}{', ...' if len(sizes) > 4 else ''}"


def _readable(views: Sequence[View]) -> list[View]:
    """The views whose images can be read; some damage is found only when an image is decoded."""
    readable = []
    for view in views:
        with suppress(ValueError):
            if view.has_alpha or view.has_mask or view.has_depth:
                _ = view.image
            readable.append(view)
    return readable


def _describe_points(scene: Scene) -> str:
    if scene.points is None:
        return "none"
    text = f"{len(scene.points):,}, {'without' if scene.point_colors is None else 'with'} colours"
    views = [*scene.train, *scene.test]
    counts = [len(view.points) for view in views if view.points is not None]
    if counts:
        text += f"; {len(counts)} of {len(views)} views say which they show, median {np.median(counts):,.0f}"
    return text


def _describe_alpha(views: Sequence[View]) -> str:
    count = sum(view.has_alpha and view.alpha is not None for view in views)
    return f"{count} of {len(views)} views are transparent in places" if count else "none"


def _describe_masks(views: Sequence[View]) -> str:
    masks = [mask for view in views if view.has_mask and (mask := view.mask) is not None]
    if not masks:
        return "none"
    share = sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks)
    return f"{len(masks)} of {len(views)} views; they leave {share:.1%} of the pixels"


def _describe_depth(views: Sequence[View]) -> str:
    depths = [depth for view in views if view.has_depth and (depth := view.depth) is not None]
    known = np.concatenate([depth[depth > 0] for depth in depths]) if depths else np.empty(0)
    if not known.size:
        return "none"
    low, middle, high = np.quantile(known, [0.01, 0.5, 0.99])
    share = known.size / sum(depth.size for depth in depths)
    return (
        f"{len(depths)} of {len(views)} views, known for {share:.1%} of their pixels; "
        f"median {middle:.3g}, nearly all from {low:.3g} to {high:.3g}"
    )


def _describe_times(views: Sequence[View]) -> list[str]:
    times = {time for view in views if (time := view.time) is not None}
    return [f"time      {min(times):g} to {max(times):g}, {len(times)} different"] if times else []
