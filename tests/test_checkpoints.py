"""Checkpoints: what was written is read, whole or not at all; a run goes on from one as if it had not stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from test_trainer import make_dense_trainer, make_gaussians, params_of

import splax
from splax.training.recovery.checkpoints import Checkpoints
from splax.training.recovery.snapshot import array_shapes, to_arrays, to_state

pytest.importorskip("orbax.checkpoint", reason="checkpoints need orbax-checkpoint")

STATE = {
    "means": np.arange(12, dtype=np.float32).reshape(4, 3),
    "shN": np.zeros((4, 0, 3), np.float32),
    "alive": np.array([True, False, True, True]),
    "half": np.ones((2, 3), ml_dtypes.bfloat16),
    "step": np.asarray(7, np.int32),
    "key": np.array([0, 2**32 - 1], np.uint32),
}
SHAPES = {name: (array.shape, str(array.dtype)) for name, array in STATE.items()}


def state_of(step: int) -> dict[str, np.ndarray]:
    return {**STATE, "step": np.asarray(step, np.int32)}


def assert_same_arrays(actual, expected):
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype, name
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


@pytest.fixture
def saved(tmp_path) -> Checkpoints:
    """Two checkpoints, of steps 10 and 20."""
    checkpoints = Checkpoints(tmp_path / "new" / "checkpoints")
    for step in (10, 20):
        checkpoints.save(step, state_of(step), {"note": step})
    return checkpoints


def data_files(folder: Path) -> list[Path]:
    """Files that hold arrays, the largest first."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name == "d"]
    return sorted(files, key=lambda path: -path.stat().st_size)


# --- files ----------------------------------------------------------------------------------------------


def test_what_was_saved_is_loaded(saved):
    arrays, facts = saved.load(lambda facts: SHAPES)
    assert_same_arrays(arrays, state_of(20))
    assert facts["note"] == 20


def test_the_last_ones_are_kept(saved):
    assert saved.steps() == [10, 20]
    saved.save(30, state_of(30), {})
    assert saved.steps() == [20, 30]
    saved.save(30, state_of(31), {})  # one of this step is there
    saved.save(25, state_of(25), {})
    assert saved.steps() == [20, 30]
    assert saved.load(lambda facts: SHAPES).arrays["step"] == 30


def test_a_folder_without_checkpoints_says_so(tmp_path):
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.steps() == []
    with pytest.raises(ValueError, match="holds no checkpoint"):
        checkpoints.load(lambda facts: SHAPES)
    assert not (tmp_path / "none").exists()


def test_one_that_was_being_written_does_not_count(saved):
    leftover = saved.folder / "30.orbax-checkpoint-tmp"
    (leftover / "state").mkdir(parents=True)
    (leftover / "state" / "manifest.ocdbt").write_bytes(b"\0" * 10)
    assert saved.load(lambda facts: SHAPES).arrays["step"] == 20
    saved.save(30, state_of(30), {})
    assert saved.load(lambda facts: SHAPES).arrays["step"] == 30
    assert not leftover.exists()


def unlist(folder):
    """As if the program had been stopped before it listed the files."""
    folder.with_name(f"{folder.name}.files.json").unlink()


def edit_facts(folder, **changes):
    path = folder / "facts" / "metadata"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    unlist(folder)


def truncate(folder):
    for file in data_files(folder):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_bit(folder):
    file = data_files(folder)[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose_the_facts(folder):
    (folder / "facts" / "metadata").unlink()
    unlist(folder)


def claim_a_terabyte(folder):
    edit_facts(folder, arrays=[{"name": "means", "shape": [2**38, 3], "dtype": "float32", "crc32": 0}])


DAMAGE = [truncate, flip_a_bit, lose_the_facts, claim_a_terabyte]


@pytest.mark.parametrize("damage", DAMAGE)
def test_where_the_last_is_damaged_the_one_before_is_used(saved, damage):
    damage(saved.folder / "20")
    with pytest.warns(UserWarning, match="checkpoint of step 20 is damaged"):
        assert_same_arrays(saved.load(lambda facts: SHAPES).arrays, state_of(10))
    damage(saved.folder / "10")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"all of .* are damaged"):
        saved.load(lambda facts: SHAPES)


def test_files_that_were_not_listed_are_read_all_the_same(saved):
    unlist(saved.folder / "20")
    assert saved.load(lambda facts: SHAPES).arrays["step"] == 20
    saved.save(30, state_of(30), {})
    assert {path.name for path in saved.folder.iterdir()} == {"20", "30", "20.files.json", "30.files.json"}


def test_another_format_is_refused(saved):
    for step in (10, 20):
        edit_facts(saved.folder / str(step), format=2)
    with pytest.raises(ValueError, match="has format 2"):
        saved.load(lambda facts: SHAPES)


def test_a_folder_that_cannot_be_written_is_a_value_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        Checkpoints(tmp_path / "file" / "checkpoints").save(1, state_of(1), {})


@pytest.mark.parametrize("options", [{"keep": 0}, {"every": 0.0}, {"every": float("nan")}])
def test_settings_out_of_range(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Checkpoints(tmp_path, **options)


WRITER = """
import sys
import numpy as np
from splax.training.recovery.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
for step in range(int(sys.argv[2]), 1_000_000):
    noise = np.random.default_rng(step).random(1_000_000)
    checkpoints.save(step, {"noise": noise}, {})
    print(step, flush=True)
"""


def test_kill_9_in_mid_write_leaves_the_last_good_one(tmp_path):
    """A process that does nothing but write checkpoints of 8 MB, killed three times at odd moments."""
    checkpoints = Checkpoints(tmp_path)
    rng = np.random.default_rng(0)
    last = 0
    for _ in range(3):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(last + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told = [int(process.stdout.readline()) for _ in range(2)]
            time.sleep(rng.uniform(0, 0.3))
            os.kill(process.pid, signal.SIGKILL)
        arrays, _ = checkpoints.load(lambda facts: {"noise": ((1_000_000,), "float64")})
        last = checkpoints.steps()[-1]
        assert last >= told[-1]
        np.testing.assert_array_equal(arrays["noise"], np.random.default_rng(last).random(1_000_000))


# --- states ---------------------------------------------------------------------------------------------


def test_a_state_becomes_arrays_and_a_state_again():
    state = {"key": jax.random.key(3), "rows": [jnp.arange(3.0)], "step": jnp.zeros((), jnp.int32)}
    arrays = to_arrays(state)
    assert {name: (a.shape, str(a.dtype)) for name, a in arrays.items()} == array_shapes(state)
    again = to_state(arrays, state)
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert (jax.random.key_data(again["key"]) == jax.random.key_data(state["key"])).all()
    # Neither side sees what becomes of the other's memory.
    arrays[next(name for name in arrays if "rows" in name)][:] = -1
    np.testing.assert_array_equal(again["rows"][0], [0, 1, 2])
    np.testing.assert_array_equal(state["rows"][0], [0, 1, 2])


# --- runs -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene():
    return splax.make_demo_scene(num_train=6, num_test=2, width=32, height=24)


# Grows at every chance, past its rows once before step 10 and once after.
STRATEGY = splax.DefaultStrategy(grow_grad2d=1e-7, refine_start=0, refine_every=7, reset_every=9)


def make_trainer(scene, **config):
    return make_dense_trainer(
        scene, make_gaussians(scene, 60), strategy=STRATEGY, deterministic=True, **config
    )


def records(trainer) -> list[tuple]:
    """The history without times."""
    return [(r.step, r.loss, r.psnr, r.num_gaussians, r.num_isects) for r in trainer.history]


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(scene, tmp_path):
    """To the bit: Params, moments, strategy, randomness, records; across growth of the rows before and after."""
    whole = make_trainer(scene)
    whole.fit(20)

    def interrupt(trainer, progress):
        if progress.step == 10:
            signal.raise_signal(signal.SIGINT)

    first = make_trainer(scene)
    with pytest.raises(KeyboardInterrupt):
        first.fit(20, callbacks=[interrupt], checkpoints=Checkpoints(tmp_path))
    grown = first.model.gaussians.capacity
    assert 60 < grown < whole.model.gaussians.capacity
    assert Checkpoints(tmp_path).steps() == [10]

    second = make_trainer(scene)
    second.resume(Checkpoints(tmp_path))
    assert second.step == 10 and second.model.gaussians.capacity == grown
    assert params_of(second).keys() == params_of(first).keys()
    second.fit(10)
    assert_same_arrays(to_arrays(second._state), to_arrays(whole._state))
    assert records(second) == records(whole)
    assert second.seconds > first.seconds

    with pytest.raises(ValueError, match=r"another run: .*seed was '0', is '1'"):
        make_trainer(scene, seed=1).resume(Checkpoints(tmp_path))
    other = splax.make_demo_scene(num_train=5, num_test=2, width=32, height=24)
    with pytest.raises(ValueError, match=r"another run: .*views was"):
        make_trainer(other).resume(Checkpoints(tmp_path))


def test_checkpoints_are_written_while_a_run_goes_on(scene, tmp_path):
    trainer = make_trainer(scene)
    seen = []
    checkpoints = Checkpoints(tmp_path, keep=1, every=1e-6)
    trainer.fit(9, callbacks=[lambda *_: seen.append(checkpoints.steps())], checkpoints=checkpoints)
    assert [[], []] + [[record.step] for record in trainer.history[:-1]] == seen
