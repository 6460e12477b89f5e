"""Aliases shared by every module, and the one table of dimension letters.

Letters in the shapes of this package: `n` points, `d` features, `k` neighbors, `m` points of a
patch, `c` embedding components, `p` slots of a persistence diagram, `q` homology dimensions.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
from jaxtyping import PRNGKeyArray

Array: TypeAlias = jax.Array
"""What every function returns."""

ArrayInput: TypeAlias = Any
"""What a public function takes where a user hands in data: a JAX or NumPy array, memory-mapped too,
or anything that `numpy.asarray` reads as one. `_checks` turns it into an `Array` or says in one
sentence what is wrong with it, which a run-time type check could not."""

Key: TypeAlias = PRNGKeyArray
"""A typed PRNG key, made by `jax.random.key(seed)`."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)` during long work; `done == total` ends a stage."""
