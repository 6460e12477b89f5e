"""`rank` with one part left out or replaced: what each part of the score and the selection buys."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import topoprune_jax as tp
from topoprune_jax import baselines
from topoprune_jax._features import unit_rows
from topoprune_jax._select import agreement_weights, group_rank, interleave

from .data import Features

_N_STRATA = 20  # that stood for classes before communities did


@dataclasses.dataclass(frozen=True)
class Order:
    """All samples, the best to keep first."""

    order: np.ndarray


@dataclasses.dataclass(frozen=True)
class Variant:
    """The parts of `rank`; with labels the defaults are its own.

    - `labeled`: within classes, or within 20 strata of the manifold, as `rank` had it without
      labels before communities stood for classes (`OfCommunities`).
    - `manifold`: where patches are taken from: the "spectral" embedding in 16 dimensions as `rank`
      makes it, or "converged" (60 rounds), or that of each class by itself, "of classes"; UMAP's
      "embedding", or the mean rank over "5 embeddings"; or the "features" themselves.
    - `strata`: those of "spectral" or of the "embedding"; None is the manifold's own.
    - `score`: "persistence", "displacement", "gradient" (displacement of one step), "codensity"
      (mean distance to the other points of the patch: no homology), "fuzzy filtration" (total H0
      persistence of the memberships, -log mu, of the patch), "agreement" (rank of persistence plus
      the share of a sample's memberships that leads to other classes or strata), "margin" (the
      score of `baselines.discriminant_margin`: no manifold and no homology), or "none".
    - `patch_size`, `dims`, `beta`: as in `rank`; None is its own choice,
      of `beta` without labels that of `choose_beta`.
    - `gamma`: weights are multiplied by a_j^gamma, a_j the `class_agreement` of sample j with its
      class or stratum; None is 4 with labels and 0 without, as in `rank`.
    - `rule`: "coverage"; "half" and "seven tenths" cover that simpler part of each group alone;
      "simplest" keeps the lowest scores; "random" draws from the simplest three tenths; "strata" is
      CCS on the score: the highest are cut, every stratum of the others gives as many.
    """

    labeled: bool
    manifold: str = "spectral"
    strata: str | None = None
    score: str = "persistence"
    patch_size: int | None = None
    dims: tuple[int, ...] = (0,)
    beta: float | None = None
    gamma: float | None = None
    rule: str = "coverage"

    def __call__(self, features: Features, ratio: float, labels: np.ndarray, key) -> Order:
        stages = _stages(features, self.labeled, labels.tobytes(), int(jax.random.bits(key)))
        stages.labels = labels if self.labeled else None
        stages.key = key
        own = "embedding" if self.manifold in ("embedding", "5 embeddings") else "spectral"
        stages.strata_of = self.strata or own
        scores = self._scores(stages)
        return Order(np.asarray(_RULES[self.rule](self, stages, scores, ratio)))

    def _scores(self, stages: "_Stages") -> np.ndarray:
        if self.score == "none":
            return np.zeros(stages.n, np.float32)
        own = functools.partial(_SCORES[self.score], self, stages)
        if self.manifold == "embedding":
            return own(stages.embedding(0))
        if self.manifold == "5 embeddings":
            several = [_ranks(own(stages.embedding(i)), stages.groups) for i in range(5)]
            return np.mean(several, axis=0)
        if self.manifold == "spectral":
            return own(stages.spectral)
        if self.manifold == "of classes":
            return own(stages.of_classes)
        if self.manifold == "converged":
            return own(np.asarray(tp.spectral_embedding(stages.fuzzy_set, 16, tolerance=0)))
        return own(stages.points)


@dataclasses.dataclass(frozen=True)
class InCoordinates:
    """`rank` with labels in discriminant coordinates, of the `share` of each class that has the
    largest discriminant margin; the others come last."""

    share: float = 1.0
    agreement_power: float = 4.0
    labeled: bool = True

    def __call__(self, features: Features, ratio: float, labels: np.ndarray, key) -> Order:
        x = np.asarray(tp.discriminant_coordinates(features.values, labels))
        margin = baselines.discriminant_margin(features.values, 0.5, labels=labels).scores
        clear = np.asarray(group_rank(margin, _codes(labels))) < self.share
        rows = np.flatnonzero(clear)
        options = {"embedding": tp.EmbeddingOptions(n_epochs=0), "normalize": False}
        options |= {"agreement_power": self.agreement_power, "neighbors": "exact"}
        options["space"] = "features"  # of these coordinates
        first = tp.rank(x[rows], ratio, labels=labels[rows], **options).order
        return Order(np.concatenate([rows[np.asarray(first)], np.flatnonzero(~clear)]))


@dataclasses.dataclass(frozen=True)
class RandomOfAgreeing:
    """As `baselines.discriminant_margin`, with the manifold in the place of the margin: random
    among the `share` of each class of the largest `class_agreement` in discriminant coordinates."""

    share: float = 0.5
    labeled: bool = True

    def __call__(self, features: Features, ratio: float, labels: np.ndarray, key) -> Order:
        codes = _codes(labels)
        x = tp.discriminant_coordinates(features.values, labels)
        fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(x, n_neighbors=15))
        agreement = tp.class_agreement(fuzzy_set, codes)
        apart = 1e-6 * jax.random.uniform(key, agreement.shape)  # many agree wholly
        place = group_rank(apart - agreement, codes)
        draw = jax.random.uniform(jax.random.fold_in(key, 7), agreement.shape)
        order = jnp.argsort(jnp.where(place < self.share, draw, 1 + place), stable=True)
        return Order(np.asarray(interleave(order.astype(jnp.int32), codes)))


@dataclasses.dataclass(frozen=True)
class OfClusters:
    """`rank` with clusters of the features in the place of labels: those of k-means, of all
    `numbers` and three starts, that are the best communities of the fuzzy set by their modularity.
    `options` go to `rank`."""

    numbers: tuple[int, ...] = (2, 3, 5, 7, 8, 9, 10, 11, 12, 14, 16, 20, 28, 40, 56, 80)
    options: tuple[tuple[str, object], ...] = ()
    labeled: bool = False

    def __call__(self, features: Features, ratio: float, labels: np.ndarray, key) -> Order:
        codes = _best_clusters(features, self.numbers)
        options = {"embedding": tp.EmbeddingOptions(n_epochs=0), "neighbors": "exact"}
        options |= {"space": "features"} | dict(self.options)
        return Order(np.asarray(tp.rank(features.values, ratio, labels=codes, **options).order))


@dataclasses.dataclass(frozen=True)
class OfCommunities:
    """`rank` without labels, as it is with the communities of the manifold in the place of classes:
    quotas, scores and agreement are of these, the neighbors are of all samples. `power` of the
    agreement is chosen where it is None; what is covered and patches may be `within` them."""

    power: float | None = None
    beta: float = -1.0
    within: bool = False
    patches_within: bool = False
    labeled: bool = False

    def __call__(self, features: Features, ratio: float, labels: np.ndarray, key) -> Order:
        stages = _stages(features, False, labels.tobytes(), 0)
        codes = tp.communities(stages.fuzzy_set, stages.spectral, key=stages.strata_key)
        scores = stages.scores_of_components
        if self.patches_within:
            options = {"labels": np.asarray(codes), "exact_up_to": stages.n}
            scores = np.asarray(tp.structural_complexity(stages.spectral, **options))
        agreement = tp.class_agreement(stages.fuzzy_set, codes)
        power = tp.choose_agreement_power(agreement, codes) if self.power is None else self.power
        weights = agreement_weights(agreement, jnp.asarray(power, agreement.dtype))
        covering = stages.fuzzy_set
        if self.within:
            graph = tp.knn_graph(stages.points, n_neighbors=15, labels=codes)
            covering = tp.fuzzy_simplicial_set(graph)
        options = {"labels": codes, "weights": weights, "beta": self.beta}
        return Order(np.asarray(tp.select(covering, scores, ratio, **options).order))


@functools.lru_cache(maxsize=4)
def _best_clusters(features: Features, numbers: tuple[int, ...]) -> np.ndarray:
    points = unit_rows(features.values, normalize=True, progress=None)[0]
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=15))
    found = [
        np.asarray(tp.kmeans_strata(points, number, key=jax.random.key(start)))
        for number in numbers
        for start in range(3)
        if number <= len(points)
    ]
    return max(found, key=lambda codes: float(tp.modularity(fuzzy_set, codes)))


def _codes(labels) -> jax.Array:
    return jnp.asarray(np.unique(labels, return_inverse=True)[1], jnp.int32)


class _Stages:
    """What variants on the same features share, made when first asked for."""

    def __init__(self, features: Features):
        self._features = features.values
        self.points = np.asarray(unit_rows(features.values, normalize=True, progress=None)[0])
        self.n = len(self.points)
        self.labels: np.ndarray | None = None
        self.key = jax.random.key(0)
        self.strata_of = "spectral"
        self._embeddings: dict[int, np.ndarray] = {}
        self._strata: dict[str, jax.Array] = {}

    def embedding(self, i: int) -> np.ndarray:
        """That of `rank` under the key, and further ones under others."""
        if i not in self._embeddings:
            key = self.key if i == 0 else jax.random.fold_in(self.key, i)
            exact = tp.rank(self._features, 0.5, neighbors="exact", key=key)
            self._embeddings[i] = np.asarray(exact.embedding)
        return self._embeddings[i]

    @functools.cached_property
    def spectral(self) -> np.ndarray:
        """That of `rank`, whatever the key."""
        options = {"embedding": tp.EmbeddingOptions(n_epochs=0), "neighbors": "exact"}
        return np.asarray(tp.rank(self._features, 0.5, **options).manifold)

    @functools.cached_property
    def scores_of_components(self) -> np.ndarray:
        """Those of `rank` without labels."""
        options = {"embedding": tp.EmbeddingOptions(n_epochs=0), "neighbors": "exact"}
        return np.asarray(tp.rank(self._features, 0.5, **options).scores)

    @functools.cached_property
    def of_classes(self) -> np.ndarray:
        """As `spectral`, every class in coordinates of its own."""
        found = np.zeros((self.n, 16), np.float32)
        for group in np.unique(self.groups):
            rows = np.flatnonzero(np.asarray(self.groups) == group)
            graph = tp.knn_graph(self.points[rows], n_neighbors=15)
            own = tp.fuzzy_simplicial_set(graph)
            found[rows] = tp.spectral_embedding(own, 16, rounds=12, tolerance=0.01)
        return found

    @functools.cached_property
    def fuzzy_set(self):
        return tp.fuzzy_simplicial_set(tp.knn_graph(self.points, n_neighbors=15))

    @functools.cached_property
    def covering(self):
        """The fuzzy set that `rank` covers."""
        if self.labels is None:
            return self.fuzzy_set
        graph = tp.knn_graph(self.points, n_neighbors=15, labels=self.labels)
        return tp.fuzzy_simplicial_set(graph)

    @property
    def groups(self):
        """Within which scores are compared."""
        if self.labels is not None:
            return _codes(self.labels)
        if self.strata_of not in self._strata:
            z = self.embedding(0) if self.strata_of == "embedding" else self.spectral
            made = tp.kmeans_strata(z, _N_STRATA, key=self.strata_key)
            self._strata[self.strata_of] = made
        return self._strata[self.strata_of]

    @property
    def strata_key(self):
        """That of `rank`: only the embedding moves with the key."""
        key = self.key if self.strata_of == "embedding" else jax.random.key(0)
        return jax.random.split(key, 3)[2]


@functools.lru_cache(maxsize=4)
def _stages(features: Features, labeled: bool, labels: bytes, seed: int) -> _Stages:
    return _Stages(features)


def _ranks(scores, groups) -> np.ndarray:
    return np.asarray(group_rank(jnp.asarray(scores, jnp.float32), groups))


def _persistence(variant: Variant, stages: _Stages, z: np.ndarray, **options) -> np.ndarray:
    options["exact_up_to"] = len(z)
    if variant.patch_size is not None:
        options["patch_size"] = variant.patch_size
    scores = tp.structural_complexity(z, labels=stages.labels, dims=variant.dims, **options)
    return np.asarray(scores)


def _codensity(variant: Variant, stages: _Stages, z: np.ndarray) -> np.ndarray:
    k = (variant.patch_size or 64) - 1
    graph = tp.knn_graph(z, n_neighbors=k, labels=stages.labels)
    distances = np.asarray(graph.distances)
    known = np.isfinite(distances)
    return np.where(known, distances, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)


def _fuzzy_filtration(variant: Variant, stages: _Stages, z: np.ndarray) -> np.ndarray:
    """H0 of -log mu among the points of a patch: no coordinates, only the fuzzy set."""
    m = variant.patch_size or 64
    graph = tp.knn_graph(z, n_neighbors=m - 1, labels=stages.labels)
    itself = jnp.arange(stages.n, dtype=jnp.int32)[:, None]
    rows = jnp.where(graph.indices < 0, itself, graph.indices)
    patches = jnp.concatenate([itself, rows], axis=1)
    indices, mu = stages.covering.indices, stages.covering.memberships
    longest = float(-np.log(np.asarray(mu)[np.asarray(mu) > 0].min()))

    def score(patch):
        same = indices[patch][:, :, None] == patch[None, None, :]
        own = jnp.max(jnp.where(same, mu[patch][:, :, None], 0), axis=1)
        own = jnp.maximum(own, own.T)
        lengths = jnp.where(own > 0, -jnp.log(jnp.maximum(own, 1e-30)), longest)
        lengths = jnp.where(patch[:, None] == patch[None, :], 0, lengths)
        return tp.total_persistence(tp.rips_from_distances(lengths, dims=(0,)))

    # Batches of 64 patches hold 64 m k m comparisons.
    return np.asarray(jax.jit(lambda rows: jax.lax.map(score, rows, batch_size=64))(patches))


def _agreement(variant: Variant, stages: _Stages, z: np.ndarray) -> np.ndarray:
    return _ranks(_persistence(variant, stages, z), stages.groups) + 1 - _own_share(stages)


def _own_share(stages: _Stages) -> np.ndarray:
    return np.asarray(tp.class_agreement(stages.fuzzy_set, stages.groups))


def _margin(variant: Variant, stages: _Stages, x: np.ndarray) -> np.ndarray:
    pruning = baselines.discriminant_margin(x, 0.5, labels=stages.groups, normalize=False)
    return np.asarray(pruning.scores)


_SCORES: dict[str, Callable[..., np.ndarray]] = {
    "persistence": _persistence,
    "displacement": functools.partial(_persistence, method="displacement"),
    "gradient": functools.partial(_persistence, method="displacement", n_steps=1),
    "agreement": _agreement,
    "codensity": _codensity,
    "margin": _margin,
    "fuzzy filtration": _fuzzy_filtration,
}


def _covered(variant, stages, scores, ratio):
    labeled = stages.labels is not None
    groups = {"labels": stages.labels} if labeled else {"strata": stages.groups}
    beta, gamma = variant.beta, variant.gamma
    if variant.score == "none":
        beta = 0.0
    elif beta is None and labeled:
        beta = -1.0
    elif beta is None:
        beta = tp.choose_beta(stages.points, stages.covering, scores, **groups)
    if gamma is None:
        gamma = 4.0 if labeled else 0.0
    weights = None
    if gamma != 0:
        share = jnp.asarray(_own_share(stages))
        weights = agreement_weights(share, jnp.asarray(gamma, share.dtype))  # to the bit
    return tp.select(stages.covering, scores, ratio, **groups, weights=weights, beta=beta).order


def _among_classes(stages, order):
    """An order of some or all samples, with the classes taking turns."""
    order = jnp.asarray(order, jnp.int32)
    return order if stages.labels is None else interleave(order, stages.groups)


def _part(variant, stages, scores, ratio, share):
    simple = _ranks(scores, stages.groups) < share
    rows = np.flatnonzero(simple)
    labels = None if stages.labels is None else stages.labels[rows]
    graph = tp.knn_graph(stages.points[rows], n_neighbors=15, labels=labels)
    covering = tp.fuzzy_simplicial_set(graph)
    first = tp.select(covering, np.zeros(len(rows)), ratio, labels=labels, beta=0.0).order
    return np.concatenate([rows[np.asarray(first)], np.flatnonzero(~simple)])


def _simplest(variant, stages, scores, ratio):
    return _among_classes(stages, np.argsort(_ranks(scores, stages.groups), kind="stable"))


def _random(variant, stages, scores, ratio, share):
    draw = np.asarray(jax.random.uniform(jax.random.fold_in(stages.key, 7), (stages.n,)))
    complex_ = _ranks(scores, stages.groups) >= share
    return _among_classes(stages, np.lexsort((draw, complex_)))


def _strata(variant, stages, scores, ratio):
    return baselines.ccs(scores, ratio, key=stages.key).order


_RULES = {
    "coverage": _covered,
    "half": functools.partial(_part, share=0.5),
    "seven tenths": functools.partial(_part, share=0.7),
    "simplest": _simplest,
    "random": functools.partial(_random, share=0.3),
    "strata": _strata,
}

_CHANGES = {
    "as it is": {},
    "coverage alone (beta 0)": {"gamma": 0.0, "score": "none"},
    "beta 1": {"gamma": 0.0, "beta": 1.0},
    "beta 2": {"gamma": 0.0, "beta": 2.0},
    "beta 3": {"gamma": 0.0, "beta": 3.0},
    "patches of 16": {"patch_size": 16},
    "patches of 32": {"patch_size": 32},
    "patches of 128": {"patch_size": 128},
    "and agreement, beta 2": {"gamma": 0.0, "score": "agreement", "beta": 2.0},
    "no homology (codensity)": {"score": "codensity"},
    "no manifold (features)": {"manifold": "features"},
    "converged": {"manifold": "converged"},
    "manifolds of classes": {"manifold": "of classes"},
    "converged, strata of UMAP's embedding": {"manifold": "converged", "strata": "embedding"},
    "5 embeddings": {"manifold": "5 embeddings"},
    "H1": {"dims": (1,)},
    "H0 and H1": {"dims": (0, 1)},
    "displacement": {"score": "displacement"},
    "gradient": {"score": "gradient"},
    "fuzzy filtration": {"score": "fuzzy filtration"},
    "simpler half, then coverage": {"rule": "half"},
    "simpler seven tenths, then coverage": {"rule": "seven tenths"},
    "and agreement, seven tenths, then coverage": {"score": "agreement", "rule": "seven tenths"},
    "own share, beta 0": {"gamma": 1.0, "beta": 0.0},
    "own share squared, beta 0": {"gamma": 2.0, "beta": 0.0},
    "own share to the fourth, beta 0": {"gamma": 4.0, "beta": 0.0},
    "own share to the fourth, beta -1": {"gamma": 4.0, "beta": -1.0},
    "own share to the fourth, beta -2": {"gamma": 4.0, "beta": -2.0},
    "own share squared, beta -1": {"gamma": 2.0, "beta": -1.0},
    "own share squared, beta 1": {"gamma": 2.0, "beta": 1.0},
    "and agreement, beta 1": {"gamma": 0.0, "score": "agreement", "beta": 1.0},
    "strata of scores, as in CCS": {"rule": "strata"},
    "and agreement, strata of scores": {"score": "agreement", "rule": "strata"},
    "simplest": {"rule": "simplest"},
    "random of the simplest 30 %": {"rule": "random"},
    "discriminant margin, the clearest 50 %, then coverage": {
        "score": "margin",
        "rule": "half",
        "manifold": "features",
    },
}

_ON_THE_EMBEDDING = {
    "UMAP's embedding" + ("" if name == "as it is" else f", {name}"): change
    | {"manifold": "embedding"}
    for name, change in _CHANGES.items()
    if "manifold" not in change
}
ABLATIONS: dict[str, Variant | InCoordinates | RandomOfAgreeing | OfClusters | OfCommunities] = {
    f"{kind}: {name}": Variant(labeled, **change)
    for kind, labeled in (("labels", True), ("label-free", False))
    for name, change in (_CHANGES | _ON_THE_EMBEDDING).items()
}
ABLATIONS |= {
    "labels: discriminant coordinates, of the clearest 50 %": InCoordinates(0.5),
    "labels: discriminant coordinates, of the clearest 70 %": InCoordinates(0.7),
    "labels: discriminant coordinates, of the clearest 50 %, agreement power 0": InCoordinates(
        0.5, agreement_power=0.0
    ),
    "labels: discriminant coordinates, agreement power 16": InCoordinates(agreement_power=16.0),
    "labels: agreement in discriminant coordinates, random of the clearest 50 %": (
        RandomOfAgreeing()
    ),
    "label-free: communities": OfCommunities(),
    "label-free: communities, power 4": OfCommunities(power=4.0),
    "label-free: communities, power 16": OfCommunities(power=16.0),
    "label-free: communities, beta 0": OfCommunities(beta=0.0),
    "label-free: communities, neighbors within them": OfCommunities(within=True),
    "label-free: communities, neighbors and patches within them": OfCommunities(
        within=True, patches_within=True
    ),
    "label-free: communities, patches within them": OfCommunities(patches_within=True),
    "label-free: classes of clusters": OfClusters(),
    "label-free: classes of clusters, power 4": OfClusters(options=(("agreement_power", 4.0),)),
    "label-free: classes of clusters, chosen space": OfClusters(options=(("space", "auto"),)),
}
