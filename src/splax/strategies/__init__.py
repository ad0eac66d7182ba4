"""Strategies decide when Gaussians are born, move and die."""

from typing import NoReturn

from splax.strategies.base import Params as Params
from splax.strategies.base import RowPlan as RowPlan
from splax.strategies.base import StepObservation as StepObservation
from splax.strategies.base import Strategy as Strategy
from splax.strategies.default import DefaultStrategy as DefaultStrategy
from splax.strategies.mcmc import MCMCStrategy as MCMCStrategy


def __getattr__(name: str) -> NoReturn:
    if name == "ops":
        # An ImportError, since `from splax.strategies import ops` hides the text of an AttributeError.
        raise ImportError("splax.strategies.ops is called splax.strategies.row_plans now; use that name.")
    raise AttributeError(f"module 'splax.strategies' has no attribute {name!r}")
