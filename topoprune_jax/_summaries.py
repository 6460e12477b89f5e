"""What a persistence diagram says in a few numbers."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ._checks import as_array, check_count, check_finite, check_instance, check_number, static
from ._diagram import Diagram, check_dims
from ._distance import product
from ._types import Array, ArrayInput

_LEAST_WIDTH = float(np.finfo(np.float32).tiny)


def total_persistence(
    diagram: Diagram, *, power: float = 1.0, dims: Sequence[int] | None = None
) -> Float[Array, "*batch"]:
    r"""The sum of all finite lifetimes, each to a power.

    $$L_p = \sum_{i \,:\, d_i < \infty} (d_i - b_i)^p$$

    Cohen-Steiner, Edelsbrunner, Harer and Mileyko, *Lipschitz functions have $L_p$-stable
    persistence* (2010), section 2. Essential classes and empty slots contribute 0, and so does a
    bar of zero length, in value and in derivative, whatever the power. Differentiable in the births
    and deaths.

    **Arguments:**

    - `diagram`: a `Diagram`, of one point cloud or of a batch.
    - `power`: p > 0.
    - `dims`: the homology dimensions to sum over, by default all of the diagram.

    **Returns:** a scalar for each point cloud; NaN if its diagram is NaN.

    **Raises:** TypeError or ValueError for a `diagram` of another type or a `power` that is not a
    positive number, and ValueError for `dims` that the diagram does not have.

    !!! example

        ```python
        >>> import jax.numpy as jnp
        >>> from topoprune_jax import total_persistence, vietoris_rips
        >>> line = jnp.array([[0.0], [1.0], [3.0]])
        >>> float(total_persistence(vietoris_rips(line, dims=(0,)), power=2.0))
        5.0

        ```
    """
    _check_diagram(diagram)
    power = check_power(power)
    lifetimes = diagram.lifetimes
    chosen = jnp.asarray(_slots(diagram, dims))
    # NaN must reach the sum, so what is left out is named, and not what is kept.
    left_out = (lifetimes == 0) | jnp.isinf(lifetimes) | ~jnp.broadcast_to(chosen, lifetimes.shape)
    powers = jnp.where(left_out, 1, lifetimes) ** power
    return jnp.sum(jnp.where(left_out, 0, powers), axis=-1)


def persistent_entropy(
    diagram: Diagram, *, dims: Sequence[int] | None = None
) -> Float[Array, "*batch"]:
    r"""The Shannon entropy of the lifetimes' shares: how many bars there are that matter.

    $$E = -\sum_i p_i \log p_i, \qquad p_i = \frac{d_i - b_i}{\sum_j (d_j - b_j)}.$$

    Chintakunta et al., *An entropy-based persistence barcode* (2015); Atienza, Gonzalez-Diaz and
    Soriano-Trigueros, *On the stability of persistent entropy* (2020). Bars of the same length give
    the logarithm of their number. Essential classes and empty slots contribute 0. Differentiable in
    the births and deaths.

    **Arguments:** `diagram`, `dims`: as for `total_persistence`.

    **Returns:** a scalar for each point cloud, in nats; 0 without any bar, NaN if its diagram is.

    **Raises:** TypeError for a `diagram` of another type, ValueError for `dims` it does not have.

    !!! example

        ```python
        >>> from topoprune_jax import persistent_entropy, vietoris_rips
        >>> diagram = vietoris_rips([[0.0], [1.0], [2.0], [3.0], [4.0]], dims=(0,))
        >>> round(float(persistent_entropy(diagram)), 4)  # log 4
        1.3863

        ```
    """
    lifetimes, kept = _finite_bars(diagram, dims)
    # NaN must reach the sum, and a share of 0 must not reach the logarithm.
    total = jnp.sum(lifetimes, axis=-1, keepdims=True)
    shares = lifetimes / jnp.where(total == 0, 1, total)
    counts = kept & (shares != 0)
    return -jnp.sum(shares * jnp.log(jnp.where(counts, shares, 1)), axis=-1)


def betti_curve(
    diagram: Diagram, grid: ArrayInput, *, dim: int, smoothing: float | None = None
) -> Float[Array, "*batch t"]:
    r"""How many classes are alive at every scale of a grid.

    $$\beta(t) = \sum_i 1[b_i \le t < d_i], \qquad \beta_s(t) =
    \sum_i \sigma\Bigl(\frac{t - b_i}{s}\Bigr)\, \sigma\Bigl(\frac{d_i - t}{s}\Bigr),$$

    the second with `smoothing` s, where $\sigma$ is the logistic function: it tends to the first as
    s tends to 0 and has a derivative, which the first has not. Essential classes stay alive.

    Umeda, *Time series classification via topological data analysis* (2017), for the curve.

    **Arguments:**

    - `diagram`: of one point cloud or of a batch.
    - `grid`: `(t,)` scales.
    - `dim`: the homology dimension.
    - `smoothing`: s > 0, in the unit of the points; None for the step function.

    **Returns:** `(t,)` for each point cloud; NaN if its diagram is.

    **Raises:** TypeError or ValueError for a diagram, grid, dimension or `smoothing` of no use.

    !!! example

        ```python
        >>> from topoprune_jax import betti_curve, vietoris_rips
        >>> diagram = vietoris_rips([[0.0], [1.0], [3.0]], dims=(0,))
        >>> betti_curve(diagram, [0.5, 1.5, 2.5], dim=0).tolist()
        [3.0, 2.0, 1.0]

        ```
    """
    births, deaths, exists = _bars_of(diagram, dim)
    t = _check_grid(grid, births.dtype)
    t = t.reshape((1,) * (births.ndim - 1) + (1, t.shape[0]))
    b, d, exists = births[..., None], deaths[..., None], exists[..., None]
    if smoothing is None:
        alive = ((b <= t) & (t < d)).astype(births.dtype)
        alive = jnp.where(jnp.isnan(b), jnp.nan, alive)
    else:
        s = check_number(smoothing, name="smoothing", low=_LEAST_WIDTH)
        endless = jnp.isinf(d)
        dies = jnp.where(endless, 1, jax.nn.sigmoid((jnp.where(endless, 0, d) - t) / s))
        alive = jax.nn.sigmoid((t - b) / s) * dies
    return jnp.sum(jnp.where(exists, alive, 0), axis=-2)


def persistence_landscape(
    diagram: Diagram, grid: ArrayInput, *, dim: int, n_layers: int = 3
) -> Float[Array, "*batch l t"]:
    r"""The largest, second largest, ... of the tents over the bars, at every scale of a grid.

    $$\lambda_l(t) = l\text{-th largest over } i \text{ of } \max(0, \min(t - b_i, d_i - t)).$$

    Bubenik, *Statistical topological data analysis using persistence landscapes* (2015). Each layer
    moves by at most the bottleneck distance of the diagrams. Essential classes are left out.
    Differentiable in the births and deaths, but where tents cross.

    **Arguments:** `diagram`, `grid`, `dim`: as for `betti_curve`; `n_layers`: l, at least 1.

    **Returns:** `(l, t)` for each point cloud; NaN if its diagram is.

    **Raises:** TypeError or ValueError for a diagram, grid, dimension or count of no use.

    !!! example

        ```python
        >>> from topoprune_jax import persistence_landscape, vietoris_rips
        >>> diagram = vietoris_rips([[0.0], [1.0], [3.0]], dims=(0,))
        >>> persistence_landscape(diagram, [0.5, 1.0], dim=0, n_layers=2).tolist()
        [[0.5, 1.0], [0.5, 0.0]]

        ```
    """
    n_layers = check_count(n_layers, name="n_layers", low=1)
    tents = _tents(diagram, grid, dim)[0]
    missing = max(0, n_layers - tents.shape[-2])
    tents = jnp.pad(tents, [(0, 0)] * (tents.ndim - 2) + [(0, missing), (0, 0)])
    # NaN sorts to the top, and a poisoned cloud is NaN everywhere.
    layers = jax.lax.top_k(jnp.swapaxes(tents, -1, -2), n_layers)[0]
    return jnp.swapaxes(layers, -1, -2)


def persistence_silhouette(
    diagram: Diagram, grid: ArrayInput, *, dim: int, power: float = 1.0
) -> Float[Array, "*batch t"]:
    r"""The mean of the tents over the bars, weighted by lifetime to a power.

    $$\phi(t) = \frac{\sum_i (d_i - b_i)^p \max(0, \min(t - b_i, d_i - t))}
    {\sum_i (d_i - b_i)^p}.$$

    Chazal, Fasy, Lecci, Rinaldo and Wasserman, *Stochastic convergence of persistence landscapes
    and silhouettes* (2014). Essential classes are left out. Differentiable in births and deaths.

    **Arguments:** `diagram`, `grid`, `dim`: as for `betti_curve`; `power`: p > 0.

    **Returns:** `(t,)` for each point cloud; 0 without any bar, NaN if its diagram is.

    **Raises:** TypeError or ValueError for a diagram, grid, dimension or power of no use.

    !!! example

        ```python
        >>> from topoprune_jax import persistence_silhouette, vietoris_rips
        >>> diagram = vietoris_rips([[0.0], [1.0], [3.0]], dims=(0,))
        >>> persistence_silhouette(diagram, [0.5, 1.0], dim=0).tolist()
        [0.5, 0.6666666865348816]

        ```
    """
    power = check_power(power)
    tents, lifetimes = _tents(diagram, grid, dim)
    apart = lifetimes != 0
    weights = jnp.where(apart, jnp.where(apart, lifetimes, 1) ** power, 0)
    total = jnp.sum(weights, axis=-1)[..., None]
    weighted = jnp.sum(weights[..., None] * tents, axis=-2)
    return weighted / jnp.where(total == 0, 1, total)


def persistence_image(
    diagram: Diagram,
    *,
    dim: int,
    birth_range: tuple[float, float],
    lifetime_range: tuple[float, float],
    resolution: tuple[int, int] = (16, 16),
    bandwidth: float,
    power: float = 1.0,
) -> Float[Array, "*batch r s"]:
    r"""The bars as a picture: Gaussians over birth and lifetime, integrated over pixels.

    $$I(P) = \sum_i w(l_i) \int_P \frac{1}{2 \pi s^2}
    e^{-((x - b_i)^2 + (y - l_i)^2) / 2 s^2}\, dx\, dy, \qquad l_i = d_i - b_i, \quad
    w(l) = (l / l_{max})^p,$$

    where $l_{max}$ is the upper end of `lifetime_range`. Adams et al., *Persistence images* (2017).
    The integrals are exact. Essential classes are left out. Differentiable in births and deaths.

    **Arguments:**

    - `diagram`, `dim`: as for `betti_curve`.
    - `birth_range`, `lifetime_range`: lower and upper end, in the unit of the points.
    - `resolution`: (r, s), number of pixels along births and along lifetimes.
    - `bandwidth`: s > 0, in the unit of the points.
    - `power`: p > 0 of the weight.

    **Returns:** `(r, s)` for each point cloud: what lies outside of the picture is left out. NaN if
    its diagram is.

    **Raises:** TypeError or ValueError for a diagram, range, resolution or number of no use.

    !!! example

        ```python
        >>> from topoprune_jax import persistence_image, vietoris_rips
        >>> square = vietoris_rips([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        >>> ranges = {"birth_range": (0.0, 2.0), "lifetime_range": (0.0, 1.0)}
        >>> image = persistence_image(square, dim=1, **ranges, resolution=(4, 2), bandwidth=0.01)
        >>> [round(float(row.sum()), 3) for row in image]
        [0.0, 0.207, 0.207, 0.0]

        ```
    """
    power = check_power(power)
    births, deaths, exists = _bars_of(diagram, dim)
    r, s = (check_count(n, name="resolution", low=1) for n in _pair(resolution, "resolution"))
    width = check_number(bandwidth, name="bandwidth", low=_LEAST_WIDTH)
    finite = exists & ~jnp.isinf(deaths)
    lifetimes = jnp.where(finite, jnp.where(finite, deaths, births) - births, 0)
    top = _check_range(lifetime_range, "lifetime_range")[1]
    if top <= 0:
        raise ValueError(f"`lifetime_range` must end above 0; got {lifetime_range}.")
    apart = lifetimes != 0
    weights = jnp.where(apart, (jnp.where(apart, lifetimes, top) / top) ** power, 0)

    def mass(centers: Array, ends: tuple[float, float], name: str, n: int) -> Array:
        """Of a Gaussian around each center, in each of n intervals."""
        low, high = _check_range(ends, name)
        edges = jnp.linspace(low, high, n + 1, dtype=centers.dtype)
        edges = edges.reshape((1,) * centers.ndim + (n + 1,))
        return jnp.diff(jax.scipy.stats.norm.cdf((edges - centers[..., None]) / width), axis=-1)

    along_births = mass(births, birth_range, "birth_range", r)
    along_lifetimes = mass(lifetimes, lifetime_range, "lifetime_range", s)
    return product(jnp.swapaxes(weights[..., None] * along_births, -1, -2), along_lifetimes)


def sliced_wasserstein(
    first: Diagram, second: Diagram, *, dim: int, n_directions: int = 50
) -> Float[Array, "*batch"]:
    r"""The sliced Wasserstein distance of two diagrams: cheap, and differentiable in both.

    $$SW = \frac{1}{M} \sum_{m=1}^{M} W_1\bigl(\langle A \cup \Delta B, \theta_m \rangle,
    \langle B \cup \Delta A, \theta_m \rangle\bigr),$$

    where $\Delta$ projects onto the diagonal, $\theta_m$ are directions spread evenly over a half
    circle, and $W_1$ on a line is the distance of the sorted values. Carriere, Cuturi and Oudot,
    *Sliced Wasserstein kernel for persistence diagrams* (2017), definition 3.1. Essential classes
    are left out.

    **Arguments:**

    - `first`, `second`: diagrams, of one point cloud or of batches of the same shape.
    - `dim`: the homology dimension.
    - `n_directions`: M, at least 1.

    **Returns:** a scalar for each pair, in the unit of the points; NaN if one of them is.

    **Raises:** TypeError or ValueError for diagrams, a dimension or a count of no use.

    !!! example

        ```python
        >>> from topoprune_jax import sliced_wasserstein, vietoris_rips
        >>> short, long = (vietoris_rips([[0.0], [x]], dims=(0,)) for x in (1.0, 1.5))
        >>> float(sliced_wasserstein(short, short, dim=0))
        0.0
        >>> round(float(sliced_wasserstein(short, long, dim=0, n_directions=1000)), 3)
        0.454

        ```
    """
    n_directions = check_count(n_directions, name="n_directions", low=1)
    ours, theirs = (_finite_points(diagram, dim) for diagram in (first, second))
    angles = (np.arange(n_directions) + 0.5) * (np.pi / n_directions) - np.pi / 2
    directions = jnp.asarray(np.stack([np.cos(angles), np.sin(angles)]), ours.dtype)

    def onto_diagonal(points: Array) -> Array:
        return jnp.broadcast_to(jnp.mean(points, axis=-1, keepdims=True), points.shape)

    # An empty slot is the point (0, 0) on both sides, which changes no distance on a line.
    left = product(jnp.concatenate([ours, onto_diagonal(theirs)], axis=-2), directions)
    right = product(jnp.concatenate([theirs, onto_diagonal(ours)], axis=-2), directions)
    gaps = jnp.abs(jnp.sort(left, axis=-2) - jnp.sort(right, axis=-2))
    return jnp.mean(jnp.sum(gaps, axis=-2), axis=-1)


def _finite_bars(diagram: Diagram, dims: Sequence[int] | None) -> tuple[Array, Array]:
    """Lifetimes, 0 where there is no finite bar of `dims`, and where there is one."""
    _check_diagram(diagram)
    lifetimes = diagram.lifetimes
    chosen = jnp.broadcast_to(jnp.asarray(_slots(diagram, dims)), lifetimes.shape)
    kept = chosen & ~jnp.isinf(lifetimes)
    return jnp.where(kept, jnp.where(kept, lifetimes, 1), 0), kept


def _bars_of(diagram: Diagram, dim: int) -> tuple[Array, Array, Array]:
    """Births, deaths and existence of the slots of one dimension; those of NaN exist."""
    _check_diagram(diagram)
    chosen = np.flatnonzero(_slots(diagram, (check_count(dim, name="dim", low=0, high=2),)))
    births, deaths = diagram.births[..., chosen], diagram.deaths[..., chosen]
    return births, deaths, diagram.valid[..., chosen] | jnp.isnan(births)


def _finite_points(diagram: Diagram, dim: int) -> Float[Array, "*batch p 2"]:
    """(birth, death) of the finite bars of one dimension, (0, 0) elsewhere."""
    births, deaths, exists = _bars_of(diagram, dim)
    finite = exists & ~jnp.isinf(deaths)
    return jnp.where(finite[..., None], jnp.stack([births, deaths], axis=-1), 0)


def _tents(diagram: Diagram, grid: ArrayInput, dim: int) -> tuple[Array, Array]:
    """max(0, min(t - b, d - t)) for every finite bar and scale, and the lifetimes."""
    bars = _finite_points(diagram, dim)
    births, deaths = bars[..., 0], bars[..., 1]
    t = _check_grid(grid, births.dtype)
    t = t.reshape((1,) * births.ndim + t.shape)
    return (
        jnp.maximum(jnp.minimum(t - births[..., None], deaths[..., None] - t), 0),
        deaths - births,
    )


def _check_diagram(diagram: Diagram) -> None:
    check_instance(diagram, Diagram, name="diagram", hint="Make one with `vietoris_rips(points)`.")


def _check_grid(grid: ArrayInput, dtype: Any) -> Float[Array, " t"]:
    array = as_array(grid, name="grid")
    if array.ndim != 1 or array.shape[0] == 0:
        raise ValueError(
            f"`grid` must be a list of scales; got shape {array.shape}. "
            "Pass an array of shape (t,), such as `jnp.linspace(0, 1, 100)`."
        )
    check_finite(array, name="grid")
    return jnp.asarray(array, dtype=dtype)


def _pair(values: Any, name: str) -> tuple[Any, Any]:
    if not isinstance(values, Sequence) or len(values) != 2:
        raise ValueError(f"`{name}` must be two numbers; got {values!r}. Pass a tuple of two.")
    return values[0], values[1]


def _check_range(ends: tuple[float, float], name: str) -> tuple[float, float]:
    low, high = (check_number(end, name=name, low=-np.inf) for end in _pair(ends, name))
    if not low < high:
        raise ValueError(
            f"`{name}` must be a lower and a higher end; got {ends}. Pass one such as (0.0, 1.0)."
        )
    return low, high


def check_power(power: Any) -> float:
    """`power` as a positive float."""
    power = static(power, name="power")
    if isinstance(power, bool) or not isinstance(power, int | float | np.integer | np.floating):
        raise TypeError(f"`power` must be a number; got {power!r}. Pass a number such as 1.0.")
    if not (power > 0 and math.isfinite(power)):
        raise ValueError(f"`power` must be positive and finite; got {power}. Pass one such as 1.0.")
    return float(power)


def _slots(diagram: Diagram, dims: Sequence[int] | None) -> np.ndarray:
    """Which slots belong to one of `dims`: known before any value is."""
    wanted = diagram.homology_dims if dims is None else check_dims(dims)
    missing = [dim for dim in wanted if dim not in diagram.homology_dims]
    if missing:
        raise ValueError(
            f"`dims` must be homology dimensions of the diagram, which has "
            f"{diagram.homology_dims}; got {missing[0]}. Compute the diagram with that dimension."
        )
    return np.repeat([dim in wanted for dim in diagram.homology_dims], diagram.capacities)
