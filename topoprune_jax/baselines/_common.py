"""What all baselines share: the result, the checks, and the shares of the classes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Bool, Float, Int

from .. import _checks as checks
from .._select import interleave, kept_count
from .._types import Array, ArrayInput, Key

_DEFAULT_SEED = 0


class Pruning(eqx.Module):
    """What a baseline returns: the fields of `rank`'s result that every method has.

    **Attributes:**

    - `scores`: (n,) the method's own score; its docstring says which end is kept.
    - `order`: (n,) int32, every sample once, the best to keep first.
    - `kept`: (m,) int32, the first m of `order`, m = `kept_count(n, ratio)`.
    - `removed`: (n - m,) int32, the rest of `order`.
    """

    scores: Float[Array, " n"]
    order: Int[Array, " n"]
    kept: Int[Array, " m"]
    removed: Int[Array, " n-m"]


def checked(
    features: ArrayInput, ratio: float, labels: ArrayInput | None, key: Key | None
) -> tuple[Float[Array, "n d"], int, Int[Array, " n"] | None, Key]:
    """Points, the number kept, class codes where there are labels, and the key."""
    points = checks.check_points(features, name="features")
    n = points.shape[0]
    n_kept = kept_count(n, ratio)
    codes = None if labels is None else checks.check_labels(labels, n)
    return points, n_kept, codes, default_key(key)


def default_key(key: Key | None) -> Key:
    """The key given, or `rank`'s default."""
    return checks.check_key(jax.random.key(_DEFAULT_SEED) if key is None else key)


def pruning(scores: Float[Array, " n"], order: Int[Array, " n"], n_kept: int) -> Pruning:
    """The result for an order of all samples."""
    order = order.astype(jnp.int32)
    return Pruning(scores, order, order[:n_kept], order[n_kept:])


def by_class(order: Int[Array, " n"], codes: Int[Array, " n"] | None) -> Int[Array, " n"]:
    """The order with every class in it in proportion to its size, as `select` does it."""
    return order if codes is None else interleave(order, codes)


def in_each_class(
    function: Partial,
    points: Float[Array, "n d"],
    codes: Int[Array, " n"] | None,
    *,
    key: Key,
) -> tuple[Float[Array, " n"], Int[Array, " n"]]:
    """Scores, and the order of all samples, from a function that sees one class at a time.

    `function(points (w, d), valid (w,), key)` returns (scores (w,), order (w,)) of the rows, of
    which those that are not valid are padding: they may hold anything and must come last in the
    order. All classes are padded to the size of the largest, and looked at one after the other.
    It is a `jax.tree_util.Partial` of a function of a module, which is compiled once for a shape.
    """
    n = points.shape[0]
    if codes is None:
        return function(points, jnp.ones(n, bool), key)
    members, valid = class_rows(codes)
    return _mapped(function, points, codes, members, valid, key)


@jax.jit
def _mapped(function, points, codes, members, valid, key) -> tuple[Array, Array]:
    n = points.shape[0]
    keys = jax.random.split(key, members.shape[0])

    def one(operands: tuple[Array, Array, Key]) -> tuple[Array, Array]:
        rows, fine, key = operands
        return function(points[rows], fine, key)

    scores, orders = jax.lax.map(one, (members, valid, keys))
    everyone = jnp.where(valid, members, n)
    whole = jnp.zeros(n + 1, scores.dtype).at[everyone].set(scores)[:n]
    ordered = jnp.take_along_axis(everyone, orders, axis=1).ravel()
    ordered = ordered[jnp.argsort(ordered == n, stable=True)][:n]
    return whole, interleave(ordered, codes)


def known_codes(codes: Int[Array, " n"]) -> np.ndarray:
    """The class codes, where the number and the sizes of the classes decide shapes."""
    if checks.is_traced(codes):
        raise TypeError(
            "`labels` cannot be traced by JAX here, because the sizes of the classes decide the "
            f"shapes; got a traced array of shape {codes.shape}. "
            "Let the traced function close over them, or call this outside of it."
        )
    return np.asarray(codes)


def class_rows(codes: Int[Array, " n"]) -> tuple[Int[Array, "g w"], Bool[Array, "g w"]]:
    """The samples of every class in a row, padded with sample 0 to the size of the largest."""
    values = known_codes(codes)
    sizes = np.bincount(values)
    order = np.argsort(values, kind="stable")
    column = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    members = np.zeros((len(sizes), sizes.max()), np.int32)
    valid = np.zeros(members.shape, bool)
    members[values[order], column] = order
    valid[values[order], column] = True
    return jnp.asarray(members), jnp.asarray(valid)
