"""Colours of the vertices of .ply files: under which names programs write them, and in which range.

Bytes go from 0 to 255. Wider types say less: floats are shares of 1 or numbers up to 255, ``ushort`` goes up to
65535 or holds bytes. There the largest number decides, and what is unusual is said.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from splax.files.limits import shorten

# Names of red, green and blue; the first that a file has are read.
_NAMES = (
    ("red", "green", "blue"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),  # of Blender and old MeshLab
    ("r", "g", "b"),
)
_HARMONICS = ("f_dc_0", "f_dc_1", "f_dc_2")  # of splat files: colour = 0.5 + _SH_C0 * f_dc
_SH_C0 = 0.28209479177387814
_COLOR_WORDS = {"red", "green", "blue", "r", "g", "b", "rgb", "rgba", "color", "colour", "colors"}
_EXPECTED = "Expected the properties red, green and blue, as uchar of 0 to 255."
# The largest float that is still a share of 1: programs write a little more than 1 for bright colours.
_MAX_SHARE = 2.0
_BYTE, _WORD, _SIGNED_WORD = 255, 65535, 32767
_ROWS = 1 << 20  # rows that are converted at once, so that the copies in float64 stay small


class ColorProperties(NamedTuple):
    """The properties of a .ply file that hold colours.

    Attributes:
        names: names of red, green and blue in the file.
        kind: numpy type that holds all three, without byte order, such as ``"u1"``.
        harmonics: whether they are coefficients of spherical harmonics of degree 0.
    """

    names: tuple[str, ...]
    kind: str
    harmonics: bool

    @property
    def stored_type(self) -> np.dtype:
        """The smallest type that holds the numbers until their largest is known."""
        exact = {"u1": np.uint8, "u4": np.float64, "i4": np.float64, "f8": np.float64}
        return np.dtype(exact.get(self.kind, np.float32))


def find_colors(properties: Mapping[str, str], notes: list[str]) -> ColorProperties | None:
    """The properties that hold colours, whatever the case of their names; None if there are none.

    Args:
        properties: numpy type of each property of the vertices by name.
        notes: list to which a warning is appended if some properties are colours that are not understood.
    """
    spelled = {name.lower(): name for name in properties}
    for names in (*_NAMES, _HARMONICS):
        if spelled.keys() >= set(names):
            kind = np.result_type(*(properties[spelled[name]] for name in names)).str[1:]
            return ColorProperties(tuple(spelled[name] for name in names), kind, names is _HARMONICS)
    unused = [name for name in properties if _is_color(name)]
    if unused:
        listed = ", ".join(shorten(name) for name in unused[:5])
        notes.append(f"its colours are not used: only {listed} of its properties are colours. {_EXPECTED}")
    return None


def to_bytes(
    values: Float[np.ndarray, "points 3"] | UInt8[np.ndarray, "points 3"],
    properties: ColorProperties,
    notes: list[str],
) -> UInt8[np.ndarray, "points 3"] | None:
    """Colours of a file as RGB of 0 to 255, uint8 [P, 3]; None if their range cannot be found out.

    Args:
        values: numbers of the file, [P, 3].
        properties: properties that hold them.
        notes: list to which a warning is appended if the range is an assumption, or colours cannot be used.
    """
    if values.dtype == np.uint8:
        return np.asarray(values, np.uint8)
    finite = np.asarray(np.isfinite(values).all(axis=-1))
    if not finite.all():
        notes.append(
            f"the colours of {(~finite).sum():,} of its {len(values):,} points are not finite; they are black."
        )
    if properties.harmonics:
        scale, offset = 255 * _SH_C0, 127.5
    else:
        largest = float(values[finite].max(initial=0))
        upper = _range(largest, properties.kind, notes)
        if upper is None:
            return None
        scale, offset = 255 / upper, 0.0
    return _scaled(values, finite, scale, offset, wraps=properties.kind == "i1")


def _scaled(
    values: Float[np.ndarray, "points 3"],
    finite: Bool[np.ndarray, " points"],
    scale: float,
    offset: float,
    *,
    wraps: bool,
) -> UInt8[np.ndarray, "points 3"]:
    """``scale * values + offset`` in bytes, uint8 [P, 3]; black where not finite.

    Args:
        values: numbers of the file, [P, 3].
        finite: points whose numbers are finite, [P].
        scale: factor of the numbers.
        offset: number that is added to the products.
        wraps: whether negative numbers are bytes from 128 upwards, of which 256 was subtracted.
    """
    colors = np.zeros(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        rows = slice(start, start + _ROWS)
        chunk = np.where(finite[rows, None], values[rows], 0).astype(np.float64)
        if wraps:
            chunk = np.where(chunk < 0, chunk + 256, chunk)
        chunk = np.rint(scale * chunk + offset).clip(0, 255)
        colors[rows] = np.where(finite[rows, None], chunk, 0)
    return colors


def _range(largest: float, kind: str, notes: list[str]) -> float | None:
    """The number that stands for full brightness; None if it cannot be found out.

    Args:
        largest: largest number of all colours.
        kind: numpy type of the numbers.
        notes: list to which a warning is appended, except if the type alone decides.
    """
    if kind == "i1" or (kind in ("i2", "i4", "u4") and largest <= _BYTE):
        return _BYTE
    if kind[0] == "f" and largest <= _MAX_SHARE:
        return 1.0
    if kind in ("u2", "i2") and largest > _BYTE:
        return _WORD if kind == "u2" else _SIGNED_WORD
    if largest > _WORD:
        notes.append(f"its colours are not used: they go up to {largest:.6g}. {_EXPECTED}")
        return None
    upper = _BYTE if largest <= _BYTE else _WORD
    notes.append(f"its colours go up to {largest:.6g}; they are read as numbers from 0 to {upper}.")
    return upper


def _is_color(name: str) -> bool:
    words: Iterable[str] = name.lower().split("_")
    return name.lower() in _HARMONICS or not _COLOR_WORDS.isdisjoint(words)
