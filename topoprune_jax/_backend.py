"""What kind of device computes: some work has one form for a CPU and another for accelerators."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.backend import backends

from . import _checks as checks


def is_cpu(platform: str | None = None) -> bool:
    """Whether that platform is a CPU; unless given, where JAX computes, which need not be its
    default backend."""
    if platform is None:
        with checks.known_values():
            platform = next(iter(jnp.zeros(()).devices())).platform
    return platform == "cpu"


def by_platform(*operands: Any, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """`cpu(*operands)` in a program for a CPU, `default(*operands)` in one for an accelerator.

    `lax.platform_dependent`, unless JAX has no device but CPUs: the other form would be traced for
    nothing, which takes a tenth of the time to a first embedding whose programs are kept.
    """
    if backends().keys() == {"cpu"}:
        return cpu(*operands)
    return lax.platform_dependent(*operands, cpu=cpu, default=default)


def is_one_cpu() -> bool:
    """Whether JAX has no device but one CPU."""
    return backends().keys() == {"cpu"} and jax.device_count() == 1
