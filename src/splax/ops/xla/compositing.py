"""The rasterizer in plain JAX: the specification of the image, differentiable in every mode and order.

Each tile's list is cut into buckets of :data:`BUCKET_SIZE` Gaussians, and groups of buckets are composited
side by side: arrays are [bucket entry, pixel of the tile, bucket], so that every operation is elementwise
along the last axis and runs in vector registers. What a bucket needs from those before it in its tile is one
number a pixel, the transmittance T, a product over buckets. No loop has a dynamic count: JAX's own jvp, vjp,
vmap and their compositions all work, in float32 and float64.

Compositing is that of Kerbl et al. 2023: front to back, alpha = min(0.999, opacity exp(-sigma)), skipped
below 1/255; the Gaussian that would take T to 1e-4 or below ends the pixel and is left out.

What is faster, and first order reverse mode only: :mod:`splax.ops.xla.vjp`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from splax.ops.constants import ALPHA_THRESHOLD, MAX_ALPHA, MIN_TRANSMITTANCE
from splax.ops.intersection import Intersections
from splax.ops.tile_grid import TileGrid

# Gaussians per bucket. Longer buckets amortise per-bucket work, shorter ones pad less.
BUCKET_SIZE = 32
# Elements of one [BUCKET_SIZE, pixels, buckets] array: about what a core's second-level cache holds.
_GROUP_ELEMENTS = 2**18


class Entries(NamedTuple):
    """Numbers of the Gaussians of a list that compositing reads; all arrays have one shape.

    The arrays are separate on purpose: XLA for CPU vectorises a loop over several arrays, but not over slices
    of one.
    """

    x: Array  # mean less the tile's centre, pixels
    y: Array
    a: Array  # conic
    b: Array
    c: Array
    opacity: Array  # 0 beyond the end of the list


class Buckets(NamedTuple):
    """Groups of buckets. A bucket is a part of one tile's list; the leading axis numbers the groups."""

    ids: Int[Array, "groups bucket lanes"]
    valid: Bool[Array, "groups bucket lanes"]
    tile: Int[Array, "groups lanes"]
    begins: Bool[Array, " groups"]  # true if the group's first bucket is the first of its tile
    used: Bool[Array, " groups"]


def composite(
    attributes: Float[Array, "rows n"],
    probe: Float[Array, "2 n"] | None,
    isects: Intersections,
    tile_grid: TileGrid,
) -> Float[Array, "tiles channels pixels"]:
    """Composites every tile.

    Args:
        attributes: one column for each Gaussian: mean x and y, conic a, b, c, opacity, then the channels, [6 +
            C, N].
        probe: array that gets gradients in absolute values (Ye et al. 2024, AbsGS), [2, N], or None; see
            :class:`splax.ops.backend.Backend`.
        isects: lists of the Gaussians that touch each tile.
        tile_grid: the tiles of the image.

    Returns:
        Channels of each pixel, the last one the alpha, [tiles, C + 1, tile_size^2]; no background.
    """
    buckets = _make_buckets(isects, tile_grid)
    entries, channels = gather_entries(
        attributes, buckets.ids, valid=buckets.valid, tile=buckets.tile[:, None], tile_grid=tile_grid
    )
    channels = jnp.stack([*channels, jnp.ones_like(entries.x)], axis=2)
    probes = None if probe is None else tuple(row[buckets.ids] for row in probe)
    dtype, num_pixels, num_channels = attributes.dtype, tile_grid.num_pixels, channels.shape[2]
    pixels = pixel_centers(tile_grid, dtype)[..., None]

    def composite_group(carry, entries, channels, probes, tile, begins):
        columns = Entries(*(value[:, None] for value in entries))
        probes = None if probes is None else [value[:, None] for value in probes]
        alphas = pixel_alphas(columns, pixels, probes)
        passed = jnp.maximum(jnp.prod(1 - alphas, axis=0), jnp.finfo(dtype).tiny)
        before = jnp.exp(_sum_before(jnp.log(passed), tile))
        before = before * jnp.where(_continues(tile, begins), carry[:, None], 1)

        def blend(state, entry):
            transmittance, color = state
            alpha, channel = entry
            after = transmittance * (1 - alpha)
            weight = jnp.where(after > MIN_TRANSMITTANCE, alpha * transmittance, 0)
            return (after, color + weight * channel[:, None]), None

        start = (before, jnp.zeros((num_channels, *before.shape), dtype))
        (after, color), _ = jax.lax.scan(blend, start, (alphas, channels))
        return after[:, -1], color

    def skip_group(carry, entries, channels, probes, tile, begins):
        return carry, jnp.zeros((num_channels, num_pixels, tile.shape[0]), dtype)

    @jax.checkpoint  # reverse mode recomputes a group instead of storing all of them
    def step(carry, group):
        used, *inputs = group
        return jax.lax.cond(used, composite_group, skip_group, carry, *inputs)

    groups = (buckets.used, entries, channels, probes, buckets.tile, buckets.begins)
    _, colors = jax.lax.scan(step, jnp.ones(num_pixels, dtype), groups)
    colors = jnp.moveaxis(colors, -1, 1).reshape(-1, num_channels * num_pixels)
    tiles = jax.ops.segment_sum(
        colors, buckets.tile.reshape(-1), num_segments=tile_grid.num_tiles, indices_are_sorted=True
    )
    return tiles.reshape(tile_grid.num_tiles, num_channels, num_pixels)


def gather_entries(
    attributes: Float[Array, "rows n"],
    ids: Int[Array, "*shape"],
    *,
    valid: Bool[Array, "*shape"],
    tile: Int[Array, "..."],
    tile_grid: TileGrid,
) -> tuple[Entries, list[Float[Array, "*shape"]]]:
    """Returns the numbers that compositing reads of some Gaussians, and their channels.

    Args:
        attributes: attributes of all Gaussians, [6 + C, N]; see :func:`composite`.
        ids: rows of the Gaussians to gather.
        valid: mask of the ids that belong to a list; the others get opacity 0. Its shape is that of ``ids``.
        tile: numbers of the tiles that the Gaussians are drawn in; the shape broadcasts to that of ``ids``.
        tile_grid: the tiles of the image.
    """
    x, y, a, b, c, opacity, *channels = (row[ids] for row in attributes)
    row, column = jnp.divmod(tile, tile_grid.columns)
    entries = Entries(
        x=x - ((column + 0.5) * tile_grid.tile_size).astype(x.dtype),
        y=y - ((row + 0.5) * tile_grid.tile_size).astype(y.dtype),
        a=a,
        b=b,
        c=c,
        opacity=jnp.where(valid, opacity, 0),
    )
    return entries, channels


def pixel_centers(tile_grid: TileGrid, dtype: jnp.dtype) -> Float[Array, "2 pixels"]:
    """Returns x and y of the pixel centres of a tile, relative to the centre of the tile, in pixels."""
    row, column = jnp.divmod(jnp.arange(tile_grid.num_pixels), tile_grid.tile_size)
    return (jnp.stack([column, row]) + 0.5 - tile_grid.tile_size / 2).astype(dtype)


def pixel_alphas(
    entries: Entries, pixels: Sequence[Array] | Array, probes: Sequence[Array] | None = None
) -> Float[Array, "..."]:
    """Returns the alpha of Gaussians at pixels; 0 where a Gaussian does not touch a pixel.

    Args:
        entries: numbers of the Gaussians.
        pixels: x and y of :func:`pixel_centers`; their shapes broadcast with that of an entry.
        probes: x and y of the probe of :func:`composite`, each with the shape of an entry; or None.
    """
    if probes is None:
        dx, dy = entries.x - pixels[0], entries.y - pixels[1]
    else:
        dx, dy = (
            _probed_difference(center, probe, pixel)
            for center, probe, pixel in zip((entries.x, entries.y), probes, pixels, strict=True)
        )
    sigma = 0.5 * (entries.a * dx * dx + entries.c * dy * dy) + entries.b * dx * dy
    alpha = jnp.minimum(MAX_ALPHA, entries.opacity * jnp.exp(-sigma))
    return jnp.where((sigma >= 0) & (alpha >= ALPHA_THRESHOLD), alpha, 0)


@jax.custom_vjp
def _probed_difference(center, probe, pixel):
    """Returns ``center - pixel``, broadcast; the probe gets the centre's gradients in absolute values."""
    del probe
    return center - pixel


def _probed_difference_fwd(center, probe, pixel):
    return _probed_difference(center, probe, pixel), (jnp.zeros_like(center), jnp.zeros_like(pixel))


def _probed_difference_bwd(like, v):
    center, pixel = like
    axes = tuple(axis for axis, size in enumerate(center.shape) if size != v.shape[axis])
    return v.sum(axes, keepdims=True), jnp.abs(v).sum(axes, keepdims=True), pixel


_probed_difference.defvjp(_probed_difference_fwd, _probed_difference_bwd)


def _make_buckets(isects: Intersections, tile_grid: TileGrid) -> Buckets:
    offsets, capacity = isects.tile_offsets, isects.flatten_ids.shape[0]
    # The largest number of buckets: all full ones, and one in each tile that is not full.
    most = capacity // BUCKET_SIZE + min(tile_grid.num_tiles, capacity)
    lanes = min(max(8, _GROUP_ELEMENTS // (BUCKET_SIZE * tile_grid.num_pixels)), most)
    groups = max(1, -(-most // lanes))

    counts = -(-(offsets[1:] - offsets[:-1]) // BUCKET_SIZE)
    ends = jnp.cumsum(counts)
    index = jnp.arange(groups * lanes, dtype=jnp.int32)
    tiles = jnp.arange(tile_grid.num_tiles, dtype=jnp.int32)
    tile = jnp.repeat(tiles, counts, total_repeat_length=index.size)
    nth = index - (ends - counts)[tile]
    pairs = offsets[tile] + nth * BUCKET_SIZE + jnp.arange(BUCKET_SIZE, dtype=jnp.int32)[:, None]
    used = index < ends[-1]
    valid = used & (pairs < offsets[tile + 1])
    ids = jnp.where(valid, isects.flatten_ids[jnp.where(valid, pairs, 0)], 0)

    def grouped(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(*x.shape[:-1], groups, lanes), -2, 0)

    return Buckets(
        ids=grouped(ids),
        valid=grouped(valid),
        tile=grouped(tile),
        begins=grouped(nth == 0)[:, 0],
        used=grouped(used).any(axis=1),
    )


def _sum_before(values, tile):
    """Returns, for each bucket, the sum over the buckets before it in its tile and group, [pixels, lanes].

    It is a product with a triangular matrix: for a hundred lanes as fast as a scan, and far quicker to compile.
    """
    lane = jnp.arange(tile.shape[0])
    precedes = (lane[:, None] < lane) & (tile[:, None] == tile)
    return jnp.matmul(values, precedes.astype(values.dtype), precision=jax.lax.Precision.HIGHEST)


def _continues(tile, begins):
    """Returns the mask of the buckets of the tile in which the group before this one ended, [lanes]."""
    return (tile == tile[0]) & ~begins
