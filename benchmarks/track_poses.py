"""How well tracks bring disturbed cameras back, without any photo: `python benchmarks/track_poses.py DATA`.

DATA is a COLMAP dataset. Each training camera is turned by a degree and moved by 2 % of the scene's extent, and
refined by the reprojection error of its points alone, one view a step as in training.
"""

import argparse
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import splax
from splax.corrections.base import Corrections
from splax.corrections.camera_alignment import motions_between
from splax.corrections.poses import PoseRefinement
from splax.corrections.rigid import move_camera


def main() -> None:
    """Prints what is left of the disturbance, for some rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 5e-4, 1e-3])
    options = parser.parse_args()
    scene = splax.load_dataset(options.data, downscale=8)
    views = [view for view in scene.train if view.points is not None and view.point_pixels is not None]
    tracks = [(np.asarray(view.points), np.asarray(view.point_pixels)) for view in views]
    num, rng = len(views), np.random.default_rng(0)
    noise = rng.normal(size=(num, 6))
    noise[:, :3] *= np.radians(1) / np.linalg.norm(noise[:, :3], axis=1, keepdims=True)
    noise[:, 3:] *= 0.02 * scene.extent / np.linalg.norm(noise[:, 3:], axis=1, keepdims=True)
    true = splax.Camera.stack([view.camera for view in views])
    wrong = dataclasses.replace(
        true, viewmat=jax.vmap(move_camera)(true.viewmat, jnp.asarray(noise, jnp.float32))
    )
    most = max(len(seen) for seen, _ in tracks)
    points, pixels = np.full((num, most, 3), np.nan, np.float32), np.full((num, most, 2), np.nan, np.float32)
    for row, (seen, shown) in enumerate(tracks):
        points[row, : len(seen)], pixels[row, : len(seen)] = seen, shown
    order = np.concatenate([rng.permutation(num) for _ in range(options.steps // num + 1)])[: options.steps]
    for rate in options.rates:
        corrections = Corrections(
            [PoseRefinement(rate=rate)], wrong, steps=options.steps, extent=scene.extent
        )
        motions = refine(corrections, wrong, jnp.asarray(points), jnp.asarray(pixels), jnp.asarray(order))
        refined = jax.vmap(move_camera)(wrong.viewmat, motions)
        left = motions_between(np.asarray(true.viewmat, np.float64), np.asarray(refined, np.float64))
        turn = np.degrees(np.linalg.norm(left[:, :3], axis=1)).mean()
        shift = np.linalg.norm(left[:, 3:], axis=1).mean() / scene.extent
        print(f"rate {rate:g}: {turn:.3f} degrees and {shift:.2%} of the extent are left")


def refine(
    corrections: Corrections, cameras: splax.Camera, points: jax.Array, pixels: jax.Array, order: jax.Array
) -> jax.Array:
    """The motions that were found, [V, 6]."""

    def step(index, state):
        view = order[index]
        camera = jax.tree.map(lambda x: x[view], cameras)

        def loss(params):
            moved = corrections.camera(params, view, camera)
            return corrections.track_penalty(moved, points[view], pixels[view])

        return corrections.update(state, jax.grad(loss)(state.params), jnp.ones(()))

    return jax.jit(lambda state: jax.lax.fori_loop(0, len(order), step, state))(corrections.init()).params[
        "poses"
    ]


if __name__ == "__main__":
    main()
