"""How fast a device does the four kinds of work that `_stages` counts: a second's measurement."""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ._types import Array

_ROWS, _FEATURES, _COLUMNS = 256, 128, 1 << 14
_LONG = 1 << 23  # numbers that fit no cache of an accelerator
_TABLE_ROWS, _TABLE_COLUMNS = 1 << 16, 32  # more than the cache of a core holds
_EDGES, _TURNS = 8, 2
_SHORT = 1 << 11  # numbers that fit the first cache
_PASSES = 512
_WIDTH = 128  # of the square that a sequential step looks into
_STEPS = 2000
_PATIENCE = 0.05  # seconds for which each kind is repeated
_AT_LEAST = 3


_LOOKED_UP = 4.0 * _TURNS * (_EDGES + 1) * _TABLE_ROWS * _TABLE_COLUMNS


class Speed(NamedTuple):
    """Rates of one device."""

    flops: float  # of a matrix product in float32, per second
    streamed: float  # bytes from and to memory, per second: on a CPU of rows that are looked up
    operations: float  # `exp2(log2(x))` of numbers in the cache, per second
    steps: float  # sequential steps per second
    compilation: float  # seconds for the four programs that measured this


@lru_cache(maxsize=16)
def speed_of(device: Any) -> Speed:
    """Measured once a process and device, in about a second, most of it compilation."""
    with jax.default_device(device):
        x = jnp.ones((_ROWS, _FEATURES), jnp.float32)
        y = jnp.ones((_COLUMNS, _FEATURES), jnp.float32)
        passing, passed_over = _reading(device.platform)
        short = jnp.ones(_SHORT, jnp.float32)
        square = jnp.arange(float(_WIDTH * _WIDTH), dtype=jnp.float32).reshape(_WIDTH, _WIDTH)
        began = time.perf_counter()
        programs = [
            _product.lower(x, y).compile(),
            passing.lower(*passed_over).compile(),
            _powers.lower(short).compile(),
            _walk.lower(square).compile(),
        ]
        compilation = time.perf_counter() - began
        arguments: list[tuple[Array, ...]] = [(x, y), passed_over, (short,), (square,)]
        flops, passed, powers, walked = (
            _seconds(program, several) for program, several in zip(programs, arguments, strict=True)
        )
    return Speed(
        flops=2.0 * _ROWS * _FEATURES * _COLUMNS / flops,
        streamed=(2.0 * 4 * _LONG if passing is _pass else _LOOKED_UP) / passed,
        operations=_SHORT * _PASSES / powers,
        steps=_STEPS / walked,
        compilation=compilation,
    )


def _seconds(program: Callable[..., Array], arguments: tuple[Array, ...]) -> float:
    """The shortest of several calls: what else the machine does only makes one longer."""
    jax.block_until_ready(program(*arguments))
    shortest, count, until = float("inf"), 0, time.perf_counter() + _PATIENCE
    while count < _AT_LEAST or time.perf_counter() < until:
        began = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        shortest = min(shortest, time.perf_counter() - began)
        count += 1
    return shortest


@jax.jit
def _product(x: Array, y: Array) -> Array:
    """Reduced, as the search does: what leaves the cache is a fraction."""
    score = jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST)
    return jnp.min(score.reshape(_ROWS, -1, _FEATURES), axis=1)


def _reading(platform: str) -> tuple[Any, tuple[Array, ...]]:
    """What reads memory as the stages do: one array after the other, or, on a CPU, the rows of
    neighbors. There it makes no large array: whether memory that is new to a process must be mapped
    first is another matter, of one time and not of the next."""
    if platform != "cpu":
        return _pass, (jnp.ones(_LONG, jnp.float32),)
    rng = np.random.default_rng(0)
    places = rng.integers(0, _TABLE_ROWS, (_EDGES, _TABLE_ROWS)).astype(np.int32)
    return _look_up, (jnp.ones((_TABLE_ROWS, _TABLE_COLUMNS), jnp.float32), jnp.asarray(places))


@jax.jit
def _look_up(table: Array, places: Array) -> Array:
    def turn(_, rows):
        total = rows
        for i in range(_EDGES):
            total = total + rows[places[i]]
        return total / (_EDGES + 1)

    return jnp.sum(lax.fori_loop(0, _TURNS, turn, table), axis=0)


@jax.jit
def _pass(x: Array) -> Array:
    return 0.5 * x + 1


@jax.jit
def _powers(x: Array) -> Array:
    return lax.fori_loop(0, _PASSES, lambda _, y: jnp.exp2(0.9 * jnp.log2(y + 1)), x)


@jax.jit
def _walk(square: Array) -> Array:
    """Steps that look for the largest number of a few rows and lower it, as the greedy does."""

    def step(_, state):
        values, best = state
        _, rows = lax.top_k(best, 8)
        places = jnp.argmax(values[rows], axis=1)
        values = values.at[rows, places].add(-1)
        return values, best.at[rows].set(jnp.max(values[rows], axis=1))

    return lax.fori_loop(0, _STEPS, step, (square, jnp.max(square, axis=1)))[1]
