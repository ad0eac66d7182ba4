"""Checks the oracle itself: its gradients, and its compositing against gsplat's own.

Run from the ``tests`` folder: ``python -m oracle.check``.
"""

from __future__ import annotations

import sys
import types

import numpy as np
import torch
from oracle.cases import CASES, Case
from oracle.make_goldens import make_golden
from oracle.render import (
    COTANGENTS,
    GAUSSIAN_PARAMS,
    INPUTS,
    Splats,
    differentiate_case,
    loss,
    project,
    render,
    to_tensors,
    usable_rows,
)
from torch import Tensor

STEP = 1e-5  # central differences; in the parameter's own unit
TILE_SIZE = 16


@torch.no_grad()
def case_loss(inputs: dict[str, Tensor], case: Case) -> float:
    """The loss of a case, summed over its cameras."""
    total = 0.0
    for camera in range(len(case["viewmats"])):
        pixels = render(inputs, camera, int(case["width"]), int(case["height"]))
        cotangents = {n: torch.tensor(case[n][camera].astype(float)) for n in COTANGENTS}
        total += float(loss(pixels, cotangents))
    return total


def gradient_error(name: str, entries: int = 40) -> dict[str, float]:
    """Largest difference of autograd and central differences per input, relative to its largest gradient."""
    case = make_golden(name)
    gradients = differentiate_case(case)
    usable = usable_rows(case)
    inputs = {key: value.detach() for key, value in to_tensors(case).items()}
    rng = np.random.default_rng(0)
    errors = {}
    for key in (key for key in INPUTS if key in inputs and inputs[key].numel()):
        expected = gradients[f"grad_{key}"]
        expected = (expected[usable] if key in GAUSSIAN_PARAMS else expected).reshape(-1)
        flat = inputs[key].view(-1)
        worst = 0.0
        for index in rng.permutation(len(flat))[:entries]:
            value = float(flat[index])
            # A quaternion's unit is its own length: a longer step would turn it across the alpha threshold.
            step = STEP * (float(inputs[key][index // 4].norm()) if key == "quats" else 1.0)
            ends = []
            for sign in (1, -1):
                flat[index] = value + sign * step
                ends.append(case_loss(inputs, case))
            flat[index] = value
            worst = max(worst, abs((ends[0] - ends[1]) / (2 * step) - expected[index]))
        errors[key] = worst / np.abs(expected).max()
    return errors


def tile_lists(splats: Splats, width: int, height: int) -> tuple[Tensor, Tensor]:
    """gsplat's tile lists: offsets [1, rows, columns] and Gaussian ids [M]."""
    from gsplat.cuda._torch_impl import _isect_offset_encode, _isect_tiles

    a, b, c = splats.conics.unbind(-1)
    deviation = (torch.stack([c, a], -1) / (a * c - b * b)[:, None]).sqrt()
    radii = torch.ceil(3.33 * deviation).int()
    columns, rows = -(-width // TILE_SIZE), -(-height // TILE_SIZE)
    # Depths are replaced by ranks: gsplat packs float32 bits, and ranks keep exactly the same order.
    ranks = torch.arange(1, len(splats.depths) + 1, dtype=torch.float32)
    _, isect_ids, flatten_ids = _isect_tiles(
        splats.means2d[None], radii[None], ranks[None], TILE_SIZE, columns, rows
    )
    return _isect_offset_encode(isect_ids, 1, columns, rows), flatten_ids


def _indices_in_range(_start, _end, _transmittances, means2d, conics, opacities, width, height, tile_size,
                      offsets, flatten_ids):  # fmt: skip
    """What gsplat's CUDA ``rasterize_to_indices_in_range`` returns when one batch holds everything.

    Walks each pixel's tile list in order, as the kernel does: skips alphas under 1/255, stops before the
    Gaussian at which transmittance would fall to 1e-4.
    """
    ends = torch.cat([offsets.flatten()[1:], torch.tensor([len(flatten_ids)])]).tolist()
    columns = offsets.shape[-1]
    gaussian_ids, pixel_ids = [], []
    for row in range(height):
        for column in range(width):
            tile = (row // tile_size) * columns + column // tile_size
            ids = flatten_ids[int(offsets.flatten()[tile]) : ends[tile]].long()
            delta = torch.tensor([column + 0.5, row + 0.5], dtype=means2d.dtype) - means2d[0, ids]
            a, b, c = conics[0, ids].unbind(-1)
            sigma = 0.5 * (a * delta[:, 0] ** 2 + c * delta[:, 1] ** 2) + b * delta[:, 0] * delta[:, 1]
            alphas = (opacities[0, ids] * torch.exp(-sigma)).clamp_max(0.999)
            transmittance = 1.0
            for gaussian, alpha in zip(ids.tolist(), alphas.tolist(), strict=True):
                if alpha < 1 / 255:
                    continue
                transmittance *= 1 - alpha
                if transmittance <= 1e-4:
                    break
                gaussian_ids.append(gaussian)
                pixel_ids.append(row * width + column)
    ids = torch.tensor(gaussian_ids, dtype=torch.long), torch.tensor(pixel_ids, dtype=torch.long)
    return *ids, torch.zeros_like(ids[0])


def _weights_from_alpha(alphas: Tensor, *, ray_indices: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
    """nerfacc's ``render_weight_from_alpha``: alpha times the transmittance in front, along each ray."""
    weights, transmittances = torch.zeros_like(alphas), torch.zeros_like(alphas)
    for ray in ray_indices.unique():
        on_ray = torch.where(ray_indices == ray)[0]
        after = torch.cumprod(1 - alphas[on_ray], 0)
        transmittances[on_ray] = torch.cat([after.new_ones(1), after[:-1]])
        weights[on_ray] = alphas[on_ray] * transmittances[on_ray]
    return weights, transmittances


def _accumulate_along_rays(
    weights: Tensor, values: Tensor | None, *, ray_indices: Tensor, n_rays: int
) -> Tensor:
    """nerfacc's ``accumulate_along_rays``: a weighted sum per ray."""
    terms = weights[:, None] if values is None else weights[:, None] * values
    return terms.new_zeros(n_rays, terms.shape[-1]).index_add(0, ray_indices, terms)


def gsplat_pixels(splats: Splats, background: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Image and alpha by gsplat's tiled ``_rasterize_to_pixels``, its three compiled helpers replaced."""
    import gsplat.cuda._torch_impl as reference
    import gsplat.cuda._wrapper as wrapper

    nerfacc = types.ModuleType("nerfacc")
    nerfacc.render_weight_from_alpha = _weights_from_alpha
    nerfacc.accumulate_along_rays = _accumulate_along_rays
    sys.modules["nerfacc"] = nerfacc
    wrapper.rasterize_to_indices_in_range = _indices_in_range
    offsets, flatten_ids = tile_lists(splats, width, height)
    image, alpha = reference._rasterize_to_pixels(
        splats.means2d[None], splats.conics[None], splats.colors[None], splats.opacities[None], width, height,
        TILE_SIZE, offsets, flatten_ids, backgrounds=background[None], batch_per_iter=1 << 20,
    )  # fmt: skip
    return image[0], alpha[0, ..., 0]


def compositing_error(name: str) -> float:
    """Largest difference of image or alpha between the oracle and gsplat's tiled renderer, first camera."""
    case = make_golden(name)
    inputs = {key: value.detach() for key, value in to_tensors(case).items()}
    width, height = int(case["width"]), int(case["height"])
    pixels = render(inputs, 0, width, height)
    image, alpha = gsplat_pixels(project(inputs, 0, width, height), inputs["background"], width, height)
    return float(max((image - pixels.image).abs().max(), (alpha - pixels.alpha).abs().max()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in ("two_cameras", "off_centre", "frustum_edges", "quaternions"):
        errors = gradient_error(name)
        print(f"{name}: autograd against central differences, relative to the largest entry:")
        print("   ", ", ".join(f"{key} {value:.1e}" for key, value in errors.items()))
    for name in CASES:
        if name not in ("all_behind", "three_thousand"):  # gsplat's loops need a Gaussian, and are slow
            print(f"{name}: tile-free against gsplat's tiles, image and alpha: {compositing_error(name):.1e}")
