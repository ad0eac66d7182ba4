"""splax: Gaussian splatting in pure JAX, as Flax NNX modules.

    scene = splax.load_dataset("data/fox", downscale=4)
    gaussians = splax.Gaussians.random(10_000, extent=scene.extent, center=scene.center, rngs=nnx.Rngs(0))
    trainer = splax.Trainer(splax.SplatModel(gaussians), scene)
    trainer.fit()

Names are imported when first used, so that ``import splax`` does not wait for jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splax.cameras import Camera as Camera
    from splax.capture.dataset import make_dataset as make_dataset
    from splax.corrections.base import Correction as Correction
    from splax.corrections.bilateral_grid import BilateralGrid as BilateralGrid
    from splax.corrections.exposure import Exposure as Exposure
    from splax.corrections.intrinsics import IntrinsicsRefinement as IntrinsicsRefinement
    from splax.corrections.poses import PoseRefinement as PoseRefinement
    from splax.data.formats import load_dataset as load_dataset
    from splax.data.synthetic import make_demo_scene as make_demo_scene
    from splax.gaussians import Gaussians as Gaussians
    from splax.initialization.monocular import MonocularDepth as MonocularDepth
    from splax.initialization.plane_sweep import PlaneSweep as PlaneSweep
    from splax.io.formats import load_splats as load_splats
    from splax.io.formats import save_splats as save_splats
    from splax.io.ply import load_ply as load_ply
    from splax.io.ply import save_ply as save_ply
    from splax.lenses import Lens as Lens
    from splax.lenses import Pinhole as Pinhole
    from splax.losses.photometric import photometric_loss as photometric_loss
    from splax.losses.regularizers import Regularizers as Regularizers
    from splax.metrics.color_correction import color_correct as color_correct
    from splax.metrics.image import psnr as psnr
    from splax.metrics.image import ssim as ssim
    from splax.metrics.lpips import lpips as lpips
    from splax.model import SplatModel as SplatModel
    from splax.ops.ewa import EWA as EWA
    from splax.ops.shading import SphericalHarmonics as SphericalHarmonics
    from splax.rasterizer import RenderOutput as RenderOutput
    from splax.rasterizer import TileRasterizer as TileRasterizer
    from splax.scene import Scene as Scene
    from splax.scene import View as View
    from splax.strategies.base import RowPlan as RowPlan
    from splax.strategies.base import StepObservation as StepObservation
    from splax.strategies.base import Strategy as Strategy
    from splax.strategies.default import DefaultStrategy as DefaultStrategy
    from splax.strategies.mcmc import MCMCStrategy as MCMCStrategy
    from splax.training.batch import Batch as Batch
    from splax.training.config import TrainConfig as TrainConfig
    from splax.training.errors import NoGaussianError as NoGaussianError
    from splax.training.errors import NonFiniteError as NonFiniteError
    from splax.training.errors import OutOfMemoryError as OutOfMemoryError
    from splax.training.optimizers import LearningRates as LearningRates
    from splax.training.photos.resolution import CoarseToFine as CoarseToFine
    from splax.training.progress import Progress as Progress
    from splax.training.recovery.checkpoints import Checkpoints as Checkpoints
    from splax.training.start import Start as Start
    from splax.training.start import choose_start as choose_start
    from splax.training.trainer import Trainer as Trainer
    from splax.trajectories import orbit as orbit

__version__ = "0.1.0"

_MODULES = {
    "Batch": "training.batch",
    "BilateralGrid": "corrections.bilateral_grid",
    "Camera": "cameras",
    "Checkpoints": "training.recovery.checkpoints",
    "CoarseToFine": "training.photos.resolution",
    "Correction": "corrections.base",
    "DefaultStrategy": "strategies.default",
    "EWA": "ops.ewa",
    "Exposure": "corrections.exposure",
    "Gaussians": "gaussians",
    "IntrinsicsRefinement": "corrections.intrinsics",
    "LearningRates": "training.optimizers",
    "Lens": "lenses",
    "MCMCStrategy": "strategies.mcmc",
    "MonocularDepth": "initialization.monocular",
    "NoGaussianError": "training.errors",
    "NonFiniteError": "training.errors",
    "OutOfMemoryError": "training.errors",
    "Pinhole": "lenses",
    "PlaneSweep": "initialization.plane_sweep",
    "PoseRefinement": "corrections.poses",
    "Progress": "training.progress",
    "Regularizers": "losses.regularizers",
    "RenderOutput": "rasterizer",
    "Scene": "scene",
    "SphericalHarmonics": "ops.shading",
    "SplatModel": "model",
    "Start": "training.start",
    "StepObservation": "strategies.base",
    "Strategy": "strategies.base",
    "RowPlan": "strategies.base",
    "TileRasterizer": "rasterizer",
    "TrainConfig": "training.config",
    "Trainer": "training.trainer",
    "View": "scene",
    "choose_start": "training.start",
    "color_correct": "metrics.color_correction",
    "load_dataset": "data.formats",
    "load_ply": "io.ply",
    "load_splats": "io.formats",
    "lpips": "metrics.lpips",
    "make_dataset": "capture.dataset",
    "make_demo_scene": "data.synthetic",
    "orbit": "trajectories",
    "photometric_loss": "losses.photometric",
    "psnr": "metrics.image",
    "save_ply": "io.ply",
    "save_splats": "io.formats",
    "ssim": "metrics.image",
}

# Public names of earlier versions, and what they are called now.
_RENAMED: dict[str, str] = {
    "Sighting": "StepObservation",
    "Surgery": "RowPlan",
}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        raise AttributeError(f"splax.{name} is called splax.{_RENAMED[name]} now; use that name.")
    if name not in _MODULES:
        raise AttributeError(f"module 'splax' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"splax.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
