"""The least time a view can take on a device: bytes that must move, and operations, at the published rates.

It counts what any renderer of this kind does, each thing once, and nothing that a renderer could choose to do
otherwise, like stored states of pixels. What a cache keeps from one use to the next does not move, so that a small
scene may be drawn in less than the time of its bytes; a large one cannot.
"""

import dataclasses
import math

_FLOAT = 4
_INDEX = 4
# Centre, quaternion, scales, opacity.
_GEOMETRY_FLOATS = 3 + 4 + 3 + 1
# Centre in pixels, conic, opacity; channels follow.
_SPLAT_FLOATS = 2 + 3 + 1
_RADIX_BITS = 8
_DEPTH_BITS = 32


@dataclasses.dataclass(frozen=True)
class Device:
    """Published rates; the defaults are an H100 SXM's."""

    bandwidth_tb: float = 3.35
    """Of the memory, TB/s."""
    tflops: float = 67.0
    """float32 without tensor cores, a fused multiply-add counted as two; TFLOP/s."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What there is to do for one view.

    Attributes:
        gaussians: in the scene.
        visible: of them, those not culled.
        pairs: (tile, Gaussian) pairs.
        width: of the picture, pixels.
        height: likewise.
        channels: of a pixel.
        color_floats: numbers that a Gaussian's colour is made of: 48 for spherical harmonics of degree 3.
        tile_size: pixels per tile side.
    """

    gaussians: int
    visible: int
    pairs: int
    width: int
    height: int
    channels: int = 3
    color_floats: int = 48
    tile_size: int = 16

    @property
    def pixels(self) -> int:
        """Of the picture."""
        return self.width * self.height

    @property
    def splat_bytes(self) -> int:
        """A projected Gaussian; 36 with three channels. Its gradients take as many."""
        return _FLOAT * (_SPLAT_FLOATS + self.channels)

    @property
    def num_tiles(self) -> int:
        """Of the picture."""
        return math.ceil(self.width / self.tile_size) * math.ceil(self.height / self.tile_size)


def forward_bytes(work: Work) -> int:
    """Bytes of the forward pass.

    - Projection: reads the geometry of all Gaussians and the colours of the visible ones, writes these projected.
    - Binning: sorts the visible ones by depth, and the pairs by tile (:func:`sort_bytes`).
    - Drawing: reads the id and the projected Gaussian of each pair, writes channels and alpha of each pixel.
    """
    projection = _FLOAT * (_GEOMETRY_FLOATS * work.gaussians + work.color_floats * work.visible)
    projection += work.splat_bytes * work.visible
    binning = sort_bytes(work.visible, _DEPTH_BITS) + sort_bytes(work.pairs, work.num_tiles.bit_length())
    drawing = (_INDEX + work.splat_bytes) * work.pairs + _FLOAT * (work.channels + 1) * work.pixels
    return projection + binning + drawing


def backward_bytes(work: Work) -> int:
    """Bytes of the backward pass alone.

    - Pixels: reads the cotangent, the channels and alpha of each.
    - Pairs: reads id and projected Gaussian of each again; what it adds to its Gaussian is written and read once.
    - Parameters: reads geometry and colours of the visible ones again, writes a gradient for every number of all.
    """
    pixels = _FLOAT * (2 * work.channels + 1) * work.pixels
    pairs = (_INDEX + 3 * work.splat_bytes) * work.pairs
    numbers = _GEOMETRY_FLOATS + work.color_floats
    return pixels + pairs + _FLOAT * numbers * (work.visible + work.gaussians)


def sort_bytes(rows: int, bits: int) -> int:
    """Bytes to write rows of a key and an index, and to sort them: a radix sort reads and writes all for 8 bits.

    Keys of up to 16 bits take two bytes, others four.
    """
    row = (2 if bits <= 16 else 4) + _INDEX
    return row * rows * (1 + 2 * math.ceil(bits / _RADIX_BITS))


def forward_operations(work: Work) -> int:
    """Operations to blend every pair in every pixel of its tile: 18 and 2 a channel.

    An upper bound of what is needed, unlike the bytes: parts of a tile that a Gaussian does not reach, and pixels
    behind which nothing shows, are skipped. Offset 2, exponent 8, exp2 1, comparisons 3, min 1, weight, rest
    and alpha 3. What is done once per Gaussian is small beside it.
    """
    return _blendings(work) * (18 + 2 * work.channels)


def backward_operations(work: Work) -> int:
    """Operations of the backward pass alone, bounded in the same way: 39 and 4 a channel.

    The weight again 17; what is behind and its slope 8; the six moments of the gradient 14; for a channel, two
    products and two sums.
    """
    return _blendings(work) * (39 + 4 * work.channels)


def memory_ms(work: tuple[Work, ...], device: Device, *, backward: bool) -> float:
    """Milliseconds that the bytes of all views take, one after the other."""
    moved = sum(forward_bytes(view) + backward * backward_bytes(view) for view in work)
    return moved / (1e9 * device.bandwidth_tb)


def operations_ms(work: tuple[Work, ...], device: Device, *, backward: bool) -> float:
    """Milliseconds that the operations of all views take at most, at the full rate of the device."""
    done = sum(forward_operations(view) + backward * backward_operations(view) for view in work)
    return done / (1e9 * device.tflops)


def _blendings(work):
    return work.pairs * work.tile_size**2
