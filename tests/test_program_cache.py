"""Where compiled programs are kept, and when."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from splax.cli.compilation_cache import keep_programs

FOLDER, SHORTEST = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"


def kept_in() -> str | None:
    return getattr(jax.config, FOLDER)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """The user's cache folder; JAX is told of none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = kept_in()
    jax.config.update(FOLDER, None)
    compilation_cache.reset_cache()
    yield tmp_path
    jax.config.update(FOLDER, before)
    compilation_cache.reset_cache()


def test_programs_are_kept_where_there_is_a_gpu(folder, monkeypatch):
    keep_programs()
    assert kept_in() is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    keep_programs()
    assert kept_in() == str(folder / "splax" / "programs")


def test_what_the_user_decided_stays(folder, monkeypatch):
    jax.config.update(FOLDER, str(folder / "mine"))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    keep_programs()
    assert kept_in() == str(folder / "mine")


def test_jax_writes_programs_there(folder, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    keep_programs()
    shortest = getattr(jax.config, SHORTEST)
    jax.config.update(SHORTEST, 0.0)
    jax.jit(lambda x: jnp.sin(x) * 3 + 1)(jnp.arange(7.0)).block_until_ready()
    jax.config.update(SHORTEST, shortest)
    assert any((folder / "splax" / "programs").iterdir())
