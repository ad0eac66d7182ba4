"""Another JAX project of the name splax, whose kernels are NVIDIA Warp's, timed in a process of its own.

The name of the package is that of ours, so that no process can import both.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
from garden import View
from gpu_methods import cotangent

from splax.ops.constants import NEAR_PLANE

_CHILD = pathlib.Path(__file__).with_name("rival_child.py")
_LONGEST_REASON = 600


class RivalError(Exception):
    """There are no times, for the reason that it gives."""


def time_rival(
    view: View, folder: pathlib.Path, *, repeats: int, timeout_s: float, import_first: str = ""
) -> dict[str, float]:
    """Medians in milliseconds, by "forward" and "backward" as in :class:`gpu_methods.GpuMethod`.

    Args:
        view: what to draw.
        folder: holds the package.
        repeats: measured runs.
        timeout_s: seconds after which the process is ended.
        import_first: a module to import before it, if any.

    Raises:
        RivalError: if it cannot draw such a view, failed, or took too long.
    """
    if view.colors is not None:
        raise RivalError("it draws RGB from spherical harmonics only")
    if not (folder / "splax").is_dir():
        raise RivalError(f"there is no package splax in {folder}")
    with tempfile.TemporaryDirectory() as temporary:
        scratch = pathlib.Path(temporary)
        arrays: dict[str, Any] = _arrays(view)
        np.savez(scratch / "view.npz", **arrays)
        _run_child(folder.resolve(), scratch, [str(repeats), import_first], timeout_s)
        try:
            times = json.loads((scratch / "times.json").read_text())
            print(f"rival: splax {times['version']} of {folder}", file=sys.stderr)
            return {name: float(times[name]) for name in ("forward", "backward")}
        except (OSError, ValueError, KeyError) as error:
            raise RivalError(f"it gave no times: {error!r}") from error


def _arrays(view: View) -> dict[str, np.ndarray]:
    """What the child gets: parameters as both projects store them."""
    opacities = view.opacities.astype(np.float64)
    return {
        "means": view.means,
        "log_scales": np.log(view.scales),
        "quats": view.quats,
        "sh": view.sh,
        "logit_opacities": np.log(opacities / (1 - opacities)).astype(np.float32),
        "viewmats": view.viewmats,
        "Ks": view.Ks,
        "cotangent": cotangent(view),
        "near_plane": np.array(NEAR_PLANE),
    }


def _run_child(folder: pathlib.Path, scratch: pathlib.Path, arguments: list[str], timeout_s: float) -> None:
    # -P: modules beside the child's file must not be found before the package's own.
    command = [sys.executable, "-P", str(_CHILD), str(folder), str(scratch), *arguments]
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    # Memory for kernels that do not ask JAX for it.
    env = os.environ | {"PYTHONPATH": path, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    # A file, not a pipe: a process that was ended could leave others that keep a pipe open.
    with open(scratch / "log.txt", "w+b") as log:
        try:
            ended = subprocess.run(
                command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=timeout_s
            )
        except subprocess.TimeoutExpired:
            raise RivalError(f"it took more than {timeout_s:g} s") from None
        log.seek(0)
        said = log.read().decode(errors="replace").strip()
    if ended.returncode:
        raise RivalError(f"its process ended with {ended.returncode}: {said[-_LONGEST_REASON:]}")
