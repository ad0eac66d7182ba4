"""Scores of renderings: how well views of a model agree with their photos."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from splax.cameras import Camera
from splax.corrections.held_out import Appearance, HeldOutViews
from splax.metrics.color_correction import color_correct as correct_colors
from splax.metrics.image import psnr, ssim
from splax.metrics.lpips import Network, lpips
from splax.model import SplatModel
from splax.rasterizer import RenderOutput
from splax.scene import View
from splax.training.color_renderer import ColorRenderer, color_of
from splax.training.photos.targets import on_background
from splax.training.pose_alignment import STEPS, PoseAligner

_NETWORKS = {"alex": "AlexNet", "vgg": "VGG16"}


class ViewScores(NamedTuple):
    """Scores of one rendering against its photo.

    Attributes:
        view: the view that was scored.
        psnr: PSNR in dB.
        ssim: SSIM in [-1, 1].
        image: the rendering, [H, W, 3] in [0, 1].
        lpips: LPIPS by the name of the network, for the networks that were requested.
        color_corrected: ``psnr`` and ``ssim`` after :func:`splax.color_correct`; empty if not requested.
        pose_aligned: ``psnr`` after the camera was moved to fit the photo; empty if not requested.
        psnr_identity: PSNR of the view rendered with its camera as given and the mean of all colour maps, dB.
    """

    view: View
    psnr: float
    ssim: float
    image: Float[np.ndarray, "h w 3"]
    lpips: dict[str, float]
    color_corrected: dict[str, float]
    pose_aligned: dict[str, float]
    psnr_identity: float

    def numbers(self) -> dict[str, float]:
        """The scores by name, in the order of :func:`score_names`."""
        return {
            "psnr": self.psnr,
            "ssim": self.ssim,
            "psnr_identity": self.psnr_identity,
            **{f"lpips_{network}": value for network, value in self.lpips.items()},
            **{f"{name}_color_corrected": value for name, value in self.color_corrected.items()},
            **{f"{name}_pose_aligned": value for name, value in self.pose_aligned.items()},
        }


def score_names(
    networks: Sequence[Network] = (), *, color_correct: bool = False, pose_align: bool = False
) -> list[str]:
    """Names of the scores that a view gets for these requests; arguments as for ``Trainer.evaluate``."""
    return [
        "psnr",
        "ssim",
        "psnr_identity",
        *(f"lpips_{network}" for network in networks),
        *(("psnr_color_corrected", "ssim_color_corrected") if color_correct else ()),
        *(("psnr_pose_aligned",) if pose_align else ()),
    ]


def mean_scores(
    scores: Sequence[dict[str, Any]],
    networks: Sequence[Network] = (),
    *,
    color_correct: bool = False,
    pose_align: bool = False,
) -> dict[str, Any]:
    """Mean scores over views, and their number as ``"views"``. Without a view the means are None.

    Args:
        scores: scores of each view, from :meth:`ViewScores.numbers`.
        networks: networks of LPIPS that were requested.
        color_correct: whether colour-corrected scores were requested.
        pose_align: whether pose-aligned scores were requested.
    """
    names = score_names(networks, color_correct=color_correct, pose_align=pose_align)
    means = {name: float(np.mean([one[name] for one in scores])) if scores else None for name in names}
    return {**means, "views": len(scores)}


def scores_line(scores: dict[str, Any]) -> str:
    """The mean scores as one line of text for people."""
    if not scores["views"]:
        return "No view was held out, so there is no score."
    parts = [f"PSNR {scores['psnr']:.2f} dB", f"SSIM {scores['ssim']:.4f}"]
    if scores["psnr_identity"] != scores["psnr"]:
        parts.append(f"without corrections PSNR {scores['psnr_identity']:.2f} dB")
    parts += [
        f"LPIPS ({name}) {scores[key]:.4f}"
        for key, name in ((f"lpips_{network}", name) for network, name in _NETWORKS.items())
        if key in scores
    ]
    if "psnr_color_corrected" in scores:
        corrected = scores["psnr_color_corrected"], scores["ssim_color_corrected"]
        parts.append("with colours corrected PSNR {:.2f} dB, SSIM {:.4f}".format(*corrected))
    if "psnr_pose_aligned" in scores:
        parts.append(f"with poses aligned PSNR {scores['psnr_pose_aligned']:.2f} dB")
    return f"Mean of {scores['views']} held-out views: " + ", ".join(parts)


def protocol(
    held_out: HeldOutViews,
    networks: Sequence[Network] = (),
    *,
    color_correct: bool = False,
    pose_align: bool = False,
) -> dict[str, Any]:
    """A description for people of the way that scores are computed; whoever quotes a score should add it.

    Args:
        held_out: the appearance of the views that were scored.
        networks: networks of LPIPS that were requested.
        color_correct: whether colour-corrected scores were requested.
        pose_align: whether pose-aligned scores were requested.
    """
    corrected = (
        "an affine map of the rendering's colours, fitted to the photo it is compared with by least squares over "
        "the pixels where neither saturates, then clamped to [0, 1]; apart from that as psnr and ssim"
    )
    aligned = (
        f"the view's camera moved to fit the photo it is compared with: {STEPS} steps of Adam on six numbers, the "
        "splat fixed, the best kept; apart from that as psnr"
    )
    return {
        "images": "rendering clamped to [0, 1], not rounded, against the 8-bit photo / 255",
        "color_space": "as stored in the photo (sRGB)",
        "crop": "none",
        "mask": "masked pixels are left out of PSNR, windows that hold one out of SSIM; LPIPS sees black there",
        "mean": "of the scores of the views",
        "ssim": "Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03, no padding, mean over RGB",
        "held_out": held_out.description,
        "identity": "drawn with the camera as given and the mean of what was learned for the training views",
        **{f"lpips_{network}": f"version 0.1, {_NETWORKS[network]}" for network in networks},
        **({"color_corrected": corrected} if color_correct else {}),
        **({"pose_aligned": aligned} if pose_align else {}),
    }


def evaluate_views(
    model: SplatModel,
    render: ColorRenderer,
    views: Sequence[View],
    held_out: HeldOutViews,
    *,
    old: Float[Array, " 3"],
    background: Float[Array, " 3"],
    networks: Sequence[Network] = (),
    color_correct: bool = False,
    aligner: PoseAligner | None = None,
) -> Iterator[ViewScores]:
    """Renders views and compares them with their photos; the protocol is that of ``Trainer.evaluate_views``.

    Args:
        model: the model to render.
        render: the renderer that calls the model.
        views: the views to score.
        held_out: the appearance of these views.
        old: colour that the photos were composited on, RGB in [0, 1].
        background: colour that rendering and photo are compared on, RGB in [0, 1].
        networks: networks of LPIPS, ``"alex"`` or ``"vgg"``.
        color_correct: whether to score each view once more with its colours fitted to the photo's.
        aligner: the aligner that fits the camera to the photo for one more score; None leaves that score out.

    Yields:
        The scores of each view. A view whose photo cannot be decoded is left out, with a warning.
    """

    def draw(appearance: Appearance) -> Float[Array, "h w 3"]:
        image = color_of(draw_whole(model, render, appearance.camera, background))
        return jnp.clip(held_out.image(appearance.params, image), 0, 1)

    for view in views:
        try:
            photo = view.image
        except ValueError as error:
            warnings.warn(f"view {view.name!r} is left out of the scores: {error}", stacklevel=2)
            continue
        appearance = held_out.of(view.name, view.camera)
        image = draw(appearance)
        target, mask = _target(view, jnp.asarray(photo, image.dtype) / 255, old, background)
        pair = (image, target) if mask is None else (image * mask[..., None], target * mask[..., None])
        scores = _score(image, target, mask)
        yield ViewScores(
            view,
            **scores,
            psnr_identity=scores["psnr"]
            if held_out.is_mean
            else float(psnr(draw(held_out.mean(view.camera)), target, mask)),
            image=np.asarray(image),
            lpips={network: float(lpips(*pair, network=network)) for network in networks},
            color_corrected=_score(correct_colors(image, target, mask), target, mask)
            if color_correct
            else {},
            pose_aligned={}
            if aligner is None
            else {"psnr": float(psnr(aligner.image(appearance, target, mask), target, mask))},
        )


def _target(
    view: View, photo: Float[Array, "h w 3"], old: Float[Array, " 3"], background: Float[Array, " 3"]
) -> tuple[Float[Array, "h w 3"], Bool[Array, "h w"] | None]:
    """The view's photo on another background, [H, W, 3], and the pixels that count, [H, W]; None if all count."""
    alpha = jnp.asarray(view.alpha) if view.has_alpha and view.alpha is not None else None
    return on_background(photo, alpha, old, background), jnp.asarray(view.mask) if view.has_mask else None


def draw_whole(
    model: SplatModel, render: ColorRenderer, camera: Camera, background: Float[Array, " 3"]
) -> RenderOutput:
    """A complete rendering: the rasterizer chooses its buffer's size itself if the given size is too small."""
    output, rasterizer = render(model, camera, background), model.rasterizer
    if rasterizer.isect_capacity is None or not bool(output.overflow):
        return output
    given, rasterizer.isect_capacity = rasterizer.isect_capacity, None
    try:
        return render(model, camera, background)
    finally:
        rasterizer.isect_capacity = given


def _score(
    image: Float[Array, "h w 3"], target: Float[Array, "h w 3"], mask: Bool[Array, "h w"] | None
) -> dict[str, float]:
    """PSNR in dB and SSIM of an image, by name."""
    return {"psnr": float(psnr(image, target, mask)), "ssim": float(ssim(image, target, mask))}
