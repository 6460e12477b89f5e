"""What subspace iteration on a graph needs: inner products over all points, or by component.

A block of vectors on a graph of several components is as many blocks as there are components: the
adjacency maps each into itself. `Parts` orthonormalizes and diagonalizes all of them at once, in
O(n w) memory for w vectors and O(w^2) for a component; `Whole` is for one component.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from ._distance import product
from ._sums import over_rows, sums_by_row
from ._types import Array

_DISTURBANCE = 1e-5  # far above rounding, far below what an eigenvector need be known to
_MISSING = -2.0  # below every eigenvalue of a normalized adjacency


class Whole(NamedTuple):
    """Inner products over all points, with the trivial eigenvector projected out."""

    trivial: Float[Array, " n"]

    def orthonormal(self, x: Float[Array, "n w"]) -> Float[Array, "n w"]:
        """A basis of the same space, orthogonal to the trivial vector."""
        # With the trivial vector as first column, whatever completes a block that rounding has
        # robbed of its rank is orthogonal to it too.
        trivial = self.trivial
        x = x - trivial[:, None] * over_rows(trivial[:, None], x)
        return jnp.linalg.qr(jnp.concatenate([trivial[:, None], x], axis=1))[0][:, 1:]

    def gram(self, basis: Float[Array, "n w"], image: Float[Array, "n w"]) -> Float[Array, "w w"]:
        """Inner products of all pairs."""
        return over_rows(basis, image)

    def rotate(self, basis: Float[Array, "n w"], vectors: Float[Array, "w c"]):
        """Combinations of the basis."""
        return product(basis, vectors)

    def spread(self, value: Float[Array, ""]) -> Float[Array, ""]:
        """The value at every point."""
        return value


class Parts(NamedTuple):
    """The same by component: every value and matrix has a leading axis of components."""

    trivial: Float[Array, " n"]
    codes: Int[Array, " n"]
    sizes: Int[Array, " parts"]
    spare: Float[Array, "n w"]  # random vectors

    def _sum(self, values: Array) -> Array:
        return sums_by_row(values, self.codes, self.sizes.shape[0], most=jnp.max(self.sizes))

    def orthonormal(self, x: Float[Array, "n w"]) -> Float[Array, "n w"]:
        """Classical Gram-Schmidt, every projection twice (Giraud et al. 2005). A component of m
        points has m - 1 vectors at most; the columns beyond are 0 there. Where rounding has robbed
        the block of its rank, a random vector takes the place."""
        tiny = jnp.finfo(x.dtype).tiny

        def unit(v):
            length = jnp.sqrt(self._sum(v * v))
            return v * jnp.where(length > tiny, 1 / jnp.maximum(length, tiny), 0)[self.codes]

        def next_vector(basis, column):
            j, v, other = column
            has_room = (self.sizes > j + 1)[self.codes]
            v = jnp.where(has_room, unit(v) + _DISTURBANCE * unit(other), 0)
            for _ in range(2):
                v = unit(v)
                along = self._sum(basis * v[:, None])
                v = v - jnp.sum(basis * along[self.codes], axis=1)
            return basis.at[:, j + 1].set(unit(v)), None

        empty = jnp.zeros_like(x, shape=(x.shape[0], x.shape[1] + 1)) + 0 * x[:, :1]
        columns = jnp.arange(x.shape[1], dtype=jnp.int32), x.T, self.spare.T
        return lax.scan(next_vector, empty.at[:, 0].set(self.trivial), columns)[0][:, 1:]

    def gram(self, basis: Float[Array, "n w"], image: Float[Array, "n w"]):
        """Inner products of all pairs; what is missing is an eigenvalue below all others."""
        rows = lax.map(lambda v: self._sum(basis * v[:, None]), image.T)  # (w, parts, w)
        present = self._sum(basis * basis) > 0.5
        missing = jnp.where(present, 0.0, _MISSING)
        return jnp.moveaxis(rows, 0, 1) + jax.vmap(jnp.diag)(missing)

    def rotate(self, basis: Float[Array, "n w"], vectors: Float[Array, "parts w c"]):
        """Combinations of the basis; 0 where it has too few vectors."""

        def add(total, term):
            v, mix = term
            return total + v[:, None] * mix[self.codes], None

        none = jnp.zeros_like(basis, shape=(basis.shape[0], vectors.shape[2])) + 0 * basis[:, :1]
        return lax.scan(add, none, (basis.T, jnp.moveaxis(vectors, 1, 0)))[0]

    def spread(self, value: Float[Array, " parts"]) -> Float[Array, "n 1"]:
        """The value of its component at every point."""
        return value[self.codes][:, None]
