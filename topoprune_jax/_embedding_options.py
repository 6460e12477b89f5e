"""What an embedding may be told, and the numbers that follow from it."""

from functools import lru_cache, partial
from typing import Any

import equinox as eqx
import numpy as np

from . import _checks as checks

NEGATIVES = 5.0  # umap-learn's negative samples for each edge sample
_EPOCHS = 80
# In up to so many dimensions points have little room to pass each other.
_LOW_DIMENSION, _LOW_EPOCHS = 3, 120
_FEW_POINTS, _LOW_EPOCHS_OF_FEW = 15_000, 200


def _option(name: str, default: Any) -> Any:
    """A static field, whose number may come in an array."""
    return eqx.field(static=True, default=default, converter=partial(checks.static, name=name))


class EmbeddingOptions(eqx.Module):
    r"""What `embed` may be told.

    **Attributes:**

    - `n_components`: c, the dimension of the embedding, 1 to 64.
    - `min_dist`: distance up to which points count as together, in units of the embedding.
    - `spread`: scale on which membership decays in the embedding; at least `min_dist`.
    - `n_epochs`: optimizer steps; unless given 80, and in up to 3 dimensions, where points have
      little room to pass each other, 120, and 200 for up to 15,000 points (umap-learn has 200, and
      500 for up to 10,000). Fewer than 50 leave clusters torn.
    - `repulsion`: strength of the repulsive force, 1 in UMAP's model.
    - `n_negatives`: points that push each point in an epoch, as estimate of what all others do.
      Their choice is what makes two keys differ: more of them cost time and make the embedding
      steadier.
    - `start`: `"spectral"` (low eigenvectors of the graph's Laplacian, from a filtered subspace
      iteration: the same for every key) or `"random"`. An array of coordinates, such as
      `principal_components(points, c, key=key)`, goes to `embed` itself.
    """

    n_components: int = _option("n_components", 2)
    min_dist: float = _option("min_dist", 0.1)
    spread: float = _option("spread", 1.0)
    n_epochs: int | None = _option("n_epochs", None)
    repulsion: float = _option("repulsion", 1.0)
    n_negatives: int = _option("n_negatives", 64)
    start: str = eqx.field(static=True, default="spectral")

    def __check_init__(self):
        checks.check_count(self.n_components, name="n_components", low=1, high=64)
        checks.check_number(self.spread, name="spread", low=1e-3)
        checks.check_number(
            self.min_dist, name="min_dist", low=0, high=self.spread, hint="It is at most `spread`."
        )
        if self.n_epochs is not None:
            checks.check_count(self.n_epochs, name="n_epochs", low=0)
        checks.check_number(self.repulsion, name="repulsion", low=0)
        checks.check_count(self.n_negatives, name="n_negatives", low=2)
        if self.start not in ("spectral", "random"):
            raise ValueError(f"`start` must be 'spectral' or 'random'; got {self.start!r}.")


def n_epochs_of(options: EmbeddingOptions, n: int) -> int:
    """Optimizer steps for n points."""
    if options.n_epochs is not None:
        return int(options.n_epochs)
    if options.n_components > _LOW_DIMENSION:
        return _EPOCHS
    return _LOW_EPOCHS_OF_FEW if n <= _FEW_POINTS else _LOW_EPOCHS


def known_epochs(options: EmbeddingOptions) -> int:
    """Of options in which `embed` has named them."""
    assert options.n_epochs is not None
    return int(options.n_epochs)


def shift_count(options: EmbeddingOptions) -> int:
    """Each pairs a point with two others."""
    return -(-options.n_negatives // 2)


def check_options(options: Any, *, name: str = "options") -> None:
    """Raises unless `options` are `EmbeddingOptions`."""
    checks.check_instance(
        options, EmbeddingOptions, name=name, hint="Write `EmbeddingOptions(n_components=2)`."
    )


@lru_cache(maxsize=64)
def fit_ab(min_dist: float, spread: float) -> tuple[float, float]:
    r"""a and b for which 1 / (1 + a x^(2b)) is nearest to exp(-max(0, x - min_dist) / spread).

    Least squares at 300 points in [0, 3 spread], as in umap-learn, by Gauss-Newton steps in
    (log a, log b) that are halved until the error falls.
    """
    x = np.linspace(0, 3 * spread, 300)[1:]
    target = np.exp(-np.maximum(0, x - min_dist) / spread)

    def model(u):
        return 1 / (1 + np.exp(u[0] + 2 * np.exp(u[1]) * np.log(x)))

    def error(u):
        return float(np.sum((model(u) - target) ** 2))

    u = np.array([-np.log(spread), 0.0])
    for _ in range(100):
        y = model(u)
        slope = -y * (1 - y)
        jacobian = np.stack([slope, slope * 2 * np.exp(u[1]) * np.log(x)], axis=1)
        step = np.linalg.lstsq(jacobian, target - y, rcond=None)[0]
        while error(u + step) > error(u) and np.abs(step).max() > 1e-12:
            step = step / 2
        u = u + step
        if np.abs(step).max() <= 1e-12:
            break
    return float(np.exp(u[0])), float(np.exp(u[1]))
