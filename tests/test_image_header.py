"""What image files say of themselves, read from their ends alone, and of damaged files an ImageError at most."""

import struct

import cv2
import numpy as np
import pytest

from splax.data.decode import read_image
from splax.files.image_header import ImageError, ImageHeader, parse_image_header, read_image_header

# Noise, so that the files are larger than what is read of them at once.
IMAGE = np.random.default_rng(0).integers(0, 256, (300, 400, 4), np.uint8)


def encoded(extension: str, channels: int = 3) -> bytes:
    data = cv2.imencode(extension, IMAGE[..., :channels])[1].tobytes()
    assert len(data) > 1 << 16
    return data


def with_segment(jpeg: bytes, size: int) -> bytes:
    """With as many bytes before the size, as of a preview or a colour profile."""
    segments = b""
    while size > 0:
        part = min(size, 65_000)
        segments += b"\xff\xe2" + struct.pack(">H", part + 2) + bytes(part)
        size -= part
    return jpeg[:2] + segments + jpeg[2:]


@pytest.mark.parametrize(
    ("data", "has_alpha"),
    [
        (encoded(".png"), False),
        (encoded(".png", 4), True),
        (encoded(".jpg"), False),
        (with_segment(encoded(".jpg"), 300_000), False),
        (encoded(".jpg") + bytes(200_000), False),  # phones append a film
    ],
    ids=["png", "png with alpha", "jpg", "jpg with a preview", "jpg with a film"],
)
def test_the_ends_of_a_file_tell_what_all_of_it_does(tmp_path, data, has_alpha):
    path = tmp_path / "image"
    path.write_bytes(data)
    assert read_image_header(path) == parse_image_header(data) == ImageHeader(400, 300, 1, has_alpha)
    assert read_image(path).image.shape == (300, 400, 3)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.99])
def test_files_that_end_too_early_are_found_without_decoding(tmp_path, extension, share):
    data = encoded(extension)
    (tmp_path / "image").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ImageError, match=r"damaged|neither"):
        read_image_header(tmp_path / "image")


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_damage_is_an_image_error_or_a_plausible_size(tmp_path, extension):
    rng = np.random.default_rng(1)
    original, path = encoded(extension), tmp_path / "image"
    for _ in range(300):
        data = bytearray(original)
        for place in rng.integers(0, 700 if rng.random() < 0.8 else len(data), rng.integers(1, 5)):
            data[place] = rng.integers(0, 256)
        if rng.random() < 0.3:
            del data[rng.integers(1, len(data)) :]
        path.write_bytes(data)
        try:
            header = read_image_header(path)
        except ImageError:
            continue
        assert 0 < header.width * header.height <= 1 << 28 and 1 <= header.orientation <= 8


def test_a_missing_file_is_an_image_error(tmp_path):
    with pytest.raises(ImageError, match=r"cannot be read \(No such file"):
        read_image_header(tmp_path / "none.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image_header(tmp_path)
