"""Random damage to the files of every reader, and what it has found: something usable, or an error that names the
file; nothing else happens.

``python -m fuzz`` runs many more of the same inputs, see docs/conventions.md. Splat files made by hand to do harm
are in test_splat_limits.py.
"""

import random

import pytest
from fuzz.judge import judge
from fuzz.targets import TARGETS
from helpers import write_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splax.cli.run_folder import RunFolder
from splax.data.formats import load_dataset
from splax.data.layout import relative_path
from splax.data.points import read_ply_points
from splax.files.image_header import ImageError
from splax.io.formats import read_splats

# Each costs a few milliseconds; the same ones every time.
quick = settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path, name):
    if name == "spz 4":
        pytest.importorskip("zstandard")
    target, folder = TARGETS[name], tmp_path / "data"
    folder.mkdir()
    target.make(folder)
    originals = {file: (folder / file).read_bytes() for file in target.damage}

    @quick
    @given(st.randoms(use_true_random=False), st.sampled_from(sorted(target.damage)))
    def check(rng: random.Random, file: str) -> None:
        (folder / file).write_bytes(target.damage[file](originals[file], rng))
        try:
            judge(target.read, folder / (target.entry or file), folder)
        finally:
            (folder / file).write_bytes(originals[file])

    target.read(folder / (target.entry or next(iter(target.damage))))  # good, and all is imported
    check()


def test_memory_is_bounded_by_what_a_file_may_unpack_to(tmp_path):
    """Damage that the limits allow for is measured too: 64 MiB and the floats that come of them."""
    pytest.importorskip("zstandard")
    for name in ("ply", "spz 4", "sog, images", "points .ply", "COLMAP model, binary", "PNG", "depth .npy"):
        target, folder = TARGETS[name], tmp_path / name.replace(" ", "_")
        folder.mkdir()
        target.make(folder)
        for index in range(3):
            rng = random.Random(index)
            file = rng.choice(sorted(target.damage))
            original = (folder / file).read_bytes()
            (folder / file).write_bytes(target.damage[file](original, rng))
            judge(target.read, folder / (target.entry or file), folder, measure=True)
            (folder / file).write_bytes(original)


# --- what was found by such inputs ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [".", "", "./.", "images/.."])
def test_a_name_of_the_folder_itself_is_no_file_beside_it(tmp_path, name):
    """With an extension added, it was one: data.png beside data/."""
    with pytest.raises(ImageError, match="names no file"):
        relative_path(name)
    if name:
        folder = tmp_path / "data"
        folder.mkdir()
        TARGETS["transforms.json"].make(folder)
        text = (folder / "transforms.json").read_text().replace("images/0.png", name, 1)
        (folder / "transforms.json").write_text(text)
        write_image(tmp_path / "data.png", size=(8, 6))
        with pytest.warns(UserWarning, match="names no file"):
            load_dataset(folder)


def test_a_word_of_a_text_is_told_shortly(tmp_path):
    """A word of 300 kB that is no number."""
    for name, read in (("ply, text", read_splats), ("points .ply, text", read_ply_points)):
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        TARGETS[name].make(folder)
        data = (folder / "a.ply").read_bytes()
        (folder / "a.ply").write_bytes(data[:-3] + b"x" * 300_000 + b"\n")
        with pytest.raises(ValueError, match=r"damaged: .*could not convert") as raised:
            read(folder / "a.ply")
        assert len(str(raised.value)) < 500


def test_a_signalling_nan_is_a_point_left_out(tmp_path):
    (tmp_path / "a.ply").write_bytes(
        b"ply\nformat binary_little_endian 1.0\nelement vertex 2\n"
        + b"".join(b"property float %c\n" % axis for axis in b"xyz")
        + b"end_header\n"
        + b"\x01\x00\xa0\x7f"
        + bytes(20)
    )
    points = read_ply_points(tmp_path / "a.ply")
    assert points is not None and len(points.positions) == 1


@pytest.mark.parametrize("line", ["7", "{}", '{"step": "x"}', "[" * 100_000, "{"])
def test_damaged_scores_of_a_run_name_their_file(tmp_path, line):
    (tmp_path / "scores.jsonl").write_text(line)
    with pytest.raises(ValueError, match=r"scores\.jsonl is damaged"):
        RunFolder(tmp_path).forget_scores_from(3)
