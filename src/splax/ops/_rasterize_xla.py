"""The rasterizer in plain XLA: the specification of the image, and the path of every platform but NVIDIA's.

Each tile's list is cut into buckets of :data:`BUCKET_SIZE` Gaussians, and groups of buckets are composited
side by side: arrays are [bucket entry, pixel of the tile, bucket], so that every operation is elementwise
along the last axis and runs in vector registers. What a bucket needs from those before it in its tile is one
number a pixel, the transmittance T, a product over buckets. No loop has a dynamic count: JAX's own jvp, vjp,
vmap and their compositions all work, in float32 and float64.

Compositing is that of Kerbl et al. 2023: front to back, alpha = min(0.999, opacity exp(-sigma)), skipped
below 1/255; the Gaussian that would take T to 1e-4 or below ends the pixel and is left out.

:func:`composite` is differentiated by JAX. :func:`composite_vjp` has the same forward and a hand-written
backward: faster, but first order reverse mode only.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from splax.ops.intersection import Intersections, tile_grid
from splax.ops.projection import ALPHA_THRESHOLD

# Alpha is clamped below 1, so that 1 / (1 - alpha) stays finite (gsplat 1.5.3).
MAX_ALPHA = 0.999
# A pixel is finished when its transmittance would fall to this or below (3DGS).
MIN_TRANSMITTANCE = 1e-4
# Gaussians per bucket. Longer buckets amortise per-bucket work, shorter ones pad less.
BUCKET_SIZE = 32
# Elements of one [BUCKET_SIZE, pixels, buckets] array: about what a core's second-level cache holds.
_GROUP_ELEMENTS = 2**18


class TileLayout(NamedTuple):
    """Static sizes of one rasterization."""

    width: int
    height: int
    tile_size: int

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles per row and column."""
        return tile_grid(self.width, self.height, self.tile_size)

    @property
    def num_tiles(self) -> int:
        """Tiles of the image."""
        return self.grid[0] * self.grid[1]

    @property
    def num_pixels(self) -> int:
        """Pixels of a tile."""
        return self.tile_size**2


class Entries(NamedTuple):
    """What compositing reads of each bucket entry, [groups, BUCKET_SIZE, lanes] each.

    Separate arrays on purpose: XLA for CPU vectorises a loop over several arrays, but not over slices of one.
    """

    x: Array  # mean less the tile's centre, pixels
    y: Array
    a: Array  # conic
    b: Array
    c: Array
    opacity: Array  # 0 where the bucket is not full


class Buckets(NamedTuple):
    """Groups of buckets, each a stretch of one tile's list; leading axis: groups."""

    ids: Int[Array, "groups bucket lanes"]
    valid: Bool[Array, "groups bucket lanes"]
    tile: Int[Array, "groups lanes"]
    begins: Bool[Array, " groups"]  # whether the group's first bucket is the first of its tile
    used: Bool[Array, " groups"]


def composite(
    attributes: Float[Array, "rows n"], isects: Intersections, layout: TileLayout
) -> Float[Array, "tiles channels pixels"]:
    """Composites every tile.

    Args:
        attributes: one column a Gaussian: mean x and y, conic a, b, c, opacity, then the channels.
        isects: lists of the tiles.
        layout: static sizes.

    Returns:
        Channels of each pixel, the last one the alpha, [tiles, C + 1, tile_size^2]; no background.
    """
    return _forward(attributes, isects, layout, save_transmittance=False)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def composite_vjp(
    attributes: Float[Array, "rows n"], isects: Intersections, layout: TileLayout
) -> Float[Array, "tiles channels pixels"]:
    """As :func:`composite`, with a faster reverse mode."""
    return composite(attributes, isects, layout)


def _composite_fwd(attributes, isects, layout):
    tiles, transmittance = _forward(attributes, isects, layout, save_transmittance=True)
    return tiles, (attributes, isects, tiles, transmittance)


def _composite_bwd(layout, residuals, v_tiles):
    attributes, isects, tiles, transmittance = residuals
    return _backward(attributes, isects, tiles, transmittance, v_tiles, layout), None


composite_vjp.defvjp(_composite_fwd, _composite_bwd)


def _forward(attributes, isects, layout, *, save_transmittance):
    buckets = _make_buckets(isects, layout)
    entries, channels = _gather_entries(attributes, buckets, layout)
    channels = jnp.stack([*channels, jnp.ones_like(entries.x)], axis=2)
    dtype, num_pixels, num_channels = attributes.dtype, layout.num_pixels, channels.shape[2]

    def composite_group(carry, entries, channels, tile, begins):
        alphas = _alphas(entries, layout)
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
        return after[:, -1], (color, before)

    def skip_group(carry, entries, channels, tile, begins):
        before = jnp.ones((num_pixels, tile.shape[0]), dtype)
        return carry, (jnp.zeros((num_channels, *before.shape), dtype), before)

    @jax.checkpoint  # differentiating the plain path recomputes a group instead of storing all of them
    def step(carry, group):
        used, *inputs = group
        carry, (color, before) = jax.lax.cond(used, composite_group, skip_group, carry, *inputs)
        return carry, (color, before if save_transmittance else None)

    groups = (buckets.used, entries, channels, buckets.tile, buckets.begins)
    _, (colors, transmittance) = jax.lax.scan(step, jnp.ones(num_pixels, dtype), groups)
    colors = jnp.moveaxis(colors, -1, 1).reshape(-1, num_channels * num_pixels)
    tiles = jax.ops.segment_sum(
        colors, buckets.tile.reshape(-1), num_segments=layout.num_tiles, indices_are_sorted=True
    )
    return tiles.reshape(layout.num_tiles, num_channels, num_pixels), transmittance


def _backward(attributes, isects, tiles, transmittance, v_tiles, layout):
    """Gradient of the attributes, front to back.

    With g = sum of channel times cotangent, the loss is the sum of w g over a pixel's Gaussians, and its
    derivative by alpha is T g - (what comes behind) / (1 - alpha). What comes behind is the pixel's total less
    the running sum, so the buckets are walked in the same order as in the forward pass.
    """
    buckets = _make_buckets(isects, layout)
    entries, channels = _gather_entries(attributes, buckets, layout)
    totals = (tiles * v_tiles).sum(axis=1)

    def differentiate_group(carry, entries, channels, tile, begins, before):
        alphas = _alphas(entries, layout)
        *v_channels, v_alpha = jnp.transpose(v_tiles[tile], (1, 2, 0))  # [pixels, lanes] each

        def blend(state, entry):
            transmittance, running = state
            alpha, channel = entry
            after = transmittance * (1 - alpha)
            weight = jnp.where(after > MIN_TRANSMITTANCE, alpha * transmittance, 0)
            # Summed one by one: XLA for CPU (jax 0.10.2) gets a fused reduction over channels wrong.
            g = v_alpha
            for v_channel, value in zip(v_channels, channel, strict=True):
                g = g + v_channel * value
            contribution = weight * g
            running = running + contribution
            return (after, running), (weight, contribution, running)

        start = (before, jnp.zeros_like(before))
        (_, summed), (weights, contributions, running) = jax.lax.scan(blend, start, (alphas, channels))
        in_front = _sum_before(summed, tile) + jnp.where(_continues(tile, begins), carry[:, None], 0)
        behind = totals[tile].T - in_front - running
        # alpha * d loss / d alpha, which is -(d loss / d sigma) where alpha is not clamped.
        smooth = (weights > 0) & (alphas < MAX_ALPHA)
        v = jnp.where(smooth, contributions - behind * (alphas / (1 - alphas)), 0)
        v_entries = _entry_gradients(v, entries, layout)
        return (in_front + summed)[:, -1], (*v_entries, *((weights * u).sum(axis=1) for u in v_channels))

    def skip_group(carry, entries, channels, tile, begins, before):
        return carry, (jnp.zeros_like(entries.x),) * attributes.shape[0]

    def step(carry, group):
        used, *inputs = group
        return jax.lax.cond(used, differentiate_group, skip_group, carry, *inputs)

    groups = (buckets.used, entries, channels, buckets.tile, buckets.begins, transmittance)
    _, rows = jax.lax.scan(step, jnp.zeros(layout.num_pixels, attributes.dtype), groups)
    rows = jnp.stack(rows, axis=-1).reshape(-1, attributes.shape[0])
    summed = jnp.zeros(attributes.shape[::-1], attributes.dtype).at[buckets.ids.reshape(-1)].add(rows)
    return summed.T


def _entry_gradients(v, entries, layout):
    """Gradients of x, y, conic and opacity, [BUCKET_SIZE, lanes] each, from moments of ``v`` over the pixels.

    Moments about the tile's centre first, whose factors are the same for all, then moved to the mean.
    """
    px, py = _pixel_centers(layout, v.dtype)
    mean_x, mean_y, a, b, c, opacity = entries
    s = v.sum(axis=1)
    sx, sy = (v * px).sum(axis=1), (v * py).sum(axis=1)
    sxx, sxy, syy = (v * (px * px)).sum(axis=1), (v * (px * py)).sum(axis=1), (v * (py * py)).sum(axis=1)
    x, y = mean_x * s - sx, mean_y * s - sy
    xx = mean_x * (mean_x * s - 2 * sx) + sxx
    xy = mean_x * (mean_y * s - sy) - mean_y * sx + sxy
    yy = mean_y * (mean_y * s - 2 * sy) + syy
    v_opacity = s / jnp.where(opacity > 0, opacity, 1)
    return -(a * x + b * y), -(b * x + c * y), -0.5 * xx, -xy, -0.5 * yy, v_opacity


def _make_buckets(isects: Intersections, layout: TileLayout) -> Buckets:
    offsets, capacity = isects.tile_offsets, isects.flatten_ids.shape[0]
    # No more buckets than this can be needed: full ones, and one that is not full in each tile.
    most = capacity // BUCKET_SIZE + min(layout.num_tiles, capacity)
    lanes = min(max(8, _GROUP_ELEMENTS // (BUCKET_SIZE * layout.num_pixels)), most)
    groups = max(1, -(-most // lanes))

    counts = -(-(offsets[1:] - offsets[:-1]) // BUCKET_SIZE)
    ends = jnp.cumsum(counts)
    index = jnp.arange(groups * lanes, dtype=jnp.int32)
    tiles = jnp.arange(layout.num_tiles, dtype=jnp.int32)
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


def _gather_entries(attributes, buckets, layout) -> tuple[Entries, tuple[Array, ...]]:
    """The attributes of every bucket entry: geometry relative to its tile, and the channels."""
    rows = [row[buckets.ids] for row in attributes]
    tile_row, tile_column = jnp.divmod(buckets.tile[:, None], layout.grid[0])
    x, y, a, b, c, opacity, *channels = rows
    entries = Entries(
        x=x - ((tile_column + 0.5) * layout.tile_size).astype(x.dtype),
        y=y - ((tile_row + 0.5) * layout.tile_size).astype(y.dtype),
        a=a,
        b=b,
        c=c,
        opacity=jnp.where(buckets.valid, opacity, 0),
    )
    return entries, tuple(channels)


def _pixel_centers(layout, dtype):
    """Offsets in x and y of a tile's pixel centres from its centre, [pixels, 1] each."""
    row, column = jnp.divmod(jnp.arange(layout.num_pixels), layout.tile_size)
    middle = layout.tile_size / 2
    return (column + 0.5 - middle).astype(dtype)[:, None], (row + 0.5 - middle).astype(dtype)[:, None]


def _alphas(entries, layout):
    """Alpha of each entry at each pixel, 0 where it does not touch it, [BUCKET_SIZE, pixels, lanes]."""
    px, py = _pixel_centers(layout, entries.x.dtype)
    x, y, a, b, c, opacity = (value[:, None] for value in entries)
    dx, dy = x - px, y - py
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = jnp.minimum(MAX_ALPHA, opacity * jnp.exp(-sigma))
    return jnp.where((sigma >= 0) & (alpha >= ALPHA_THRESHOLD), alpha, 0)


def _sum_before(values, tile):
    """Sum over the buckets before each one in its tile, within the group, [pixels, lanes].

    A product with a triangular matrix: for a hundred lanes as fast as a scan, and far quicker to compile.
    """
    lane = jnp.arange(tile.shape[0])
    precedes = (lane[:, None] < lane) & (tile[:, None] == tile)
    return jnp.matmul(values, precedes.astype(values.dtype), precision=jax.lax.Precision.HIGHEST)


def _continues(tile, begins):
    """Buckets of the tile that the group before this one ended in, [lanes]."""
    return (tile == tile[0]) & ~begins
