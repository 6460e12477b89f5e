"""Linear discriminant coordinates: the directions of the features in which classes differ."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from . import _checks as checks
from ._axes import along, changed, even_rows, evenly
from ._distance import product, rescale, unit_rows
from ._noise import noise_of
from ._ring import Rows
from ._sums import over_rows
from ._types import Array, ArrayInput

AUTO = "auto"
FEATURES, BESIDE, ALONE = "features", "discriminant_features", "discriminant_coordinates"
SPACES = (AUTO, FEATURES, BESIDE, ALONE)
_SHRINKAGE = 1e-3
_NOISY = 0.125  # share of the variance from which `rank` takes features for noisy
_SAMPLES_A_FEATURE = 10  # without which a discriminant finds differences that chance has made


def check_space(space: str) -> None:
    """Raises unless it names a space in which `rank` compares samples."""
    if not isinstance(space, str) or space not in SPACES:
        got = repr(space) if isinstance(space, str) else type(space).__name__
        checks.refuse(f"`space` must be one of {', '.join(map(repr, SPACES))}; got {got}.")


def space_for(points: Array | Rows, codes: Int[Array, " n"]) -> str:
    """What "auto" means: discriminant coordinates where features are noisy, and where there are
    samples enough to tell what separates the classes."""
    n, d = points.shape
    n_classes = n_classes_of(codes)
    if n_classes < 2 or not are_enough(n, d, n_classes):
        return FEATURES
    return ALONE if float(noise_of(points)) > _NOISY else FEATURES


def are_enough(n: int, d: int, n_classes: int = 2) -> bool:
    """Whether so many samples of d features tell what separates their classes; else nobody asks how
    noisy they are."""
    return n - n_classes >= _SAMPLES_A_FEATURE * d


def n_classes_of(codes: Int[Array, " n"]) -> int:
    """Classes, of codes that are known."""
    return int(np.asarray(codes).max()) + 1


def in_space(points: Array | Rows, codes: Int[Array, " n"], space: str) -> Array | Rows:
    """Features, as far as they are scaled, with or in the coordinates that `space` names, where
    they lie. Many points are looked at in the directions that an even sample of them tells."""
    n, d = points.shape
    n_classes = _several(codes)
    c = coordinates_of(d, n_classes)
    sample, some = evenly(points), jnp.asarray(np.asarray(codes)[even_rows(n)])
    center, axes, shares = _fitted(sample, some, _SHRINKAGE, c=c, n_classes=n_classes)
    if space == ALONE:
        return changed(points, along, center, axes)
    return changed(points, _beside, center, axes * shares[1], shares[0])


def coordinates_of(d: int, n_classes: int) -> int:
    """Coordinates that d features of so many classes have."""
    return min(d, n_classes - 1)


def discriminant_coordinates(
    features: ArrayInput,
    labels: ArrayInput,
    *,
    n_components: int | None = None,
    shrinkage: float = _SHRINKAGE,
    normalize: bool = True,
) -> Float[Array, "n c"]:
    r"""The features in the linear combinations that tell the classes apart best.

    With x_i the features of sample i scaled to unit length, m_c the mean of class c and m the mean
    of the class means, the coordinates are

        z_i = V^T S^(-1/2) (x_i - m),   S = (1 - a) W + a tr(W) / d I,
        W = 1/n sum_i (x_i - m_{y_i}) (x_i - m_{y_i})^T,

    where a is the `shrinkage` and the columns of V are the first eigenvectors of the scatter of the
    class means in the same measure, sum_c S^(-1/2) (m_c - m) (m_c - m)^T S^(-1/2). Within a class
    the coordinates have the identity for covariance, as far as a lets them.

    What the features say apart from the classes is left out, noise above all, but all that is
    different within a class too: of C classes there are at most C - 1 coordinates.
    `discriminant_features` has them beside the features.

    **Arguments:**

    - `features`: (n, d), finite.
    - `labels`: (n,) classes, two at least.
    - `n_components`: c, at most d and the number of classes less 1; that many unless given.
      While JAX traces the labels it must be given, and coordinates beyond the number of classes
      less 1 are any that are left.
    - `shrinkage`: a, from 0 to 1; 1 measures all directions alike. Above 0 no direction is lost
      where W is singular, as with fewer samples than features.
    - `normalize`: whether rows are scaled to unit length first, as in `rank`. A single column
      never is.

    **Returns:** (n, c), the coordinate that tells most first; each up to its sign.

    **Raises:** TypeError or ValueError with one sentence for features that are no finite 2-D array,
    labels of another length or of one class, or an option out of range.

    Works under `jit` and `vmap`; not differentiable where eigenvalues are equal. Time is
    O(n d^2 + d^3), memory O(n d + d^2).

    Source: Fisher 1936, for two classes; Rao 1948, for more.

    ```python
    >>> import topoprune_jax as tp
    >>> features = [[1.0, 0.3], [1.0, -0.3], [0.8, 0.3], [0.8, -0.3]]
    >>> z = tp.discriminant_coordinates(features, [0, 0, 1, 1], normalize=False)
    >>> z.shape, bool(abs(z[0, 0] - z[1, 0]) < 1e-3 * abs(z[0, 0] - z[2, 0]))
    ((4, 1), True)

    ```
    """
    given, sizes = _checked(features, labels, n_components, shrinkage)
    return _made(*given, 0.0, **sizes, normalize=bool(normalize), beside=False)


def discriminant_features(
    features: ArrayInput,
    labels: ArrayInput,
    *,
    weight: float = 1.0,
    n_components: int | None = None,
    shrinkage: float = _SHRINKAGE,
    normalize: bool = True,
) -> Float[Array, "n _"]:
    r"""The features with their `discriminant_coordinates` beside them, for a ranking with labels.

        y_i = [x_i / sqrt(tr W), b z_i / sqrt(c)],

    where x_i are the features of sample i scaled to unit length, W their covariance within classes,
    z_i the c discriminant coordinates and b the `weight`: at b = 1 either part has 1 for the mean
    squared distance of a sample to its class's mean. Noise in many dimensions makes all distances
    of x alike, and those of z, in which every feature has a share, less so; what differs within a
    class still counts. `rank(features, ratio, labels=labels, space="discriminant_features")` ranks
    them, and does the same as

        x = discriminant_features(features, labels)
        rank(x, ratio, labels=labels, space="features", normalize=False).

    What they and `discriminant_coordinates` alone are worth on noisy features of two networks
    stands in the deciding test of benchmarks/README.md.

    **Arguments:**

    - `features`, `labels`, `n_components`, `shrinkage`, `normalize`: as for
      `discriminant_coordinates`.
    - `weight`: b, at least 0; 0 leaves the features alone.

    **Returns:** (n, d + c).

    **Raises:** as `discriminant_coordinates`.

    Works under `jit` and `vmap`; not differentiable where eigenvalues are equal.

    ```python
    >>> import topoprune_jax as tp
    >>> features = [[1.0, 0.3], [1.0, -0.3], [0.8, 0.3], [0.8, -0.3]]
    >>> tp.discriminant_features(features, [0, 0, 1, 1]).shape
    (4, 3)

    ```
    """
    weight = checks.check_number(weight, name="weight", low=0)
    given, sizes = _checked(features, labels, n_components, shrinkage)
    return _made(*given, weight, **sizes, normalize=bool(normalize), beside=True)


def _checked(features, labels, n_components, shrinkage) -> tuple[tuple[Any, ...], dict[str, int]]:
    """Points, class codes and shrinkage; the numbers of coordinates and of classes."""
    points = checks.check_points(features, name="features", min_points=2)
    n, d = points.shape
    codes = checks.check_labels(labels, n)
    shrinkage = checks.check_number(shrinkage, name="shrinkage", low=0, high=1)
    if checks.is_traced(codes):
        if n_components is None:
            raise ValueError(
                "`n_components` must be given while JAX traces `labels`, whose number of classes "
                "nothing tells there; got None. Pass the number of classes less 1."
            )
        c = checks.check_count(n_components, name="n_components", low=1, high=min(d, n - 1))
        return (points, codes, shrinkage), {"c": c, "n_classes": n}
    n_classes = _several(codes)
    most = coordinates_of(d, n_classes)
    hint = f"{n_classes} classes of {d} features have no more coordinates."
    wanted = most if n_components is None else n_components
    c = checks.check_count(wanted, name="n_components", low=1, high=most, hint=hint)
    return (points, codes, shrinkage), {"c": c, "n_classes": n_classes}


def _several(codes: Int[Array, " n"]) -> int:
    """How many classes there are: two at least."""
    n_classes = n_classes_of(codes)
    if n_classes < 2:
        checks.refuse(
            "`labels` must hold two classes or more; got one. Without classes use the features "
            "themselves, or `principal_components`."
        )
    return n_classes


@partial(jax.jit, static_argnames=("c", "n_classes", "normalize", "beside"))
def _made(
    points: Float[Array, "n d"],
    codes: Int[Array, " n"],
    shrinkage,
    weight,
    *,
    c: int,
    n_classes: int,
    normalize: bool,
    beside: bool,
) -> Float[Array, "n _"]:
    """The coordinates, or the features with them: one program, which holds neither twice."""
    if normalize and points.shape[1] > 1:
        points = unit_rows(points)
    # No coordinate depends on the place or the scale of the features.
    points, _ = rescale(points)
    center, axes, spread = _directions(points, codes, shrinkage, c=c, n_classes=n_classes)
    z = product(points - center[None, :], axes)
    if not beside:
        return z
    b = jnp.asarray(weight, points.dtype) / jnp.asarray(c**0.5, points.dtype)
    return jnp.concatenate([points / _root(spread), b * z], axis=1)


@partial(jax.jit, static_argnames=("c", "n_classes"))
def _fitted(points, codes, shrinkage, *, c: int, n_classes: int) -> tuple[Array, Array, Array]:
    """What `along` takes, and what features and coordinates beside each other are multiplied by."""
    center, axes, spread = _directions(points, codes, shrinkage, c=c, n_classes=n_classes)
    return center, axes, jnp.stack([1 / _root(spread), jnp.asarray(c**-0.5, points.dtype)])


def _beside(rows, center, axes, share) -> Float[Array, "m _"]:
    # No quotient, which some programs make a product of.
    return jnp.concatenate([rows * share, along(rows, center, axes)], axis=1)


def _root(spread: Float[Array, ""]) -> Float[Array, ""]:
    return jnp.where(spread > 0, jnp.sqrt(jnp.where(spread > 0, spread, 1)), 1)


def _directions(
    points: Float[Array, "n d"],
    codes: Int[Array, " n"],
    shrinkage,
    *,
    c: int,
    n_classes: int,
) -> tuple[Float[Array, " d"], Float[Array, "d c"], Float[Array, ""]]:
    """The mean of the class means, the axes of the coordinates, and tr W."""
    n, d = points.shape
    dtype = points.dtype
    size = jax.ops.segment_sum(jnp.ones(n, dtype), codes, n_classes)
    is_class = size > 0  # while JAX traces there may be fewer than n_classes
    total = jax.ops.segment_sum(points, codes, n_classes)
    means = total / jnp.maximum(size, 1)[:, None]
    center = jnp.sum(jnp.where(is_class[:, None], means, 0), axis=0) / jnp.sum(
        is_class.astype(dtype)
    )
    residual = points - means[codes]
    scatter = over_rows(residual, residual) / n
    spread = jnp.trace(scatter) / d
    a = jnp.asarray(shrinkage, dtype)
    scatter = (1 - a) * scatter + a * spread * jnp.eye(d, dtype=dtype)
    values, vectors = jnp.linalg.eigh(scatter)
    # Without any spread within classes, of some direction or of all, there is none to divide by.
    least = jnp.maximum(values[-1] * d * jnp.finfo(dtype).eps, jnp.finfo(dtype).tiny)
    whitening = vectors / jnp.sqrt(jnp.maximum(values, least))[None, :]
    whitening = jnp.where(spread > 0, whitening, jnp.eye(d, dtype=dtype))
    apart = product(means - center[None, :], whitening)
    apart = jnp.where(is_class[:, None], apart, 0)
    directions = jnp.linalg.eigh(over_rows(apart, apart))[1][:, ::-1][:, :c]
    return center, product(whitening, directions), spread * d
