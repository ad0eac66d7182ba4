"""Shared fixtures. Everything runs on the CPU unless `-m gpu` finds a GPU."""

import gc
import importlib
import os
import pathlib
import types
from collections.abc import Callable, Iterator

# Before jax is imported: compiled programs are kept between runs, in the user's cache folder.
_CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "splax-tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Two processes share a GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh
from kernel_bounds import watched
from no_skips import pytest_make_collect_report as pytest_make_collect_report
from no_skips import pytest_runtest_makereport as pytest_runtest_makereport

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def _has_gpu() -> bool:
    return any(device.platform == "gpu" for device in jax.devices())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --watch-kernels."""
    parser.addoption(
        "--watch-kernels", action="store_true", help="look at every access to memory of interpreted kernels"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips gpu tests, with the reason, where there is no GPU."""
    if any(item.get_closest_marker("gpu") for item in items) and not _has_gpu():
        skip = pytest.mark.skip(reason="needs an NVIDIA GPU; jax sees none")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs() -> Iterator[None]:
    """Frees the programs of each file: all together take more memory maps than Linux gives a process."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module", autouse=True)
def _watch_kernels(request: pytest.FixtureRequest, _forget_compiled_programs: None) -> Iterator[None]:
    """With --watch-kernels: fails if an interpreted kernel left an array; once a file, as tests share kernels."""
    if not request.config.getoption("--watch-kernels"):
        yield
        return
    with watched() as accesses:
        yield
    assert not accesses.outside, "kernels left their arrays: " + "; ".join(sorted(accesses.outside))


@pytest.fixture
def abstract_gpu() -> Iterator[None]:
    """A GPU to lower kernels for: from jax 0.11 on, Pallas asks which one, and there need not be any."""
    device = AbstractDevice(device_kind="NVIDIA H100", num_cores=None, platform="gpu")
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        yield


@pytest.fixture
def import_benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], types.ModuleType]:
    """Imports a program of ``benchmarks/``, or a part of one, by its name."""
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder with real scenes: SPLAX_DATA, or shared/data beside the checkout."""
    folder = pathlib.Path(os.environ.get("SPLAX_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real scenes at {folder}; set SPLAX_DATA to a folder that holds fox/, lego/, ...")
    return folder
