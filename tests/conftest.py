"""Settings every test runs under: shapes checked at run time, strict dtypes, 8 CPU devices."""

import gc
import os
import pathlib
from importlib import metadata

# Most of the time goes into compilation. Here LLVM does not optimize what it compiles, and XLA 0.10
# fuses by its older emitters and leaves each program in one piece, as the workers keep all cores
# busy; others may not know those flags and would end the process. None of them changes any meaning;
# `make test-all` runs the same tests on optimized programs.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    * metadata.version("jaxlib").startswith("0.10."),
)
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Numba compiles for half a minute in every process that imports umap-learn, an oracle on few points
# that Python computes as fast.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
# Workers and subprocesses share what they compile, and a second run finds it there.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

from jaxtyping import install_import_hook

with install_import_hook("topoprune_jax", "typechecker.check"):
    import topoprune_jax  # noqa: F401

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """64-bit mode for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's digits: 1,797 real 8 x 8 images as (n, 64) float32, and their labels."""
    from sklearn.datasets import load_digits

    points, labels = load_digits(return_X_y=True)
    return points.astype(np.float32), labels.astype(np.int32)


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Drops compiled programs between files once they are many.

    Each takes some tens of memory maps, of which Linux grants a process 65,530; the compiler
    crashes beyond.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 25_000:
        jax.clear_caches()
        gc.collect()
