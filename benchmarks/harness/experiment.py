"""One run: select, train on what is kept, evaluate, write down."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from topoprune_jax import kept_count
from topoprune_jax._provenance import provenance

from .data import Features, Images, fingerprint
from .methods import METHODS
from .records import Records


@dataclasses.dataclass(frozen=True)
class Case:
    """What distinguishes a run from every other one."""

    method: str
    features: str
    ratio: float
    network: str
    selection_seed: int
    training_seed: int
    evaluated_on: str = "validation"
    noise: float = 0.0
    label_noise: float = 0.0
    imbalance: float = 1.0


class Experiment:
    """Runs cases on one data set, keeps what was selected and compiled, and skips what is known."""

    def __init__(
        self,
        images: Images,
        make_trainer: Callable[[Images, str, Any], Any],
        budget: Callable[[int, float], Any],
        records: Records,
        command: str,
    ):
        self.images, self.records = images, records
        self._make_trainer, self._budget = make_trainer, budget
        self._how = provenance(command, packages=("flax", "optax"))
        self._orders: dict = {}
        self._trainers: dict = {}

    def kept(self, case: Case, features: Features) -> tuple[np.ndarray, float]:
        """The sorted indices of what the method keeps, and the seconds it took."""
        method = METHODS[case.method]
        key = (case.method, case.features, case.ratio, case.selection_seed, case.noise)
        if key not in self._orders:
            started = time.perf_counter()
            order = method.order(features, case.ratio, self.images.train_y, case.selection_seed)
            chosen = np.sort(order[: kept_count(len(order), case.ratio)])
            self._orders[key] = chosen, time.perf_counter() - started
        return self._orders[key]

    def run(self, case: Case, features: Features, say: Callable[[str], None] = print) -> dict:
        """The record of the case, made unless it is there."""
        settings = dataclasses.asdict(case)
        if not METHODS[case.method].features and not METHODS[case.method].dynamics:
            settings |= {"features": None, "noise": 0.0}  # which cannot matter
        n = len(self.images.train_y)
        budget = self._budget(kept_count(n, case.ratio), case.ratio)
        settings |= {"images": self.images.name, "n": n, "budget": dataclasses.asdict(budget)}
        if (known := self.records.find(settings)) is not None:
            return known
        kept, seconds = self.kept(case, features)
        mark = fingerprint(kept)
        outcome = self._same_training(settings, mark) or self._trained(case, budget, kept, say)
        outcome |= {"kept": mark, "n_kept": len(kept), "selection_seconds": seconds}
        return self.records.add(settings, outcome, self._how)

    def _same_training(self, settings: dict, mark: str) -> dict | None:
        """The outcome of a run on the same kept set, which training would only repeat."""
        apart = ("method", "features", "noise", "selection_seed")
        wanted = {name: value for name, value in settings.items() if name not in apart}
        for run in self.records.runs:
            same = {name: value for name, value in run["settings"].items() if name not in apart}
            if run["outcome"]["kept"] == mark and same == wanted:
                return dict(run["outcome"])
        return None

    def _trained(self, case: Case, budget: Any, kept: np.ndarray, say) -> dict:
        key = (case.network, budget)
        if key not in self._trainers:
            self._trainers[key] = self._make_trainer(self.images, case.network, budget)
        started = time.perf_counter()

        def progress(done: int, total: int) -> None:
            left = (time.perf_counter() - started) / done * (total - done)
            say(f"{case.method}: step {done} of {total}, {left:.0f} s left")

        return dataclasses.asdict(self._trainers[key].run(kept, case.training_seed, progress))


def cases(
    methods: Iterable[str],
    features: Iterable[str],
    ratios: Iterable[float],
    networks: Iterable[str],
    selection_seeds: Iterable[int],
    training_seeds: Iterable[int],
    **others,
) -> list[Case]:
    """All combinations, seeds in the outermost loop, so that a run broken off compares all."""
    return [
        Case(method, name, ratio, network, selection_seed, training_seed, **others)
        for training_seed in training_seeds
        for selection_seed in selection_seeds
        for ratio in ratios
        for network in networks
        for name in features
        for method in methods
    ]
