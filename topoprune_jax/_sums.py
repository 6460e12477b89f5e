"""Sums over the rows that entries belong to, with the same bits in every run on any device."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from ._types import Array

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

    return lax.platform_dependent(values, rows, cpu=in_order, default=in_any_order)


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
