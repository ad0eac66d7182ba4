"""Checkpoints of a run: all that its next steps depend on, on disk.

Orbax writes a checkpoint under another name and then renames it, so that a checkpoint is whole or absent whenever
the program is stopped; earlier checkpoints stay until then. Each array has a checksum. Orbax is imported when it
is first used.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import logging
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from splax.files.atomic import write_whole
from splax.files.json import read_json
from splax.files.limits import shorten
from splax.training.recovery.snapshot import Arrays

# Version of the format; a checkpoint with another version is refused.
_FORMAT = 1
# End of the name of the file that lists the files of a checkpoint.
_FILES = ".files.json"
# Shape and dtype of each array of a state, by the array's name.
Shapes = dict[str, tuple[tuple[int, ...], str]]


class Checkpoint(NamedTuple):
    """The content of a checkpoint.

    Attributes:
        arrays: arrays of the state, by their path in the state.
        facts: all other content, as JSON.
    """

    arrays: Arrays
    facts: dict[str, Any]


class Checkpoints:
    """The newest checkpoints of a run, in a folder.

    Args:
        folder: the folder of the checkpoints; it is made when the first checkpoint is written.
        keep: number of checkpoints to keep, at least 1; older ones are removed.
        every: seconds of training from one checkpoint to the next, above 0.

    Raises:
        ValueError: if a setting is out of range.

    Example:
        >>> import splax
        >>> from flax import nnx
        >>> scene = splax.make_demo_scene(num_train=2, num_test=1, width=16, height=12)
        >>> gaussians = splax.Gaussians.random(20, extent=scene.extent, center=scene.center, rngs=nnx.Rngs(0))
        >>> trainer = splax.Trainer(splax.SplatModel(gaussians), scene, splax.TrainConfig(guard=False))
        >>> checkpoints = splax.Checkpoints("checkpoints", every=60)
        >>> trainer.save(checkpoints)  # trainer.fit(checkpoints=checkpoints) saves every 60 seconds
        >>> checkpoints.steps()
        [0]
        >>> trainer.resume(checkpoints)
    """

    def __init__(self, folder: str | Path, *, keep: int = 2, every: float = 120.0) -> None:
        if keep < 1:
            raise ValueError(f"Checkpoints keep must be at least 1, got {keep}.")
        if not every > 0:
            raise ValueError(f"Checkpoints every must be above 0 seconds, got {every}.")
        self.folder = Path(folder).expanduser().absolute()
        self.keep, self.every = keep, every
        self._written = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether ``every`` seconds have passed since the last checkpoint."""
        return time.monotonic() - self._written >= self.every

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, the oldest first."""
        if not self.folder.is_dir():
            return []
        # Folders of names like `20.orbax-checkpoint-tmp` were being written when the program was stopped.
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def save(self, step: int, arrays: Arrays, facts: dict[str, Any]) -> None:
        """Writes a checkpoint, unless there is one of this step or a later step.

        Args:
            step: number of steps made.
            arrays: arrays of the state, by their path in the state.
            facts: all other content, as JSON.

        Raises:
            ValueError: if the checkpoint cannot be written, or orbax is not installed.
        """
        self._written = time.monotonic()
        if step <= max(self.steps(), default=-1):
            return
        described = [
            {"name": name, "shape": list(a.shape), "dtype": str(a.dtype), "crc32": _checksum(a)}
            for name, a in arrays.items()
        ]
        facts = {**facts, "format": _FORMAT, "arrays": described}
        # Names that are safe in paths; orbax stores no array of size 0.
        named = {f"{index:04d}": a for index, a in enumerate(arrays.values()) if a.size}
        orbax = _orbax()
        try:
            self._remove_unfinished()
            self._check_room(sum(a.nbytes for a in arrays.values()))
            with self._manager() as manager:
                state, facts = orbax.args.StandardSave(named), orbax.args.JsonSave(facts)
                manager.save(step, args=orbax.args.Composite(state=state, facts=facts), force=True)
            self._list_files()
        # Orbax and tensorstore raise errors of a dozen types where a disk is full.
        except Exception as error:
            self._remove_unfinished()
            reason = error.strerror if isinstance(error, OSError) else shorten(str(error))
            raise ValueError(
                f"the checkpoint in {self.folder} cannot be written: {reason or error}."
            ) from error

    def load(self, expect: Callable[[dict[str, Any]], Shapes]) -> Checkpoint:
        """The newest checkpoint that is not damaged; warns of newer ones that are.

        Args:
            expect: function that returns the arrays that a checkpoint with these facts must have; it raises a
                ValueError of its own if the checkpoint belongs to another run.

        Raises:
            ValueError: if every checkpoint is damaged, there is none, or it belongs to another run.
        """
        steps = self.steps()
        if not steps:
            raise ValueError(
                f"{self.folder} holds no checkpoint: the run ended, or was stopped, before its first. Begin it "
                "again."
            )
        for step in reversed(steps):
            try:
                facts, described = self._read_facts(step)
            except _DamagedError as error:
                damage = str(error)
            else:
                shapes = expect(facts)
                try:
                    return Checkpoint(self._read_arrays(step, described, shapes), facts)
                except _DamagedError as error:
                    damage = str(error)
            warnings.warn(f"the checkpoint of step {step} is damaged ({damage}).", stacklevel=2)
        raise ValueError(f"no checkpoint in {self.folder} can be read: all of {steps} are damaged.")

    def _check_room(self, size: int) -> None:
        """Checks that a disk has room for ``size`` bytes: orbax does not stop cleanly where it runs full.

        Raises:
            OSError: if there is less room.
        """
        place = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        if (free := shutil.disk_usage(place).free) < size:
            reason = f"the disk is full: it needs {size / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free"
            raise OSError(errno.ENOSPC, reason)

    def _remove_unfinished(self) -> None:
        """Removes what is left of checkpoints that were not written to the end, as it takes room on the disk."""
        for path in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)

    def _list_files(self) -> None:
        """Writes a list of files, with size and checksum of each, for every checkpoint that has no list yet."""
        names = {str(step) for step in self.steps()}
        for path in self.folder.glob(f"*{_FILES}"):
            if path.name.removesuffix(_FILES) not in names:
                path.unlink()
        for name in names:
            listed = self.folder / f"{name}{_FILES}"
            if not listed.exists():
                write_whole(listed, json.dumps(_describe_files(self.folder / name)).encode())

    def _check_files(self, step: int) -> None:
        """Checks that no file has changed since it was written.

        Orbax would notice a change too, but would not stop cleanly.

        Raises:
            _DamagedError: if a file has changed.
        """
        listed = self.folder / f"{step}{_FILES}"
        if not listed.exists():
            return  # the program was stopped after the checkpoint was written and before its list was
        try:
            whole = read_json(listed) == _describe_files(self.folder / str(step))
        except (ValueError, OSError) as error:
            raise _DamagedError(shorten(str(error))) from error
        if not whole:
            raise _DamagedError("its files changed")

    def _read_facts(self, step: int) -> tuple[dict[str, Any], dict[str, tuple]]:
        """All content but the arrays, and the description of each array: place, shape, dtype and checksum."""
        self._check_files(step)
        try:
            facts = read_json(self.folder / str(step) / "facts" / "metadata")
            version = facts["format"]
            described = {
                a["name"]: (index, tuple(a["shape"]), a["dtype"], a["crc32"])
                for index, a in enumerate(facts["arrays"])
            }
        except (ValueError, KeyError, TypeError) as error:
            raise _DamagedError(shorten(str(error))) from error
        if version != _FORMAT:
            raise ValueError(
                f"{self.folder / str(step)} has format {shorten(version)}, this version of splax reads {_FORMAT}."
            )
        return facts, described

    def _read_arrays(self, step: int, described: dict[str, tuple], shapes: Shapes) -> Arrays:
        """The arrays of a checkpoint, in the shapes that they must have: no file decides what is allocated."""
        if {name: (shape, dtype) for name, (_, shape, dtype, _) in described.items()} != shapes:
            raise _DamagedError("it holds other arrays than this run has")
        empty = {name: np.zeros(shape, np.dtype(dtype)) for name, (shape, dtype) in shapes.items()}
        stored = {f"{described[name][0]:04d}": a for name, a in empty.items() if a.size}
        orbax = _orbax()
        try:
            with self._manager() as manager:
                state = orbax.args.StandardRestore(stored)
                read = manager.restore(step, args=orbax.args.Composite(state=state))["state"]
        # Orbax and tensorstore raise errors of a dozen types on damaged files.
        except Exception as error:
            raise _DamagedError(shorten(str(error))) from error
        arrays = {name: read.get(f"{described[name][0]:04d}", a) for name, a in empty.items()}
        for name, array in arrays.items():
            if array.shape != empty[name].shape or _checksum(array) != described[name][3]:
                raise _DamagedError(f"checksum of {name}")
        return arrays

    @contextmanager
    def _manager(self) -> Iterator[Any]:
        """Orbax's manager of the folder."""
        orbax = _orbax()
        options = orbax.CheckpointManagerOptions(max_to_keep=self.keep, enable_async_checkpointing=False)
        manager = orbax.CheckpointManager(self.folder, options=options)
        try:
            yield manager
        finally:
            manager.close()


def _orbax() -> Any:
    try:
        import orbax.checkpoint as orbax
    except ImportError as error:
        raise ValueError(
            f"checkpoints need orbax: `pip install orbax-checkpoint`, or train without checkpoints. {error}"
        ) from error
    log = logging.getLogger("absl")
    if _is_not_of_an_orbax_thread not in log.filters:
        log.addFilter(_is_not_of_an_orbax_thread)
    return orbax


def _is_not_of_an_orbax_thread(record: logging.LogRecord) -> bool:
    """Whether a line of a log is not the traceback of a thread of orbax, whose error is raised as well."""
    return "_SignalingThread" not in str(record.msg)


def can_save() -> bool:
    """Whether the packages that write checkpoints are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("orbax", "tensorstore"))


class _DamagedError(Exception):
    """A checkpoint that cannot be used, though another one may."""


def _describe_files(folder: Path) -> dict[str, list[int]]:
    """Size and checksum of each file in a folder, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _file_checksum(path)] for path in files
    }


def _file_checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            checksum = zlib.crc32(part, checksum)
    return checksum


def _checksum(array: Shaped[np.ndarray, "*shape"]) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data) if array.size else 0
