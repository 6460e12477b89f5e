"""What kind of device computes: some work has one form for a CPU and another for accelerators."""

import jax.numpy as jnp

from . import _checks as checks


def is_cpu(platform: str | None = None) -> bool:
    """Whether that platform is a CPU; unless given, where JAX computes, which need not be its
    default backend."""
    if platform is None:
        with checks.known_values():
            platform = next(iter(jnp.zeros(()).devices())).platform
    return platform == "cpu"
