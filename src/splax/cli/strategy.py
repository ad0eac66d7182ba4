"""Makes the strategy of densification of the options of a run."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from splax.cli.flat_options import flag, flatten
from splax.cli.options import STRATEGIES, Densification, Training
from splax.strategies.base import Strategy

# Options with this prefix are settings of MCMCStrategy whose names would say too little on the command line.
_MCMC = "mcmc_"
# The steps left after the last reset of the opacities; a thousand are too few, see docs/training.md.
_RECOVERY_STEPS = 2_000
# The size above which the first recipe removed Gaussians.
_OLD_PRUNE_SCALE3D = 0.1


def strategy_of(options: Training) -> Strategy:
    """The strategy that the options name, with the settings that were given.

    Raises:
        ValueError: on a setting out of range, or one that the strategy does not have.
    """
    settings = _given(options)
    if options.max_gaussians is not None and options.strategy != "none":
        settings["max_gaussians"] = options.max_gaussians
    if options.strategy == "default":
        settings.setdefault("reset_stop", max(options.steps - _RECOVERY_STEPS, 0))
        if options.is_first_recipe:
            settings.setdefault("prune_scale3d", _OLD_PRUNE_SCALE3D)
    return strategy_class(options.strategy)(**settings)


def strategy_class(name: str) -> type[Strategy]:
    """The class of a strategy, by the name that ``--strategy`` has for it."""
    module, cls = STRATEGIES[name]
    return getattr(importlib.import_module(f"splax.strategies.{module}"), cls)


def settings_of(strategy: str) -> dict[str, str]:
    """The options of densification that a strategy has, and the settings of the strategy that they stand for."""
    fields = {field.name for field in dataclasses.fields(strategy_class(strategy))}
    options = [field.name for field in dataclasses.fields(Densification)]
    if strategy == "mcmc":
        named = {name: name.removeprefix(_MCMC) for name in options}
    else:
        named = {name: name for name in options}
    return {name: setting for name, setting in named.items() if setting in fields}


def _given(options: Training) -> dict[str, Any]:
    """The settings of the strategy that the options set, by the strategy's names."""
    values = flatten(options.densification)
    given = {name: value for name, value in values.items() if value is not None and value is not False}
    known = settings_of(options.strategy)
    for name in [name for name in given if name not in known]:
        owners = [other for other in STRATEGIES if name in settings_of(other)]
        raise ValueError(
            f"{flag(name)} is a setting of --strategy {' and '.join(owners)}, and the strategy of this run is "
            f"{options.strategy}; leave {flag(name)} out, or choose another strategy."
        )
    return {known[name]: value for name, value in given.items()}
