"""Reads datasets of NeRF-synthetic, as its Blender script writes them: one transforms file for each split."""

from pathlib import Path

from splax.data.photo_reader import Photo
from splax.data.scene_builder import LeftOut, ReadOptions, build_scene
from splax.data.transforms import read_applied_transform, read_frames, read_scene_points
from splax.scene import Scene

_TRAIN = "transforms_train.json"
# The first of these files that exists is held out: scores are reported on the test split. The other is not read.
_HELD_OUT = ("transforms_test.json", "transforms_val.json")


def is_split_file(path: Path) -> bool:
    """Whether a path has the name of the file of one split."""
    return path.name in (_TRAIN, *_HELD_OUT)


def find_blender(path: Path) -> Path | None:
    """The file of the training split in the folder ``path``, or next to the file ``path``; None if none."""
    folder = path.parent if is_split_file(path) else path
    return folder / _TRAIN if (folder / _TRAIN).is_file() else None


def load_blender(train_path: Path, options: ReadOptions) -> Scene:
    """Reads the splits and their images.

    The held out views are those of ``transforms_test.json``; if there is no such file, those of
    ``transforms_val.json``; if there is none either, every ``test_every``-th view. RGBA images are composited on
    black or white. The points that the training file names are read, as those of a transforms.json are.

    Args:
        train_path: path of the file ``transforms_train.json``.
        options: options for reading the images.

    Raises:
        ValueError: if a file is damaged or no image is usable, as for
            :func:`splax.data.transforms.load_transforms`.
    """
    left_out: LeftOut = []
    notes: list[str] = []
    meta, train = read_frames(train_path, options, left_out)
    applied = read_applied_transform(meta, train_path)
    held_out = next(
        (train_path.parent / name for name in _HELD_OUT if (train_path.parent / name).is_file()), None
    )
    test: list[Photo] | None = None
    if held_out is not None:
        test = read_frames(held_out, options, left_out)[1]
        known = {photo.name for photo in train}
        left_out += [(photo.name, "held out, but also trained on") for photo in test if photo.name in known]
        test = [photo for photo in test if photo.name not in known]
    return build_scene(
        train,
        options,
        source=train_path,
        dataset_type="blender",
        left_out=left_out,
        test_photos=test,
        points=read_scene_points(meta, applied, train_path, notes),
        applied_transform=applied,
        notes=notes,
    )
