"""Gaussians: the parameters of a scene, 3D Gaussians in a fixed number of rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from splax.cameras import Camera
from splax.initialization.default_depth import default_depth
from splax.initialization.depth_source import DepthSource
from splax.ops.projection import finite_rows
from splax.ops.shading import Shading, SphericalHarmonics
from splax.ops.spherical_harmonics import check_sh_degree, num_sh_bases, rgb_to_sh0, sh_degree_of
from splax.scene import Scene

INITIAL_OPACITY = 0.1
# Scale of a Gaussian whose neighbours all coincide with it, world units (3DGS clamps d^2 at 1e-7).
_MIN_SPACING = 1e-7**0.5
# Drawing reads the stored Params, so overriding one of these would not change the image.
_NOT_DRAWN_BY = {
    "scales": "write a projection, TileRasterizer(projection=...), that reads other scales",
    "opacities": "write a projection, TileRasterizer(projection=...), that reads other opacities",
    "renderable": "set `alive` of the rows that are not to be drawn",
    "drawable": "it is called renderable_only now; set `alive` of the rows that are not to be drawn",
    "renderable_only": "set `alive` of the rows that are not to be drawn",
}


# Not typing.Self: beartype checks methods one by one in the tests, and Self means nothing to it there.
GaussiansT = TypeVar("GaussiansT", bound="Gaussians")


class Alive(nnx.Variable):
    """Mask of the rows that exist, [N] bool. It is state, but it is not trained."""


class ActiveShDegree(nnx.Variable):
    """Highest degree of spherical harmonics in use, int32 scalar. It is state, but it is not trained."""


class Gaussians(nnx.Module):
    """A set of 3D Gaussians, stored in ``capacity`` rows, some of which are alive.

    The number of rows is static, so training code compiles once: a new Gaussian takes a dead row, and a
    Gaussian is removed by its mask. Every ``nnx.Param`` has one row per Gaussian. This holds for the Params
    that a subclass adds
    too: splax trains, densifies and saves all of them without knowing their names.

    Attributes:
        means: centres in the world, Param [N, 3].
        quats: rotations as quaternions wxyz, unnormalised, Param [N, 4].
        log_scales: logarithms of the standard deviations in world units, Param [N, 3].
        logit_opacities: logits of the opacities, Param [N].
        sh0: colour coefficients of degree 0, Param [N, 1, 3].
        shN: colour coefficients of the higher degrees, Param [N, (degree + 1)^2 - 1, 3].
        alive: mask of the rows that exist, [N] bool.
        active_sh_degree: highest degree that counts in the colour, int32; at first the stored degree.
        shading: object that colours the Gaussians unless a model has a shading of its own: spherical harmonics,
            or the method ``colors`` of a subclass that has one.

    Raises:
        ValueError: if an array has another shape.
        TypeError: if a subclass overrides a property that drawing does not read.

    Example:
        >>> import numpy as np
        >>> import splax
        >>> points = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        >>> gaussians = splax.Gaussians.from_points(points, np.array([[255, 0, 0], [0, 0, 255]]))
        >>> gaussians.scales.round().tolist()  # as wide as the points are apart
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
        >>> print(np.asarray(gaussians.opacities).round(2))
        [0.1 0.1]
        >>> larger = gaussians.with_capacity(5)
        >>> larger.capacity, int(larger.num_alive), larger.compact().capacity
        (5, 2, 2)
    """

    shading: ClassVar[Shading] = SphericalHarmonics()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "colors" in vars(cls):
            cls.shading = ColorsOfGaussians()
        for name, cure in _NOT_DRAWN_BY.items():
            if name in vars(cls):
                raise TypeError(f"{cls.__name__}.{name} would not change what is drawn; {cure}.")

    def __init__(
        self,
        means: Float[Array, "n 3"],
        quats: Float[Array, "n 4"],
        log_scales: Float[Array, "n 3"],
        logit_opacities: Float[Array, " n"],
        sh0: Float[Array, "n 1 3"],
        shN: Float[Array, "n k 3"],
        *,
        alive: Bool[Array, " n"] | None = None,
    ) -> None:
        num = np.shape(means)[0]
        degree = sh_degree_of(np.shape(shN)[1] + 1)
        expected = {
            "means": (num, 3),
            "quats": (num, 4),
            "log_scales": (num, 3),
            "logit_opacities": (num,),
            "sh0": (num, 1, 3),
            "shN": (num, num_sh_bases(degree) - 1, 3),
        }
        values = (means, quats, log_scales, logit_opacities, sh0, shN)
        for (name, shape), value in zip(expected.items(), values, strict=True):
            if np.shape(value) != shape:
                raise ValueError(f"Gaussians {name} must have shape {shape}, got {np.shape(value)}.")
            setattr(self, name, nnx.Param(jnp.asarray(value)))
        self.alive = Alive(jnp.ones(num, bool) if alive is None else jnp.asarray(alive))
        self.active_sh_degree = ActiveShDegree(jnp.asarray(degree, jnp.int32))

    means: nnx.Param
    quats: nnx.Param
    log_scales: nnx.Param
    logit_opacities: nnx.Param
    sh0: nnx.Param
    shN: nnx.Param

    @classmethod
    def from_points(
        cls: type[GaussiansT],
        points: Float[np.ndarray, "n 3"] | Float[Array, "n 3"],
        colors: Any = None,
        *,
        sh_degree: int = 3,
        opacity: float = INITIAL_OPACITY,
        **params: Any,
    ) -> GaussiansT:
        """Makes one isotropic Gaussian per point, as wide as the distance to its neighbours (3DGS).

        Args:
            points: centres in the world, [N, 3].
            colors: RGB, [N, 3], integers in 0 to 255 or floats in [0, 1]; grey if None.
            sh_degree: degree of the colour, 0 to 3; coefficients above degree 0 start at zero.
            opacity: opacity of every Gaussian, in (0, 1).
            **params: further arguments of the constructor, for a subclass's own Params.

        Raises:
            ValueError: if there is no point, if a point is not finite, or if the colours do not match the
                points.
        """
        points = np.asarray(points, np.float32)
        if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0 or not np.isfinite(points).all():
            raise ValueError(f"points must be [N, 3], finite, N >= 1; got shape {points.shape}.")
        check_sh_degree(sh_degree)
        if not 0 < opacity < 1:
            raise ValueError(f"opacity must lie in (0, 1), got {opacity}.")
        num = len(points)
        colors = np.full((num, 3), 0.5, np.float32) if colors is None else np.asarray(colors)
        if colors.shape != (num, 3):
            raise ValueError(f"colors must be [{num}, 3] to match points, got shape {colors.shape}.")
        if np.issubdtype(colors.dtype, np.integer):
            colors = colors / 255.0
        if not ((colors >= 0) & (colors <= 1)).all():
            raise ValueError("colors must be integers in 0 to 255 or floats in [0, 1].")
        quats = np.zeros((num, 4), np.float32)
        quats[:, 0] = 1
        log_scales = np.log(neighbor_spacing(points)).astype(np.float32)
        return cls(
            means=jnp.asarray(points),
            quats=jnp.asarray(quats),
            log_scales=jnp.repeat(jnp.asarray(log_scales)[:, None], 3, axis=1),
            logit_opacities=jnp.full(num, np.log(opacity / (1 - opacity)), jnp.float32),
            sh0=rgb_to_sh0(jnp.asarray(colors, jnp.float32))[:, None],
            shN=jnp.zeros((num, num_sh_bases(sh_degree) - 1, 3)),
            **params,
        )

    @classmethod
    def from_depth(
        cls: type[GaussiansT],
        scene: Scene,
        depth: DepthSource | Iterable[Float32[np.ndarray, "h w"] | None] | None = None,
        num: int = 100_000,
        *,
        sh_degree: int = 3,
        **params: Any,
    ) -> GaussiansT:
        """Makes at most ``num`` Gaussians on the surfaces that depth maps show, as wide as their distance.

        The depth maps of the training views are back-projected, with the colours of the photos. Pixels that are
        masked or transparent are left out. Points that fall into the same voxel are merged.

        Args:
            scene: posed photos.
            depth: camera-space z in world units: a depth map (or None) for each training view, [h, w], of the
                photo's shape but any size, 0 where unknown; or a source of depth, such as
                :class:`splax.PlaneSweep` or :class:`splax.MonocularDepth`. By default the scene's own depth
                images, or a plane sweep where it has none.
            num: largest number of Gaussians.
            sh_degree: degree of the colour, 0 to 3.
            **params: further arguments of :meth:`from_points`.

        Raises:
            ValueError: if there is no depth, or if the depth maps do not match the views.
        """
        # Imported here: code that only draws does not need to read photos.
        from splax.initialization.back_projection import points_from_depth

        points = points_from_depth(scene, default_depth(scene) if depth is None else depth, num)
        return cls.from_points(points.positions, points.colors, sh_degree=sh_degree, **params)

    @classmethod
    def random(
        cls: type[GaussiansT],
        num: int,
        *,
        extent: float = 1.0,
        center: Any = (0.0, 0.0, 0.0),
        sh_degree: int = 3,
        rngs: nnx.Rngs,
        **params: Any,
    ) -> GaussiansT:
        """Makes ``num`` Gaussians of random colours at random places in a cube.

        Args:
            num: number of Gaussians.
            extent: half the side of the cube, world units.
            center: centre of the cube, [3].
            sh_degree: degree of the colour, 0 to 3.
            rngs: source of randomness; its ``params`` stream is used.
            **params: further arguments of the constructor, for a subclass's own Params.

        Raises:
            ValueError: if ``num`` or ``extent`` is not positive.
        """
        if num < 1 or not extent > 0:
            raise ValueError(f"random needs num >= 1 and extent > 0, got num={num}, extent={extent}.")
        offsets = jax.random.uniform(rngs.params(), (num, 3), minval=-extent, maxval=extent)
        colors = jax.random.uniform(rngs.params(), (num, 3))
        points = np.asarray(center, np.float32) + np.asarray(offsets)
        return cls.from_points(points, np.asarray(colors), sh_degree=sh_degree, **params)

    @property
    def capacity(self) -> int:
        """Number of rows, alive or not."""
        return self.means.shape[0]

    @property
    def num_alive(self) -> Int[Array, ""]:
        """Number of Gaussians that are alive, int32."""
        return self.alive[...].sum()

    @property
    def sh_degree(self) -> int:
        """Degree of the stored colour coefficients."""
        return sh_degree_of(self.shN.shape[1] + 1)

    @property
    def scales(self) -> Float[Array, "n 3"]:
        """Standard deviations in world units, [N, 3]."""
        return jnp.exp(self.log_scales[...])

    @property
    def opacities(self) -> Float[Array, " n"]:
        """Opacities in (0, 1), [N]."""
        return jax.nn.sigmoid(self.logit_opacities[...])

    @property
    def renderable(self) -> Bool[Array, " n"]:
        """Mask of the rows that can be drawn, [N]: alive, finite in every Param, with a non-zero quaternion."""
        params = jax.tree.leaves(nnx.as_pure(nnx.state(self, nnx.Param)))
        finite = finite_rows(*(p for p in params if jnp.issubdtype(p.dtype, jnp.floating)))
        return self.alive[...] & finite & (self.quats[...] != 0).any(axis=1)

    @property
    def drawable(self) -> NoReturn:
        """The name that :meth:`renderable_only` had in earlier versions."""
        raise AttributeError("Gaussians.drawable() is called renderable_only() now; use that name.")

    def renderable_only(self: GaussiansT) -> GaussiansT:
        """Returns a copy whose rows can all be computed with.

        Rows that are not :attr:`renderable` are dead and have harmless values in the copy. Rendering starts from
        this copy, so a NaN in one row reaches neither the image nor any gradient.
        """
        mask = self.renderable

        def clean(param: Array) -> Array:
            return jnp.where(mask.reshape((-1,) + (1,) * (param.ndim - 1)), param, 0)

        copy = self._map_rows(clean)
        identity = jnp.array([1, 0, 0, 0], copy.quats.dtype)
        copy.quats[...] = jnp.where(mask[:, None], copy.quats[...], identity)
        copy.alive[...] = mask
        return copy

    def colors(self, camera: Camera) -> Float[Array, "n c"]:
        """Returns the RGB of each Gaussian as ``camera`` sees it, [N, 3], not below 0.

        A subclass may override this method and return other channels, [N, C].
        """
        return SphericalHarmonics()(self, camera)

    def take(self: GaussiansT, rows: Any) -> GaussiansT:
        """Returns a copy that holds some rows, in their order.

        Args:
            rows: indices of the rows, or a mask, [N] bool; not a traced array.
        """
        rows = jnp.asarray(rows)
        copy = self._map_rows(lambda param: param[rows])
        copy.alive.set_value(self.alive[...][rows])
        return copy

    def compact(self: GaussiansT) -> GaussiansT:
        """Returns a copy without dead rows, for saving and plotting."""
        return self.take(np.flatnonzero(np.asarray(self.alive[...])))

    def with_capacity(self: GaussiansT, capacity: int) -> GaussiansT:
        """Returns a copy with more rows; the new rows are dead, and zero in every Param.

        Args:
            capacity: number of rows of the copy.

        Raises:
            ValueError: if ``capacity`` is below the present capacity.
        """
        more = capacity - self.capacity
        if more < 0:
            raise ValueError(f"capacity can only grow: got {capacity}, have {self.capacity}; see compact().")

        def pad(x: Array) -> Array:
            return jnp.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1))

        copy = self._map_rows(pad)
        copy.alive.set_value(pad(self.alive[...]))
        return copy

    def _map_rows(self: GaussiansT, function: Callable[[Array], Array]) -> GaussiansT:
        """Returns a copy with ``function`` applied to every Param."""
        graphdef, params, rest = nnx.split(self, nnx.Param, ...)
        # tree.map also makes new Variables; merging `rest` as it is would share them with this object.
        return nnx.merge(graphdef, jax.tree.map(function, params), jax.tree.map(lambda x: x, rest))


@dataclasses.dataclass(frozen=True)
class ColorsOfGaussians:
    """The method ``colors`` of a subclass of Gaussians, as a shading."""

    def __call__(
        self, gaussians: Any, camera: Any, *, view: Int[Array, ""] | int | None = None
    ) -> Float[Array, "n c"]:
        """Returns ``gaussians.colors(camera)``."""
        del view
        return gaussians.colors(camera)


def neighbor_spacing(points: Float[np.ndarray, "n 3"], neighbors: int = 3) -> Float[np.ndarray, " n"]:
    """Returns the root mean square distance of each point to its nearest neighbours, [N], world units (3DGS).

    If there is only one point, the distance is 1.

    Args:
        points: positions in the world, [N, 3].
        neighbors: number of neighbours of each point.
    """
    from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]: compiled, no stubs

    neighbors = min(neighbors, len(points) - 1)
    if neighbors == 0:
        return np.ones(len(points))
    distances, _ = cKDTree(points).query(points, k=neighbors + 1)
    return np.maximum(np.sqrt((distances[:, 1:] ** 2).mean(axis=1)), _MIN_SPACING)
