"""Damage done to files: of their bytes, their words, or the values of their json."""

import copy
import json
import random
import re
import struct
from typing import Any

_CHANGES = (1, 1, 1, 2, 4)  # at once: one alone is refused less often
_INTEGERS = (
    0,
    1,
    255,
    1 << 15,
    (1 << 16) - 1,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 62,
    1 << 63,
    (1 << 64) - 1,
)
_FLOATS = (float("nan"), float("inf"), float("-inf"), -0.0, 1e-320, 1e30, 3.4e38, 1e39, 1.7e308, -1.0)
_SIGNALLING_NAN = b"\x01\x00\xa0\x7f"
_WORDS = (
    "", "0", "-1", "nan", "inf", "-inf", "1e400", "1e-320", "1e39", "x", "9223372036854775808",
    "18446744073709551616", "4294967296", "9" * 5000, "x" * 5000, "\x1b[31m", "\0", "é", "..",
    "../../x.png", "/etc/hostname", ".", "0x10", "1_0", "list", "float", "double", "char",
    "ascii", "binary_big_endian",
    "vertex", "end_header", "OPENCV", "FOV",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 1e-320, 1e39, 1e308, float("nan"), float("inf"), 1 << 31, 1 << 63, 1 << 64,
    10**400, "", ".", "..", "/", "../x.png", "/etc/hostname", "C:\\x.png", "..\\x.png", "a\0b",
    "\ud800", "\x1b[31m",
    "x" * 5000, "./.", "images/..", "images", "loop.png", "9" * 5000, [], {}, [[]], [1, [2]], [None] * 16,
    ["1"] * 16, {"a": 1},
)  # fmt: skip


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few changes of single bits, bytes, numbers, or stretches; or the end cut off."""
    for _ in range(rng.choice(_CHANGES)):
        data = _change(data, rng)
    return data


def damage_text(data: bytes, rng: random.Random) -> bytes:
    """A few words or lines replaced, doubled or removed; sometimes bytes."""
    if rng.random() < 0.2:
        return damage_bytes(data, rng)
    lines = data.split(b"\n")
    for _ in range(rng.choice(_CHANGES)):
        at = rng.randrange(len(lines))
        match rng.randrange(8):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, lines[rng.randrange(len(lines))])
            case 2:
                lines = lines[: at + 1]
            case 3:
                lines[at] = rng.choice([b"", b"\xff\xfe", b"#" * 70_000, b"1 " * 9000, b"1" * 70_000])
            case _:
                parts = re.split(rb"(\s+)", lines[at])
                parts[rng.randrange(len(parts))] = rng.choice(_WORDS).encode()
                lines[at] = b"".join(parts)
        if not lines:
            return b""
    return b"\n".join(lines)


def damage_header(data: bytes, rng: random.Random) -> bytes:
    """Of a PLY file: half the time in the words of its header."""
    end = data.find(b"end_header\n") + len(b"end_header\n")
    if rng.random() < 0.5:
        return damage_bytes(data, rng)
    return damage_text(data[:end], rng) + data[end:]


def damage_json(data: bytes, rng: random.Random) -> bytes:
    """Values replaced or removed, nested deeply, or the text damaged."""
    if rng.random() < 0.2:
        return damage_bytes(data, rng)
    if rng.random() < 0.01:
        return rng.choice([b"[", b'{"frames":']) * 100_000
    root = json.loads(data)
    for _ in range(rng.choice(_CHANGES)):
        holder, key = rng.choice(_places(root, limit=400) or [(root, None)])
        if key is None:
            break
        match rng.randrange(8):
            case 0:
                del holder[key]
            case 1:
                holder[key] = [holder[key]]
            case 2:
                holder[key] = _nested(rng.choice([2, 40, 70, 500, 900 + rng.randrange(90)]))
            case 3 if isinstance(holder[key], list):
                holder[key] = holder[key] * rng.choice([0, 2, 3])
            case _:
                holder[key] = copy.deepcopy(rng.choice(_VALUES))
    return _dump(root)


def _change(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    # Headers are short and hold most that can go wrong.
    at = rng.randrange(min(len(data), 80) if rng.random() < 0.5 else len(data))
    length = rng.randint(1, 9)
    match rng.randrange(11):
        case 0:
            return data[:at]
        case 1 | 2:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        case 3:
            return data[:at] + data[at + length :]
        case 4:
            return data[:at] + data[at : at + length] + data[at:]
        case 5:
            return _put(data, at, bytes([rng.choice([0, 1, 127, 128, 255])]) * length)
        case 6:
            size = rng.choice([2, 4, 8])
            value = rng.choice(_INTEGERS) & ((1 << 8 * size) - 1)
            return _put(
                data,
                at - at % rng.choice([1, size]),
                value.to_bytes(size, "big" if rng.random() < 0.5 else "little"),
            )
        case 7:
            kind = rng.choice(["<f", ">f", "<d", ">d"])
            value = rng.choice(_FLOATS)
            too_large = kind[1] == "f" and 3.5e38 < abs(value) < float("inf")
            number = struct.pack(kind, 3e38 if too_large else value)
            return _put(data, at - at % 4, rng.choice([number, _SIGNALLING_NAN]))
        case 8:  # the other byte order
            width, end = rng.choice([2, 4, 8]), min(len(data), at + 64)
            end -= (end - at) % width
            words = [data[i : i + width][::-1] for i in range(at, end, width)]
            return data[:at] + b"".join(words) + data[end:]
        case 9:
            return data + bytes(rng.randrange(256) for _ in range(rng.choice([1, 31, 300])))
        case _:
            return data[:at] + bytes(rng.choice([100, 70_000])) + data[at:]


def _put(data: bytes, at: int, value: bytes) -> bytes:
    at = max(0, at)
    return data[:at] + value + data[at + len(value) :]


def _places(node: Any, limit: int) -> list[tuple[Any, Any]]:
    """Where values stand in json: their holder and its key."""
    found, waiting = [], [node]
    while waiting and len(found) < limit:
        holder = waiting.pop()
        items = holder.items() if isinstance(holder, dict) else enumerate(holder)
        for key, value in items:
            found.append((holder, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    return found


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def _dump(root: Any) -> bytes:
    """Json of values that may be nested too deeply for the json module."""
    try:
        return json.dumps(root).encode()
    except RecursionError:
        return b"[" * 990 + b"]" * 990
