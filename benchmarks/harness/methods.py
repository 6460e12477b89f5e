"""Every method of pruning under one name, and what it needs to know."""

import dataclasses
import sys
from collections.abc import Callable

import jax
import numpy as np

import topoprune_jax as tp
from topoprune_jax import baselines

from .ablations import ABLATIONS
from .data import Features


@dataclasses.dataclass(frozen=True)
class Method:
    """`order(features, ratio, labels, key)`: an order of all samples, the best to keep first."""

    name: str
    choose: Callable
    labels: bool = False  # needs them
    dynamics: bool = False  # needs the logits of a training run
    features: bool = True  # looks at them

    def order(self, features: Features, ratio: float, labels: np.ndarray, seed: int) -> np.ndarray:
        """All samples, the best to keep first; the first m are those kept."""
        found = self.choose(features, ratio, labels, jax.random.key(seed))
        return np.asarray(jax.block_until_ready(found.order))


def _plain(function, **options):
    return lambda f, ratio, y, key: function(f.values, ratio, key=key, **options)


def _labeled(function, **options):
    return lambda f, ratio, y, key: function(f.values, ratio, labels=y, key=key, **options)


def _dynamic(function, **options):
    return lambda f, ratio, y, key: function(f.logits, ratio, labels=y, key=key, **options)


def _hardness(f, y):
    # CCS takes margins of probabilities.
    return -baselines.aum(f.logits, 0.0, labels=y, probabilities=True).scores


def _ccs(f, ratio, y, key):
    return baselines.ccs(_hardness(f, y), ratio, key=key)


def _d2_hard(f, ratio, y, key):
    # The cut is that of the authors' command for 90 %, and smaller where less is removed.
    cutoff = min(0.4, ratio / 2)
    hardness = _hardness(f, y)
    return baselines.d2(f.values, ratio, labels=y, difficulty=hardness, cutoff=cutoff, key=key)


# On a CPU `rank` would seek the neighbors of so many samples by blocks; with these all devices seek
# alike, and only the rounding of products tells them apart. What it does by default is "topoprune,
# chosen space" here: the runs called "topoprune" were made when the power of the agreement was 4,
# and those called "topoprune, chosen power" when samples were compared in the features however
# noisy these are. The tables call all of them as they are.
_EXACT = {"neighbors": "exact", "space": "features"}
_POWER_4 = {"agreement_power": 4.0} | _EXACT


def _ranked_in(coordinates, **options):
    def choose(f, ratio, y, key):
        x = coordinates(f.values, y)
        return tp.rank(x, ratio, labels=y, normalize=False, key=key, **_EXACT | options)

    return choose


def _discriminant_margin(share):
    def choose(f, ratio, y, key):
        key = jax.random.fold_in(key, 7)  # the draw of the runs that are there
        return baselines.discriminant_margin(f.values, ratio, labels=y, share=share, key=key)

    return choose


COMPARED = {
    method.name: method
    for method in [
        Method("random", _plain(baselines.random), features=False),
        Method(
            "class-balanced random",
            _labeled(baselines.class_balanced_random),
            labels=True,
            features=False,
        ),
        Method("topoprune", _labeled(tp.rank, **_POWER_4), labels=True),
        Method("topoprune, label-free, communities", _plain(tp.rank, **_EXACT)),
        Method(
            "topoprune, discriminant coordinates",
            _ranked_in(tp.discriminant_coordinates, **_POWER_4),
            labels=True,
        ),
        Method(
            "topoprune, discriminant features",
            _ranked_in(tp.discriminant_features, **_POWER_4),
            labels=True,
        ),
        Method("discriminant margin", _discriminant_margin(0.5), labels=True),
        Method("discriminant margin, share 0.8", _discriminant_margin(0.8), labels=True),
        Method("moderate", _labeled(baselines.moderate), labels=True),
        Method(
            "moderate, class-balanced",
            _labeled(baselines.moderate, class_balanced=True),
            labels=True,
        ),
        Method("moderate, label-free", _plain(baselines.moderate)),
        Method("herding", _labeled(baselines.herding), labels=True),
        Method("herding, label-free", _plain(baselines.herding)),
        Method("k-center", _labeled(baselines.k_center_greedy), labels=True),
        Method("k-center, label-free", _plain(baselines.k_center_greedy)),
        Method("prototypes, easy", _plain(baselines.prototypes, keep="easy")),
        Method("prototypes, hard", _plain(baselines.prototypes, keep="hard")),
        Method("semantic deduplication", _plain(baselines.semantic_deduplication)),
        Method("d2, label-free", _plain(baselines.d2)),
        Method("zcore", _plain(baselines.zcore)),
        Method("d2 with AUM", _d2_hard, labels=True, dynamics=True),
        Method("ccs with AUM", _ccs, labels=True, dynamics=True, features=False),
        Method("aum, easy", _dynamic(baselines.aum, keep="easy"), True, True, False),
        Method("el2n", _dynamic(baselines.el2n), True, True, False),
        Method("forgetting", _dynamic(baselines.forgetting), True, True, False),
    ]
}
_CHOSEN_POWER = [
    Method("topoprune, chosen space", _labeled(tp.rank, neighbors="exact"), labels=True),
    Method("topoprune, chosen power", _labeled(tp.rank, **_EXACT), labels=True),
    # The same; runs of the others with classes of 1:50 are older than the bound of the power, or
    # from when that was a thirtieth of the mean class.
    Method("topoprune, chosen power, bounded", _labeled(tp.rank, **_EXACT), labels=True),
    Method("topoprune, chosen power, bounded by a fiftieth", _labeled(tp.rank, **_EXACT), True),
    Method(
        "topoprune, discriminant coordinates, chosen power",
        _ranked_in(tp.discriminant_coordinates),
        labels=True,
    ),
    Method(
        "topoprune, discriminant features, chosen power",
        _ranked_in(tp.discriminant_features),
        labels=True,
    ),
]


def _gone(name, commit):
    """Of a method that is in the files, but no more in the package."""

    def choose(f, ratio, y, key):
        sys.exit(f"`{name}` was what `rank` did up to commit {commit}; it can only be run there.")

    return choose


# What changed since the runs of "topoprune, label-free" and "topoprune, chosen power".
_SINCE = [
    Method("topoprune, label-free", _gone("topoprune, label-free", "22e7ebe")),
    Method("topoprune, label-free, parabola", ABLATIONS["label-free: as it is"]),
    Method("topoprune, rest by weight", _labeled(tp.rank, **_EXACT), labels=True),
]
_POWERS = [
    Method(
        f"topoprune, power {power}", _labeled(tp.rank, agreement_power=power, **_EXACT), labels=True
    )
    for power in (0, 2, 8, 16, 32)
]
_BY_BLOCKS = [
    Method(
        "topoprune, neighbors by blocks",
        _labeled(tp.rank, neighbors="blocks", agreement_power=4.0, space="features"),
        labels=True,
    ),
    Method(
        "topoprune, label-free, neighbors by blocks",
        _gone("topoprune, label-free, neighbors by blocks", "22e7ebe"),
    ),
]
PARTS = {method.name: method for method in _CHOSEN_POWER + _SINCE + _POWERS + _BY_BLOCKS} | {
    name: Method(name, variant, labels=variant.labeled) for name, variant in ABLATIONS.items()
}
METHODS = COMPARED | PARTS
