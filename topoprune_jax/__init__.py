"""Topological data pruning in JAX: which samples to keep when you train on a tenth of your data."""

__version__ = "0.1.0"

from ._results import RESULTS as RESULTS
