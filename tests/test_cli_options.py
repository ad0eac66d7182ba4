"""What can be set from the command line: groups of options, and settings that reach the library and come back."""

import dataclasses
import json
import re
from pathlib import Path
from typing import get_type_hints

import pytest
from test_cli import run

import splax
from splax.cli.commands.demo import Demo
from splax.cli.commands.train import Train
from splax.cli.flat_options import flag, flatten, replace, types_of, unflatten
from splax.cli.options import STRATEGIES, Densification, LearningRateOptions, Training
from splax.cli.run_config import check_unchanged, read_options, save_options
from splax.cli.setup import config_of
from splax.cli.strategy import settings_of, strategy_class, strategy_of

CONFIG = Path("config.json")

# The config.json of a run that an earlier version began, without the options that came later.
OLD_CONFIG = {
    "dataset_type": "colmap",
    "downscale": 2.0,
    "test_every": 4,
    "white_background": True,
    "lpips": ["vgg"],
    "exposure": True,
    "refine_poses": False,
    "antialiased": True,
    "opacity_weight": 0.5,
    "halvings": 1,
    "batch_size": 2,
    "checkpoint_every": 60.0,
    "keep_checkpoints": 3,
    "profile": True,
    "data": "/data/garden",
    "out": "runs/garden",
    "resume": None,
    "steps": 30000,
    "strategy": "mcmc",
    "init": "sfm",
    "depth_model": None,
    "num_gaussians": None,
    "max_gaussians": 500000,
    "sh_degree": 2,
    "background": "auto",
    "guard": "off",
    "seed": 3,
    "tile_size": 16,
    "deterministic": False,
    "overwrite": False,
    "eval_every": 1000,
    "tensorboard": False,
    "recipe": 2,
    "start": {"kind": "sfm"},
    "stored_sh_degree": 2,
    "versions": {"splax": "0.1.0"},
}


def names_in_help(capsys, command: str) -> dict[str, list[str]]:
    """The flags of each box of the help by the box's title, in order."""
    assert run(command, "--help") == 0
    boxes, title = {}, ""
    for line in capsys.readouterr().out.splitlines():
        if found := re.match(r" ([a-z ]*(options|arguments)) *$", line):
            title = found[1]
            boxes[title] = []
        elif found := re.match(r"  (--[a-z][A-Za-z0-9-]+)", line):
            boxes[title].append(found[1])
    return boxes


def test_the_help_of_train_begins_with_what_most_people_set(capsys):
    boxes = names_in_help(capsys, "train")
    assert list(boxes) == [
        "positional arguments",
        "options",
        "photos options",
        "start options",
        "recipe options",
        "densification options",
        "learning rate options",
        "score options",
        "logging options",
        "computation options",
        "checkpoint options",
    ]
    first = ["--out", "--resume", "--overwrite", "--steps", "--downscale", "--strategy", "--max-gaussians"]
    assert boxes["options"] == first
    shown = {name for box in boxes.values() for name in box}
    assert shown == {flag(name) for name in types_of(Train)} - {"--data", "--recipe"}


def test_every_name_occurs_once():
    fields = [
        field.name
        for group in get_type_hints(Training).values()
        if dataclasses.is_dataclass(group)
        for field in dataclasses.fields(group)
    ]
    assert len(fields) == len(set(fields))
    values = flatten(Training())
    assert unflatten(Training, values) == Training() and types_of(Training).keys() == values.keys()
    assert flatten(replace(Training(), seed=5, steps=9)) == values | {"seed": 5, "steps": 9}


def test_a_config_of_an_earlier_version_is_read():
    options = read_options(OLD_CONFIG, CONFIG)
    assert options.photos.dataset_type == "colmap" and options.photos.white_background
    assert options.scores.lpips == ("vgg",) and options.recipe.exposure and options.recipe.batch_size == 2
    assert (options.steps, options.strategy, options.max_gaussians) == (30000, "mcmc", 500000)
    assert (options.computation.seed, options.start.init, options.start.sh_degree) == (3, "sfm", 2)
    assert options.densification == Densification() and options.learning_rates == LearningRateOptions()
    # Checkpoints are a matter of the command that resumes.
    assert options.running == Training().running
    assert config_of(options).learning_rates == splax.LearningRates()
    assert strategy_of(options) == splax.MCMCStrategy(max_gaussians=500000)


def test_a_config_of_the_first_recipe_is_read():
    first = {name: value for name, value in OLD_CONFIG.items() if name not in ("recipe", "guard")}
    options = read_options(first | {"strategy": "default"}, CONFIG)
    assert options.is_first_recipe and options.recipe.guard == "off"
    assert config_of(options).decay_after is None
    strategy = strategy_of(options)
    assert isinstance(strategy, splax.DefaultStrategy) and strategy.prune_scale3d == 0.1


def test_a_config_of_an_earlier_demo_is_read():
    old = {"data": "demo", "dataset_type": None, "downscale": 1, "test_every": 8, "white_background": False}
    old |= {
        "checkpoint_every": 120.0,
        "keep_checkpoints": 2,
        "profile": False,
        "out": "runs/demo",
        "steps": 30,
    }
    old |= {"num_gaussians": 99, "max_gaussians": None, "sh_degree": 1, "seed": 4, "tile_size": None}
    demo = Demo(steps=30, num_gaussians=99, sh_degree=1, seed=4)
    assert read_options(old, CONFIG) == demo.settings()
    assert not config_of(demo.settings()).guard and not demo.settings().is_first_recipe


def test_learning_rates_have_the_defaults_of_the_library():
    defaults = {name.removeprefix("lr_"): value for name, value in flatten(LearningRateOptions()).items()}
    assert defaults == dataclasses.asdict(splax.LearningRates())
    options = replace(Training(), lr_means=1e-3, lr_shN=0.5)
    assert config_of(options).learning_rates == splax.LearningRates(means=1e-3, shN=0.5)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Densification)])
def test_every_setting_of_densification_says_whose_it_is_and_its_default(name, capsys):
    owners = [strategy for strategy in STRATEGIES if name in settings_of(strategy)]
    assert run("train", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    owner = " and ".join(owners)
    (words,) = re.findall(
        rf" {flag(name)}(?: INT| FLOAT|, --no-\S+) For {owner}: .*?\(default: (.*?)\)", text
    )
    for strategy in owners:
        default = getattr(strategy_class(strategy)(), settings_of(strategy)[name])
        if default is None:
            assert words in ("none is too large", "2000 steps before the end")
        else:
            assert (str(default) if isinstance(default, bool) else f"{default:g}") in words


def test_all_settings_of_the_strategies_can_be_reached():
    for strategy in STRATEGIES:
        cls = strategy_class(strategy)
        fields = {field.name for field in dataclasses.fields(cls)} - {"max_gaussians"}
        assert set(settings_of(strategy).values()) == fields


@pytest.mark.parametrize(
    ("strategy", "settings", "expected"),
    [
        (
            "default",
            {"refine_start": 0, "absgrad": True},
            splax.DefaultStrategy(refine_start=0, absgrad=True, reset_stop=5000),
        ),
        ("default", {"reset_stop": 9}, splax.DefaultStrategy(reset_stop=9)),
        ("mcmc", {"refine_every": 7, "mcmc_noise": 0.0}, splax.MCMCStrategy(refine_every=7, noise=0.0)),
        ("none", {}, splax.Strategy()),
    ],
)
def test_settings_reach_the_strategy(strategy, settings, expected):
    assert strategy_of(replace(Training(strategy=strategy), **settings)) == expected


@pytest.mark.parametrize(
    ("strategy", "settings", "message"),
    [
        (
            "mcmc",
            {"grow_grad2d": 1e-4},
            "--grow-grad2d is a setting of --strategy default, and the strategy of this run is mcmc",
        ),
        ("none", {"refine_every": 7}, "--refine-every is a setting of --strategy default and mcmc"),
        ("default", {"mcmc_noise": 1.0}, "--mcmc-noise is a setting of --strategy mcmc"),
    ],
)
def test_a_setting_of_another_strategy_is_an_error(strategy, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        strategy_of(replace(Training(strategy=strategy), **settings))


def test_settings_are_kept_with_the_run():
    options = replace(Training(), lr_means=1e-3, refine_every=50, prune_opacity=0.01, absgrad=True)
    config = json.loads(json.dumps(save_options(options, "demo")))
    assert config["lr_means"] == 1e-3 and config["refine_every"] == 50
    began = read_options(config | {"data": "x"}, CONFIG)
    assert began == options
    check_unchanged(Training(), began, data=None, began_with="x")
    with pytest.raises(ValueError, match=r"--lr-means 0.5 \(it began with 0.001\)"):
        check_unchanged(replace(Training(), lr_means=0.5), began, data=None, began_with="x")
