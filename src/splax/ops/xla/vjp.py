"""The faster rasterizer in plain JAX; its image is that of :mod:`splax.ops.xla.compositing`.

A fixed number of lanes work side by side, each on a tile. Every step composites the next :data:`STEP_SIZE`
Gaussians of each lane's tile; a lane whose list has come to its end, or whose pixels are all finished, takes the
next tile. So what lies behind finished pixels costs nothing (in a trained scene, half of the pairs), and no lane
waits for another. The price is a loop whose length depends on the data: reverse mode is written by hand, and
there is no other.

The form follows from what XLA makes of it on a CPU. Each result of a chain of operations becomes one loop over
memory: vectorised along the last axis, the pixels, and divided among the cores if it is long enough.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float, Int

from splax.ops.constants import MAX_ALPHA, MIN_TRANSMITTANCE
from splax.ops.intersection import Intersections
from splax.ops.tile_grid import TileGrid
from splax.ops.xla.compositing import Entries, gather_entries, pixel_alphas, pixel_centers

# Gaussians that a lane composites in one step. Longer steps overshoot the end of more lists and compile longer,
# shorter ones repeat the work between steps more often.
STEP_SIZE = 16
# Elements of one [lanes, STEP_SIZE, pixels] array: half of what the second-level cache of a core holds.
_STEP_ELEMENTS = 2**17
_HIGHEST = jax.lax.Precision.HIGHEST


class Lanes(NamedTuple):
    """The tile and the pair that each lane is at, and the tile that is taken next."""

    tile: Int[Array, " lanes"]  # the number of tiles where none is left
    pair: Int[Array, " lanes"]  # the next to be composited
    next_tile: Int[Array, ""]


class Step(NamedTuple):
    """The Gaussians that are composited at once."""

    tile: Int[Array, " lanes"]
    ids: Int[Array, "lanes step"]
    entries: Entries  # [lanes, step] each
    channels: list[Float[Array, "lanes step"]]
    alphas: Float[Array, "lanes step pixels"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def composite_vjp(
    attributes: Float[Array, "rows n"],
    probe: Float[Array, "2 n"] | None,
    isects: Intersections,
    tile_grid: TileGrid,
) -> Float[Array, "tiles channels pixels"]:
    """Composites as :func:`splax.ops.xla.compositing.composite` does; it has first order reverse mode only."""
    return _composite_fwd(attributes, probe, isects, tile_grid)[0]


def _composite_fwd(attributes, probe, isects, tile_grid):
    # A batch goes one by one: in lockstep, every image would take as many steps as the one with the most.
    tiles = sequential_vmap(functools.partial(_forward, tile_grid=tile_grid))(attributes, isects)
    has_probe = None if probe is None else ()  # not a bool: what is saved may hold arrays and structure only
    return tiles, (has_probe, attributes, isects, tiles)


def _composite_bwd(tile_grid, residuals, v_tiles):
    has_probe, *residuals = residuals
    backward = functools.partial(_backward, tile_grid=tile_grid, probed=has_probe is not None)
    gradients = sequential_vmap(backward)(*residuals, v_tiles)
    if has_probe is None:
        return gradients, None, None
    return gradients[:-2], gradients[-2:], None


composite_vjp.defvjp(_composite_fwd, _composite_bwd)


def _forward(attributes, isects, *, tile_grid):
    def start(tile):
        return (jnp.ones((tile.size, tile_grid.num_pixels), attributes.dtype),)

    def blend(step, state, images):
        (transmittance,) = state
        # Unrolled: each sum over the step becomes one loop that holds its chain of transmittances in registers.
        # To compute the chain once for every channel takes a third less time than to store it (jax 0.10.2).
        sums = [jnp.zeros_like(transmittance) for _ in step.channels]
        for i in range(STEP_SIZE):
            alpha = step.alphas[:, i]
            after = transmittance * (1 - alpha)
            drawn = after > MIN_TRANSMITTANCE
            weight = jnp.where(drawn, alpha * transmittance, 0)
            sums = [
                total + weight * value[:, i, None] for total, value in zip(sums, step.channels, strict=True)
            ]
            # A finished pixel keeps its transmittance with the sign turned: nothing is drawn on it again.
            transmittance = jnp.where(drawn, after, -jnp.abs(transmittance))
        light, *colors = images
        colors = [image.at[step.tile].add(total) for image, total in zip(colors, sums, strict=True)]
        return (transmittance,), (light.at[step.tile].set(transmittance), *colors)

    blank = jnp.zeros((tile_grid.num_tiles, tile_grid.num_pixels), attributes.dtype)
    colors = (blank,) * (attributes.shape[0] - len(Entries._fields))
    light, *colors = _walk(attributes, isects, tile_grid, start, blend, (blank + 1, *colors))
    return jnp.stack([*colors, 1 - jnp.abs(light)], axis=1)


def _backward(attributes, isects, tiles, v_tiles, *, tile_grid, probed):
    """Returns the gradients of the attributes, then those of the probe if there is one.

    With g = sum of channel times cotangent, the loss is the sum of w g over a pixel's Gaussians, and its
    derivative by alpha is T g - (what comes behind) / (1 - alpha). What comes behind is the pixel's total less
    what came before, so the lists are walked in the same order as in the forward pass.
    """
    totals = (tiles * v_tiles).sum(axis=1)

    def start(tile):
        return jnp.ones((tile.size, tile_grid.num_pixels), attributes.dtype), totals[tile]

    def differentiate(step, state, gradients):
        v_channels = v_tiles[step.tile]

        def blend(i, state):
            transmittance, behind, weights, v = state
            alpha = step.alphas[:, i]
            after = transmittance * (1 - alpha)
            weight = jnp.where(after > MIN_TRANSMITTANCE, alpha * transmittance, 0)
            # Summed one by one: XLA for CPU (jax 0.10.2) gets a fused reduction over channels wrong.
            g = v_channels[:, -1]
            for channel, value in enumerate(step.channels):
                g = g + v_channels[:, channel] * value[:, i, None]
            contribution = weight * g
            behind = behind - contribution
            # alpha * d loss / d alpha, which is -(d loss / d sigma) where alpha is not clamped.
            smooth = (weight > 0) & (alpha < MAX_ALPHA)
            change = jnp.where(smooth, contribution - behind * (alpha / (1 - alpha)), 0)
            return after, behind, weights.at[:, i].set(weight), v.at[:, i].set(change)

        # Both arrays are overwritten as a whole; to begin with some that exist is quicker than with zeros.
        *state, weights, v = jax.lax.fori_loop(0, STEP_SIZE, blend, (*state, step.alphas, step.alphas))
        v_colors = jnp.einsum("lsp,lcp->lsc", weights, v_channels[:, :-1], precision=_HIGHEST)
        v_entries = jnp.stack(_entry_gradients(v, step.entries, tile_grid), axis=-1)
        rows = [v_entries, v_colors]
        if probed:
            rows.append(jnp.stack(_probe_gradients(v, step.entries, tile_grid), axis=-1))
        return tuple(state), gradients.at[step.ids].add(jnp.concatenate(rows, axis=-1))

    num_rows, num = attributes.shape
    gradients = jnp.zeros((num, num_rows + 2 * probed), attributes.dtype)
    return _walk(attributes, isects, tile_grid, start, differentiate, gradients).T


def _entry_gradients(v, entries, tile_grid):
    """Returns the gradients of x, y, conic and opacity, [lanes, step] each, from moments of ``v`` over the pixels.

    Moments about the tile's centre first, whose factors are the same for all, then moved to the mean.
    """
    px, py = pixel_centers(tile_grid, v.dtype)
    factors = jnp.stack([jnp.ones_like(px), px, py, px * px, px * py, py * py])
    moments = jnp.einsum("lsp,mp->lsm", v, factors, precision=_HIGHEST)
    s, sx, sy, sxx, sxy, syy = jnp.moveaxis(moments, -1, 0)
    mean_x, mean_y, a, b, c, opacity = entries
    x, y = mean_x * s - sx, mean_y * s - sy
    xx = mean_x * (mean_x * s - 2 * sx) + sxx
    xy = mean_x * (mean_y * s - sy) - mean_y * sx + sxy
    yy = mean_y * (mean_y * s - 2 * sy) + syy
    v_opacity = s / jnp.where(opacity > 0, opacity, 1)
    return -(a * x + b * y), -(b * x + c * y), -0.5 * xx, -xy, -0.5 * yy, v_opacity


def _probe_gradients(v, entries, tile_grid):
    """Returns the gradients of x and y, [lanes, step] each, summed over the pixels in absolute values."""
    px, py = pixel_centers(tile_grid, v.dtype)
    mean_x, mean_y, a, b, c, _ = (value[..., None] for value in entries)
    dx, dy = mean_x - px, mean_y - py
    slopes = (a * dx + b * dy, b * dx + c * dy)
    return tuple(jnp.abs(v * slope).sum(axis=-1) for slope in slopes)


def _walk(
    attributes: Array,
    isects: Intersections,
    tile_grid: TileGrid,
    start: Callable[[Array], tuple[Array, ...]],
    visit: Callable[[Step, tuple[Array, ...], Any], tuple[tuple[Array, ...], Any]],
    result: Any,
) -> Any:
    """Walks through the lists of all tiles, each as far as there are unfinished pixels.

    Args:
        attributes: attributes of the Gaussians, [6 + C, N].
        isects: lists of the Gaussians that touch each tile.
        tile_grid: the tiles of the image.
        start: function of tile numbers, [lanes]. It returns the state of these tiles before their first Gaussian,
            [lanes, pixels] each, the transmittance first.
        visit: function of a step, the state and the result. It returns the next state and the next result.
        result: arrays that the steps add to. A lane without a tile has a tile number out of bounds, so JAX drops
            what the lane writes.
    """
    num_lanes = min(max(8, _STEP_ELEMENTS // (STEP_SIZE * tile_grid.num_pixels)), tile_grid.num_tiles)
    # A lane for which no tile is left gets an empty list behind that of the last tile.
    offsets = jnp.append(isects.tile_offsets, isects.tile_offsets[-1])
    pixels = pixel_centers(tile_grid, attributes.dtype)

    def take(lanes, transmittance):
        """Returns the lanes with new tiles for those that are done, and the mask of the latter."""
        done = (lanes.pair >= offsets[lanes.tile + 1]) | (transmittance <= MIN_TRANSMITTANCE).all(axis=1)
        taken = jnp.cumsum(done, dtype=jnp.int32)
        tile = jnp.where(done, jnp.minimum(lanes.next_tile + taken - 1, tile_grid.num_tiles), lanes.tile)
        pair = jnp.where(done, offsets[tile], lanes.pair)
        return Lanes(tile, pair, lanes.next_tile + taken[-1]), done

    def body(carry):
        lanes, state, result = carry
        lanes, fresh = take(lanes, state[0])
        state = jax.tree.map(lambda new, old: jnp.where(fresh[:, None], new, old), start(lanes.tile), state)
        pairs = lanes.pair[:, None] + jnp.arange(STEP_SIZE, dtype=jnp.int32)
        valid = pairs < offsets[lanes.tile + 1, None]
        ids = isects.flatten_ids[jnp.where(valid, pairs, 0)]
        entries, channels = gather_entries(
            attributes, ids, valid=valid, tile=lanes.tile[:, None], tile_grid=tile_grid
        )
        alphas = pixel_alphas(Entries(*(value[..., None] for value in entries)), pixels)
        state, result = visit(Step(lanes.tile, ids, entries, channels, alphas), state, result)
        return lanes._replace(pair=lanes.pair + STEP_SIZE), state, result

    def unfinished(carry):
        lanes = carry[0]
        return (lanes.next_tile < tile_grid.num_tiles) | (lanes.tile < tile_grid.num_tiles).any()

    none = jnp.full(num_lanes, tile_grid.num_tiles, jnp.int32)
    lanes = Lanes(none, offsets[none], jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(unfinished, body, (lanes, start(none), result))[2]
