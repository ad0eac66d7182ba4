"""Photos on their way to the device: groups of sizes, the order of views, streaming, and damaged photos."""

import dataclasses
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from flax import nnx
from helpers import make_camera, write_transforms
from test_trainer import DenseModel

import splax
from splax.cli.describe import describe_scene
from splax.data.formats import load_dataset
from splax.data.lazy_view import PixelCache, Pixels
from splax.scene import View
from splax.training.photos import loader as photo_loader
from splax.training.photos.canvases import MAX_CANVAS, MAX_GROUPS, RUN_LENGTH, group_views, view_order
from splax.training.photos.loader import PhotoLoader

# --- groups ------------------------------------------------------------------------------------------


def canvases(sizes):
    return [(group.width, group.height, group.views) for group in group_views(sizes)]


def test_one_size_is_one_group():
    assert canvases([(40, 30)] * 5) == [(40, 30, (0, 1, 2, 3, 4))]


def test_similar_sizes_share_a_canvas_and_others_do_not():
    # As of photos that were undistorted one by one, and some taken upright.
    sizes = [(1000, 656), (656, 1000), (1001, 662), (999, 660), (658, 998)]
    assert canvases(sizes) == [(1001, 662, (0, 2, 3)), (658, 1000, (1, 4))]


def test_canvases_are_little_larger_than_their_photos_and_few():
    rng = np.random.default_rng(0)
    sizes = [(int(width), int(height)) for width, height in rng.integers(60, 80, (50, 2))]
    groups = group_views(sizes)
    assert sorted(view for group in groups for view in group.views) == list(range(50))
    for group in groups:
        own = [sizes[view] for view in group.views]
        assert (group.width, group.height) == tuple(np.max(own, axis=0))
    if len(groups) < MAX_GROUPS:
        for group in groups:
            smallest = min(np.prod(sizes[view]) for view in group.views)
            assert group.width * group.height <= MAX_CANVAS * smallest
    many = group_views([(int(width), int(height)) for width, height in rng.integers(10, 2000, (300, 2))])
    assert len(many) == MAX_GROUPS
    assert sorted(view for group in many for view in group.views) == list(range(300))


SEVERAL = group_views([(40, 30)] * 40 + [(30, 40)] * 7 + [(90, 90)])


@pytest.mark.parametrize("groups", [group_views([(4, 3)]), group_views([(4, 3)] * 7), SEVERAL])
def test_order_shows_every_view_once_an_epoch(groups):
    num_views = sum(len(group.views) for group in groups)
    order = view_order(groups, 5 * num_views, seed=3)
    for epoch in order.reshape(5, num_views):
        assert sorted(epoch) == list(range(num_views))
    for steps in range(len(order)):
        np.testing.assert_array_equal(view_order(groups, steps, seed=3), order[:steps])
    if num_views > 1:
        assert len({tuple(epoch) for epoch in order.reshape(5, num_views)}) > 1
        assert (view_order(groups, len(order), seed=4) != order).any()


def test_order_shows_views_of_a_group_in_runs():
    group_of = np.array([0] * 40 + [1] * 7 + [2])
    order = view_order(SEVERAL, 48 * 20, seed=0).reshape(20, 48)
    for epoch in order:
        changes = np.flatnonzero(np.diff(group_of[epoch])) + 1
        # The 40 in runs of 16, 16 and 8: no more changes than five runs have.
        assert len(changes) <= 4
        runs = np.split(epoch, changes)
        assert max(len(run) for run in runs if group_of[run[0]] == 1) <= RUN_LENGTH
    # No group has a place of its own in the epoch.
    assert len({int(group_of[epoch[0]]) for epoch in order}) > 1


# --- the cache ---------------------------------------------------------------------------------------


def pixels_of(value: int, num: int = 100) -> Pixels:
    return Pixels(np.full((num, 1, 3), value, np.uint8), None, None, None)


def test_the_cache_keeps_what_was_used_last_and_never_more_than_its_limit():
    cache, made = PixelCache(950), []

    def get(key, num=100):
        return cache.get(key, lambda: made.append(key) or pixels_of(key, num)).image[0, 0, 0]

    for key in (0, 1, 2, 0, 3):  # 1 is the one that goes
        assert get(key) == key
        assert cache.nbytes <= 950
    assert made == [0, 1, 2, 3]
    assert [get(key) for key in (0, 2, 3, 1)] == [0, 2, 3, 1]
    assert made == [0, 1, 2, 3, 1]
    assert get(9, num=1000) == 9  # larger than the cache: it is not kept, and pushes nothing out
    assert cache.nbytes == 900
    assert made == [0, 1, 2, 3, 1, 9]
    assert [get(3), get(1)] == [3, 1]
    assert made[6:] == []


# --- photos on disk ----------------------------------------------------------------------------------


def make_views(num: int, sizes=((24, 16),), seed: int = 0) -> list[View]:
    rng = np.random.default_rng(seed)
    views = []
    for index in range(num):
        width, height = sizes[index % len(sizes)]
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        position = (3 * np.cos(index), 3 * np.sin(index), 1.0)
        views.append(View(image, make_camera(width, height, position=position), f"{index:03d}"))
    return views


@pytest.fixture
def dataset(tmp_path) -> Path:
    return write_transforms(tmp_path / "data", make_views(20))


@pytest.fixture
def decodes(monkeypatch) -> list[str]:
    """Names of the photos in the order in which they are decoded."""
    from splax.data.photo_reader import PhotoReader

    names, decode = [], PhotoReader.decode

    def watched(self, opened):
        names.append(opened.photo.name)
        return decode(self, opened)

    monkeypatch.setattr(PhotoReader, "decode", watched)
    return names


def test_a_dataset_that_fits_is_decoded_once(dataset, decodes):
    scene = load_dataset(dataset, test_every=0)
    assert sorted(decodes) == [f"{index:03d}.png" for index in range(20)]
    for view, expected in zip(scene.train, make_views(20), strict=True):
        np.testing.assert_array_equal(view.image, expected.image)
    assert len(decodes) == 20


def test_a_dataset_that_does_not_fit_is_decoded_when_it_is_looked_at(dataset, decodes):
    photo = 24 * 16 * 3
    scene = load_dataset(dataset, test_every=0, cache_bytes=3 * photo)
    describe_scene(scene)
    assert decodes == []
    for _ in range(2):
        for view, expected in zip(scene.train, make_views(20), strict=True):
            np.testing.assert_array_equal(view.image, expected.image)
            assert view.mask is view.alpha is view.depth is None
    assert len(decodes) == 40
    assert repr(scene.train[0]) == "LazyView('000.png', 24 x 16)"
    # A view that is changed holds its pixels.
    mask = np.ones((16, 24), bool)
    plain = dataclasses.replace(scene.train[0], mask=mask)
    assert type(plain) is View and plain.has_mask and plain.mask is mask
    np.testing.assert_array_equal(plain.image, make_views(1)[0].image)


def test_headers_decide_masks_alpha_and_size(tmp_path, decodes):
    folder = write_transforms(tmp_path / "data", make_views(3))
    rgba = np.dstack([make_views(1)[0].image, np.full((16, 24), 100, np.uint8)])
    cv2.imwrite(str(folder / "images" / "001.png"), rgba)
    (folder / "masks").mkdir()
    cv2.imwrite(str(folder / "masks" / "002.png"), np.full((16, 24), 255, np.uint8))
    views = load_dataset(folder, test_every=0, downscale=2, cache_bytes=0).train
    assert [view.has_alpha for view in views] == [False, True, False]
    assert [view.has_mask for view in views] == [False, False, True]
    assert not any(view.has_depth for view in views)
    assert [(view.camera.width, view.camera.height) for view in views] == [(12, 8)] * 3
    assert decodes == []
    eager = load_dataset(folder, test_every=0, downscale=2).train
    for view, expected in zip(views, eager, strict=True):
        for name in ("image", "alpha", "mask"):
            np.testing.assert_array_equal(getattr(view, name), getattr(expected, name))
        np.testing.assert_array_equal(view.camera.K, expected.camera.K)


# --- streaming ---------------------------------------------------------------------------------------


def shown(loader: PhotoLoader, steps: int, length: int = 7) -> list[tuple]:
    """View, camera and pixels of each step, as a compiled call would find them."""
    loader.plan(steps)
    found = []
    while len(found) < steps:
        photos, rows = loader.take(len(found), min(length, steps - len(found)))
        assert 1 <= len(rows) <= length
        for row in rows:
            found.append(jax.tree.leaves(jax.tree.map(lambda x, row=row: np.asarray(x[row]), photos)))
    return found


SIZES = ((24, 16), (16, 24), (23, 16))


@pytest.mark.parametrize("sizes", [SIZES[:1], SIZES])
def test_streamed_photos_are_those_of_resident_ones(sizes):
    views = make_views(31, sizes)
    resident, streamed = (PhotoLoader(views, seed=5, limit=limit) for limit in (1 << 20, 8 * 24 * 16 * 4))
    assert (resident.streams, streamed.streams) == (False, True)
    expected = shown(resident, 100)
    for actual, wanted in zip(shown(streamed, 100), expected, strict=True):
        for one, other in zip(actual, wanted, strict=True):
            np.testing.assert_array_equal(one, other)
    # They are the photos of the order, whichever canvas they lie on.
    order = view_order(resident.groups, 100, 5)
    for view, wanted in zip(order, expected, strict=True):
        image = views[view].image
        assert wanted[0] == view
        np.testing.assert_array_equal(wanted[3][: image.shape[0], : image.shape[1]], image)
        if len(sizes) > 1 and len(wanted) > 4:
            assert wanted[4].sum() == image.shape[0] * image.shape[1]


def test_a_photo_larger_than_the_limit_is_streamed_alone():
    found = shown(PhotoLoader(make_views(5), seed=0, limit=0), 12)
    expected = shown(PhotoLoader(make_views(5), seed=0, limit=1 << 20), 12)
    assert [int(step[0]) for step in found] == [int(step[0]) for step in expected]


def test_resident_photos_that_are_sent_in_parts_are_the_same(monkeypatch):
    expected = shown(PhotoLoader(make_views(11, SIZES), seed=0, limit=1 << 20), 22)
    monkeypatch.setattr(photo_loader, "MAX_LOAD", 3 * 24 * 16 * 4)
    for actual, wanted in zip(
        shown(PhotoLoader(make_views(11, SIZES), seed=0, limit=1 << 20), 22), expected, strict=True
    ):
        for one, other in zip(actual, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_streaming_decodes_one_stretch_ahead_and_no_more(dataset, decodes):
    photo = 24 * 16 * 3
    scene = load_dataset(dataset, test_every=0, cache_bytes=2 * photo)
    loader = PhotoLoader(scene.train, seed=0, limit=8 * photo)  # four now, four next
    loader.plan(20)
    for step in range(20):
        loader.take(step, 1)
        if loader._next is not None:
            loader._next[1].result()
        assert len(decodes) == min(20, (step // 4 + 2) * 4)
    assert sorted(decodes) == sorted(view.name for view in scene.train)


def test_training_from_disk_is_training_from_memory_bit_for_bit(dataset):
    """And what a run can be resumed from is the step alone: another loader goes on in the middle of a stretch."""
    eager, lazy = (load_dataset(dataset, test_every=0, cache_bytes=size) for size in (1 << 30, 0))
    params = []
    for scene, limit, pieces in (
        (eager, None, (30,)),
        (lazy, 8 * 24 * 16 * 3, (30,)),
        (lazy, 9000, (13, 17)),
    ):
        gaussians = splax.Gaussians.random(40, extent=2.0, sh_degree=0, rngs=nnx.Rngs(0))
        model = DenseModel(gaussians, splax.TileRasterizer(8, isect_capacity=2**20))
        config = splax.TrainConfig(steps=30, progress=False, photo_bytes=limit)
        trainer = splax.Trainer(model, scene, config, strategy=splax.Strategy())
        for steps in pieces:
            trainer.fit(steps)
        assert trainer._loader.streams == (limit is not None)
        params.append([np.asarray(x) for x in jax.tree.leaves(trainer._state.params)])
    for other in params[1:]:
        for actual, expected in zip(other, params[0], strict=True):
            np.testing.assert_array_equal(actual, expected)


# --- damaged photos ----------------------------------------------------------------------------------


def spoil(folder: Path, name: str) -> None:
    """Damage that the header does not show."""
    path = folder / "images" / name
    data = bytearray(path.read_bytes())
    start = data.index(b"IDAT") + 8
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)


@pytest.mark.parametrize("limit", [1 << 20, 8 * 24 * 16 * 3, 0])
def test_a_photo_that_cannot_be_decoded_does_not_lose_the_run(dataset, limit):
    spoil(dataset, "004.png")
    with pytest.warns(UserWarning, match=r"1 of 20 frames left out. is damaged.*: 004.png"):
        assert len(load_dataset(dataset, test_every=0).train) == 19
    scene = load_dataset(dataset, test_every=0, cache_bytes=0)
    assert len(scene.train) == 20
    with pytest.raises(ValueError, match=r"images/004.png: the photo is damaged: OpenCV cannot decode it"):
        _ = scene.train[4].image
    loader = PhotoLoader(scene.train, seed=0, limit=limit)
    order = view_order(loader.groups, 60, 0)
    views = [int(step[0]) for step in shown(loader, 60)]
    assert views == [5 if view == 4 else view for view in order]
    assert list(loader.unreadable) == ["004.png"]


def test_people_are_told_of_photos_that_cannot_be_decoded(dataset):
    for name in ("000.png", "004.png"):
        spoil(dataset, name)
    scene = load_dataset(dataset, test_every=8, cache_bytes=0)
    gaussians = splax.Gaussians.random(40, extent=2.0, sh_degree=0, rngs=nnx.Rngs(0))
    model = DenseModel(gaussians, splax.TileRasterizer(8, isect_capacity=2**20))
    trainer = splax.Trainer(
        model, scene, splax.TrainConfig(steps=30, progress=False), strategy=splax.Strategy()
    )
    with pytest.warns(UserWarning, match=r"view '004.png' is left out of training: .*004.png: the photo is"):
        trainer.fit(1)
    trainer.fit(2)  # it is said once
    with pytest.warns(UserWarning, match=r"view '000.png' is left out of the scores"):
        assert trainer.evaluate()["views"] == 2


def test_a_group_without_a_readable_photo_is_an_error(dataset):
    for index in range(20):
        spoil(dataset, f"{index:03d}.png")
    scene = load_dataset(dataset, test_every=0, cache_bytes=0)
    with pytest.raises(ValueError, match=r"No photo of 20 can be read: .*the photo is damaged"):
        shown(PhotoLoader(scene.train, seed=0), 3)
