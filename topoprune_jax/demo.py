"""The demonstration on scikit-learn's digits: rank, compare on held-out data, draw, report.

Needs the extra `demo`. The classifier and its settings were fixed before any result was seen.
"""

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from . import baselines
from ._provenance import provenance
from ._rank import Ranking, rank
from ._types import Progress
from .io import FileError, check_folder, replacing, write_ranking
from .plot import plot_ranking
from .report import require_report_extra, write_report

FULL = "all training samples"
AWARE = "topoprune_jax, with labels"
FREE = "topoprune_jax, without labels"
RANDOM = "random"
BALANCED = "class-balanced random"
# Of the field's methods that need no training, by the names that the demo shows, and whether they
# are given labels.
PEERS: dict[str, tuple[Callable[..., baselines.Pruning], bool]] = {
    "herding, with labels": (baselines.herding, True),
    "moderate, with labels": (baselines.moderate, True),
    "k-center, without labels": (baselines.k_center_greedy, False),
    "d2, without labels": (baselines.d2, False),
}
METHODS = (AWARE, FREE, *PEERS, BALANCED, RANDOM, FULL)

_TEST_FRACTION = 1 / 3
_HIDDEN_UNITS = 64
_EPOCHS = 200
_BATCH_SIZE = 32


@dataclass(frozen=True)
class Comparison:
    """Held-out accuracy of a classifier trained on what each method keeps.

    `accuracies[method]` has shape (n_seeds,), in percent; entry i of every method shares the split
    and the training seed `seeds[i]`, so differences between methods are paired.
    """

    accuracies: dict[str, np.ndarray]
    seeds: tuple[int, ...]
    ratio: float
    n_train: int
    n_kept: int
    n_test: int

    def mean(self, method: str) -> float:
        """Mean accuracy over the seeds."""
        return float(self.accuracies[method].mean())

    def std(self, method: str) -> float:
        """Sample standard deviation over the seeds; NaN for one seed."""
        return _sample_std(self.accuracies[method])

    def difference(self, method: str, other: str) -> tuple[float, float, int]:
        """Mean and sample std of `method - other` seed by seed, and how many seeds are above 0."""
        paired = self.accuracies[method] - self.accuracies[other]
        return float(paired.mean()), _sample_std(paired), int((paired > 0).sum())


def _sample_std(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


@dataclass(frozen=True)
class Demo:
    """What `run_demo` found and the files that it wrote."""

    comparison: Comparison
    ranking: Ranking
    picture: Path
    report: Path
    table: Path
    results: Path


def run_demo(
    out: str | os.PathLike[str],
    *,
    ratio: float = 0.9,
    n_seeds: int = 10,
    command: str = "run_demo",
    progress: Progress | None = None,
) -> Demo:
    """Ranks digits, trains on what each method keeps, and writes a picture and the results.

    For every seed, scikit-learn's digits (1,797 images, 64 pixels) are split by class into two
    thirds for training and one third held out. Only the training part is ranked. The same
    classifier with the same settings (one hidden layer, 200 epochs) is then trained on equally many
    samples chosen by each method (`rank`, four of `baselines`, and at random), and once on all of
    them for reference. The seed decides the split, the random choices, the embedding and the
    training.

    **Arguments:**

    - `out`: folder for `digits.png`, `digits.html` (a report), `digits.csv` (the label-aware
        ranking of the first seed) and `digits.json` (every single accuracy, versions, device); made
        if it is missing.
    - `ratio`: the fraction of the training samples that is removed, in [0, 1).
    - `n_seeds`: how many seeds, at least 1; five or more make the spread worth reading.
    - `command`: what the results file records as the command that made it.
    - `progress`: called as `progress(stage, done, total)`.

    **Returns:** the comparison, the label-aware ranking of the first seed and the paths.

    **Raises:** ImportError without scikit-learn or matplotlib, `FileError` where `out` cannot be
    written to, ValueError for a bad `ratio` or `n_seeds`.

    !!! example

        ```python
        demo = run_demo("demo-output", n_seeds=2)
        demo.comparison.mean("topoprune_jax, with labels")
        ```
    """
    _check_extras()
    if n_seeds < 1:
        raise ValueError(f"`n_seeds` must be at least 1; got n_seeds={n_seeds}. Pass 5 or more.")
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder '{folder}': {error.strerror}.") from error
    check_folder(folder)

    points, labels = _digits()
    seeds = tuple(range(n_seeds))
    runs: list[dict[str, float]] = []
    rankings: list[Ranking] = []
    training_rows: list[np.ndarray] = []
    for seed in seeds:
        train, test = _split(labels, seed)
        aware, free = (
            rank(points[train], ratio, labels=given, key=jax.random.key(seed), progress=progress)
            for given in (labels[train], None)
        )
        if progress is not None:
            progress("other methods", 0, 1)
        chosen = _choices(points[train], labels[train], aware, free, seed, ratio)
        if progress is not None:
            progress("other methods", 1, 1)
        runs.append({})
        for done, (method, rows) in enumerate(chosen.items()):
            if progress is not None:
                progress("train classifiers", done, len(chosen))
            runs[-1][method] = _accuracy(points, labels, train[rows], test, seed)
        if progress is not None:
            progress("train classifiers", len(chosen), len(chosen))
        rankings.append(aware)
        training_rows.append(train)

    comparison = Comparison(
        accuracies={method: np.array([run[method] for run in runs]) for method in METHODS},
        seeds=seeds,
        ratio=float(ratio),
        n_train=len(training_rows[0]),
        n_kept=len(rankings[0].kept),
        n_test=len(labels) - len(training_rows[0]),
    )
    picture, report, table, results = (
        folder / f"digits.{kind}" for kind in ("png", "html", "csv", "json")
    )
    _draw(picture, rankings[0], labels[training_rows[0]], progress)
    _report(report, rankings[0], points, labels, training_rows[0], command, progress)
    write_ranking(table, rankings[0])
    _write_results(results, comparison, training_rows[0], command)
    return Demo(comparison, rankings[0], picture, report, table, results)


def _check_extras() -> None:
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "the demo needs scikit-learn and matplotlib; "
            "install them with: pip install 'topoprune-jax[demo]'"
        ) from error
    require_report_extra()


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels scaled to [0, 1], (1797, 64), and the digits that they show."""
    from sklearn.datasets import load_digits

    points, labels = (np.asarray(part) for part in load_digits(return_X_y=True))
    return (points / 16.0).astype(np.float32), labels.astype(np.int32)


def _split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        np.arange(len(labels)), test_size=_TEST_FRACTION, stratify=labels, random_state=seed
    )
    return np.asarray(train), np.asarray(test)


def _choices(
    points: np.ndarray, labels: np.ndarray, aware: Ranking, free: Ranking, seed: int, ratio: float
) -> dict[str, np.ndarray]:
    """The training rows that each method keeps: equally many, and all rows for reference."""
    rng = np.random.default_rng(seed)
    n_kept = len(aware.kept)
    peers = {
        name: method(points, ratio, labels=labels if labeled else None, key=jax.random.key(seed))
        for name, (method, labeled) in PEERS.items()
    }
    return {
        AWARE: np.asarray(aware.kept),
        FREE: np.asarray(free.kept),
        **{name: np.asarray(ranking.kept) for name, ranking in peers.items()},
        BALANCED: _balanced(labels, n_kept, rng),
        RANDOM: rng.permutation(len(labels))[:n_kept],
        FULL: np.arange(len(labels)),
    }


def _balanced(labels: np.ndarray, n_kept: int, rng: np.random.Generator) -> np.ndarray:
    """`n_kept` random rows, as equally many of every class as the classes allow."""
    shuffled = rng.permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        turn[members] = np.arange(len(members))
    # Round by round one of each class; a stable sort keeps the order within a round random.
    return shuffled[np.argsort(turn[shuffled], kind="stable")][:n_kept]


def _accuracy(
    points: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int
) -> float:
    """Held-out accuracy in percent of the classifier trained on the rows `train`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    classifier = MLPClassifier(
        (_HIDDEN_UNITS,),
        batch_size=min(_BATCH_SIZE, len(train)),  # pyright: ignore[reportArgumentType]
        max_iter=_EPOCHS,
        n_iter_no_change=_EPOCHS,
        random_state=seed,
    )
    with warnings.catch_warnings():
        # Every method trains for the same number of epochs, which scikit-learn warns about.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(points[train], labels[train])
    predicted = np.asarray(classifier.predict(points[test]))
    return 100.0 * float(np.mean(predicted == labels[test]))


def _draw(path: Path, ranking: Ranking, labels: np.ndarray, progress: Progress | None) -> None:
    if progress is not None:
        progress("draw the picture", 0, 1)
    figure = plot_ranking(ranking, labels=labels)
    with replacing(path) as stream:
        figure.savefig(stream, format="png", dpi=120)
    if progress is not None:
        progress("draw the picture", 1, 1)


def _report(
    path: Path,
    ranking: Ranking,
    points: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    command: str,
    progress: Progress | None,
) -> None:
    if progress is not None:
        progress("write the report", 0, 1)
    write_report(
        path,
        ranking,
        labels=labels[rows],
        ids=rows,
        images=points[rows].reshape(-1, 8, 8),
        settings={"features": f"pixels, {len(rows):,} x {points.shape[1]}", "seed": 0},
        command=command,
        title="Which digits to keep",
    )
    if progress is not None:
        progress("write the report", 1, 1)


def _write_results(
    path: Path, comparison: Comparison, training_rows: np.ndarray, command: str
) -> None:
    record = provenance(command, packages=("scikit-learn",)) | {
        "ratio": comparison.ratio,
        "n_train": comparison.n_train,
        "n_kept": comparison.n_kept,
        "n_test": comparison.n_test,
        "classifier": f"MLPClassifier, {_HIDDEN_UNITS} hidden units, {_EPOCHS} epochs, "
        f"batches of {_BATCH_SIZE}",
        "seeds": list(comparison.seeds),
        "accuracy_percent": {
            method: values.tolist() for method, values in comparison.accuracies.items()
        },
        # Row i of digits.csv is this row of sklearn.datasets.load_digits().
        "digits_row_of_index": training_rows.tolist(),
    }
    with replacing(path) as stream:
        stream.write(json.dumps(record, indent=1).encode())
