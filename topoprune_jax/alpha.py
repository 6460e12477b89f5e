r"""Differentiable persistence of alpha complexes, for points in the plane and in space.

Not among the names of `topoprune_jax` itself, because gudhi's alpha complexes come from its part
under the GPL v3, unlike everything else here: whoever imports this module chooses that.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ._checks import check_points
from ._diagram import (
    Diagram,
    check_capacity,
    check_dims,
    diagram_of,
    host_generators,
    is_essential,
)
from ._distance import product
from ._host._alpha import VERTICES, alpha_pairs
from ._types import Array, ArrayInput


def alpha_complex(
    points: ArrayInput,
    *,
    dims: Sequence[int] = (0, 1),
    capacity: int | Sequence[int] | None = None,
) -> Diagram:
    r"""Persistent homology of the alpha filtration of points in the plane or in space.

    At radius $r$ it has the topology of the union of balls of radius $r$ around the points, with
    far fewer simplices than a Vietoris-Rips complex: those of the Delaunay triangulation. A simplex
    $\sigma$ that creates or destroys a class enters at the radius of its circumsphere,

    $$r(\sigma)^2 = b^T G^{-1} b, \quad G_{ij} = \langle x_i - x_0, x_j - x_0 \rangle, \quad
    b_i = G_{ii} / 2.$$

    Edelsbrunner and Harer, *Computational Topology* (2010), III.4. The values are the square roots
    of gudhi's default ones, in the unit of the points.

    Differentiable in `points` in every mode: the derivative is that of the circumradii of the
    simplices that the generators name (simplices that make bars of positive length are Gabriel, so
    that their own circumsphere decides). Works under every transformation; one host call for a
    whole `vmap`.

    **Arguments:**

    - `points`: `(n, 2)` or `(n, 3)`. Copies of a point count once.
    - `dims`: homology dimensions, less than that of the points.
    - `capacity`: as for `vietoris_rips`; by default n slots for dimension 0 and 2n for others.

    **Returns:** a `Diagram` whose generators are (p, 8): the up to four vertices of the simplex
    that creates the class, then of the one that destroys it, filled up with -1.

    **Raises:** TypeError or ValueError for points that are no finite array of two or three columns,
    and for options out of range.

    !!! example

        ```python
        >>> from topoprune_jax.alpha import alpha_complex
        >>> square = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
        >>> diagram = alpha_complex(square, dims=(1,))
        >>> float(diagram.births[0]), round(float(diagram.deaths[0]), 4)
        (0.5, 0.7071)

        ```
    """
    points = check_points(points)
    if points.shape[1] not in (2, 3):
        raise ValueError(
            f"`points` must have 2 or 3 columns for an alpha complex; got {points.shape[1]}. "
            "Use `vietoris_rips`, or embed the points in 2 or 3 dimensions first."
        )
    dims = check_dims(dims)
    if max(dims) >= points.shape[1]:
        raise ValueError(
            f"`dims` must be less than the dimension of the points, {points.shape[1]}; got "
            f"{max(dims)}. There are no classes of that dimension."
        )
    capacities = check_capacity(capacity, dims, points.shape[0])
    return _alpha_complex(points, dims=dims, capacities=capacities)


@functools.partial(jax.jit, static_argnames=("dims", "capacities"))
def _alpha_complex(points, *, dims, capacities) -> Diagram:
    known = jax.lax.stop_gradient(points)
    generators = host_generators(alpha_pairs, 2 * VERTICES, known, dims=dims, capacities=capacities)
    rows = generators.edges

    def radii(simplices):
        return jax.vmap(lambda simplex: _circumradius(points, simplex))(simplices)

    births, deaths = radii(rows[:, :VERTICES]), radii(rows[:, VERTICES:])
    return diagram_of(generators, births, jnp.where(is_essential(rows), jnp.inf, deaths))


def _circumradius(points: Float[Array, "n d"], simplex: Int[Array, "4"]) -> Float[Array, ""]:
    """Radius of the sphere through the vertices, those that are -1 left out; 0 for a point."""
    there = simplex[1:] >= 0
    corner = points[jnp.maximum(simplex[0], 0)]
    edges = points[jnp.maximum(simplex[1:], 0)] - corner[None, :]
    edges = jnp.where(there[:, None], edges, 0)
    # In units of the longest coordinate, so that neither squares nor derivatives overflow.
    reach = jax.lax.stop_gradient(jnp.max(jnp.abs(edges)))
    reach = jnp.where(reach > 0, reach, 1)
    edges = edges / reach
    gram = product(edges, edges.T)
    half = jnp.diagonal(gram) / 2
    # Cosines between the edges, and the identity where there is no vertex.
    length = jnp.sqrt(jnp.where(there, jnp.diagonal(gram), 1))
    cosines = jnp.where(
        there[:, None] & there[None, :], gram / (length[:, None] * length[None, :]), jnp.eye(3)
    )
    right = half / length
    squared = product(right, _solve(cosines, right))
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0) * reach


def _solve(matrix: Float[Array, "3 3"], right: Float[Array, "3"]) -> Float[Array, "3"]:
    """Cramer's rule: three rows are too few for LAPACK to pay."""
    a, b, c = matrix
    determinant = product(a, jnp.cross(b, c))
    adjugate = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], axis=1)
    return product(adjugate, right) / jnp.where(determinant > 0, determinant, 1)
