"""`rank`: what it promises of its answer, on real data, and against its own stages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr
from tiers import tiers

import topoprune_jax as tp
from topoprune_jax import _graph, _graph_approximate, _spectral
from topoprune_jax._graph_exact import TILE_BYTES
from topoprune_jax._rank import _graph_of as graph_for_rank
from topoprune_jax._steps import running

# Where nothing is asked of the map that is only for looking at, it stays at its start.
quick_rank = functools.partial(tp.rank, embedding=tp.EmbeddingOptions(n_epochs=0))


@pytest.fixture(scope="module")
def ranking(digits):
    return quick_rank(digits[0], 0.9, labels=digits[1])


@pytest.fixture(scope="module")
def free_ranking(digits):
    return quick_rank(digits[0], 0.9)


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_auto_takes_blocks_where_they_find_nearly_all(rng, monkeypatch):
    """Near a surface they do; among independent features too few, and there it is exact."""
    n = 18_500
    monkeypatch.setattr(_graph, "_EXACT_ON_CPU", n - 1)
    surface = rng.uniform(size=(n, 2)).astype(np.float32)
    surface = np.concatenate([surface, np.sin(6 * surface), np.cos(4 * surface)], axis=1)
    surface /= np.linalg.norm(surface, axis=1, keepdims=True)
    assert _graph.method_for("auto", n) == "auto"
    apart = rng.normal(size=(n, 40)).astype(np.float32)
    made = []

    def note(name):
        search = getattr(_graph, name)

        def noted(*args, **options):
            made.append(name)
            return search(*args, **options)

        monkeypatch.setattr(_graph, name, noted)

    note("approximate_neighbors")
    note("exact_neighbors")
    for features, method in ((surface, "blocks"), (apart, "exact")):
        with running(None, None, dict) as run:
            found = graph_for_rank(jnp.asarray(features), 15, "auto", TILE_BYTES, run)
        assert made == ["approximate_neighbors", "exact_neighbors"][: 1 + (method == "exact")]
        assert_same(found, tp.knn_graph(features, method=method))
        made.clear()
    assert float(tp.knn_graph(apart, method="blocks").recall) < 0.95


@pytest.mark.slow
def test_auto_is_exact_while_jax_traces(rng, monkeypatch):
    """There nobody can look at the recall."""
    monkeypatch.setattr(_graph, "_EXACT_ON_CPU", 50)
    features = rng.normal(size=(60, 4)).astype(np.float32)
    quick = {"embedding": tp.EmbeddingOptions(n_epochs=0), "beta": 0.0}
    exact = tp.rank(features, 0.5, neighbors="exact", **quick)
    traced = jax.jit(lambda x: tp.rank(x, 0.5, **quick))(features)
    assert float(traced.recall) == 1
    np.testing.assert_array_equal(np.sort(traced.order), np.sort(exact.order))


def test_what_auto_and_patches_do_follows_from_the_number_of_samples():
    sizes = (30_000, 30_001, 100_000, 100_001)
    assert [_graph.method_for("auto", n, "cpu") for n in sizes] == [
        "exact",
        "auto",
        "auto",
        "blocks",
    ]
    assert {_graph.method_for("auto", n, "gpu") for n in sizes} == {"exact"}
    assert _graph.method_for("projected", 10**6, "cpu") == "projected"
    limits = [_graph.exact_patches_for(name) for name in ("auto", "blocks", "exact", "projected")]
    assert limits == [25_000, 25_000, 50_000, 50_000]


def test_shapes_and_types(ranking, digits):
    n = len(digits[0])
    assert ranking.scores.shape == ranking.order.shape == (n,)
    assert ranking.kept.shape == (180,)  # round(0.1 * 1797)
    assert ranking.removed.shape == (n - 180,)
    assert ranking.embedding.shape == (n, 2)
    assert ranking.order.dtype == jnp.int32
    assert bool(ranking.result == tp.RESULTS.successful)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(ranking))


def test_kept_and_removed_cover_every_index_once(ranking, free_ranking, digits):
    for answer in (ranking, free_ranking):
        both = np.concatenate([answer.kept, answer.removed])
        np.testing.assert_array_equal(both, answer.order)
        np.testing.assert_array_equal(np.sort(both), np.arange(len(digits[0])))


def test_every_class_keeps_its_share(ranking, digits):
    counts = np.bincount(digits[1][np.asarray(ranking.kept)], minlength=10)
    assert np.abs(counts - 0.1 * np.bincount(digits[1])).max() <= 1


@pytest.fixture(scope="module")
def mapped(digits):
    return tp.rank(digits[0], 0.9, labels=digits[1])


def test_same_key_same_bits(digits, mapped):
    assert_same(tp.rank(digits[0], 0.9, labels=digits[1], key=jax.random.key(0)), mapped)


def test_the_key_makes_the_embedding_only(digits, mapped, free_ranking):
    other = tp.rank(digits[0], 0.9, labels=digits[1], key=jax.random.key(1))
    assert not np.array_equal(other.embedding, mapped.embedding)
    free = quick_rank(digits[0], 0.9, key=jax.random.key(1))
    for name in ("scores", "order", "manifold", "beta"):
        np.testing.assert_array_equal(getattr(other, name), getattr(mapped, name))
        np.testing.assert_array_equal(getattr(free, name), getattr(free_ranking, name))


def test_rounding_moves_hardly_a_pick(digits, ranking, free_ranking):
    """Features that differ in the seventh digit: nearly the same choice."""
    noise = np.random.default_rng(0).normal(size=digits[0].shape)
    for labels, answer in ((digits[1], ranking), (None, free_ranking)):
        other = quick_rank(digits[0] * (1 + 1e-7 * noise), 0.9, labels=labels)
        assert len(np.intersect1d(other.kept, answer.kept)) >= 170


@pytest.mark.slow
def test_rounding_moves_hardly_a_pick_in_separate_clusters(rng):
    """More clusters than coordinates: each has all of them, and patches end where it ends."""
    n, several = 1600, 20
    of_sheet = rng.normal(size=(n, 2))
    labels = np.arange(n) % several
    centers = 40 * rng.normal(size=(several, 8))
    sheets = np.concatenate([of_sheet, of_sheet**2, 0.1 * rng.normal(size=(n, 4))], axis=1)
    features = (centers[labels] + sheets).astype(np.float32)
    options = {"normalize": False, "embedding": tp.EmbeddingOptions(n_epochs=0)}
    ranking = tp.rank(features, 0.9, **options)
    parts = np.asarray(tp.connected_components(tp.fuzzy_simplicial_set(tp.knn_graph(features))))
    assert len(np.unique(parts)) == several
    np.testing.assert_array_equal(parts, labels)  # both are numbered by their first points
    expected = tp.structural_complexity(ranking.manifold, labels=labels)
    np.testing.assert_array_equal(ranking.scores, expected)
    other = tp.rank(features + 1e-6 * rng.normal(size=features.shape), 0.9, **options)
    assert len(np.intersect1d(other.kept, ranking.kept)) >= 155
    half = labels + several * (of_sheet[:, 0] > 0)  # two classes in every cluster
    ranking = tp.rank(features, 0.9, labels=half % 7, **options)
    expected = tp.structural_complexity(ranking.manifold, labels=half % 7 + 7 * labels)
    np.testing.assert_array_equal(ranking.scores, expected)


@pytest.mark.slow
def test_patches_of_the_embedding(digits):
    """The manifold of the paper: patches are those of `embed`, and so are the communities."""
    first, other = (
        tp.rank(digits[0], 0.9, manifold="embedding", key=jax.random.key(i)) for i in (0, 1)
    )
    np.testing.assert_array_equal(first.manifold, first.embedding)
    scores = tp.structural_complexity(first.embedding)
    np.testing.assert_array_equal(scores, first.scores)
    one, two = set(first.kept.tolist()), set(other.kept.tolist())
    # Two random choices of a tenth share about 5 % (Jaccard index).
    assert 0.3 < len(one & two) / len(one | two) < 1


def test_ratios_are_nested_and_share_the_order(digits, ranking):
    half = quick_rank(digits[0], 0.5, labels=digits[1])
    np.testing.assert_array_equal(half.order, ranking.order)
    np.testing.assert_array_equal(half.scores, ranking.scores)
    assert set(ranking.kept.tolist()) <= set(half.kept.tolist())


def test_stages_make_the_ranking(digits, ranking, free_ranking):
    """The steps of the docstring."""
    points = digits[0] / np.linalg.norm(digits[0], axis=1, keepdims=True)
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points))
    z = tp.spectral_embedding(fuzzy_set, 16)
    np.testing.assert_allclose(z, ranking.manifold, atol=0.1)  # fewer rounds of the iteration
    correlation, _ = spearmanr(tp.structural_complexity(z), free_ranking.scores)
    assert correlation > 0.995
    scores = tp.structural_complexity(ranking.manifold, labels=digits[1])
    np.testing.assert_array_equal(scores, ranking.scores)
    within = tp.fuzzy_simplicial_set(tp.knn_graph(points, labels=digits[1]))
    agreement = tp.class_agreement(fuzzy_set, digits[1])
    power = tp.choose_agreement_power(agreement, digits[1])
    assert float(power) == float(ranking.agreement_power)
    weights = jnp.maximum(agreement**power, agreement**4 / 1000)
    assert float(ranking.beta) == -1
    selection = tp.select(
        within, scores, 0.9, labels=digits[1], weights=weights, beta=float(ranking.beta)
    )
    shared = set(selection.kept.tolist()) & set(ranking.kept.tolist())
    assert len(shared) > 170  # unit rows in another precision may turn a tie
    scores = tp.structural_complexity(free_ranking.manifold)
    np.testing.assert_array_equal(scores, free_ranking.scores)
    cells_key = jax.random.split(jax.random.key(0), 3)[2]
    groups = tp.communities(fuzzy_set, free_ranking.manifold, key=cells_key)
    assert 10 <= len(np.unique(groups)) <= 16
    agreement = tp.class_agreement(fuzzy_set, groups)
    power = tp.choose_agreement_power(agreement, groups)
    assert float(power) == float(free_ranking.agreement_power)
    assert float(free_ranking.beta) == -1
    options = {"labels": groups, "weights": jnp.maximum(agreement, 1e-3) ** power}
    cover = tp.select(fuzzy_set, scores, 0.9, **options, beta=-1.0)
    assert len(set(cover.kept.tolist()) & set(free_ranking.kept.tolist())) > 170
    other = tp.select(fuzzy_set, scores, 0.9, **options, beta=2.0)  # beta does count
    assert len(set(other.kept.tolist()) & set(free_ranking.kept.tolist())) < 160


def test_communities_stand_for_classes(digits, free_ranking):
    """Nobody says how many digits there are, and yet each has about its share of what is kept."""
    share = np.bincount(digits[1][free_ranking.kept]) / len(free_ranking.kept)
    assert len(share) == 10
    assert share.min() > 0.07
    assert share.max() < 0.13
    given = {"beta": 1.0, "agreement_power": 0.0}
    other = quick_rank(digits[0], 0.9, **given)
    assert {name: float(getattr(other, name)) for name in given} == given
    assert len(np.intersect1d(other.kept, free_ranking.kept)) < 150


def test_neighbors_from_elsewhere(digits, ranking):
    """A graph of the same rows gives much the same answer, and its own recall."""
    points = digits[0] / np.linalg.norm(digits[0], axis=1, keepdims=True)
    graph = tp.knn_graph(points)
    given = tp.NeighborGraph(np.asarray(graph.indices), np.asarray(graph.distances), 0.5)
    answer = quick_rank(digits[0], 0.9, labels=digits[1], neighbors=given)
    assert float(ranking.recall) == 1
    assert float(answer.recall) == 0.5
    shared = set(answer.kept.tolist()) & set(ranking.kept.tolist())
    assert len(shared) > 150  # distances differ in the last place
    blocks = quick_rank(digits[0], 0.9, labels=digits[1], neighbors="blocks")
    np.testing.assert_array_equal(blocks.kept, ranking.kept)  # so few points: the exact search


def test_mislabeled_samples_are_left_out(digits):
    """One in ten labels is wrong: few of those are kept, and without the agreement many."""
    generator = np.random.default_rng(0)
    labels = digits[1].copy()
    wrong = generator.choice(len(labels), len(labels) // 10, replace=False)
    labels[wrong] = (labels[wrong] + generator.integers(1, 10, len(wrong))) % 10

    def share(**options):
        kept = quick_rank(digits[0], 0.9, labels=labels, **options).kept
        return np.isin(np.asarray(kept), wrong).mean()

    assert share() < 0.02
    assert share(agreement_power=0.0) > 0.1


def test_power_of_the_agreement_is_chosen(digits, ranking):
    """Six digits of ten agree wholly, but classes of 180 admit no more than the least."""
    power = float(ranking.agreement_power)
    points = digits[0] / np.linalg.norm(digits[0], axis=1, keepdims=True)
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points))
    agreement = tp.class_agreement(fuzzy_set, digits[1])
    assert float(tp.choose_agreement_power(agreement)) > 30
    plain = quick_rank(digits[0], 0.9, labels=digits[1], agreement_power=power)
    np.testing.assert_array_equal(plain.order, ranking.order)
    assert power == 4


def test_power_of_the_agreement_can_be_given(digits, ranking):
    """Other samples are kept, those that agree more."""
    points = digits[0] / np.linalg.norm(digits[0], axis=1, keepdims=True)
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points))
    agreement = tp.class_agreement(fuzzy_set, digits[1])
    assert float(tp.choose_agreement_power(agreement)) == 64
    chosen = quick_rank(digits[0], 0.9, labels=digits[1], agreement_power=64)
    np.testing.assert_array_equal(chosen.scores, ranking.scores)
    weights = np.maximum(agreement**64, agreement**4 / 1000)
    within = tp.fuzzy_simplicial_set(tp.knn_graph(points, labels=digits[1]))
    covered = {"labels": digits[1], "weights": weights, "beta": -1.0}
    expected = tp.select(within, chosen.scores, 0.9, **covered)
    shared = set(expected.kept.tolist()) & set(chosen.kept.tolist())
    assert len(shared) > 170  # unit rows in another precision may turn a tie
    assert len(set(chosen.kept.tolist()) ^ set(ranking.kept.tolist())) > 20
    agreement = np.asarray(agreement)
    assert agreement[chosen.kept].mean() > agreement[ranking.kept].mean() + 0.005


@pytest.mark.parametrize(
    "space",
    [pytest.param("discriminant_features", marks=pytest.mark.slow), "discriminant_coordinates"],
)
def test_samples_can_be_compared_in_discriminant_coordinates(digits, ranking, space):
    """The ranking of the function's result, here of shards."""
    x, y = digits
    asked = quick_rank([x[:700], x[700:]], 0.9, labels=y, space=space)
    coordinates = getattr(tp, space)(x, y)
    made = quick_rank(coordinates, 0.9, labels=y, space="features", normalize=False)
    assert len(set(asked.kept.tolist()) & set(made.kept.tolist())) > 170  # ties that turn
    assert float(asked.agreement_power) == float(made.agreement_power)
    assert len(set(asked.kept.tolist()) ^ set(ranking.kept.tolist())) > 60
    assert asked.manifold.shape == ranking.manifold.shape


def test_noisy_features_with_labels_are_ranked_in_discriminant_coordinates(digits, ranking):
    """By default, and said in `result`; not without noise, labels, or samples enough."""
    x, y = digits
    noisy = x + 0.5 * x.std(axis=0) * np.random.default_rng(0).normal(size=x.shape)
    found = quick_rank(noisy, 0.9, labels=y)
    assert found.result == tp.RESULTS.features_noisy
    asked = quick_rank(noisy, 0.9, labels=y, space="discriminant_coordinates")
    assert asked.result == tp.RESULTS.successful
    np.testing.assert_array_equal(found.order, asked.order)
    assert ranking.result == tp.RESULTS.successful
    np.testing.assert_array_equal(
        ranking.order, quick_rank(x, 0.9, labels=y, space="features").order
    )
    assert quick_rank(noisy[:300], 0.9).result == tp.RESULTS.successful
    few = quick_rank(noisy[:300], 0.9, labels=y[:300])
    assert few.result == tp.RESULTS.successful
    graph = tp.knn_graph(noisy, n_neighbors=15)  # which tells where samples are compared
    assert quick_rank(noisy, 0.9, labels=y, neighbors=graph).result == tp.RESULTS.successful


@pytest.mark.slow
def test_what_jax_traces_is_ranked_in_the_features(digits):
    x, y = digits
    noisy = x + 0.5 * x.std(axis=0) * np.random.default_rng(0).normal(size=x.shape)
    traced = jax.jit(lambda x: quick_rank(x, 0.9, labels=y))(noisy)
    assert traced.result == tp.RESULTS.successful
    asked = quick_rank(noisy, 0.9, labels=y, space="features")
    assert len(set(traced.kept.tolist()) & set(asked.kept.tolist())) > 170  # ties that turn


@pytest.mark.slow
def test_a_class_among_others_is_still_covered(rng):
    """Two members lie wholly among the other class; they come before copies of a covered one."""
    others = rng.normal(size=(60, 3))
    lone = np.repeat(rng.normal(size=(3, 3)), [6, 1, 1], axis=0)
    points = np.concatenate([lone, np.repeat(lone, 20, axis=0) + 1e-6, others])
    labels = np.concatenate([np.ones(8), np.zeros(len(points) - 8)])
    ranking = quick_rank(points, 0.5, labels=labels, n_neighbors=3, normalize=False)
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points[6:], n_neighbors=3))
    assert float(tp.class_agreement(fuzzy_set, labels[6:])[:2].max()) == 0
    first = [i for i in np.asarray(ranking.order).tolist() if i < 8][:3]
    assert {6, 7} & set(first)


@pytest.mark.slow
def test_vmap_over_keys(digits):
    keys = jax.random.split(jax.random.key(3), 2)

    def rank(key):
        return tp.rank(digits[0][:150], 0.8, manifold="embedding", key=key)

    kept = jax.vmap(lambda key: rank(key).kept)(keys)
    assert kept.shape == (2, 30)
    for one in kept.tolist():
        assert len(set(one)) == 30
        assert set(one) <= set(range(150))
    assert kept[0].tolist() != kept[1].tolist()


@pytest.mark.parametrize(
    "kind",
    tiers(
        ["jax", "memmap", "shards", "batches", "float16", "float64", "integers", "list"],
        ["jax", "memmap", "batches"],
    ),
)
def test_kinds_of_input(digits, free_ranking, kind, tmp_path):
    points = digits[0]  # whole numbers up to 16: exact in every type
    if kind == "memmap":
        np.save(tmp_path / "points.npy", points)
        given = np.load(tmp_path / "points.npy", mmap_mode="r")
    elif kind == "shards":
        given = [points[:700], jnp.asarray(points[700:])]
    elif kind == "batches":
        given = (points[i : i + 256] for i in range(0, len(points), 256))
    elif kind == "list":
        given = points.tolist()
    elif kind == "jax":
        given = jnp.asarray(points, jnp.bfloat16)
    else:
        given = points.astype({"integers": np.int16}.get(kind, kind))
    assert_same(quick_rank(given, 0.9), free_ranking)


@pytest.mark.slow
def test_scale_does_not_matter(digits, free_ranking):
    assert_same(quick_rank(digits[0] * np.float32(2.0**100), 0.9), free_ranking)
    raw = quick_rank(digits[0], 0.9, normalize=False)
    assert_same(quick_rank(digits[0].astype(np.float64) * 2.0**600, 0.9, normalize=False), raw)
    assert not np.array_equal(raw.order, free_ranking.order)


def test_names_are_labels(digits, ranking):
    names = np.array([f"class {label}" for label in digits[1]])
    assert_same(quick_rank(digits[0], 0.9, labels=names), ranking)


def test_progress_ends_every_stage_and_changes_nothing(digits, mapped):
    calls = []
    answer = tp.rank(digits[0], 0.9, labels=digits[1], progress=lambda *call: calls.append(call))
    assert_same(answer, mapped)
    stages = list(dict.fromkeys(stage for stage, _, _ in calls))
    assert stages == [
        "features",
        "neighbors",
        "fuzzy set",
        "manifold",
        "embedding",
        "complexity",
        "class neighbors",
        "class fuzzy set",
        "selection",
    ]
    for stage in stages:
        done = [(done, total) for name, done, total in calls if name == stage]
        assert done[-1][0] == done[-1][1]
        assert done == sorted(done)


def test_progress_is_silent_while_anything_is_traced(digits):
    calls = []
    rank = functools.partial(tp.rank, ratio=0.9, progress=lambda *call: calls.append(call))
    features = digits[0][:30]
    jax.eval_shape(lambda _: rank(features).kept, 0.0)
    jax.eval_shape(lambda graph: rank(features, neighbors=graph).kept, tp.knn_graph(features))
    assert not calls


def test_interrupt_from_progress_stops(digits):
    def stop(stage, done, total):
        if stage == "embedding" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tp.rank(digits[0], 0.9, progress=stop)


def test_identical_samples_are_named(digits):
    answer = quick_rank(np.full_like(digits[0], 2.0), 0.5)
    assert bool(answer.result == tp.RESULTS.all_identical)
    assert "All samples have the same features" in tp.RESULTS[answer.result]
    assert bool(jnp.isfinite(answer.scores).all())


@pytest.mark.slow
def test_the_start_of_the_map_may_be_random(digits, free_ranking):
    """And its steps none: the embedding is then what the key says, the choice the same."""
    one, other = (
        tp.rank(digits[0], 0.9, embedding=tp.EmbeddingOptions(n_epochs=0, start=start))
        for start in ("random", "spectral")
    )
    np.testing.assert_array_equal(one.order, free_ranking.order)
    np.testing.assert_array_equal(other.order, free_ranking.order)
    # Without steps the spectral start is there as it was: along the manifold's first axes.
    for i in range(2):
        along = [abs(np.corrcoef(z.embedding[:, i], z.manifold[:, i])[0, 1]) for z in (other, one)]
        assert along[0] > 0.9
        assert along[1] < 0.2


@pytest.mark.slow
def test_more_components(digits):
    answer = tp.rank(digits[0], 0.9, embedding=tp.EmbeddingOptions(n_components=8))
    assert answer.embedding.shape == (len(digits[0]), 8)


def test_beats_random_coverage_of_the_manifold(digits, free_ranking):
    """What is kept covers the fuzzy set better than any of 20 random choices of its size."""
    points = digits[0] / np.linalg.norm(digits[0], axis=1, keepdims=True)
    i, j, mu = tp.fuzzy_simplicial_set(tp.knn_graph(points)).edges()
    matrix = np.eye(len(points))
    matrix[i, j] = matrix[j, i] = mu
    rng = np.random.default_rng(0)

    def covered(kept):
        return matrix[np.asarray(kept)].max(axis=0).mean()

    chance = [covered(rng.permutation(len(points))[:180]) for _ in range(20)]
    assert covered(free_ranking.kept) > max(chance)


@pytest.mark.slow
def test_many_data_sets_in_one_call(digits):
    features, labels = digits
    several = features[:600].reshape(4, 150, -1).astype(np.float32)
    codes = labels[:600].reshape(4, 150).astype(np.int32)
    rank = functools.partial(tp.rank, ratio=0.8, embedding=tp.EmbeddingOptions(n_epochs=50))
    together = jax.jit(jax.vmap(lambda x: rank(x)))(several)
    aware = jax.jit(jax.vmap(lambda x, y: rank(x, labels=y)))(several, codes)
    for i in range(4):
        for many, alone in [
            (together, rank(several[i])),
            (aware, rank(several[i], labels=codes[i])),
        ]:
            # Equal but for rounding, which the optimizer enlarges: nearer than under another key.
            shared = len(np.intersect1d(many.kept[i], alone.kept))
            assert shared >= 20
            assert float(many.beta[i]) == float(alone.beta)
            one = jax.tree.map(lambda leaf, i=i: leaf[i], many)
            assert bool(one.result == alone.result)


@pytest.mark.slow
def test_rows_that_are_not_finite_are_said_under_jit(digits):
    features = digits[0][:150].astype(np.float32)
    spoiled = features.copy()
    spoiled[7, 3] = np.nan
    rank = jax.jit(functools.partial(tp.rank, ratio=0.8))
    assert rank(features).result == tp.RESULTS.successful
    ranking = rank(spoiled)
    assert ranking.result == tp.RESULTS.features_not_finite
    assert jnp.isfinite(ranking.embedding).all()
    assert sorted(ranking.order.tolist()) == list(range(150))
    assert rank(np.ones_like(features)).result == tp.RESULTS.all_identical


def test_whole_numbers_stay_of_32_bits_where_64_are_allowed(x64, monkeypatch):
    """With blocks and an order of the graph, as for many samples."""
    plan = _graph_approximate._Plan(4, 1, 8, 40, 960, 10, 1)
    monkeypatch.setattr(_graph_approximate, "_plan", lambda n, k: plan)
    monkeypatch.setattr(_spectral, "_FAR", 1)
    points = np.random.default_rng(0).normal(size=(1200, 5))
    ranking = tp.rank(points, 0.9, neighbors="blocks")
    assert ranking.kept.shape == (120,)
    assert ranking.kept.dtype == jnp.int32
    assert 0.9 < float(ranking.recall) < 1
