"""Options of other programs for Gaussian splatting, and what they are called in splax."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from splax.cli.flat_options import flag, types_of

# For each option of splax the spellings of the 3DGS reference code, gsplat's trainer and nerfstudio.
_SPELLINGS = {
    "--steps": "--iterations --iters --max-steps --num-steps --max-iterations --num-iterations "
    "--max-num-iterations --n-iters",
    "--out": "--model-path -m --output-dir --output-path --output -o --result-dir",
    "--downscale": "--resolution -r --data-factor --downscale-factor --factor",
    "--max-gaussians": "--cap-max --max-num-gaussians --max-points --strategy.cap-max",
    "--resume": "--ckpt --start-checkpoint --load-checkpoint --load-dir",
    "--test-every": "--eval --llffhold --llff-hold --eval-interval --eval-mode",
    "--background random": "--random-background --random-bkgd",
    "--init": "--init-type",
    "--num-gaussians": "--init-num-pts --num-init-points --num-random",
    "--checkpoint-every": "--save-iterations --checkpoint-iterations --save-steps --steps-per-save",
    "--eval-every": "--test-iterations --eval-steps --steps-per-eval-all-images",
    "--antialiased": "--antialiasing --antialias --rasterize-mode",
    "--exposure": "--app-opt --train-test-exp",
    "--bilateral-grid": "--use-bilateral-grid --use-bilagrid",
    "--refine-poses": "--pose-opt --camera-optimizer.mode",
    "--depth-weight": "--depth-loss --depth-lambda --depths",
    "--opacity-weight": "--opacity-reg",
    "--scale-weight": "--scale-reg",
    "--grow-grad2d": "--densify-grad-threshold --densify-grad-thresh --strategy.grow-grad2d",
    "--grow-scale3d": "--percent-dense --densify-size-thresh --strategy.grow-scale3d",
    "--prune-opacity": "--prune-opa --strategy.prune-opa --cull-alpha-thresh",
    "--prune-scale3d": "--strategy.prune-scale3d --cull-scale-thresh",
    "--refine-start": "--densify-from-iter --refine-start-iter --strategy.refine-start-iter --warmup-length",
    "--refine-stop": "--densify-until-iter --refine-stop-iter --strategy.refine-stop-iter --stop-split-at",
    "--refine-every": "--densification-interval --strategy.refine-every",
    "--reset-every": "--opacity-reset-interval --strategy.reset-every --reset-alpha-every",
    "--mcmc-noise": "--noise-lr --strategy.noise-lr",
    "--lr-means": "--position-lr-init --means-lr",
    "--lr-means-final": "--position-lr-final",
    "--lr-log-scales": "--scaling-lr --scales-lr",
    "--lr-quats": "--rotation-lr --quats-lr",
    "--lr-logit-opacities": "--opacity-lr --opacities-lr",
    "--lr-sh0": "--feature-lr --sh0-lr",
    "--lr-shN": "--shN-lr",
    "--lpips": "--lpips-net",
}
_SPLAX_NAMES = {other: option for option, others in _SPELLINGS.items() for other in others.split()}

_DATA = ["--data", "--data-dir", "--source-path", "--source", "-s"]
_RUN = ["--model-path", "-m", "--ckpt", "--load-config", "--run", "--result-dir"]
_IMAGES = ["--images", "-i"]

# The argument that each command takes without a flag, and the options that stand for it elsewhere.
_POSITIONALS = {
    "train": ("DATA", _DATA),
    "info": ("PATH", _DATA + _RUN),
    "process": ("SOURCE", _DATA + _IMAGES),
    "eval": ("RUN", _RUN),
    "render": ("RUN", _RUN),
}


def hints(arguments: Sequence[str], commands: dict[str, type]) -> Iterator[str]:
    """Says for each option that splax does not know but other programs do what it is called in splax.

    Args:
        arguments: the command line, beginning with the name of the command.
        commands: dataclasses of options by the name of their command.

    Yields:
        A sentence for each such option, in the order of the command line.
    """
    command = arguments[0] if arguments else ""
    if command not in commands:
        return
    _, without_flag = _POSITIONALS.get(command, ("", []))
    known = {flag(name) for name in types_of(commands[command])} - set(without_flag)
    for argument in dict.fromkeys(arguments[1:]):
        given = argument.split("=")[0]
        if given.startswith("-") and given.replace("_", "-") not in known:
            hint = _hint(command, given.replace("_", "-"), known)
            if hint is not None:
                yield f"splax {command} has no {given}; {hint}"


def _hint(command: str, given: str, known: set[str]) -> str | None:
    metavar, others = _POSITIONALS.get(command, ("", []))
    if given in others:
        return f"give the path without a flag: splax {command} {metavar}"
    if given in _IMAGES and "--downscale" in known:
        return "did you mean --downscale? --downscale 4 reads the copies in images_4 where they fit."
    option = _SPLAX_NAMES.get(given)
    if option is None or option.split()[0] not in known:
        return None
    if given == "--eval":
        return "every 8th view is held out anyway, and scored at the end; see --test-every."
    return f"did you mean {option}?"
