"""Sums over many rows, with the same bits in every run on any device of a kind.

A CPU divides long sums among its threads, and how many there are would tell in the last bits: of
the machine, or of the devices that JAX is told to make of it.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from . import _backend as backend
from ._distance import product, varying_with
from ._types import Array

_AT_ONCE = 1024  # rows whose product one thread makes, if it is small
_SMALL = 576  # numbers of such a product
_MULTIPLIED = 128  # rows of a larger one: threads divide its numbers among them, but no sum
_WORD = 30  # bits of a sum in one integer
_WORDS = 3


def sums_by_row(
    values: Float[Array, "e *w"],
    rows: Int[Array, " e"],
    n_rows: int,
    *,
    most: int | Int[Array, ""],
    top: Float[Array, " *w"] | None = None,
    is_sorted: bool = False,
) -> Float[Array, "n *w"]:
    """The sum of the values of every row; a row beyond the last is nobody's.

    A CPU adds in the order of the entries. An accelerator adds in any order, which rounding
    would tell; there a value is the sum of whole numbers of three units, whose sums do not round.
    With `most`, the most entries that a row has, and `top`, the largest absolute value (of each
    column), what is left of a value is at most top (4 most / 2^30)^3.
    """

    def in_order(values, rows):
        return jax.ops.segment_sum(values, rows, n_rows, indices_are_sorted=is_sorted)

    def in_any_order(values, rows):
        reach = jnp.max(jnp.abs(values), axis=0) if top is None else top
        return _in_any_order(values, rows, n_rows, most, reach, is_sorted)

    return backend.by_platform(values, rows, cpu=in_order, default=in_any_order)


def over_rows(a: Float[Array, "n v"], b: Float[Array, "n w"]) -> Float[Array, "v w"]:
    """a^T b; on a CPU some rows after the others."""

    def in_pieces(a, b):
        n = a.shape[0]
        rows = _AT_ONCE if a.shape[1] * b.shape[1] <= _SMALL else _MULTIPLIED
        if n <= rows:
            return product(a.T, b)

        def add(total, start):
            # The last rows reach back, over rows that were added already.
            first = jnp.minimum(start, n - rows)
            some, others = (lax.dynamic_slice_in_dim(x, first, rows) for x in (a, b))
            is_new = first + jnp.arange(rows, dtype=jnp.int32) >= start
            return total + product(jnp.where(is_new[:, None], some, 0).T, others), None

        nothing = varying_with(jnp.zeros((a.shape[1], b.shape[1]), a.dtype), a)
        return lax.scan(add, nothing, jnp.arange(0, n, rows, dtype=jnp.int32))[0]

    def at_once(a, b):
        return product(a.T, b)

    return backend.by_platform(a, b, cpu=in_pieces, default=at_once)


def mean_row(x: Float[Array, "n w"]) -> Float[Array, " w"]:
    """The mean of the rows."""
    return over_rows(jnp.ones_like(x[:, :1]), x)[0] / x.shape[0]


def _in_any_order(values, rows, n_rows, most, top, is_sorted):
    bits = jnp.frexp(jnp.asarray(most, values.dtype))[1]  # most < 2^bits
    exponent = jnp.frexp(top)[1] + bits - _WORD
    total = jnp.zeros((n_rows, *values.shape[1:]), values.dtype)
    for _ in range(_WORDS):
        unit = _power(exponent, values.dtype)
        whole = jnp.round(values / unit[None])
        words = whole.astype(jnp.int32)
        sums = jax.ops.segment_sum(words, rows, n_rows, indices_are_sorted=is_sorted)
        total = total + sums.astype(values.dtype) * unit[None]
        values = values - whole * unit[None]
        exponent = exponent + bits - _WORD
    return total


def _power(exponent: Int[Array, " *w"], dtype) -> Float[Array, " *w"]:
    """2^exponent, by which nothing is rounded; the least number where there is none."""
    limits = jnp.finfo(dtype)
    exponent = jnp.clip(exponent, limits.minexp, limits.maxexp - 1)
    return jnp.ldexp(jnp.ones(exponent.shape, dtype), exponent)
