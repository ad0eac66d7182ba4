"""Camera models: against COLMAP's own code, closed forms, and the pixels of undistorted photos."""

import numpy as np
import pytest

from splax.data.colmap_lens import CAMERA_MODEL_NAMES, CAMERA_MODELS, ColmapLens
from splax.data.distortion import MAX_TANGENT, Undistorter, undistorted_intrinsics

SIZE = (320, 240)
# What cameras have; small enough not to fold over within the image.
COEFFICIENTS = {
    "SIMPLE_RADIAL": (-0.12,),
    "RADIAL": (0.09, -0.03),
    "OPENCV": (-0.28, 0.07, -0.003, 0.005),
    "OPENCV_FISHEYE": (0.03, -0.02, 0.01, -0.004),
    "FULL_OPENCV": (0.1, -0.05, 0.002, -0.001, 0.02, 0.03, -0.01, 0.005),
    "FOV": (0.9,),
    "SIMPLE_RADIAL_FISHEYE": (0.05,),
    "RADIAL_FISHEYE": (0.05, -0.02),
    "THIN_PRISM_FISHEYE": (0.03, -0.02, 0.002, -0.003, 0.01, -0.004, 0.003, -0.002),
    "RAD_TAN_THIN_PRISM_FISHEYE": (
        *(0.03, -0.02, 0.01, -0.004, 0.002, -0.001),
        *(0.002, -0.003, 0.004, -0.001, 0.003, -0.002),
    ),
    "SIMPLE_DIVISION": (-0.1,),
    "DIVISION": (0.08,),
    "EUCM": (0.6, 1.1),
}
NAMES = list(CAMERA_MODELS)


def make_lens(name: str, size=SIZE) -> ColmapLens:
    focal = (260.0, 255.0)[: CAMERA_MODELS[name].num_focal]
    return ColmapLens(name, (*focal, 163.0, 117.0, *COEFFICIENTS.get(name, ())), *size)


@pytest.fixture(scope="module")
def pycolmap():
    return pytest.importorskip("pycolmap", reason="pycolmap is not installed (the `dev` extra)")


def test_every_model_of_colmap_is_known(pycolmap):
    ids = {int(member.value) for member in pycolmap.CameraModelId.__members__.values()} - {-1}
    assert ids == set(CAMERA_MODEL_NAMES)
    assert {CAMERA_MODEL_NAMES[i] for i in ids} - set(CAMERA_MODELS) == {"EQUIRECTANGULAR"}


@pytest.mark.parametrize("name", NAMES)
def test_projection_is_that_of_colmap(pycolmap, name):
    lens = make_lens(name)
    camera = pycolmap.Camera(model=name, width=SIZE[0], height=SIZE[1], params=lens.params)
    assert int(camera.model.value) == CAMERA_MODELS[name].id
    points = np.random.default_rng(0).uniform([-0.7, -0.6, 0.8], [0.7, 0.6, 1.3], (200, 3))
    points[0] = (0, 0, 1)
    np.testing.assert_allclose(lens.project(points), camera.img_from_cam(points), atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_undistort_inverts_distort(name):
    lens = make_lens(name)
    points = np.stack(np.meshgrid(np.linspace(-0.6, 0.6, 9), np.linspace(-0.5, 0.5, 7)), axis=-1)
    np.testing.assert_allclose(lens.undistort(lens.distort(points)), points, atol=1e-12)
    assert lens.is_pinhole == (name in ("PINHOLE", "SIMPLE_PINHOLE"))


def test_zero_distortion_is_a_pinhole():
    assert ColmapLens("FULL_OPENCV", (100.0, 100.0, 50.0, 50.0, *[0.0] * 8), 100, 100).is_pinhole
    assert ColmapLens("FOV", (100.0, 100.0, 50.0, 50.0, 0.0), 100, 100).is_pinhole
    assert ColmapLens("EUCM", (100.0, 100.0, 50.0, 50.0, 0.0, 1.0), 100, 100).is_pinhole


def test_what_the_lens_does_not_see_is_nan():
    # r - 30 r^3 never exceeds 0.0703; the fisheye puts 90 degrees at pi / 2.
    assert np.isnan(
        ColmapLens("SIMPLE_RADIAL", (1.0, 0.0, 0.0, -30.0), 9, 9).undistort(np.array([0.08, 0.0]))
    ).all()
    fisheye = ColmapLens("FISHEYE", (1.0, 1.0, 0.0, 0.0), 9, 9)
    assert np.isnan(fisheye.undistort(np.array([1.6, 0.0]))).all()
    np.testing.assert_allclose(fisheye.undistort(np.array([0.0, 1.5])), [0, np.tan(1.5)], rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(640, 480), (161, 120)])
def test_resized_lens_scales_the_pixels(name, size):
    lens = make_lens(name)
    points = np.random.default_rng(1).uniform([-0.5, -0.4, 1], [0.5, 0.4, 1], (20, 3))
    scale = np.array(size) / SIZE
    np.testing.assert_allclose(lens.resize(*size).project(points), lens.project(points) * scale, rtol=1e-12)


@pytest.mark.parametrize(
    ("lens", "message"),
    [
        (("BIRD", (1.0,), 9, 9), "camera model BIRD is not supported; expected one of SIMPLE_PINHOLE"),
        (("PINHOLE", (1.0, 1.0), 9, 9), "takes 4 numbers, got 2"),
        (("PINHOLE", (1.0, 0.0, 1.0, 1.0), 9, 9), "focal lengths must be positive, got 1 and 0"),
        (("PINHOLE", (1.0, 1.0, float("nan"), 1.0), 9, 9), "must be finite"),
        (("PINHOLE", (1.0, 1.0, 1.0, 1.0), 0, 9), "size must be in pixels, got 0 x 9"),
    ],
)
def test_unusable_lenses_are_refused(lens, message):
    with pytest.raises(ValueError, match=message):
        ColmapLens(*lens)


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match="320 x 240 pixels but the image is 240 x 320"):
        make_lens("OPENCV").resize(240, 320)


def draw_ramps(lens: ColmapLens) -> np.ndarray:
    """A photo whose red is x and green is y of the plane z = 1, as the lens shows it."""
    width, height = int(lens.width), int(lens.height)
    pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    plane = lens.undistort((pixels - lens.K[:2, 2]) / np.array(lens.focal))
    image = np.zeros((height, width, 3), np.uint8)
    image[..., :2] = np.rint(np.nan_to_num((plane + 1) * 127).clip(0, 255))
    return image


@pytest.mark.parametrize("name", list(COEFFICIENTS))
def test_undistorted_photos_show_what_the_pinhole_sees(name):
    lens = make_lens(name)
    undistorter = Undistorter(lens)
    image = undistorter.image(draw_ramps(lens))
    pixels = np.stack(np.meshgrid(np.arange(320) + 0.5, np.arange(240) + 0.5), axis=-1)
    plane = (pixels - undistorter.K[:2, 2]) / np.diag(undistorter.K)[:2]
    error = image[..., :2] / 127 - 1 - plane
    assert np.abs(error).max() < 1.5 / 127
    assert (
        np.abs(error.mean(axis=(0, 1))) @ [1, 1] < 0.1 / 127
    )  # no shift: that would be 0.3 / 127 for half a pixel


@pytest.mark.parametrize("name", list(COEFFICIENTS))
def test_masks_and_depths_go_where_the_image_goes(name):
    lens = make_lens(name)
    undistorter = Undistorter(lens)
    photo = np.zeros((240, 320, 3), np.uint8)
    photo[60:150, 80:200] = 255
    image = undistorter.image(photo)[..., 0]
    mask = undistorter.mask(photo[..., 0] > 0)
    depth = undistorter.depth(photo[..., 0].astype(np.float32))
    assert (image[mask] == 255).all() and mask.sum() > 5000
    assert (image[~mask] < 255).all()
    assert set(np.unique(depth)) == {0.0, 255.0}  # no mixture at the edge
    assert np.abs(depth - image).max() <= 192  # at a corner the nearest of four has a quarter of the weight


def test_wide_fisheye_is_cut_where_a_pinhole_would_stretch():
    # 180 degrees across the width: the pinhole keeps 70 degrees to each side.
    lens = ColmapLens("FISHEYE", (320 / np.pi, 320 / np.pi, 160.0, 120.0), 320, 240)
    K = undistorted_intrinsics(lens)
    np.testing.assert_allclose((0.5 - K[0, 2]) / K[0, 0], -MAX_TANGENT, rtol=1e-9)
    top = np.tan((119.5) * np.pi / 320)  # the middle of the top border limits the height
    np.testing.assert_allclose((0.5 - K[1, 2]) / K[1, 1], -top, rtol=1e-4)


@pytest.mark.parametrize("k", [-30.0, -3.0, 1e20])
def test_folding_lenses_are_refused(k):
    with pytest.raises(ValueError, match=r"SIMPLE_RADIAL .* folds over inside the 320 x 240 image"):
        Undistorter(ColmapLens("SIMPLE_RADIAL", (260.0, 160.0, 120.0, k), 320, 240))
