"""The memory of the process does not grow from one phase of a long run to the next."""

import ctypes
import gc
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from flax import nnx
from helpers import set_device_policy
from test_trainer import make_dense_trainer, make_gaussians

import splax

STATM = Path("/proc/self/statm")
# Phases of warm-up, of the run, and of which the least is taken.
WARM_UP, PHASES, SAMPLE = 15, 60, 5
# A Param of 4 MB, and so 12 MB of state: one copy of the Param kept for each phase would be 160 MB. What is held
# apart from arrays (programs, the pools of XLA and Python) has been seen to grow once by 45 MB.
NUM, WIDTH = 200, 5000
BOUND = 80e6


def resident_bytes() -> int:
    """Memory of this process that is not swapped out, without what the C library keeps for later (glibc)."""
    gc.collect()
    getattr(ctypes.CDLL(None), "malloc_trim", lambda keep: None)(0)
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not STATM.exists(), reason="needs /proc, to ask how much memory the process has")
def test_memory_does_not_grow_from_phase_to_phase(monkeypatch):
    """Phases of 5 steps, each with a refinement, a callback and a snapshot to go back to."""
    set_device_policy(monkeypatch, snapshot_steps=5)
    scene = splax.make_demo_scene(num_train=4, num_test=1, width=16, height=12)
    gaussians: Any = make_gaussians(scene, NUM, sh_degree=0)
    gaussians.features = nnx.Param(jnp.zeros((NUM, WIDTH)))
    resident = {"before": [], "after": []}

    def note(trainer, progress):
        if progress.step % 5 == 0:
            phase = progress.step // 5
            for name, start in (("before", WARM_UP), ("after", PHASES - SAMPLE)):
                if start <= phase < start + SAMPLE:
                    resident[name].append(resident_bytes())

    # Everything but growing, which compiles anew.
    strategy = splax.DefaultStrategy(grow_grad2d=1e9, prune_opacity=1e-9, refine_start=0, refine_every=5)
    trainer = make_dense_trainer(scene, gaussians, strategy=strategy, steps=5 * PHASES)
    trainer.fit(callbacks=[note])
    assert len(resident["before"]) == len(resident["after"]) == SAMPLE
    assert trainer.model.gaussians.capacity == NUM
    grown = min(resident["after"]) - min(resident["before"])
    assert grown < BOUND, f"{grown / 1e6:.0f} MB more than after the warm-up"
