"""Devices that share the work: where arrays lie, and one program on every device's share.

A mesh is used as one line of devices. What is small lies on all of them; what follows from it is
computed by every process for itself, on one of its devices, by the program that runs without a
mesh, so that it has the same bits. What is large or slow is split.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache, partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from . import _checks as checks
from ._steps import wait
from ._types import Array, ArrayInput

AXIS = "shard"
SPLIT, WHOLE = PartitionSpec(AXIS), PartitionSpec()
_DIGEST_BYTES = 16
_SENTENCE_BYTES = 1000


def check_mesh(mesh: Any, features: ArrayInput = None, *, traced: bool = False) -> Mesh | None:
    """The devices of `mesh` in one line, or those of features that no process holds alone."""
    if mesh is not None and traced:
        raise TypeError(
            "`mesh` needs known values, which go from device to device; got a traced array. Leave "
            "`mesh` out inside `jit`, `vmap` and `grad`."
        )
    scattered = is_scattered(features)
    if mesh is None:
        if not scattered:
            return None
        if not isinstance(features.sharding, NamedSharding):
            raise ValueError(
                "`features` lie in several processes, on no mesh that they name; got "
                f"{type(features.sharding).__name__}. Pass `mesh`, a Mesh of their devices."
            )
        mesh = features.sharding.mesh
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"`mesh` must be a jax.sharding.Mesh; got {type(mesh).__name__}. "
            'Make one with `jax.make_mesh((jax.device_count(),), ("shard",))`.'
        )
    line = Mesh(mesh.devices.ravel(), (AXIS,))
    if jax.process_index() not in processes(line):
        raise ValueError(
            f"`mesh` must hold a device of every process that calls with it; got one of process "
            f"{processes(line)} in process {jax.process_index()}. Call it in those processes only."
        )
    if scattered and features.sharding.device_set != set(line.devices.flat):
        raise ValueError(
            f"`features` must lie on the devices of `mesh`; got {len(features.sharding.device_set)}"
            f" devices and a mesh of {line.size} others. Leave `mesh` out: theirs is used."
        )
    return line


def is_scattered(values: Any) -> bool:
    """Whether no process holds all of `values`."""
    known = isinstance(values, jax.Array) and not checks.is_traced(values)
    return known and not (values.is_fully_addressable or values.is_fully_replicated)


def processes(mesh: Mesh) -> list[int]:
    """The processes that have devices in the mesh."""
    return sorted({device.process_index for device in mesh.devices.flat})


def has_peers(mesh: Mesh) -> bool:
    """Whether other processes have devices in the mesh."""
    return len(processes(mesh)) > 1


def on_all(mesh: Mesh, tree: Any) -> Any:
    """Arrays that are the same in every process, whole on every device."""
    sharding = NamedSharding(mesh, WHOLE)

    def place(array: ArrayInput) -> Array:
        values = np.asarray(array)
        return jax.make_array_from_callback(values.shape, sharding, lambda _: values)

    return jax.tree.map(place, tree)


def in_shares(mesh: Mesh, values: np.ndarray, spec: PartitionSpec = SPLIT) -> Array:
    """An array that is the same in every process, its first axis divided among the devices."""
    sharding = NamedSharding(mesh, spec)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def host(array: Array) -> np.ndarray:
    """All of an array, wherever it lies, as NumPy, in every process."""
    sharding: Any = array.sharding
    if is_scattered(array):
        array = _replicated(sharding.mesh)(array)
    with _other_processes(sharding):
        return np.asarray(array)


def known(values: ArrayInput) -> ArrayInput:
    """`values`, on the host if they were divided among processes."""
    return host(values) if is_scattered(values) else values


def here(tree: Any) -> Any:
    """All of some arrays on this process' own device."""
    return jax.tree.map(lambda array: jnp.asarray(host(array)), tree)


@lru_cache(maxsize=64)
def _replicated(mesh: Mesh) -> Callable[[Array], Array]:
    return jax.jit(lambda array: array, out_shardings=NamedSharding(mesh, WHOLE))


def on_shares(
    mesh: Mesh, function: Callable, in_specs: Any, out_specs: Any, *arrays: Any, **options: Hashable
) -> Any:
    """`function(*arrays, **options)` on every device, each with its share of what is split.

    Waits for the result: programs that talk to each other must not pile up on one machine.
    """
    program = _program(function, mesh, in_specs, out_specs, tuple(sorted(options.items())))
    # Within a caller's own `jax.set_mesh` too.
    with _other_processes(NamedSharding(mesh, WHOLE)), jax.set_mesh(mesh):
        return wait(program(*jax.tree.map(partial(_given, mesh), arrays)))


def _given(mesh: Mesh, array: Any) -> Any:
    """Arrays of one device go through the host, since in another process it is another device."""
    if isinstance(array, jax.Array) and array.sharding.device_set == set(mesh.devices.flat):
        return array
    return np.asarray(array)


@lru_cache(maxsize=256)
def _program(
    function: Callable, mesh: Mesh, in_specs: Any, out_specs: Any, options: tuple
) -> Callable:
    whole = partial(function, **dict(options))
    return jax.jit(
        jax.shard_map(whole, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    )


@contextmanager
def _lost() -> Any:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise RuntimeError(
            f"process {jax.process_index()} lost the processes it shares the work with: one has "
            "died, or the network between them. Start all of them again."
        ) from error


@contextmanager
def _alone() -> Any:
    yield


def _other_processes(sharding: Any) -> AbstractContextManager:
    """Inside it, the death of another process that the work is shared with has a clear error."""
    peers = {device.process_index for device in sharding.device_set}
    return _lost() if len(peers) > 1 else _alone()


def from_each(mesh: Mesh, text: bytes) -> dict[int, bytes]:
    """The `text` of every process of the mesh, all of one length."""
    if not has_peers(mesh):
        return {jax.process_index(): text}
    row = np.frombuffer(text, np.uint8)[None]
    shape, sharding = (mesh.size, row.shape[1]), NamedSharding(mesh, SPLIT)
    rows = host(jax.make_array_from_callback(shape, sharding, lambda _: row))
    lines = zip(mesh.devices.flat, rows, strict=True)
    return {device.process_index: one.tobytes() for device, one in lines}


def together(mesh: Mesh, problem: Exception | None) -> None:
    """Raises in every process what is wrong in one of them, so that none waits for it."""
    kind = {TypeError: b"T", ValueError: b"V"}.get(type(problem), b"V")
    text = b"" if problem is None else kind + str(problem).encode()[: _SENTENCE_BYTES - 1]
    for process, said in from_each(mesh, text.ljust(_SENTENCE_BYTES)).items():
        said = said.rstrip()
        if process == jax.process_index() and problem is not None:
            raise problem
        if said:
            error = TypeError if said[:1] == b"T" else ValueError
            raise error(said[1:].decode(errors="replace"))


def check_same(mesh: Mesh, **arguments: Any) -> None:
    """Raises in every process unless all were given the same arguments."""
    found = _differing(mesh, arguments)
    if found is not None:
        name, first, other = found
        raise ValueError(
            f"every process must pass the same {name}; got one in process {first} and another in "
            f"process {other}. Features of which each process holds its own rows go into one array "
            "by `jax.make_array_from_process_local_data`."
        )


def check_agreed(mesh: Mesh, result: Any) -> None:
    """Raises in every process unless all came to the same result."""
    found = _differing(mesh, {"result": result})
    if found is not None:
        raise RuntimeError(
            f"processes {found[1]} and {found[2]} came to different results from the same data: "
            "they round differently. Run all of them on machines of one kind, with one version of "
            "JAX."
        )


def _differing(mesh: Mesh, values: dict[str, Any]) -> tuple[str, int, int] | None:
    """The name of a value that differs, and two processes between which it does."""
    if not has_peers(mesh):
        return None
    each = from_each(mesh, b"".join(_digest(value) for value in values.values()))
    first = min(each)
    for process, theirs in each.items():
        for i, name in enumerate(values):
            part = slice(_DIGEST_BYTES * i, _DIGEST_BYTES * (i + 1))
            if theirs[part] != each[first][part]:
                return name, first, process
    return None


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(repr(_words(value)).encode(), digest_size=_DIGEST_BYTES).digest()


def _words(value: Any) -> Any:
    """What tells one argument from another: for large arrays their shape and some rows."""
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    if is_scattered(value):
        return value.shape, str(value.dtype)
    if isinstance(value, np.ndarray | jax.Array):
        some = np.asarray(value[:: max(1, len(value) // 1024)] if value.ndim == 2 else value)
        return value.shape, str(value.dtype), hashlib.blake2b(some.tobytes()).hexdigest()
    if isinstance(value, tuple | list):
        return [_words(one) for one in value]
    if isinstance(value, eqx.Module):
        return repr(value), [_words(leaf) for leaf in jax.tree.leaves(value)]
    return type(value).__name__ if isinstance(value, Iterator) else repr(value)
