"""The one way to the host: whole batches out, integers back."""

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from . import _backend as backend
from ._types import Array

_WORD = 4  # bytes

Shape: TypeAlias = tuple[int, ...]


def call_host(
    function: Callable, shapes: Sequence[Shape], *arrays: Array, **options: Hashable
) -> list[Array]:
    """`function(*arrays, **options)` on the host: NumPy in, int32 arrays of `shapes` out.

    One call serves a whole `vmap`, however nested: `function` gets the batch axes in front and must
    return them. It must not raise, since an exception inside a callback can abort the process.

    Everything travels as one array each way, because each costs as much as a small diagram; and as
    its bits, because a callback runs in a thread where `jax.enable_x64` may not hold, and JAX would
    round float64 to float32 there.
    """
    sent = jnp.concatenate([_words(array) for array in arrays])
    layout = tuple((array.shape, np.dtype(array.dtype)) for array in arrays)
    given = function, layout, tuple(shapes), tuple(sorted(options.items()))
    cuts = _cuts(math.prod(shape) for shape in shapes)
    returned = jax.ShapeDtypeStruct((cuts[-1],), jnp.int32)
    if backend.is_one_cpu():
        call = buffer_callback(_in_place(*given), returned, vmap_method="broadcast_all")
        found = call(sent)
    else:
        found = jax.pure_callback(_copied(*given), returned, sent, vmap_method="broadcast_all")
    return [
        found[start:end].reshape(shape)
        for (start, end), shape in zip(itertools.pairwise(cuts), shapes, strict=True)
    ]


def _words(array: Array) -> Array:
    return jax.lax.bitcast_convert_type(array, jnp.uint32).reshape(-1)


def _cuts(sizes) -> list[int]:
    return [0, *itertools.accumulate(sizes)]


_Layout: TypeAlias = tuple[tuple[Shape, np.dtype], ...]
_Options: TypeAlias = tuple[tuple[str, Hashable], ...]
# JAX compiles anew for a callable that it has not seen, so each is made only once.
_once = functools.lru_cache(maxsize=256)


@_once
def _copied(function: Callable, layout: _Layout, shapes: tuple[Shape, ...], options: _Options):
    parts_of = _parts(function, layout, shapes, options)

    def call(sent: Array) -> np.ndarray:
        return np.concatenate(parts_of(np.ascontiguousarray(sent)), axis=-1)

    return call


@_once
def _in_place(function: Callable, layout: _Layout, shapes: tuple[Shape, ...], options: _Options):
    """The same for buffers of the processor's own memory: JAX needs no arrays around them, whose
    making takes longer than a small diagram."""
    parts_of = _parts(function, layout, shapes, options)

    def call(_context: Any, found: Any, sent: Any) -> None:
        np.concatenate(parts_of(np.asarray(sent)), axis=-1, out=np.asarray(found))

    return call


def _parts(
    function: Callable, layout: _Layout, shapes: tuple[Shape, ...], options: _Options
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """From words to what `function` finds: one array for each of `shapes`, flat but the batch."""
    cuts = _cuts(math.prod(shape) * dtype.itemsize // _WORD for shape, dtype in layout)
    arguments = dict(options)

    def parts_of(words: np.ndarray) -> list[np.ndarray]:
        batch = words.shape[:-1]
        arrays = (
            words[..., start:end].view(dtype).reshape(batch + shape)
            for (start, end), (shape, dtype) in zip(itertools.pairwise(cuts), layout, strict=True)
        )
        parts = function(*arrays, **arguments)
        return [
            part.reshape((*batch, math.prod(shape)))
            for part, shape in zip(parts, shapes, strict=True)
        ]

    return parts_of
