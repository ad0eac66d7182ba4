"""The facts that a checkpoint holds in addition to the arrays, and the check that a Trainer can resume from it."""

from __future__ import annotations

import dataclasses
import math
import warnings
import zlib
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from splax.files.limits import shorten
from splax.model import SplatModel
from splax.ops.ewa import EWA
from splax.rasterizer import TileRasterizer
from splax.scene import View
from splax.strategies.base import Strategy
from splax.training.config import TrainConfig
from splax.training.progress import Progress
from splax.training.recovery.checkpoints import Checkpoints
from splax.training.recovery.snapshot import Arrays, Snapshot, array_shapes, to_state
from splax.training.state import TrainState
from splax.training.watcher import BEST, START


class Position(NamedTuple):
    """The facts of a run that are not part of its state.

    Attributes:
        capacity: number of rows of the state.
        isect_capacity: number of rows of the intersection buffer.
        isect_peak: largest number of (tile, Gaussian) pairs since the last refinement.
        first_sh_degree: highest band of colour that was in use at the start.
        history: progress after each compiled call so far.
        distance: distance from which the scene is photographed, the unit of rates and sizes, world units; None in
            a checkpoint of a version that used the spread of the cameras.
        guard: the guard's report, as JSON; None in a checkpoint of a version without a guard.
    """

    capacity: int
    isect_capacity: int
    isect_peak: int
    first_sh_degree: int
    history: list[Progress]
    distance: float | None = None
    guard: dict[str, Any] | None = None

    def facts(self, settings: dict[str, str]) -> dict[str, Any]:
        """These facts, the settings of the run and the versions of packages, as JSON."""
        history = [progress._asdict() for progress in self.history]
        return {**self._asdict(), "history": history, "settings": settings, "versions": versions()}

    @classmethod
    def of(cls, facts: dict[str, Any], settings: dict[str, str]) -> Position:
        """The inverse of :meth:`facts`.

        Args:
            facts: the facts of a checkpoint.
            settings: the settings of the run that resumes from it.

        Raises:
            ValueError: if the facts are damaged, or their settings differ from these.
        """
        check_settings(facts.get("settings"), settings)
        counts = (_read_count(facts, name) for name in cls._fields[:4])
        capacity, isect_capacity, isect_peak, first_sh_degree = counts
        return cls(
            capacity,
            isect_capacity,
            isect_peak,
            first_sh_degree,
            _read_history(facts),
            _read_distance(facts),
            _read_guard(facts),
        )


# Settings that do not change the trained model.
_FREE = {"progress", "photo_bytes"}


def _describe(rasterizer: TileRasterizer) -> str:
    """Settings of a rasterizer that change the trained model, in the words of the first checkpoints."""
    projection = rasterizer.projection
    settings = {name: getattr(rasterizer, name) for name in ("tile_size", "implementation")}
    settings["eps2d"] = getattr(projection, "eps2d", None)
    settings |= {name: getattr(rasterizer, name) for name in ("near_plane", "far_plane")}
    settings["radius_clip"] = getattr(projection, "radius_clip", None)
    settings |= {name: getattr(rasterizer, name) for name in ("antialiased", "deterministic")}
    if type(projection) is not EWA:
        settings["projection"] = projection
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


def settings_of(
    config: TrainConfig,
    strategy: Strategy,
    model: SplatModel,
    views: Sequence[View],
    order: Int[np.ndarray, " steps"],
) -> dict[str, str]:
    """All that the next steps of a run depend on except its state, as texts to compare.

    Args:
        config: the run's settings.
        strategy: the run's strategy.
        model: the run's model.
        views: the training views.
        order: number of the view of each step.
    """
    names = "\n".join(f"{v.name} {v.camera.width} {v.camera.height}" for v in views)
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        **{name: repr(value) for name, value in fields.items() if name not in _FREE},
        "strategy": repr(strategy),
        "rasterizer": _describe(model.rasterizer),
        "views": f"{len(views)} views, {zlib.crc32(names.encode()):08x}",
        "order of views": f"{zlib.crc32(order.tobytes()):08x}",
    }


def check_settings(saved: Any, now: dict[str, str]) -> None:
    """Checks that a run can resume from a checkpoint.

    Args:
        saved: the settings in the checkpoint, from :func:`settings_of`.
        now: the settings of the run that resumes.

    Raises:
        ValueError: if settings differ; the message names them.
    """
    if not isinstance(saved, dict):
        saved = {}
    # A setting that did not exist when the checkpoint was written could not differ.
    differing = [name for name in now if name in saved and saved[name] != now[name]]
    differing += ["views"] if "views" not in saved else []
    if differing:
        changes = "; ".join(
            f"{name} was {shorten(saved.get(name))}, is {shorten(now[name])}" for name in differing
        )
        raise ValueError(
            f"the checkpoint is of another run: {changes}. Resume with the settings and the data that the run "
            "began with, or start a new run."
        )


def load_run(
    checkpoints: Checkpoints, settings: dict[str, str], shapes: Callable[[int], TrainState]
) -> tuple[TrainState, Position, dict[str, Snapshot]]:
    """The last state that was saved, its position, and the states that the guard kept.

    Warns if other versions of packages wrote the checkpoint.

    Args:
        checkpoints: the checkpoints to read.
        settings: settings of the run that resumes.
        shapes: function that returns the shapes of a state with a given number of rows.

    Raises:
        ValueError: if there is no checkpoint, it is damaged, or it has other settings or data.
    """

    def like(facts: dict[str, Any]) -> TrainState:
        return shapes(Position.of(facts, settings).capacity)

    def shapes_kept(facts: dict[str, Any]) -> dict[str, TrainState]:
        return {name: shapes(rows) for name, rows in _rows_kept(facts).items()}

    def expected(facts: dict[str, Any]) -> Any:
        kept = {name: array_shapes(state) for name, state in shapes_kept(facts).items()}
        return array_shapes(like(facts)) | _named_arrays(kept)

    arrays, facts = checkpoints.load(expected)
    warn_of_versions(facts)
    kept = {
        name: Snapshot({path: arrays[name + path] for path in array_shapes(state)}, state)
        for name, state in shapes_kept(facts).items()
    }
    return to_state(arrays, like(facts)), Position.of(facts, settings), kept


def with_kept(own: Arrays, kept: dict[str, Snapshot]) -> Arrays:
    """The arrays of a state, together with those of the states that the guard may go back to."""
    return own | _named_arrays({name: snapshot.arrays for name, snapshot in kept.items()})


def warn_of_versions(facts: dict[str, Any]) -> None:
    """Warns if other versions of packages wrote the checkpoint."""
    if facts.get("versions") != versions():
        warnings.warn(
            f"the checkpoint was written with {shorten(facts.get('versions'))}, not {versions()}: what follows "
            "may differ in the last bits.",
            stacklevel=4,
        )


def versions() -> dict[str, str]:
    """Versions of the packages on which the bits of a run's results depend."""
    return {name: metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}


def _named_arrays(kept: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {name + path: array for name, arrays in kept.items() for path, array in arrays.items()}


def _rows_kept(facts: dict[str, Any]) -> dict[str, int]:
    """Number of rows of each state that the guard may go back to, by the state's name."""
    described = facts.get("arrays")
    shapes = {
        array.get("name"): array.get("shape")
        for array in (described if isinstance(described, list) else [])
        if isinstance(array, dict)
    }
    rows = {}
    for name in (START, BEST):
        shape = shapes.get(f"{name}.rest['gaussians']['alive']")
        if isinstance(shape, list) and len(shape) == 1:
            rows[name] = _read_count({"rows": shape[0]}, "rows")
    return rows


def _read_count(facts: dict[str, Any], name: str) -> int:
    value = facts.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        raise ValueError(f"the checkpoint is damaged: {name} is {shorten(value)}.")
    return value


def _read_distance(facts: dict[str, Any]) -> float | None:
    value = facts.get("distance")
    if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
        raise ValueError(f"the checkpoint is damaged: distance is {shorten(value)}.")
    return value


def _read_guard(facts: dict[str, Any]) -> dict[str, Any] | None:
    value = facts.get("guard")
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"the checkpoint is damaged: guard is {shorten(value)}.")
    return value


def _read_history(facts: dict[str, Any]) -> list[Progress]:
    history = facts.get("history")
    try:
        assert isinstance(history, list)
        return [Progress(**entry) for entry in history]
    except (AssertionError, TypeError) as error:
        raise ValueError(f"the checkpoint is damaged: history is {shorten(history)}.") from error
