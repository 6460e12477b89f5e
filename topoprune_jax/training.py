"""Training loops: features from a model, batches of what is kept, and topological losses.

Nothing here is needed to rank, and nothing is loaded that the model has not loaded itself: a Flax
module brings Flax along. Re-ranking between epochs is three lines:

    features = extract_features(model, images, method="features")
    ranking = rank(features, 0.9, labels=labels)
    batches = epoch_batches(ranking.kept, 128, key=key, epoch=epoch)
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from . import _checks as checks
from ._extraction import extract_features as extract_features
from ._persistence import diagram_from_generators, rips_generators, vietoris_rips
from ._summaries import total_persistence
from ._types import Array, ArrayInput, Key


def epoch_batches(
    kept: ArrayInput,
    batch_size: int,
    *,
    key: Key,
    epoch: int | Array,
    drop_remainder: bool = True,
    n_steps: int | None = None,
) -> Int[Array, "s b"]:
    r"""The kept samples in a new random order, cut into batches: one epoch.

    A pure function: the same key and epoch give the same batches, and another epoch others, so
    that training can be resumed at any epoch without a saved iterator. Works under `jit`, also with
    a traced `epoch`, and its rows can be the inputs of `lax.scan`.

    With `n_steps` the epoch has that many batches whatever is kept, for an equal budget: pass after
    pass over the kept samples, each in an order of its own, is joined until there are enough, and
    every sample is seen either floor(B / m) or ceil(B / m) times among the B = n_steps * batch_size
    places for m samples. `n_steps=n // batch_size` is one epoch of all n samples.

    **Arguments:**

    - `kept`: `(m,)` indices, such as `ranking.kept`.
    - `batch_size`: b.
    - `key`: typed PRNG key, the same one throughout training.
    - `epoch`: its number, 0 or more.
    - `drop_remainder`: whether the samples beyond the last whole batch are left out of this epoch.
      If not, the last batch is filled up with -1, to be masked, or cut off outside `jit`:
      `rows[rows >= 0]`.
    - `n_steps`: s. By default m // b, or m / b rounded up with `drop_remainder=False`.

    **Returns:** `(s, b)` int32, a batch of indices in each row.

    **Raises:** TypeError or ValueError for `kept` that are no indices, fewer of them than fill one
    batch, counts out of range or a bad key.

    !!! example

        ```python
        >>> import jax, numpy as np
        >>> from topoprune_jax.training import epoch_batches
        >>> images = np.arange(100.0)
        >>> kept, key = np.array([3, 5, 8, 13, 21]), jax.random.key(0)
        >>> for rows in np.asarray(epoch_batches(kept, 2, key=key, epoch=0)):
        ...     batch = images[rows]
        >>> batch.shape
        (2,)
        >>> epoch_batches(kept, 2, key=key, epoch=0, n_steps=10).shape
        (10, 2)

        ```
    """
    indices = _check_kept(kept)
    m = indices.shape[0]
    batch_size = checks.check_count(batch_size, name="batch_size", low=1)
    checks.check_key(key)
    if not checks.is_traced(epoch):
        epoch = checks.check_count(epoch, name="epoch", low=0, high=2**31 - 1)
    if n_steps is not None:
        steps = checks.check_count(n_steps, name="n_steps", low=1)
        return _passes(indices, key, epoch, steps, batch_size)
    if not drop_remainder:
        return _one_pass(indices, key, epoch, -(-m // batch_size), batch_size)
    if m < batch_size:
        raise ValueError(
            f"`batch_size` must be at most {m}, the number of kept samples; got {batch_size}. "
            "Pass a smaller one, `n_steps`, or `drop_remainder=False`."
        )
    return _passes(indices, key, epoch, m // batch_size, batch_size)


def _check_kept(kept: ArrayInput) -> Array:
    values = checks.as_array(kept, name="kept")
    if values.ndim != 1 or values.shape[0] == 0 or not jnp.issubdtype(values.dtype, jnp.integer):
        raise ValueError(
            "`kept` must be a 1-D array of at least one index; got shape "
            f"{values.shape} of {values.dtype}. Pass `ranking.kept`, or `numpy.flatnonzero(mask)`."
        )
    if not checks.is_traced(values):
        host = np.asarray(values)
        if int(host.min()) < 0 or int(host.max()) >= 2**31:
            raise ValueError(
                f"`kept` must hold indices of samples, 0 or more; got {host.min()} to {host.max()}."
            )
        values = host.astype(np.int32)
    return jnp.asarray(values, jnp.int32)


@partial(jax.jit, static_argnums=(3, 4))
def _passes(kept: Array, key: Key, epoch: Any, n_steps: int, batch_size: int) -> Array:
    places = n_steps * batch_size
    n_passes = -(-places // kept.shape[0])
    keys = jax.random.split(jax.random.fold_in(key, epoch), n_passes)
    orders = jax.vmap(lambda k: jax.random.permutation(k, kept))(keys)
    return orders.reshape(-1)[:places].reshape(n_steps, batch_size)


@partial(jax.jit, static_argnums=(3, 4))
def _one_pass(kept: Array, key: Key, epoch: Any, n_steps: int, batch_size: int) -> Array:
    order = _passes(kept, key, epoch, 1, kept.shape[0])[0]
    empty = jnp.full(n_steps * batch_size - kept.shape[0], -1, jnp.int32)
    return jnp.concatenate([order, empty]).reshape(n_steps, batch_size)


class KeptSource:
    """The kept samples of any random-access source, as a random-access source.

    Sample i is `source[kept[i]]`. It has what `grain.MapDataset.source`, grain's `DataLoader` and a
    torch `DataLoader` ask of a source, and takes whatever has `__len__` and `__getitem__`: a tfds
    data source, a `topoprune_jax.data.ImageData`, an array, a list. Nothing is copied or read
    before it is asked for.

    **Arguments:**

    - `source`: n samples.
    - `kept`: `(m,)` indices into it.

    **Raises:** TypeError for a source without a length or entries; ValueError for `kept` that are
    no indices of it.

    !!! example

        ```python
        >>> from topoprune_jax.training import KeptSource
        >>> kept = KeptSource(["a", "b", "c", "d"], [3, 1])
        >>> len(kept), kept[0], kept.__getitems__([0, 1])
        (2, 'd', ['d', 'b'])

        ```
    """

    def __init__(self, source: Any, kept: ArrayInput):
        if not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
            raise TypeError(
                "`source` must have a length and entries by number; got "
                f"{type(source).__name__}. Pass an array, a list or a data source."
            )
        indices = np.asarray(_check_kept(kept))
        if int(indices.max()) >= len(source):
            raise ValueError(
                f"`kept` must be indices of the {len(source)} samples of `source`; got "
                f"{indices.max()}. Pass the source that was ranked."
            )
        self._source, self._kept = source, indices

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: Any) -> Any:
        return self._source[int(self._kept[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several samples at once, read together where the source can."""
        rows = [int(row) for row in self._kept[np.asarray(indices, np.int64)]]
        together = getattr(self._source, "__getitems__", None)
        return [self._source[row] for row in rows] if together is None else list(together(rows))

    def __repr__(self) -> str:
        return f"KeptSource({len(self)} of {len(self._source)} samples)"


def topological_loss(
    latents: ArrayInput,
    reference: ArrayInput,
    *,
    dims: Sequence[int] = (0,),
    reduction: str = "host",
) -> Float[Array, ""]:
    r"""How much the edges that make a batch's topology differ in length between two spaces.

    With the distance matrices $A^X$ of the reference and $A^Z$ of the latent points, and edges
    $\pi$ that create and destroy the finite classes of their Vietoris-Rips filtrations (in
    dimension 0 those of a minimum spanning tree),

    $$\mathcal{L} = \frac12 \lVert A^X[\pi^X] - A^Z[\pi^X] \rVert^2
    + \frac12 \lVert A^Z[\pi^Z] - A^X[\pi^Z] \rVert^2.$$

    Moor, Horn, Rieck and Borgwardt, *Topological Autoencoders* (ICML 2020, arXiv 1906.00722),
    section 3.3, equations 2 and 3, who use dimension 0. It is a sum over about 2n edges, in squared
    units of length: divide by the number of points, and bring both spaces to one scale, to make
    its weight independent of them.

    Differentiable in both arguments (reverse mode); the choice of edges has no derivative. Works
    under `jit`, `vmap` and `grad`; dimension 0 makes no host call. Add it to any loss that optax
    minimizes: `reconstruction + weight * topological_loss(z, x)`.

    **Arguments:**

    - `latents`: `(n, c)`, a batch of latent points.
    - `reference`: `(n, d)`, the same samples in the space whose topology is to be kept: the inputs,
      or the features of a larger model. Flatten images first.
    - `dims`: homology dimensions, out of 0, 1 and 2.
    - `reduction`: where loops are found, `"host"` or `"device"` (batches of at most 64 points), see
      `vietoris_rips`.

    **Returns:** a scalar; 0 where all those lengths agree. NaN under a transformation if either
    holds NaN or infinity.

    **Raises:** TypeError or ValueError for arguments that are no finite 2-D arrays of one number of
    rows, and for `dims` or `reduction` out of range.

    !!! example

        ```python
        >>> from topoprune_jax.training import topological_loss
        >>> float(topological_loss([[0.0], [1.0], [3.0]], [[0.0], [1.0], [4.0]]))  # 1/2 + 1/2
        1.0

        ```
    """
    latents = checks.check_points(latents, name="latents")
    reference = checks.check_points(reference, name="reference").astype(latents.dtype)
    if latents.shape[0] != reference.shape[0]:
        raise ValueError(
            "`latents` and `reference` must be of the same samples, a row each; got "
            f"{latents.shape[0]} and {reference.shape[0]} rows. Pass one batch in both spaces."
        )
    loss = jnp.zeros((), latents.dtype)
    for points in (reference, latents):
        generators = rips_generators(points, dims=dims, reduction=reduction)
        there = diagram_from_generators(reference, generators)
        here = diagram_from_generators(latents, generators)
        finite = here.is_finite
        deaths = jnp.where(finite, here.deaths, 0) - jnp.where(finite, there.deaths, 0)
        loss += jnp.sum((here.births - there.births) ** 2 + deaths**2) / 2
    return loss


def persistence_regularizer(
    latents: ArrayInput,
    *,
    dims: Sequence[int] = (0,),
    power: float = 1.0,
    subset_size: int | None = None,
    reduction: str = "host",
    key: Key | None = None,
) -> Float[Array, ""]:
    r"""The total persistence of a batch, or of a random subset of it, per point.

    $$R_p = \frac1m \sum_{(b, d) \in \mathrm{Dgm}(Z_S),\; d < \infty} (d - b)^p$$

    with the Vietoris-Rips persistence of m of the n latent points, drawn without replacement. In
    dimension 0 and for p = 1 it is the length of a minimum spanning tree over m. Minimizing it
    draws what is connected together; minimizing its negative spreads points out (dimension 0) or
    opens loops (dimension 1). By itself the first collapses the batch to a point and the second
    has no bound: add it to another loss with a small weight. A subset costs a fraction, and over
    the steps its gradient reaches all points (see `optimize_topology`).

    Cohen-Steiner, Edelsbrunner, Harer and Mileyko, *Lipschitz functions have $L_p$-stable
    persistence* (2010), for the sum. As a regularizer of representations, in dimension 0: Hofer,
    Kwitt, Dixit and Niethammer, *Connectivity-Optimized Representation Learning via Persistent
    Homology* (ICML 2019, arXiv 1906.09003).

    Differentiable in `latents`; works under `jit`, `vmap` and `grad`.

    **Arguments:**

    - `latents`: `(n, c)`.
    - `dims`: homology dimensions, out of 0, 1 and 2.
    - `power`: p > 0.
    - `subset_size`: m, from 1 to n; by default all points.
    - `reduction`: where loops are found, `"host"` or `"device"` (m of at most 64), see
      `vietoris_rips`.
    - `key`: typed PRNG key, required for a subset: another one each step.

    **Returns:** a scalar; NaN under a transformation if there is NaN or infinity.

    **Raises:** TypeError or ValueError for latents that are no finite 2-D array, options out of
    range, or a subset without a key.

    !!! example

        ```python
        >>> from topoprune_jax.training import persistence_regularizer
        >>> float(persistence_regularizer([[0.0], [1.0], [3.0], [9.0]]))  # (1 + 2 + 6) / 4
        2.25

        ```
    """
    latents = checks.check_points(latents, name="latents")
    n = latents.shape[0]
    if subset_size is not None:
        subset_size = checks.check_count(subset_size, name="subset_size", low=1, high=n)
        if key is None:
            raise ValueError(
                "`key` is required to draw a subset; got None. "
                "Pass `key=jax.random.fold_in(key, step)`."
            )
        latents = latents[jax.random.permutation(checks.check_key(key), n)[:subset_size]]
    diagram = vietoris_rips(latents, dims=dims, reduction=reduction)
    return total_persistence(diagram, power=power) / latents.shape[0]
