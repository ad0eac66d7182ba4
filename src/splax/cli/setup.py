"""Makes a Trainer, and the Gaussians that it starts from, of the options of a run."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from flax import nnx

from splax.cli.console import missing_package_is_an_error
from splax.cli.options import Training
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
from splax.strategies.base import Strategy
from splax.strategies.default import DefaultStrategy
from splax.strategies.mcmc import MCMCStrategy
from splax.training.config import TrainConfig
from splax.training.photos.resolution import CoarseToFine
from splax.training.start import DEPTH, FILE, RANDOM, SFM, Start, choose_start
from splax.training.trainer import Trainer

# The demo's things stand within this many times the median distance of the cameras.
_DEMO_EXTENT = 0.5
_DEMO_GAUSSIANS = 10_000
# Left after the last reset of the opacities; a thousand are too few, see docs/training.md.
_RECOVERY_STEPS = 2_000


def check_options(options: Training) -> None:
    """Finds what is out of range before the start is looked for, which takes time.

    Raises:
        ValueError: on such an option.
    """
    check_networks(options.lpips)
    check_sh_degree(options.sh_degree)
    if options.max_gaussians is not None and options.max_gaussians < 1:
        raise ValueError(f"--max-gaussians must be 1 or more, got {options.max_gaussians}.")
    _rasterizer(options, config_of(options))
    strategy_of(options)


def check_networks(networks: Sequence[Network]) -> None:
    """Raises ValueError before the work if the weights of a network are missing."""
    for network in networks:
        with missing_package_is_an_error():
            load_weights(network)


def start_of(scene: Scene, options: Training) -> Start:
    """What training starts from.

    Raises:
        ValueError: if the scene does not allow what was asked for, or a package is missing.
    """
    if options.depth_model is not None and options.init != DEPTH:
        raise ValueError(f"--depth-model is for --init depth, got --init {options.init}.")
    with missing_package_is_an_error():
        start = choose_start(
            scene,
            options.init,
            depth=None if options.depth_model is None else MonocularDepth(options.depth_model),
            num=options.num_gaussians,
            most=options.max_gaussians,
            sh_degree=options.sh_degree,
            seed=options.seed,
        )
    if options.num_gaussians is not None and start.kind in (SFM, FILE):
        warnings.warn(
            f"--num-gaussians {options.num_gaussians} is not used: the start is {start.kind}, of as many as there "
            "are. It is for starts on depth and random ones.",
            stacklevel=2,
        )
    return start


def start_of_demo(scene: Scene, options: Training) -> Start:
    """What the demo starts from."""
    num = options.num_gaussians
    if num is None:
        num = min(_DEMO_GAUSSIANS, options.max_gaussians or _DEMO_GAUSSIANS)
    gaussians = Gaussians.random(
        num,
        extent=_DEMO_EXTENT * scene.radius,
        center=scene.center,
        sh_degree=options.sh_degree,
        rngs=nnx.Rngs(options.seed),
    )
    return Start(gaussians, RANDOM, "this is how the demo begins")


def make_trainer(scene: Scene, options: Training, gaussians: Gaussians) -> Trainer:
    """The Trainer of Gaussians as the options have it.

    Raises:
        ValueError: on an option out of range, or one that the scene does not allow.
    """
    config = config_of(options, scene.train)
    model = SplatModel(gaussians, _rasterizer(options, config))
    return Trainer(model, scene, config, strategy=strategy_of(options))


def config_of(options: Training, views: Sequence[View] = ()) -> TrainConfig:
    """The Trainer's settings; what only the views to train on decide is open without them."""
    transparent = any(view.has_alpha for view in views)
    random = options.background == "random" or (options.background == "auto" and transparent)
    return TrainConfig(
        steps=options.steps,
        seed=options.seed,
        background="random" if random else None,
        **_recipe(options),
        guard=options.guard == "on",
        decay_after=None if options.recipe == 1 else TrainConfig.decay_after,
        deterministic=options.deterministic,
    )


def _rasterizer(options: Training, config: TrainConfig) -> TileRasterizer:
    return TileRasterizer(
        default_tile_size() if options.tile_size is None else options.tile_size,
        antialiased=options.antialiased,
        render_depth=config.depth_weight > 0,  # one channel less to draw and to differentiate
        deterministic=options.deterministic,
    )


def default_tile_size() -> int:
    """Edge of a tile in pixels that suits the device."""
    return device_policy().tile_size


def _recipe(options: Training) -> dict[str, Any]:
    """Settings of a run that help some photos and not others."""
    corrections = {
        Exposure: options.exposure,
        BilateralGrid: options.bilateral_grid,
        PoseRefinement: options.refine_poses,
        IntrinsicsRefinement: options.refine_intrinsics,
    }
    return {
        "corrections": tuple(correction() for correction, wanted in corrections.items() if wanted),
        "regularizers": Regularizers(options.opacity_weight, options.scale_weight, options.stretch_weight),
        "resolution": CoarseToFine(options.halvings, options.halvings_every),
        "depth_weight": options.depth_weight,
        "batch_size": options.batch_size,
    }


def strategy_of(options: Training) -> Strategy:
    """When Gaussians are born and die."""
    limit = options.max_gaussians
    match options.strategy:
        case "mcmc":
            return MCMCStrategy() if limit is None else MCMCStrategy(max_gaussians=limit)
        case "none":
            return Strategy()
        case _:
            return DefaultStrategy(
                max_gaussians=limit,
                reset_stop=max(options.steps - _RECOVERY_STEPS, 0),
                prune_scale3d=0.1 if options.recipe == 1 else None,
            )
