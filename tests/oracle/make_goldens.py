"""Writes tests/goldens/<case>.npz: inputs, cotangents, and what the oracle makes of them in float64.

Run from the ``tests`` folder: ``python -m oracle.make_goldens [case ...]``.
"""

from __future__ import annotations

import os
import pathlib
import sys
import zlib

import numpy as np
import torch
from oracle.cases import CASES, Case
from oracle.render import (
    COTANGENTS,
    differentiate_case,
    project,
    render_case,
    to_tensors,
    usable_rows,
    view_colors,
)

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "goldens"
DEPTH_GAP = 1e-5  # relative; depths closer than this, but not equal, may swap in float32
KINK_GAP = 1e-4  # distance kept from the kinks of max(colour, 0) and of the Jacobian's clamp


def settle(case: Case) -> Case:
    """Nudges rows until float32 and float64 must agree on the depth order and on the side of every kink."""
    for _ in range(100):
        close, kinked = _close_depths(case), _kinked_colors(case)
        if not (close.any() or kinked.any()):
            return case
        case["means"][close] += np.float16(1 / 128)
        if kinked.any():
            case["sh0"][kinked] += np.float16(1 / 64)
    raise RuntimeError("rows keep meeting; choose another seed")


def _close_depths(case: Case) -> np.ndarray:
    """Rows [N] nearly as deep as the one before them, or nearly at the edge of the Jacobian's clamp."""
    usable = usable_rows(case)
    means = case["means"][usable].astype(float)
    close = np.zeros(len(means), bool)
    size = np.array([case["width"], case["height"]], float)
    for viewmat, K in zip(case["viewmats"].astype(float), case["Ks"].astype(float), strict=True):
        x, y, z = viewmat[:3, :3] @ means.T + viewmat[:3, 3:]
        order = np.argsort(z, kind="stable")
        gap = np.diff(z[order])
        close[order[1:]] |= (gap > 0) & (gap < DEPTH_GAP * np.abs(z[order[1:]]))
        focal, centre = np.diag(K)[:2], K[:2, 2]
        for limit in ((size - centre) / focal + 0.15 * size / focal, -centre / focal - 0.15 * size / focal):
            close |= (np.abs(np.stack([x / z, y / z], 1) - limit) < KINK_GAP).any(axis=1)
    return _scatter(close, usable)


def _kinked_colors(case: Case) -> np.ndarray:
    """Rows [N] with a colour that is nearly cut at zero."""
    usable = usable_rows(case)
    kinked = np.zeros(usable.sum(), bool)
    if "colors" not in case:
        inputs = to_tensors(case)
        for viewmat in inputs["viewmats"]:
            kinked |= (view_colors(inputs, viewmat).abs() < KINK_GAP).any(dim=1).numpy()
    return _scatter(kinked, usable)


def _scatter(flags: np.ndarray, rows: np.ndarray) -> np.ndarray:
    full = np.zeros(len(rows), bool)
    full[rows] = flags
    return full


def add_cotangents(name: str, case: Case, band: np.ndarray, channels: int) -> None:
    """Random cotangents in quarters, so that they compress; zero where a threshold makes gradients jump."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for key in COTANGENTS:
        mask = np.repeat(band[..., None], channels, axis=-1) if key == "v_image" else band
        quarters = rng.integers(-4, 5, size=mask.shape)
        case[key] = np.where(mask, 0, quarters / 4).astype(np.float16)


def make_golden(name: str) -> Case:
    """Inputs, outputs (``image``, ``alpha``, ``depth``, ``band``) and ``grad_*`` of one case."""
    case = settle(CASES[name]())
    outputs = render_case(case)
    add_cotangents(name, case, outputs["band"], outputs["image"].shape[-1])
    results = {**outputs, **differentiate_case(case)}
    for key, value in results.items():
        if not np.isfinite(value).all():
            raise RuntimeError(f"{name}: {key} is not finite")
        case[key] = value if value.dtype == bool else value.astype(np.float32)
    return case


def write(path: pathlib.Path, case: Case) -> None:
    """Writes the file whole or not at all."""
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, allow_pickle=False, **case)
    os.replace(partial, path)


def main(names: list[str]) -> None:
    """Writes the named cases, or all."""
    FOLDER.mkdir(exist_ok=True)
    for name in names or CASES:
        case = make_golden(name)
        path = FOLDER / f"{name}.npz"
        write(path, case)
        seen = len(project(to_tensors(case), 0, int(case["width"]), int(case["height"])).depths)
        print(
            f"{name:16s} {path.stat().st_size / 1024:6.1f} kB, {len(case['quats'])} rows, {seen} projected, "
            f"band {case['band'].mean():.2%}, alpha {case['alpha'].min():.3f}..{case['alpha'].max():.5f}"
        )
    print(f"{sum(p.stat().st_size for p in FOLDER.glob('*.npz')) / 1024:.0f} kB in all")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
