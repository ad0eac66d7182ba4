"""Describes a run in words, for ``splax info``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from splax.cli.flat_options import flag, flatten
from splax.cli.options import Training
from splax.cli.run_config import read_data, read_options
from splax.cli.run_folder import CHECKPOINTS, CONFIG, METRICS, POINT_CLOUD, RunFolder
from splax.cli.run_results import SCORE
from splax.cli.scenes import DEMO
from splax.training.recovery.checkpoints import Checkpoints


def describe_run(path: Path) -> str:
    """Describes the settings and the results of a run in a few lines for people.

    Args:
        path: folder of the run.

    Raises:
        ValueError: if a file of the run is damaged.
    """
    folder = RunFolder(path)
    config, metrics = folder.read_config(), folder.read_metrics()
    options = read_options(config, path / CONFIG)
    facts = {
        "run": str(path),
        "data": _data(read_data(config, path / CONFIG)),
        "asked": f"{options.steps:,} steps{_given(options)}",
        "start": _start(config.get("start")),
        "state": _state(path, metrics),
        "gaussians": _number(metrics.get("num_gaussians")),
        "scores": _scores(metrics),
        "guard": _text(metrics.get("guard"), "why"),
        "time": _time(metrics),
        "versions": _versions(config.get("versions")),
        "splat": str(path / POINT_CLOUD) if (path / POINT_CLOUD).is_file() else None,
    }
    return "\n".join(f"{name:<10} {fact}" for name, fact in facts.items() if fact)


def _data(data: str) -> str:
    if data == DEMO:
        return "the built-in scene of splax demo"
    return data if Path(data).exists() else f"{data}, which is not there any more"


def _given(options: Training) -> str:
    """The options that are not at their defaults, as flags."""
    defaults = flatten(Training())
    changed = [
        flag(name) if value is True else f"{flag(name)} {_value(value)}"
        for name, value in flatten(options).items()
        if value != defaults[name] and name not in ("steps", "recipe")
    ]
    return ", ".join(["", *changed])


def _value(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _start(start: Any) -> str | None:
    if not isinstance(start, dict):
        return None
    return f"{_number(start.get('num'))} Gaussians, {_text(start, 'kind')}: {_text(start, 'reason')}"


def _state(path: Path, metrics: dict[str, Any]) -> str:
    """Whether the run is finished, and the command that resumes it if it is not."""
    steps = _number(metrics.get("steps"))
    saved = Checkpoints(path / CHECKPOINTS).steps() if (path / CHECKPOINTS).is_dir() else []
    if metrics.get("interrupted") is False:
        return f"finished after {steps} steps"
    state = f"interrupted after {steps} steps" if metrics else f"not finished: it has no {METRICS} yet"
    if not saved:
        return f"{state}; no checkpoint to resume it from"
    return f"{state}; resume it from step {max(saved):,} with splax train --resume {path}"


def _scores(metrics: dict[str, Any]) -> str | None:
    """Mean scores of the held-out views, by their names in metrics.json."""
    numbers = {name: value for name, value in metrics.items() if SCORE.match(name) and _is_number(value)}
    if not numbers:
        return None
    if numbers.get("psnr_identity") == numbers.get("psnr"):  # nothing was learned that could be left out
        numbers.pop("psnr_identity", None)
    named = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items())
    return f"{named}; mean of {_number(metrics.get('views')) or 'the'} held-out views"


def _time(metrics: dict[str, Any]) -> str | None:
    seconds = metrics.get("train_seconds")
    spent = f"{seconds:,.0f} seconds of training" if _is_number(seconds) else None
    return " on ".join(filter(None, [spent, _text(metrics, "device")])) or None


def _versions(versions: Any) -> str | None:
    if not isinstance(versions, dict):
        return None
    return ", ".join(f"{name} {_text(versions, name)}" for name in versions)


def _text(facts: Any, name: str) -> str | None:
    value = facts.get(name) if isinstance(facts, dict) else None
    return value if isinstance(value, str) and value.isprintable() else None


def _number(value: Any) -> str | None:
    return f"{value:,}" if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
