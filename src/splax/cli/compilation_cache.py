"""Keeps compiled programs on disk, so that the next run on a GPU begins at once."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from splax.devices import device_policy

_FOLDER = "jax_compilation_cache_dir"


def keep_programs() -> None:
    """Makes JAX keep the programs that it compiles for a GPU in the user's cache folder, and read them from there.

    Compiling a training step for a GPU takes seconds, and the same photos and settings need the same programs. The
    user's own settings count: ``JAX_COMPILATION_CACHE_DIR`` names another folder, and
    ``JAX_ENABLE_COMPILATION_CACHE=false`` keeps no program. On a CPU nothing is kept: XLA's programs for it are
    tied to the processor they were made on.
    """
    if getattr(jax.config, _FOLDER) is None and device_policy().keeps_programs:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        jax.config.update(_FOLDER, str(caches / "splax" / "programs"))
