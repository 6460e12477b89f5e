"""Exact distances between persistence diagrams, computed on the host for evaluation."""

import jax
import numpy as np

from ._checks import check_count, check_instance, check_number, is_traced, known_values
from ._diagram import Diagram, is_poisoned
from ._host._distances import bottleneck, wasserstein


def bottleneck_distance(first: Diagram, second: Diagram, *, dim: int) -> float:
    r"""The bottleneck distance of two diagrams: the farthest that any bar must move.

    $$d_B = \min_{\gamma} \max_{x} \lVert x - \gamma(x) \rVert_\infty$$

    over matchings $\gamma$ of the bars, which may be matched to the diagonal; infinity if there are
    not as many essential classes. Edelsbrunner and Harer, *Computational Topology* (2010), VIII.2.
    Exact, by gudhi, in its part under the GPL v3. It is at most twice the farthest that a point was
    moved.

    For evaluation: a float from the host, neither traceable nor differentiable; for losses see
    `sliced_wasserstein`.

    **Arguments:** `first`, `second`: diagrams of one point cloud each; `dim`: the dimension.

    **Returns:** a float, in the unit of the points.

    **Raises:** TypeError or ValueError for diagrams of a batch, that are NaN, traced, or without
    the dimension.

    !!! example

        ```python
        >>> from topoprune_jax import bottleneck_distance, vietoris_rips
        >>> short, long = (vietoris_rips([[0.0], [x]], dims=(0,)) for x in (1.0, 1.5))
        >>> round(bottleneck_distance(short, long, dim=0), 6)
        0.5

        ```
    """
    return bottleneck(_bars(first, dim, "first"), _bars(second, dim, "second"))


def wasserstein_distance(first: Diagram, second: Diagram, *, dim: int, order: float = 1.0) -> float:
    r"""The Wasserstein distance of two diagrams: how far all bars must move together.

    $$W_q = \Bigl( \min_{\gamma} \sum_x \lVert x - \gamma(x) \rVert_\infty^q \Bigr)^{1/q},
    \qquad q = \texttt{order},$$

    over matchings $\gamma$ of the bars, which may be matched to the diagonal; infinity if there are
    not as many essential classes. Edelsbrunner and Harer, *Computational Topology* (2010), VIII.2.
    Exact, by an optimal assignment: some seconds for two thousand bars.

    For evaluation: a float from the host, neither traceable nor differentiable; for losses see
    `sliced_wasserstein`.

    **Arguments:** as for `bottleneck_distance`; `order`: q, at least 1.

    **Returns:** a float, in the unit of the points.

    **Raises:** as `bottleneck_distance`, and for an `order` below 1.

    !!! example

        ```python
        >>> from topoprune_jax import vietoris_rips, wasserstein_distance
        >>> short, long = (vietoris_rips([[0.0], [x]], dims=(0,)) for x in (1.0, 1.5))
        >>> wasserstein_distance(short, long, dim=0)
        0.5

        ```
    """
    order = check_number(order, name="order", low=1)
    return wasserstein(_bars(first, dim, "first"), _bars(second, dim, "second"), order=order)


def _bars(diagram: Diagram, dim: int, name: str) -> np.ndarray:
    """(birth, death) of the bars of one dimension."""
    check_instance(diagram, Diagram, name=name, hint="Make one with `vietoris_rips(points)`.")
    if is_traced(diagram.births):
        raise TypeError(
            f"`{name}` is traced by JAX, and this distance is computed on the host. "
            "Call it outside of `jit` and `grad`, or use `sliced_wasserstein`."
        )
    if diagram.births.ndim != 1:
        raise ValueError(
            f"`{name}` must be the diagram of one point cloud; got a batch of shape "
            f"{diagram.births.shape[:-1]}. Pass `jax.tree.map(lambda leaf: leaf[i], diagram)`."
        )
    dim = check_count(dim, name="dim", low=0)
    if dim not in diagram.homology_dims:
        raise ValueError(
            f"`dim` must be a homology dimension of `{name}`, which has {diagram.homology_dims}; "
            f"got {dim}. Compute the diagram with that dimension."
        )
    with known_values():
        poisoned = bool(is_poisoned(diagram.result))
    if poisoned:
        raise ValueError(
            f"`{name}` is NaN, because its points held NaN or infinity or gudhi failed. "
            "Look at its `result`."
        )
    births, deaths, dims, valid = (
        np.asarray(leaf)
        for leaf in jax.device_get((diagram.births, diagram.deaths, diagram.dims, diagram.valid))
    )
    kept = valid & (dims == dim)
    return np.stack([births[kept], deaths[kept]], axis=1)
