"""Strategies decide when Gaussians are born, move and die."""

from splax.strategies.base import Params as Params
from splax.strategies.base import RowPlan as RowPlan
from splax.strategies.base import StepObservation as StepObservation
from splax.strategies.base import Strategy as Strategy
from splax.strategies.default import DefaultStrategy as DefaultStrategy
from splax.strategies.mcmc import MCMCStrategy as MCMCStrategy
