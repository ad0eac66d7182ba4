"""Makes the Trainer of a run, and the Gaussians that it starts from, according to the options."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from flax import nnx

from splax.cli.console import missing_package_is_an_error
from splax.cli.flat_options import flatten
from splax.cli.options import Training
from splax.cli.strategy import strategy_of
from splax.corrections.base import Correction
from splax.corrections.bilateral_grid import BilateralGrid
from splax.corrections.exposure import Exposure
from splax.corrections.intrinsics import IntrinsicsRefinement
from splax.corrections.poses import PoseRefinement
from splax.devices import device_policy
from splax.gaussians import Gaussians
from splax.initialization.monocular import MonocularDepth
from splax.losses.regularizers import Regularizers
from splax.metrics.lpips import Network, load_weights
from splax.model import SplatModel
from splax.ops.spherical_harmonics import check_sh_degree
from splax.rasterizer import TileRasterizer
from splax.scene import Scene, View
from splax.training.config import TrainConfig
from splax.training.optimizers import LearningRates
from splax.training.photos.resolution import CoarseToFine
from splax.training.start import DEPTH, FILE, RANDOM, SFM, Start, choose_start
from splax.training.trainer import Trainer

# The objects of the demo lie within this many times the median distance of the cameras.
_DEMO_EXTENT = 0.5
_DEMO_GAUSSIANS = 10_000


def check_options(options: Training) -> None:
    """Checks options before the search for a start, which takes time.

    Args:
        options: settings of the run.

    Raises:
        ValueError: on an option that is out of range.
    """
    check_networks(options.scores.lpips)
    check_sh_degree(options.start.sh_degree)
    if options.max_gaussians is not None and options.max_gaussians < 1:
        raise ValueError(f"--max-gaussians must be 1 or more, got {options.max_gaussians}.")
    _rasterizer(options, config_of(options))
    strategy_of(options)


def check_networks(networks: Sequence[Network]) -> None:
    """Checks before the work that the weights of networks are installed.

    Args:
        networks: names of networks of LPIPS.

    Raises:
        ValueError: if the weights of a network are missing.
    """
    for network in networks:
        with missing_package_is_an_error():
            load_weights(network)


def start_of(scene: Scene, options: Training) -> Start:
    """The Gaussians that training starts from.

    Args:
        scene: the scene to train on.
        options: settings of the run.

    Raises:
        ValueError: if the scene does not allow what was asked for, or a package is missing.
    """
    asked = options.start
    if asked.depth_model is not None and asked.init != DEPTH:
        raise ValueError(f"--depth-model is for --init depth, got --init {asked.init}.")
    with missing_package_is_an_error():
        start = choose_start(
            scene,
            asked.init,
            depth=None if asked.depth_model is None else MonocularDepth(asked.depth_model),
            num=asked.num_gaussians,
            most=options.max_gaussians,
            sh_degree=asked.sh_degree,
            seed=options.computation.seed,
        )
    if asked.num_gaussians is not None and start.kind in (SFM, FILE):
        warnings.warn(
            f"--num-gaussians {asked.num_gaussians} is not used: the start is {start.kind}, of as many as there "
            "are. It is for starts on depth and random ones.",
            stacklevel=2,
        )
    return start


def start_of_demo(scene: Scene, options: Training) -> Start:
    """The Gaussians that the demo starts from: random ones.

    Args:
        scene: the built-in scene.
        options: settings of the run.
    """
    num = options.start.num_gaussians
    if num is None:
        num = min(_DEMO_GAUSSIANS, options.max_gaussians or _DEMO_GAUSSIANS)
    gaussians = Gaussians.random(
        num,
        extent=_DEMO_EXTENT * scene.radius,
        center=scene.center,
        sh_degree=options.start.sh_degree,
        rngs=nnx.Rngs(options.computation.seed),
    )
    return Start(gaussians, RANDOM, "this is how the demo begins")


def make_trainer(scene: Scene, options: Training, gaussians: Gaussians) -> Trainer:
    """Makes the Trainer of a run.

    Args:
        scene: the scene to train on.
        options: settings of the run.
        gaussians: the Gaussians to start from; trained in place.

    Raises:
        ValueError: on an option out of range, or one that the scene does not allow.
    """
    config = config_of(options, scene.train)
    model = SplatModel(gaussians, _rasterizer(options, config))
    return Trainer(model, scene, config, strategy=strategy_of(options))


def config_of(options: Training, views: Sequence[View] = ()) -> TrainConfig:
    """The Trainer's settings.

    Args:
        options: settings of the run.
        views: the training views. Whether they are transparent decides the background; without them it is the
            scene's.

    Raises:
        ValueError: on an option out of range.
    """
    recipe = options.recipe
    transparent = any(view.has_alpha for view in views)
    random = recipe.background == "random" or (recipe.background == "auto" and transparent)
    return TrainConfig(
        steps=options.steps,
        seed=options.computation.seed,
        background="random" if random else None,
        learning_rates=_learning_rates(options),
        corrections=_corrections(options),
        regularizers=Regularizers(recipe.opacity_weight, recipe.scale_weight, recipe.stretch_weight),
        resolution=CoarseToFine(recipe.halvings, recipe.halvings_every),
        depth_weight=recipe.depth_weight,
        batch_size=recipe.batch_size,
        guard=recipe.guard == "on",
        decay_after=None if options.is_first_recipe else TrainConfig.decay_after,
        deterministic=options.computation.deterministic,
    )


def _learning_rates(options: Training) -> LearningRates:
    rates = flatten(options.learning_rates)
    return LearningRates(**{name.removeprefix("lr_"): rate for name, rate in rates.items()})


def _corrections(options: Training) -> tuple[Correction, ...]:
    """The corrections to learn, in the order in which they are applied."""
    wanted = {
        Exposure: options.recipe.exposure,
        BilateralGrid: options.recipe.bilateral_grid,
        PoseRefinement: options.recipe.refine_poses,
        IntrinsicsRefinement: options.recipe.refine_intrinsics,
    }
    return tuple(correction() for correction in wanted if wanted[correction])


def _rasterizer(options: Training, config: TrainConfig) -> TileRasterizer:
    tile_size = options.computation.tile_size
    return TileRasterizer(
        default_tile_size() if tile_size is None else tile_size,
        antialiased=options.recipe.antialiased,
        render_depth=config.depth_weight > 0,  # one channel less to draw and to differentiate
        deterministic=options.computation.deterministic,
    )


def default_tile_size() -> int:
    """The side of a tile that suits the device, pixels."""
    return device_policy().tile_size
