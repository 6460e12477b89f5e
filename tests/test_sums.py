"""Sums over many rows: what they are, and that no number of threads tells in them."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topoprune_jax._sums import mean_row, over_rows

_SHOWN = """
import zlib
import jax
import numpy as np
import topoprune_jax as tp

def show(found):
    print(zlib.crc32(np.asarray(found).tobytes()), end=" ")

"""
_STAGES = """
rng = np.random.default_rng(0)
labels = rng.integers(0, 5, 20_000)
points = rng.normal(size=(20_000, 3)).astype(np.float32)
fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=8))
show(tp.spectral_embedding(fuzzy_set, 8, rounds=2, tolerance=0.0))
show(tp.embed(fuzzy_set, tp.EmbeddingOptions(n_components=8, n_epochs=2), key=jax.random.key(0)))
for d in (32, 100):
    x = rng.normal(size=(len(labels), d)).astype(np.float32)
    show(tp.noise_share(x))
    show(tp.discriminant_coordinates(x, labels))
    show(tp.principal_components(x, 8, key=jax.random.key(0)))
"""
_RANKINGS = """
rng = np.random.default_rng(0)
labels = rng.integers(0, 10, 20_000)
noisy = (rng.normal(size=(10, 32))[labels] + 1.2 * rng.normal(size=(20_000, 32))).astype(np.float32)
quick = {"embedding": tp.EmbeddingOptions(n_epochs=0)}
show(tp.rank(noisy, 0.9, **quick).order)
show(tp.rank(noisy, 0.9, labels=labels, space="discriminant_coordinates", **quick).order)
"""


@pytest.mark.parametrize(
    ("program", "count"), [(_STAGES, 8), pytest.param(_RANKINGS, 2, marks=pytest.mark.slow)]
)
def test_no_number_of_threads_tells(program, count):
    """XLA has as many as devices are forced: how columns of 20,000 numbers are divided among them
    must not show in the eigenmap, the embedding, the share of noise, discriminant coordinates and
    principal components, nor in what `rank` makes of noisy features."""
    found = set()
    for n_devices in (1, 8):
        flags = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count"
        environment = os.environ | {"XLA_FLAGS": f"{flags}={n_devices}", "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", _SHOWN + program],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.split()) == count
        found.add(done.stdout)
    assert len(found) == 1


@pytest.mark.parametrize("n", [1, 127, 128, 129, 1024, 2500])
@pytest.mark.parametrize(("v", "w"), [(1, 3), (24, 24), (40, 30)])
def test_products_over_rows_are_those_of_float64(rng, n, v, w):
    a, b = rng.normal(size=(n, v)).astype(np.float32), rng.normal(size=(n, w)).astype(np.float32)
    found = jax.jit(over_rows)(a, b)
    np.testing.assert_allclose(found, a.T.astype(float) @ b, atol=4e-7 * n**0.5 * 4)
    np.testing.assert_allclose(jax.jit(mean_row)(b), b.mean(axis=0, dtype=float), atol=1e-6)


def test_the_rows_of_a_sum_count_once():
    """By hand: whole numbers, of which no sum rounds."""
    ones = jnp.ones((1300, 2))
    np.testing.assert_array_equal(over_rows(ones, ones), np.full((2, 2), 1300))
    many = jnp.ones((1300, 30))
    np.testing.assert_array_equal(over_rows(many, many), np.full((30, 30), 1300))
    rising = jnp.arange(1301, dtype=jnp.float32)[:, None]
    assert mean_row(rising)[0] == 650
