"""Features from a model of any library, batch after batch."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from . import _checks as checks
from ._types import Array, Progress

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
