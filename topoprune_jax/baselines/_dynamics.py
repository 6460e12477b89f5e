"""Scores from the logits of a training run: EL2N, forgetting events, area under the margin."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from .. import _checks as checks
from .._select import kept_count
from .._types import Array, ArrayInput, Key
from ._common import Pruning, by_class, default_key, pruning


def el2n(
    logits: ArrayInput,
    ratio: float,
    *,
    labels: ArrayInput,
    keep: str = "hard",
    balanced: bool = False,
    key: Key | None = None,
) -> Pruning:
    r"""EL2N: the length of the error vector, averaged over epochs.

        s_i = 1/E sum_t | softmax(z_ti) - onehot(y_i) |_2

    **Arguments:**

    - `logits`: (epochs, n, classes) outputs z of the model for every sample, any float dtype; it
      is computed in float32 an epoch at a time. The paper takes an early epoch of several runs:
      hand in those, stacked.
    - `ratio`: the fraction REMOVED, 0 <= ratio < 1.
    - `labels`: (n,) integers, the columns of the right classes in `logits`.
    - `keep`: `"hard"` keeps the largest scores, as the paper does; `"easy"` the smallest.
    - `balanced`: whether every class keeps its share of the samples; the paper ranks all together.
    - `key`: not used, for there is no randomness.

    **Returns:** a `Pruning`. `scores`: s, larger = harder, in [0, sqrt 2].

    **Raises:** TypeError or ValueError with one sentence for logits that are no finite 3-D array
    of real numbers with at least two classes, a ratio outside [0, 1), labels that are no columns
    of `logits`, or an unknown `keep`.

    Source: Paul, Ganguli, Dziugaite, "Deep Learning on a Data Diet: Finding Important Examples
    Early in Training", NeurIPS 2021, arXiv 2107.07075; github.com/mansheej/data_diet.

    **Fidelity:** checked against the authors' code: the norm of softmax minus one-hot, and that the
    largest scores are kept. The authors average one checkpoint over ten independent runs; the CCS
    code sums the first ten epochs of one run. Which epochs are handed in is up to the caller. The
    paper's text was not checked.

    ```python
    >>> from topoprune_jax import baselines
    >>> logits = [[[9.0, 0.0], [0.0, 9.0], [1.0, 0.0]]]
    >>> baselines.el2n(logits, 0.5, labels=[0, 0, 0]).order.tolist()
    [1, 2, 0]

    ```
    """
    outputs, targets, n_kept = _checked(logits, ratio, labels, key)
    scores = _el2n(outputs, targets)
    return _ranked(scores, scores, targets, n_kept, keep, balanced)


def forgetting(
    logits: ArrayInput,
    ratio: float,
    *,
    labels: ArrayInput,
    keep: str = "hard",
    balanced: bool = False,
    key: Key | None = None,
) -> Pruning:
    r"""Forgetting events: how often a sample that was classified correctly no longer is.

        s_i = #{ t : a_ti = 1 and a_(t+1)i = 0 },   a_ti = [argmax z_ti = y_i],

    and s_i = E, more than any other can have, for a sample that is right in none of the E epochs.

    **Arguments:**

    - `logits`: (epochs, n, classes) outputs z of the model for every sample, in the order of
      training, any float dtype. Equal logits count for the lower class.
    - `ratio`: the fraction REMOVED, 0 <= ratio < 1.
    - `labels`: (n,) integers, the columns of the right classes in `logits`.
    - `keep`: `"hard"` keeps the most forgotten, as the paper does; `"easy"` the least.
    - `balanced`: whether every class keeps its share of the samples; the paper ranks all together.
    - `key`: not used, for there is no randomness; equal counts are ordered by index.

    **Returns:** a `Pruning`. `scores`: s, larger = harder.

    **Raises:** as `el2n` does.

    Source: Toneva, Sordoni, Tachet des Combes, Trischler, Bengio, Gordon, "An Empirical Study of
    Example Forgetting during Deep Neural Network Learning", ICLR 2019, arXiv 1812.05159;
    github.com/mtoneva/example_forgetting.

    **Fidelity:** checked against the authors' code: an event is a transition from right to wrong,
    and a sample that was never learned counts the number of epochs. In the CCS and D2 code such a
    sample counts 0 instead. The authors record a sample's prediction when its mini-batch is
    trained on; logits taken at the ends of epochs are another, later, look. They remove the least
    forgotten first; that they do so over all classes together is as their code sorts. The paper's
    text was not checked.

    ```python
    >>> from topoprune_jax import baselines
    >>> right, wrong = [1.0, 0.0], [0.0, 1.0]
    >>> logits = [[right, right, wrong], [right, wrong, wrong], [right, right, wrong]]
    >>> baselines.forgetting(logits, 0.5, labels=[0, 0, 0]).scores.tolist()
    [0.0, 1.0, 3.0]

    ```
    """
    outputs, targets, n_kept = _checked(logits, ratio, labels, key)
    scores = _forgetting(outputs, targets)
    return _ranked(scores, scores, targets, n_kept, keep, balanced)


def aum(
    logits: ArrayInput,
    ratio: float,
    *,
    labels: ArrayInput,
    keep: str = "hard",
    probabilities: bool = False,
    balanced: bool = False,
    key: Key | None = None,
) -> Pruning:
    r"""AUM, area under the margin: the margin of the assigned class, averaged over epochs.

        s_i = 1/E sum_t ( z_ti[y_i] - max_(c != y_i) z_ti[c] )

    **Arguments:**

    - `logits`: (epochs, n, classes) outputs z of the model for every sample, any float dtype; it
      is computed in float32 an epoch at a time.
    - `ratio`: the fraction REMOVED, 0 <= ratio < 1.
    - `labels`: (n,) integers, the columns of the assigned classes in `logits`.
    - `keep`: `"hard"` keeps the smallest AUM; `"easy"` the largest.
    - `probabilities`: whether margins are taken between softmax probabilities, as CCS does.
    - `balanced`: whether every class keeps its share of the samples.
    - `key`: not used, for there is no randomness.

    **Returns:** a `Pruning`. `scores`: s, SMALLER = harder; mislabeled samples have negative ones.

    **Raises:** as `el2n` does.

    Source: Pleiss, Zhang, Elenberg, Weinberger, "Identifying Mislabeled Data using the Area Under
    the Margin Ranking", NeurIPS 2020, arXiv 2001.10528; github.com/asappresearch/aum.

    **Fidelity:** the score was checked against the authors' code. They use it to find mislabeled
    samples, which have the smallest, and remove these; as a pruning method it is CCS's (Zheng et
    al., ICLR 2023), whose AUM baseline keeps the smallest, and whose code takes margins of
    probabilities and sums them over epochs, which changes no rank. The margins of the authors are
    those of the training steps themselves; logits taken at the ends of epochs are another, later,
    look. The paper's text was not checked.

    ```python
    >>> from topoprune_jax import baselines
    >>> logits = [[[3.0, 1.0], [0.0, 5.0]], [[4.0, 0.0], [1.0, 2.0]]]
    >>> baselines.aum(logits, 0.5, labels=[0, 0]).scores.tolist()
    [3.0, -3.0]

    ```
    """
    outputs, targets, n_kept = _checked(logits, ratio, labels, key)
    scores = _aum(outputs, targets, probabilities)
    return _ranked(scores, -scores, targets, n_kept, keep, balanced)


def _checked(
    logits: ArrayInput, ratio: float, labels: ArrayInput, key: Key | None
) -> tuple[Float[Array, "e n c"], Int[Array, " n"], int]:
    values = checks.as_array(logits, name="logits")
    if values.ndim != 3 or 0 in values.shape or values.shape[2] < 2:
        raise ValueError(
            "`logits` must have shape (epochs, n, classes) with at least two classes; got shape "
            f"{values.shape}. Stack one (n, classes) array an epoch, also where there is only one."
        )
    checks.check_finite(values, name="logits")
    if not jnp.issubdtype(values.dtype, jnp.floating) or values.dtype.itemsize > 4:
        n_epochs, n, n_classes = values.shape
        flat = checks.check_points(values.reshape(n_epochs * n, n_classes), name="logits")
        values = flat.reshape(n_epochs, n, n_classes)
    n_kept = kept_count(values.shape[1], ratio)
    default_key(key)
    return jnp.asarray(values), _targets(labels, values.shape[1], values.shape[2]), n_kept


def _targets(labels: ArrayInput, n: int, n_classes: int) -> Int[Array, " n"]:
    """The columns of the labels. Class codes would not do: a class may have no sample."""
    codes = checks.check_labels(labels, n)
    if checks.is_traced(labels):
        return labels.astype(jnp.int32)
    values = np.asarray(labels)
    if values.dtype.kind not in "iubf":
        raise TypeError(
            f"`labels` must be integers, the columns of `logits`; got dtype {values.dtype}. "
            "Pass the column of the right class for every sample."
        )
    lowest, highest = values.min(), values.max()
    if lowest < 0 or highest >= n_classes:
        raise ValueError(
            f"`labels` must lie between 0 and {n_classes - 1}, the columns of `logits`; got "
            f"{lowest} to {highest}. Pass the column of the right class for every sample."
        )
    return jnp.asarray(values.astype(np.int32), codes.dtype)


def _ranked(
    scores: Float[Array, " n"],
    hardness: Float[Array, " n"],
    targets: Int[Array, " n"],
    n_kept: int,
    keep: str,
    balanced: bool,
) -> Pruning:
    if keep not in ("hard", "easy"):
        raise ValueError(
            f"`keep` must be 'hard' or 'easy'; got {keep!r}. "
            "It says which samples stay: 'hard' is what the papers keep."
        )
    order = jnp.argsort(-hardness if keep == "hard" else hardness, stable=True)
    return pruning(scores, by_class(order, targets if balanced else None), n_kept)


def _mean_over_epochs(
    function: Callable[[Float[Array, "n c"]], Float[Array, " n"]], logits: Float[Array, "e n c"]
) -> Float[Array, " n"]:
    """The mean of a function of the logits of one epoch, which alone is widened to float32."""
    dtype = checks.float_dtype(logits.dtype)

    def add(total: Array, epoch: Array) -> tuple[Array, None]:
        return total + function(epoch.astype(dtype)), None

    total, _ = lax.scan(add, jnp.zeros(logits.shape[1], dtype), logits)
    return total / logits.shape[0]


def _one_hot(targets: Int[Array, " n"], n_classes: int) -> Array:
    return targets[:, None] == jnp.arange(n_classes, dtype=targets.dtype)[None, :]


@jax.jit
def _el2n(logits: Float[Array, "e n c"], targets: Int[Array, " n"]) -> Float[Array, " n"]:
    right = _one_hot(targets, logits.shape[2])

    def error(z: Array) -> Array:
        difference = jax.nn.softmax(z, axis=1) - right.astype(z.dtype)
        return jnp.sqrt(jnp.sum(difference * difference, axis=1))

    return _mean_over_epochs(error, logits)


@jax.jit
def _forgetting(logits: Float[Array, "e n c"], targets: Int[Array, " n"]) -> Float[Array, " n"]:
    n_epochs, n, _ = logits.shape

    def step(
        state: tuple[Array, Array, Array], z: Array
    ) -> tuple[tuple[Array, Array, Array], None]:
        before, learned, events = state
        now = jnp.argmax(z, axis=1).astype(jnp.int32) == targets
        return (now, learned | now, events + (before & ~now).astype(jnp.int32)), None

    never = jnp.zeros(n, bool)
    start = (never, never, jnp.zeros(n, jnp.int32))
    (_, learned, events), _ = lax.scan(step, start, logits)
    return jnp.where(learned, events, n_epochs).astype(checks.float_dtype(logits.dtype))


def _aum(
    logits: Float[Array, "e n c"], targets: Int[Array, " n"], probabilities: bool
) -> Float[Array, " n"]:
    return _probability_margins(logits, targets) if probabilities else _margins(logits, targets)


@jax.jit
def _margins(logits: Float[Array, "e n c"], targets: Int[Array, " n"]) -> Float[Array, " n"]:
    return _mean_over_epochs(lambda z: _margin(z, targets), logits)


@jax.jit
def _probability_margins(
    logits: Float[Array, "e n c"], targets: Int[Array, " n"]
) -> Float[Array, " n"]:
    return _mean_over_epochs(lambda z: _margin(jax.nn.softmax(z, axis=1), targets), logits)


def _margin(z: Float[Array, "n c"], targets: Int[Array, " n"]) -> Float[Array, " n"]:
    right = _one_hot(targets, z.shape[1])
    assigned = jnp.sum(jnp.where(right, z, 0), axis=1)
    return assigned - jnp.max(jnp.where(right, -jnp.inf, z), axis=1)
