"""The one way to the host: whole batches out, integers back."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._types import Array


def call_host(function: Callable, shapes: Any, *arrays: Array, **options: Hashable) -> Any:
    """`function(*arrays, **options)` on the host: NumPy in, arrays of `shapes` and of integers out.

    One call serves a whole `vmap`, however nested: `function` gets the batch axes in front and must
    return them. It must not raise, since an exception inside a callback can abort the process.

    Floats travel as their bits: a callback runs in a thread where `jax.enable_x64` may not hold,
    and JAX would round float64 to float32 there.
    """
    dtypes = tuple(np.dtype(array.dtype) for array in arrays)
    received = _received(function, dtypes, tuple(sorted(options.items())))
    sent = [_bits(array) for array in arrays]
    return jax.pure_callback(received, shapes, *sent, vmap_method="broadcast_all")


def _bits(array: Array) -> Array:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    bits = jax.lax.bitcast_convert_type(array, jnp.uint32)
    return bits.reshape(*array.shape, array.dtype.itemsize // 4)


@functools.lru_cache(maxsize=256)
def _received(
    function: Callable, dtypes: tuple[np.dtype, ...], options: tuple[tuple[str, Hashable], ...]
) -> Callable:
    # JAX compiles anew for a callable that it has not seen, so each is made only once.
    def call(*sent: Any) -> Any:
        arrays = (
            np.ascontiguousarray(values).view(dtype)[..., 0]
            if dtype.kind == "f"
            else np.asarray(values)
            for values, dtype in zip(sent, dtypes, strict=True)
        )
        return function(*arrays, **dict(options))

    return call
