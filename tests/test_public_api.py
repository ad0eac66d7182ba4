"""The public names: there, documented, and free of charge until they are used."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import splax

PROMISED = {
    "Camera",
    "DefaultStrategy",
    "Gaussians",
    "RenderOutput",
    "Scene",
    "SplatModel",
    "TileRasterizer",
    "TrainConfig",
    "Trainer",
    "load_dataset",
    "load_ply",
    "load_splats",
    "psnr",
    "save_ply",
    "save_splats",
    "ssim",
}


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def declared_imports() -> dict[str, str]:
    """What type checkers see: names and modules under TYPE_CHECKING."""
    tree = ast.parse(Path(splax.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    imports = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names:
            assert alias.asname == alias.name, f"{alias.name}: `X as X` marks a re-export"
            imports[alias.name] = node.module
    return imports


@pytest.mark.parametrize("name", sorted(splax._MODULES))
def test_every_name_resolves_and_has_a_docstring(name):
    value = getattr(splax, name)
    assert value is getattr(importlib.import_module(f"splax.{splax._MODULES[name]}"), name)
    assert name in dir(splax)
    doc = inspect.getdoc(value)
    # A dataclass without one gets its signature, a subclass inherits its parent's.
    assert doc and not doc.startswith(f"{name}(")
    assert vars(value).get("__doc__") if inspect.isclass(value) else doc
    if inspect.isclass(value):
        for method, function in vars(value).items():
            protocol = method.startswith(("_", "tree_"))  # of Python, and of jax's pytrees
            if inspect.isfunction(function) and not protocol:
                assert inspect.getdoc(function), f"{name}.{method}"


def test_the_promised_names_are_there():
    assert set(splax._MODULES) >= PROMISED


def test_type_checkers_see_the_same_names():
    assert declared_imports() == {name: f"splax.{module}" for name, module in splax._MODULES.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'splax' has no attribute 'Camra'"):
        _ = splax.Camra  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("old", "new"), sorted(splax._RENAMED.items()))
def test_a_name_of_an_earlier_version_says_what_it_is_called_now(old, new):
    assert old not in splax._MODULES
    with pytest.raises(AttributeError, match=f"splax.{new} now"):
        getattr(splax, old)
    assert hasattr(splax, new.partition(".")[0])


def test_methods_and_modules_of_earlier_versions_say_what_they_are_called_now():
    gaussians = splax.Gaussians.from_points(np.zeros((1, 3)))
    with pytest.raises(AttributeError, match=r"renderable_only\(\) now"):
        _ = gaussians.drawable
    with pytest.raises(ImportError, match="row_plans now"):
        exec("from splax.strategies import ops")
    with pytest.raises(TypeError, match="expected_count now"):
        type("Old", (splax.Strategy,), {"foresees": lambda self, num, steps: num})


def test_import_is_light():
    heavy = run_python(
        "import sys, splax; dir(splax); print(*{'jax', 'flax', 'numpy', 'cv2', 'tyro'} & set(sys.modules))"
    )
    assert heavy.split() == []


def test_importing_everything_starts_no_device():
    """A notebook may choose its devices after `from splax import Trainer`."""
    print_backends = "from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    names = ", ".join(sorted(splax._MODULES))
    assert run_python(f"from splax import {names}; {print_backends}").strip() == "False"


def test_the_readme_example_has_these_signatures():
    parameters = {
        splax.Camera: ["viewmat", "K", "width", "height"],
        splax.TileRasterizer: ["tile_size", "implementation", "isect_capacity"],
        splax.Gaussians.random: ["num", "extent", "center", "sh_degree", "rngs"],
        splax.Gaussians.from_points: ["points", "colors"],
        splax.Gaussians.from_depth: ["scene", "depth", "num"],
        splax.load_dataset: ["path", "dataset_type", "downscale"],
        splax.Trainer: ["model", "scene", "config", "strategy"],
        splax.SplatModel: ["gaussians", "rasterizer"],
        splax.save_ply: ["path", "gaussians"],
    }
    for function, names in parameters.items():
        # The metaclass of nnx.Module hides the signature of the class itself.
        called = inspect.unwrap(function.__init__) if inspect.isclass(function) else function
        actual = [name for name in inspect.signature(called).parameters if name != "self"]
        assert actual[: len(names)] == names, function
