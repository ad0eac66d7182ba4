"""What all formats share: pixels of photos, EXIF orientation, masks, depth images and point clouds."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers import project, write_image
from test_colmap import write_text

from splax.cli.describe import describe_scene
from splax.data.decode import downscale_mask, read_depth, read_image, read_mask, resize_nearest
from splax.data.formats import load_dataset
from splax.data.points import read_ply_points
from splax.files.exif import orientation, turn
from splax.files.image_header import ImageError
from splax.files.npy import read_npy

WIDTH, HEIGHT = 64, 48
IDENTITY = np.eye(4).tolist()


def write_scene(folder: Path, *, meta=None, frame=None, names=("a.png",), image=None) -> Path:
    """A transforms.json of images seen from the origin along -z."""
    frames = []
    for name in names:
        write_image(folder / "images" / name, image)
        frames.append({"file_path": f"images/{name}", "transform_matrix": IDENTITY, **(frame or {})})
    content = {"w": WIDTH, "h": HEIGHT, "fl_x": 100.0, **(meta or {}), "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def write_png(path: Path, header: tuple[int, int, int], body: bytes) -> None:
    """A PNG of 8 bits from width, height, colour type and what is compressed in it."""
    data = b"\x89PNG\r\n\x1a\n"
    width, height, color = header
    for kind, part in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)),
        (b"IDAT", body),
        (b"IEND", b""),
    ):
        data += struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
    path.write_bytes(data)


def load_view(folder: Path, **options) -> Any:
    return load_dataset(folder, test_every=0, **options).train[0]


# --- EXIF --------------------------------------------------------------------------------------------


def tiff(value: int, order: str, *, kind: int = 3) -> bytes:
    """A TIFF block with two entries, of which the second is the orientation."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    entries = struct.pack(order + "HHII", 0x0100, 4, 1, 64) + struct.pack(
        order + "HHIHH", 0x0112, kind, 1, value, 0
    )
    return head + struct.pack(order + "H", 2) + entries + struct.pack(order + "I", 0)


def with_exif(data: bytes, block: bytes) -> bytes:
    """A JPEG or PNG file with EXIF."""
    if data.startswith(b"\xff\xd8"):
        block = b"Exif\0\0" + block
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    chunk = b"eXIf" + block
    chunk = struct.pack(">I", len(block)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:33] + chunk + data[33:]  # behind the signature and IHDR


def gradient() -> np.ndarray:
    """A smooth picture without any symmetry, in OpenCV's order of channels."""
    x, y = np.meshgrid(np.linspace(0, 1, WIDTH), np.linspace(0, 1, HEIGHT))
    return np.stack([255 * x, 255 * y, 200 * x * y], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_is_understood_as_opencv_does(extension, order, value):
    image = gradient()
    data = with_exif(cv2.imencode(extension, image)[1].tobytes(), tiff(value, order))
    assert orientation(data) == value
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if extension == ".jpg":
        turned = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(turn(np.asarray(stored), orientation(data)), turned)
    assert turn(image, value).shape[:2] == ((WIDTH, HEIGHT) if value >= 5 else (HEIGHT, WIDTH))


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"II",
        tiff(6, "<")[:11],
        tiff(6, "<")[:25],
        tiff(9, "<"),
        tiff(6, "<", kind=4),
        b"XX" + tiff(6, "<")[2:],
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
    ],
)
@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_damaged_exif_means_as_stored(extension, block):
    data = cv2.imencode(extension, gradient())[1].tobytes()
    assert orientation(with_exif(data, block)) == 1
    assert orientation(data[:40]) == 1


def test_exif_counts_only_where_the_camera_says_so(tmp_path):
    # Photos of a phone held upright: stored lying, with orientation 6.
    write_scene(tmp_path, names=("a.jpg",), image=gradient())
    path = tmp_path / "images" / "a.jpg"
    path.write_bytes(with_exif(path.read_bytes(), tiff(6, ">")))
    stored = read_image(path).image
    # COLMAP and others ignore it, so their cameras are of the stored shape.
    np.testing.assert_array_equal(load_view(tmp_path).image, stored)
    meta = json.loads((tmp_path / "transforms.json").read_text())
    (tmp_path / "transforms.json").write_text(json.dumps({**meta, "w": HEIGHT, "h": WIDTH}))
    view = load_view(tmp_path)
    np.testing.assert_array_equal(view.image, np.rot90(stored, -1))
    np.testing.assert_allclose(view.camera.K, [[100, 0, 24], [0, 100, 32], [0, 0, 1]])
    # Without orientation there is nothing to turn, and the shapes disagree.
    write_image(path, gradient())
    with pytest.raises(ValueError, match="48 x 64 pixels but the image is 64 x 48"):
        load_view(tmp_path)


# --- depths of pixels and alpha ----------------------------------------------------------------------


def test_images_that_unpack_to_far_more_than_they_are_are_refused(tmp_path):
    write_png(tmp_path / "bomb.png", (12_000, 12_000, 2), b"\0" * 100_000)
    with pytest.raises(ImageError, match="declares 12000 x 12000 pixels, too many for its 100,057 bytes"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("length", [100, 1 << 20, (1 << 31) - 1, (1 << 32) - 1])
def test_png_parts_longer_than_the_file_are_refused(tmp_path, length):
    # OpenCV 5.0 takes memory of this length before it reads.
    write_image(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    position = data.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(data[:position] + struct.pack(">I", length) + data[position + 4 :])
    with pytest.raises(ImageError, match="is damaged: a part of it is longer than the file"):
        read_image(tmp_path / "a.png")


def test_grey_with_alpha_and_16_bit_alpha(tmp_path):
    grey_alpha = np.dstack([np.full((4, 5), 100, np.uint8), np.full((4, 5), 51, np.uint8)])
    # OpenCV writes no such PNG; this is one row of filter 0 after the other.
    rows = b"".join(b"\0" + row.tobytes() for row in grey_alpha)
    write_png(tmp_path / "la.png", (5, 4, 4), zlib.compress(rows))
    assert (read_image(tmp_path / "la.png").image == 20).all()  # 100 * 51 / 255
    image, alpha = read_image(tmp_path / "la.png", white_background=True)
    assert (image == 224).all() and (alpha == 51).all()
    write_image(tmp_path / "deep.png", np.full((4, 5, 4), (0, 0, 0xFFFF, 0x3333), np.uint16))
    image, alpha = read_image(tmp_path / "deep.png")
    assert (image == (51, 0, 0)).all() and (alpha == 0x33).all()


def test_alpha_goes_where_the_image_goes(tmp_path):
    # White on black: the image is its own alpha, whatever is done to both.
    pixels = np.dstack([np.full((HEIGHT, WIDTH, 3), 255, np.uint8), gradient()[..., 0]])
    write_scene(tmp_path, meta={"k1": -0.2, "fl_x": 60.0}, image=pixels)
    for downscale in (1, 2, 1.7):
        view = load_view(tmp_path, downscale=downscale)
        assert view.alpha.dtype == np.uint8
        assert np.abs(view.image - view.alpha[..., None].astype(int)).max() <= 1
    assert "alpha     1 of 1 views are transparent in places" in describe_scene(load_dataset(tmp_path))


@pytest.mark.parametrize("channels", [3, 4])
def test_opaque_images_have_no_alpha(tmp_path, channels):
    write_scene(tmp_path, image=np.full((HEIGHT, WIDTH, channels), 255, np.uint8))
    assert load_view(tmp_path).alpha is None


# --- masks -------------------------------------------------------------------------------------------


def half_mask(value: int = 255) -> np.ndarray:
    """Bright on the left."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, : WIDTH // 2] = value
    return mask


@pytest.mark.parametrize("name", ["a.png", "a.png.png", "a.jpg"])
def test_masks_folder(tmp_path, name):
    write_image(write_scene(tmp_path, names=("a.png", "b.png")) / "masks" / name, half_mask())
    a, b = load_dataset(tmp_path, test_every=0).train
    assert a.mask is not None and b.mask is None
    np.testing.assert_array_equal(a.mask, half_mask() > 0)


def test_mask_path_wins_over_the_folder(tmp_path):
    write_scene(tmp_path, frame={"mask_path": "other/m.png"})
    write_image(tmp_path / "masks" / "a.png", half_mask())
    write_image(tmp_path / "other" / "m.png", 255 - half_mask())
    np.testing.assert_array_equal(load_view(tmp_path).mask, half_mask() == 0)


@pytest.mark.parametrize(
    "mask",
    [
        half_mask(1),
        half_mask(200),
        np.repeat(half_mask()[..., None], 3, axis=-1),
        half_mask().astype(np.uint16) << 8,
        np.dstack([np.full((HEIGHT, WIDTH, 3), 255, np.uint8), half_mask()]),
        half_mask() + 50 * (half_mask() == 0).astype(np.uint8),
        cv2.resize(half_mask(), (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_NEAREST),
    ],
    ids=["0 and 1", "200", "RGB", "16 bits", "alpha", "grey for black", "half the size"],
)
def test_masks_of_many_kinds(tmp_path, mask):
    write_image(write_scene(tmp_path) / "masks" / "a.png", mask)
    np.testing.assert_array_equal(load_view(tmp_path).mask, half_mask() > 0)


def test_masks_keep_what_is_whole_when_made_smaller():
    mask = np.ones((12, 12), bool)
    mask[5, 7] = False
    small = downscale_mask(mask, 4, 4)
    expected = np.ones((4, 4), bool)
    expected[1, 2] = False
    np.testing.assert_array_equal(small, expected)
    assert downscale_mask(np.ones((13, 11), bool), 5, 4).all()


def test_masks_are_undistorted_with_the_image(tmp_path):
    # What the mask hides is black in the image: a pixel that is kept must not be tainted by it.
    image = np.where(half_mask()[..., None] > 0, 100, 0).repeat(3, axis=-1).astype(np.uint8)
    write_scene(tmp_path, meta={"k1": -0.3, "k2": 0.1, "fl_x": 60.0}, image=image)
    write_image(tmp_path / "masks" / "a.png", half_mask())
    for downscale in (1, 2, 1.7):
        view = load_view(tmp_path, downscale=downscale)
        assert view.mask is not None and view.mask.shape == view.image.shape[:2]
        assert (view.image[view.mask] == 100).all()
        assert 0.4 < view.mask.mean() <= 0.5


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(b"nothing"), "its mask is neither a PNG nor a JPEG image"),
        (lambda path: write_image(path, np.zeros((HEIGHT, WIDTH), np.uint8)), "its mask leaves no pixel"),
        (lambda path: write_image(path, half_mask().T.copy()), "its mask is 48 x 64, the image 64 x 48"),
    ],
)
def test_views_of_unusable_masks_are_left_out(tmp_path, spoil, reason):
    write_scene(tmp_path, names=("a.png", "b.png"))
    (tmp_path / "masks").mkdir()
    spoil(tmp_path / "masks" / "a.png")
    with pytest.warns(UserWarning, match=f"1 of 2 frames left out. {reason}: .*a.png"):
        assert [view.name for view in load_dataset(tmp_path).train] == ["b.png"]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("mask_path", "none.png", "its mask_path is no file"),
        ("mask_path", "../a.png", "its mask_path leads out of the dataset's folder"),
        ("depth_file_path", 5, "its depth_file_path must name a file, got 5"),
        ("depth_file_path", "/etc/passwd", "its depth_file_path leads out of the dataset's folder"),
        ("depth_file_path", "images/a.png", "its depth image must hold one number per pixel"),
    ],
)
def test_named_files_that_cannot_be_used(tmp_path, key, value, reason):
    write_scene(tmp_path, names=("a.png", "b.png"))
    meta = json.loads((tmp_path / "transforms.json").read_text())
    meta["frames"][1][key] = value
    (tmp_path / "transforms.json").write_text(json.dumps(meta))
    with pytest.warns(UserWarning, match=f"1 of 2 frames left out. {reason}"):
        assert [view.name for view in load_dataset(tmp_path).train] == ["a.png"]


# --- depth images ------------------------------------------------------------------------------------


def test_depth_images(tmp_path):
    depth = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    write_scene(tmp_path, frame={"depth_file_path": "depth/a.png"})
    write_image(tmp_path / "depth" / "a.png", depth)
    view = load_view(tmp_path)
    assert view.depth is not None
    np.testing.assert_allclose(view.depth, depth / 1000, rtol=1e-6)
    # Smaller ones are samples, not means: every fourth, from the middle.
    np.testing.assert_allclose(load_view(tmp_path, downscale=4).depth, depth[2::4, 2::4] / 1000, rtol=1e-6)
    write_scene(tmp_path, frame={"depth_file_path": "depth/a.png"}, meta={"depth_unit_scale_factor": 0.5})
    np.testing.assert_allclose(load_view(tmp_path).depth, depth / 2, rtol=1e-6)


def test_depth_arrays(tmp_path):
    depth = np.ones((HEIGHT, WIDTH, 1), np.float64)
    depth[0, :4, 0] = (-1, np.nan, np.inf, 2e308)
    np.save(tmp_path / "d.npy", depth)
    read = read_depth(tmp_path / "d.npy", 0.5)
    assert read.dtype == np.float32 and (read[0, :4] == 0).all() and (read[1:] == 0.5).all()


@pytest.mark.parametrize("keep", [0, 5, 20, 100, 130, 500])
def test_truncated_arrays_are_refused(tmp_path, keep):
    np.save(tmp_path / "whole.npy", np.ones((20, 30)))
    (tmp_path / "d.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:keep])
    with pytest.raises(ImageError, match=r"is truncated|it is damaged or truncated"):
        read_depth(tmp_path / "d.npy", 1.0)


def test_arrays_that_claim_too_much_or_run_code_are_refused(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%d,), }" % (1 << 60)
    header = header.ljust(117) + b"\n"
    (tmp_path / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "complex.npy", np.ones(3, complex))
    for name in ("huge", "objects", "complex"):
        with pytest.raises(ValueError, match=r"is truncated: it claims|must hold real numbers"):
            read_npy(tmp_path / f"{name}.npy")
    np.savez(tmp_path / "zip.npy", a=np.ones(3))
    with pytest.raises(ValueError, match="damaged"):
        read_npy(tmp_path / "zip.npy.npz")


def test_resize_nearest_takes_the_middle():
    values = np.arange(36).reshape(6, 6)
    np.testing.assert_array_equal(resize_nearest(values, 2, 3), values[1::2, 1::3])
    np.testing.assert_array_equal(resize_nearest(values, 12, 6), values.repeat(2, axis=1))


def test_masks_that_are_all_dark(tmp_path):
    write_image(tmp_path / "m.png", np.full((4, 4), 90, np.uint8))
    assert not read_mask(tmp_path / "m.png").any()


# --- points ------------------------------------------------------------------------------------------

POINTS = np.array([[0.5, 0.25, -2.0], [-0.5, 0.0, -4.0], [0.0, 0.0, -1.0]])
COLORS = np.array([[255, 0, 0], [0, 128, 0], [1, 2, 3]], np.uint8)


def write_ply(path: Path, kind: str = "ascii", color: str = "uchar") -> Path:
    header = ["ply", f"format {kind} 1.0", "comment made by hand", "element vertex 3"]
    header += [f"property float {name}" for name in "xyz"]
    header += [f"property {color} {name}" for name in ("red", "green", "blue")] if color else []
    header += ["element face 1", "property list uchar int vertex_indices", "end_header", ""]
    colors = COLORS / 255 if color == "float" else COLORS
    data = "\n".join(header).encode()
    for position, rgb in zip(POINTS, colors, strict=True):
        if kind == "ascii":
            data += " ".join(map(str, [*position, *(rgb if color else ())])).encode() + b"\n"
        else:
            data += struct.pack("<3f", *position) + (struct.pack("<3B", *rgb) if color else b"")
    path.write_bytes(data + (b"3 0 1 2\n" if kind == "ascii" else struct.pack("<B3i", 3, 0, 1, 2)))
    return path


@pytest.mark.parametrize(
    ("kind", "color"),
    [("ascii", "uchar"), ("ascii", "float"), ("binary_little_endian", "uchar"), ("ascii", "")],
)
def test_ply_points_land_on_the_pixels_computed_by_hand(tmp_path, kind, color):
    # nerfstudio applies applied_transform to the points before it writes them: they need nothing more.
    transform = [[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]]
    write_scene(tmp_path, meta={"ply_file_path": "sparse.ply", "applied_transform": transform})
    write_ply(tmp_path / "sparse.ply", kind, color)
    scene = load_dataset(tmp_path)
    np.testing.assert_allclose(project(scene.train[0].camera, scene.points)[:2], [[57, 11.5], [19.5, 24]])
    if color:
        np.testing.assert_array_equal(scene.point_colors, COLORS)
    else:
        assert scene.point_colors is None


def test_points_of_a_colmap_model_beside_the_file_are_transformed(tmp_path):
    # nerfstudio's: (x, y, z) of COLMAP becomes (x, z, -y).
    transform = [[1, 0, 0, 0.25], [0, 0, 1, 0], [0, -1, 0, 0]]
    write_text(tmp_path / "colmap" / "sparse" / "0", points=(((0.25, 2.0, 0.25), (9, 8, 7)),))
    write_scene(tmp_path)
    assert load_dataset(tmp_path).points is None  # nobody knows in which frame they are
    scene = load_dataset(write_scene(tmp_path, meta={"applied_transform": transform}))
    assert scene.dataset_type == "transforms"
    np.testing.assert_allclose(project(scene.train[0].camera, scene.points), [[57, 11.5]])
    np.testing.assert_array_equal(scene.point_colors, [[9, 8, 7]])


def test_missing_points_are_a_warning(tmp_path):
    write_scene(tmp_path, meta={"ply_file_path": "none.ply"})
    with pytest.warns(UserWarning, match="ply_file_path 'none.ply' is no file; the scene has no points"):
        assert load_dataset(tmp_path).points is None


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"ply_file_path": "../x.ply"}, "ply_file_path leads out of the dataset's folder"),
        ({"ply_file_path": 7}, "ply_file_path must name a file, got 7"),
        ({"depth_unit_scale_factor": 0}, "depth_unit_scale_factor must be positive, got 0"),
    ],
)
def test_bad_keys_are_refused(tmp_path, meta, message):
    with pytest.raises(ValueError, match=f"transforms.json.*: {message}"):
        load_dataset(write_scene(tmp_path, meta=meta))


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
def test_truncated_points_are_refused_by_name(tmp_path, kind):
    path = write_ply(tmp_path / "sparse.ply", kind)
    data = path.read_bytes()
    for length in (0, 3, 30, data.index(b"end_header") + 12, data.index(b"end_header") + 40):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"sparse.ply (is|has) "):
            read_ply_points(path)
    path.write_bytes(data.replace(b"vertex 3", b"vertex 999999999999"))
    with pytest.raises(ValueError, match=r"sparse.ply is truncated"):
        read_ply_points(path)


# --- fisheye -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta", [{"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}])
def test_opencv_fisheye(tmp_path, meta):
    # A bright spot 0.3 rad to the right of the axis, where the lens puts it at 0.3 + 0.1 * 0.3^3.
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    distance = 60 * (0.3 + 0.1 * 0.3**3)
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    spot = 255 * np.exp(-((columns - 32 - distance) ** 2 + (rows - 24) ** 2) / 8)
    image[:] = np.rint(spot)[..., None]
    view = load_view(write_scene(tmp_path, meta={**meta, "fl_x": 60.0, "k1": 0.1}, image=image))
    weight = view.image[..., 0].astype(np.float64)
    found = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
    expected = project(view.camera, [np.sin(0.3), 0.0, -np.cos(0.3)])
    np.testing.assert_allclose(found, expected, atol=0.1)
