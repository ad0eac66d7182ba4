"""The day JAX is without Pallas Triton: splax is imported, draws in plain XLA, and says what its kernels need."""

import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from packaging.requirements import Requirement

from splax.losses import ssim as ssim_gradient
from splax.ops.jax_internals.platform import has_pallas_triton
from splax.ops.triton import backend

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
HIDDEN = ["jaxlib.triton", "jax.experimental.pallas.triton"]


def run_without(module: str, code: str) -> str:
    code = f"import sys\nsys.modules[{module!r}] = None\n" + textwrap.dedent(code)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def bounds_of_jax() -> list[Requirement]:
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["cuda"]]
    return [requirement for requirement in map(Requirement, lines) if requirement.name == "jax"]


@pytest.mark.parametrize("module", HIDDEN)
def test_every_module_is_imported_and_kernels_name_the_cure(module):
    told = run_without(
        module,
        """
        import importlib, pkgutil
        import jax, jax.numpy as jnp
        import splax, splax.ops.triton as triton
        from splax.ops.jax_internals import platform

        for each in pkgutil.walk_packages(splax.__path__, "splax."):
            importlib.import_module(each.name)
        assert not platform.has_pallas_triton()

        from splax.ops.triton.lanes.warp import Warp, lanes, load, store

        def copy(x, out):
            store(out, lanes(), load(x, lanes()))

        for interpret in (False, True):
            try:
                Warp(interpret).launch("copy", copy, (1,), jax.ShapeDtypeStruct((32,), jnp.float32), jnp.ones(32))
            except NotImplementedError as error:
                print(error)
        """,
    )
    assert told.count(f"jax {jax.__version__} lacks") == 2
    (cure,) = set(re.findall("pip install '(.*?)'", told))
    assert all(Requirement(cure).specifier == bounds.specifier for bounds in bounds_of_jax())
    assert told.count("implementation='xla_vjp'") == 2


def test_the_newest_jax_that_may_be_installed_has_a_bound():
    assert len(bounds_of_jax()) == 2
    for bounds in bounds_of_jax():
        assert jax.__version__ in bounds.specifier
        assert any(bound.operator == "<" for bound in bounds.specifier)


@pytest.mark.parametrize("there", [False, True])
def test_ssim_on_a_gpu_has_kernels_where_jax_has_their_backend(monkeypatch, there):
    asked = []

    def platform_dependent(*args, cuda, default):
        asked.append(cuda)
        return default(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", platform_dependent)
    monkeypatch.setattr(backend, "has_cuda", lambda: True)
    monkeypatch.setattr(backend, "has_pallas_triton", lambda: there)
    jax.eval_shape(jax.grad(lambda image: ssim_gradient.mean_ssim(image, image**2)), jnp.ones((12, 12, 1)))
    assert bool(asked) is there


def test_this_jax_has_the_backend_of_the_kernels():
    assert has_pallas_triton()
