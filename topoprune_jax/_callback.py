"""The one way to the host: whole batches out, integers back."""

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ._types import Array

_WORD = 4  # bytes

Shape = tuple[int, ...]


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
    received = _received(function, layout, tuple(shapes), tuple(sorted(options.items())))
    cuts = _cuts(math.prod(shape) for shape in shapes)
    returned = jax.ShapeDtypeStruct((cuts[-1],), jnp.int32)
    found = jax.pure_callback(received, returned, sent, vmap_method="broadcast_all")
    return [
        found[start:end].reshape(shape)
        for (start, end), shape in zip(itertools.pairwise(cuts), shapes, strict=True)
    ]


def _words(array: Array) -> Array:
    return jax.lax.bitcast_convert_type(array, jnp.uint32).reshape(-1)


def _cuts(sizes) -> list[int]:
    return [0, *itertools.accumulate(sizes)]


@functools.lru_cache(maxsize=256)
def _received(
    function: Callable,
    layout: tuple[tuple[Shape, np.dtype], ...],
    shapes: tuple[Shape, ...],
    options: tuple[tuple[str, Hashable], ...],
) -> Callable:
    # JAX compiles anew for a callable that it has not seen, so each is made only once.
    cuts = _cuts(math.prod(shape) * dtype.itemsize // _WORD for shape, dtype in layout)
    arguments = dict(options)

    def call(sent: Array) -> np.ndarray:
        words = np.ascontiguousarray(sent)
        batch = words.shape[:-1]
        arrays = (
            words[..., start:end].view(dtype).reshape(batch + shape)
            for (start, end), (shape, dtype) in zip(itertools.pairwise(cuts), layout, strict=True)
        )
        parts = function(*arrays, **arguments)
        rows = (part.reshape((*batch, math.prod(s))) for part, s in zip(parts, shapes, strict=True))
        return np.concatenate(list(rows), axis=-1)

    return call
