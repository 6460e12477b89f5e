"""Training loops: features from a model, batches of what is kept, and topological losses.

Nothing here is needed to rank, and nothing is loaded that the model has not loaded itself: a Flax
module brings Flax along. Re-ranking between epochs is three lines:

    features = extract_features(model, images, method="features")
    ranking = rank(features, 0.9, labels=labels)
    batches = epoch_batches(ranking.kept, 128, key=key, epoch=epoch)
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from . import _checks as checks
from ._persistence import diagram_from_generators, rips_generators, vietoris_rips
from ._summaries import total_persistence
from ._types import Array, ArrayInput, Key, Progress

Method = str | Callable[..., Any] | None


def extract_features(
    model: Any,
    inputs: Any,
    *,
    method: Method = None,
    variables: Any = None,
    batch_size: int = 256,
    out: np.ndarray | None = None,
    sharding: jax.sharding.Sharding | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    r"""The features that a model gives every sample, computed batch by batch: f_i = model(x_i).

    All batches have one shape, so that there is one compilation: the last one is filled up with
    copies of its last sample, whose features are dropped. Two batches at a time are on the device,
    and nothing else of the data. A Flax or Equinox module is not compiled again when it comes back
    with other weights, as it does between epochs; a plain function is, because what it holds may
    have changed.

    `model` is one of

    - a Flax NNX module. It is called in evaluation mode (no dropout, stored batch statistics), and
      not changed.
    - a Flax Linen module, with its `variables`. What it does in training only is switched off by
      its own arguments: `method=lambda module, x: module(x, train=False)`.
    - an Equinox module, which takes *one* sample; it is vmapped here, and called in inference mode.
    - any other function from a batch to its features, in JAX. One that is not written in JAX needs
      no help: call it in a loop.

    Which layer is said by `method`: the name of a method, or a function of the module and the batch
    (for Equinox: of the module and one sample), defined once, because a new one is compiled anew.

    **Arguments:**

    - `model`: as above.
    - `inputs`: n samples: an array (memory-mapped too) with samples along its first axis; a tuple
      or dictionary of such arrays, if the model takes several; or anything with a length whose
      entries are samples, such as a list, a tfds data source or a `grain.MapDataset`.
    - `method`: what to call instead of the module itself.
    - `variables`: the variables of a Linen module, `{"params": ...}`.
    - `batch_size`: samples a batch; without `sharding` at most n.
    - `out`: `(n, d)`, written to and returned, such as a `numpy.memmap` for features larger than
      memory. By default a new array.
    - `sharding`: how each batch is spread over devices, such as
      `NamedSharding(mesh, PartitionSpec("data"))`, whose devices divide `batch_size`.
    - `progress`: called as `progress("extract", done, total)`, in samples.

    **Returns:** `(n, d)` NumPy array in the model's floating-point type (bfloat16 becomes float32).

    **Raises:** TypeError or ValueError for inputs without a common length or that are no numbers,
    for a result that is not `(batch, d)` real numbers or not finite, for a Linen module without
    `variables`, an unknown `method`, an `out` of another shape, or a `batch_size` out of range.

    !!! example

        ```python
        >>> import jax, numpy as np, equinox as eqx
        >>> from topoprune_jax.training import extract_features
        >>> model = eqx.nn.MLP(4, 3, width_size=8, depth=1, key=jax.random.key(0))
        >>> inputs = np.ones((10, 4), np.float32)
        >>> extract_features(model, inputs, batch_size=4).shape
        (10, 3)
        >>> def hidden(model, x):  # one sample
        ...     return jax.nn.relu(model.layers[0](x))
        >>> extract_features(model, inputs, method=hidden, batch_size=4).shape
        (10, 8)

        ```

    With Flax, give the module a method that stops at the layer (`method="features"`), or take what
    it stores on the way:

    ```python
    def hidden(model, batch):  # NNX: what `self.sow(nnx.Intermediate, "hidden", h)` stored
        _, stored = nnx.capture(model, nnx.Intermediate)(batch)
        return stored["hidden"][0]


    def hidden(module, batch):  # Linen: the output of the submodule named "hidden"
        _, stored = module.apply(variables, batch, capture_intermediates=True,
                                 mutable=["intermediates"])
        return stored["intermediates"]["hidden"]["__call__"][0]


    extract_features(lambda batch: hidden(module, batch), images)  # the Linen one, as a function
    ```
    """
    source = _Source(inputs)
    batch_size = checks.check_count(batch_size, name="batch_size", low=1)
    if sharding is None:  # which asks for a number that its devices divide
        batch_size = min(batch_size, source.n)
    step = _step_of(model, method, variables)
    features: np.ndarray | None = out
    waiting: tuple[int, Array] | None = None
    for start in range(0, source.n, batch_size):
        if progress is not None:
            progress("extract", start, source.n)
        batch = source.batch(start, batch_size)
        result = step(_place(batch, sharding, batch_size))
        if start == 0:
            features = _check_result(result, batch_size, source.n, out)
        # The device works on this batch while the one before it is copied.
        if waiting is not None:
            _store(features, *waiting)
        waiting = start, result
    if waiting is not None:
        _store(features, *waiting)
    if progress is not None:
        progress("extract", source.n, source.n)
    assert features is not None  # there is at least one batch
    return features


def _place(batch: Any, sharding: jax.sharding.Sharding | None, batch_size: int) -> Any:
    if sharding is None:
        return jax.device_put(batch)
    try:
        return jax.device_put(batch, sharding)
    except ValueError as error:
        raise ValueError(
            f"`sharding` must divide the first axis of each batch among its devices; got "
            f"{len(sharding.device_set)} devices and batch_size={batch_size}. "
            "Pass a multiple of their number."
        ) from error


class _Source:
    """Samples by number, whatever holds them."""

    def __init__(self, inputs: Any):
        # A list is one container of samples, not a tree of them.
        self.leaves, self.structure = jax.tree.flatten(
            inputs, is_leaf=lambda node: not isinstance(node, tuple | dict)
        )
        lengths = []
        for leaf in self.leaves:
            if not hasattr(leaf, "__getitem__") or isinstance(leaf, str | bytes):
                raise TypeError(
                    "`inputs` must be an array of samples, a tuple or dictionary of arrays, or a "
                    f"sequence of samples; got {type(leaf).__name__}. "
                    "Put what comes as an iterator into an array first."
                )
            try:
                lengths.append(len(leaf))
            except TypeError as error:
                raise TypeError(
                    "`inputs` must have a length, the number of samples; got "
                    f"{type(leaf).__name__} without one. Pass an array of shape (n, ...)."
                ) from error
        if len(set(lengths)) != 1 or lengths[0] == 0:
            raise ValueError(
                "`inputs` must hold at least one sample, and arrays of one length; got "
                f"{'lengths ' + str(lengths) if lengths else 'nothing'}. "
                "Pass arrays of shape (n, ...)."
            )
        self.n: int = lengths[0]

    def batch(self, start: int, size: int) -> Any:
        """Samples `start` to `start + size`, the last one repeated where there are no more."""
        stop = min(start + size, self.n)
        leaves = [_filled(_rows(leaf, start, stop), size) for leaf in self.leaves]
        return jax.tree.unflatten(self.structure, leaves)


def _rows(leaf: Any, start: int, stop: int) -> Any:
    if hasattr(leaf, "dtype") or isinstance(leaf, list):
        return np.asarray(leaf[start:stop])
    samples = [leaf[row] for row in range(start, stop)]
    return jax.tree.map(lambda *each: np.stack(each), *samples)


def _filled(rows: Any, size: int) -> Any:
    def fill(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind not in "biufc" and not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(
                f"`inputs` must hold numbers; got dtype {array.dtype}. Pass only what the model "
                "takes, such as the images without their names, as arrays of one shape."
            )
        narrowed = array.dtype.itemsize > 4 and not jax.config.read("jax_enable_x64")
        if array.dtype.kind in "iu" and narrowed:
            low, high = int(array.min(initial=0)), int(array.max(initial=0))
            if low < -(2**31) or high >= 2**31:
                raise ValueError(
                    f"`inputs` must hold integers that fit in 32 bits, as JAX would cut them off; "
                    f"got {low} to {high}. Scale them, or number them anew."
                )
        missing = size - len(array)
        return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array

    return jax.tree.map(fill, rows)


def _step_of(model: Any, method: Method, variables: Any) -> Callable[[Any], Array]:
    """The compiled function from a batch to its features."""
    nnx, linen = sys.modules.get("flax.nnx"), sys.modules.get("flax.linen")
    owner = getattr(model, "__self__", None)
    if nnx is not None and isinstance(owner, nnx.Module) and method is None:
        # A bound method, whose module would otherwise be a constant of the program.
        model, method = owner, model.__func__
    if linen is not None and isinstance(model, linen.Module):
        if variables is None:
            raise ValueError(
                "A Linen module needs its `variables`; got None. "
                "Pass `variables={'params': params}`, as `module.init` returned them."
            )
        call = _Linen(model, _method_of(model, method))
        return partial(_apply, call, _on_device(variables))
    if variables is not None:
        raise TypeError(
            f"`variables` belong to a Flax Linen module; got them with {type(model).__name__}. "
            "Leave them out: other modules hold their own."
        )
    if nnx is not None and isinstance(model, nnx.Module):
        graph, state = nnx.split(model)
        return partial(_apply, _Nnx(graph, _method_of(model, method)), _on_device(state))
    if isinstance(model, eqx.Module):
        call = _Equinox(_method_of(model, method))
        return partial(_apply, call, _on_device(eqx.nn.inference_mode(model)))
    if not callable(model):
        raise TypeError(
            "`model` must be a Flax or Equinox module, or a function from a batch to its features; "
            f"got {type(model).__name__}."
        )
    if method is not None:
        raise TypeError(
            f"`method` belongs to a module; got it with {type(model).__name__}. "
            "Call the method inside the function that you pass."
        )
    # A new function each time: JAX remembers a program by its function, and with it the weights
    # that the function held then.
    return jax.jit(lambda batch: model(batch))


def _method_of(model: Any, method: Method) -> Callable[..., Any]:
    if method is None:
        method = "__call__"
    if callable(method):
        return method
    found = getattr(type(model), method, None)
    if not callable(found):
        missing = "cannot be called" if method == "__call__" else f"has no method '{method}'"
        raise TypeError(
            f"`model` {missing}; got {type(model).__name__}. "
            "Pass `method`, the name of one of its methods or a function of it and the batch."
        )
    return found


def _on_device(state: Any) -> Any:
    """NumPy arrays as JAX arrays, so that they are arguments and not constants of the program."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf, state
    )


@eqx.filter_jit
def _apply(call: Callable[[Any, Any], Array], state: Any, batch: Any) -> Array:
    return call(state, batch)


@dataclass(frozen=True)
class _Nnx:
    graph: Any
    method: Callable[..., Any]

    def __call__(self, state: Any, batch: Any) -> Array:
        from flax import nnx

        model = nnx.merge(self.graph, state)
        model.eval()  # of this copy
        return self.method(model, batch)


@dataclass(frozen=True)
class _Linen:
    module: Any
    method: Callable[..., Any]

    def __call__(self, state: Any, batch: Any) -> Array:
        return self.module.apply(state, batch, method=self.method)


@dataclass(frozen=True)
class _Equinox:
    method: Callable[..., Any]

    def __call__(self, state: Any, batch: Any) -> Array:
        return jax.vmap(lambda sample: self.method(state, sample))(batch)


def _check_result(result: Any, batch_size: int, n: int, out: np.ndarray | None) -> np.ndarray:
    """The array that features are written to, once the first batch has shown their shape."""
    if not isinstance(result, jax.Array):
        raise TypeError(
            f"`model` must return one array of features; got {type(result).__name__}. "
            "Pass a `method` that returns the features alone."
        )
    if result.ndim != 2 or result.shape[0] != batch_size or result.shape[1] == 0:
        raise ValueError(
            f"`model` must return features of shape (batch, d), here ({batch_size}, d); got "
            f"{result.shape}. Average or flatten the other axes of each sample in `method`."
        )
    if not jnp.issubdtype(result.dtype, jnp.floating):
        raise TypeError(
            f"`model` must return real features in floating point; got dtype {result.dtype}. "
            "Pass a `method` that returns the features, not classes."
        )
    wide = jnp.dtype(result.dtype).kind != "f"  # bfloat16, which NumPy cannot write to a file
    dtype = np.dtype(np.float32) if wide else np.dtype(result.dtype)
    shape = (n, result.shape[1])
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype.kind != "f":
        got = f"{out.shape} of {out.dtype}" if hasattr(out, "shape") else type(out).__name__
        raise ValueError(
            f"`out` must be a floating-point NumPy array of shape {shape}; got {got}. "
            "Make one with `numpy.lib.format.open_memmap`."
        )
    if not out.flags.writeable:
        raise ValueError("`out` must be writable; got a read-only array. Open it with mode 'r+'.")
    return out


def _store(features: np.ndarray | None, start: int, result: Array) -> None:
    assert features is not None
    rows = np.asarray(result)[: len(features) - start].astype(features.dtype)
    # Judged as they are stored: float16 has infinities that float32 has not.
    checks.check_finite(rows, name="features", first_row=start)
    features[start : start + len(rows)] = rows


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
        number = epoch.item() if isinstance(epoch, jax.Array) and epoch.ndim == 0 else epoch
        epoch = checks.check_count(number, name="epoch", low=0, high=2**31 - 1)
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
