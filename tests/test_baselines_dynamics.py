"""Training dynamics, CCS, D2 and ZCore: plain loops as oracles, by hand, at the limits, laws."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiers import tiers

from topoprune_jax.baselines._ccs import allocate, ccs
from topoprune_jax.baselines._d2 import d2
from topoprune_jax.baselines._dynamics import aum, el2n, forgetting
from topoprune_jax.baselines._zcore import draw, zcore

DYNAMICS = [el2n, forgetting, aum]


def assert_pruning(pruning, n, m):
    """The laws of every result."""
    assert pruning.scores.shape == (n,)
    assert pruning.order.dtype == pruning.kept.dtype == pruning.removed.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(pruning.order), np.arange(n))
    np.testing.assert_array_equal(pruning.order[:m], pruning.kept)
    np.testing.assert_array_equal(pruning.order[m:], pruning.removed)
    assert np.isfinite(pruning.scores).all()


def assert_shares(codes, kept, ratio):
    counts = np.bincount(codes[np.asarray(kept)], minlength=codes.max() + 1)
    assert np.abs(counts - (1 - ratio) * np.bincount(codes)).max() <= 1


# --- training dynamics


@pytest.fixture
def run(rng):
    """Logits of a run (epochs, n, classes) that learns, and labels; class 4 has no sample."""
    labels = rng.integers(0, 4, size=60)
    logits = rng.normal(size=(7, 60, 5)) * 2
    logits[:, np.arange(60), labels] += np.linspace(0, 3, 7)[:, None]
    logits[:, 5, :] = 0
    logits[:, 5, (labels[5] + 1) % 4] = 1  # never learned
    return logits.astype(np.float32), labels


def el2n_by_loops(logits, labels):
    scores = np.zeros(logits.shape[1])
    for z in logits.astype(np.float64):
        for i, y in enumerate(labels):
            p = np.exp(z[i]) / np.exp(z[i]).sum()
            p[y] -= 1
            scores[i] += np.linalg.norm(p) / len(logits)
    return scores


def forgetting_by_loops(logits, labels):
    scores = np.zeros(logits.shape[1])
    for i, y in enumerate(labels):
        right = [z[i].argmax() == y for z in logits]
        events = sum(a and not b for a, b in itertools.pairwise(right))
        scores[i] = events if any(right) else len(logits)
    return scores


def aum_by_loops(logits, labels):
    scores = np.zeros(logits.shape[1])
    for z in logits.astype(np.float64):
        for i, y in enumerate(labels):
            scores[i] += (z[i, y] - np.delete(z[i], y).max()) / len(logits)
    return scores


ORACLES = {el2n: el2n_by_loops, forgetting: forgetting_by_loops, aum: aum_by_loops}


@pytest.mark.parametrize("method", DYNAMICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_dynamics_against_loops(run, method, dtype):
    logits, labels = run
    logits = logits.astype(dtype)
    expected = ORACLES[method](logits, labels)
    pruning = method(logits, 0.7, labels=labels)
    assert_pruning(pruning, 60, 18)
    np.testing.assert_allclose(pruning.scores, expected, rtol=2e-5, atol=1e-6)
    hardness = -np.asarray(pruning.scores) if method is aum else np.asarray(pruning.scores)
    np.testing.assert_array_equal(pruning.order, np.argsort(-hardness, kind="stable"))
    easy = method(logits, 0.7, labels=labels, keep="easy")
    np.testing.assert_array_equal(easy.order, np.argsort(hardness, kind="stable"))


def test_half_precision_is_widened(rng):
    """A thousand epochs of 8 would stall at 2,048 in float16."""
    logits = np.zeros((1000, 2, 2), np.float16)
    logits[:, :, 0] = 8
    assert aum(logits, 0.5, labels=[0, 1]).scores.tolist() == [8.0, -8.0]
    logits = jnp.asarray(logits, jnp.bfloat16)
    assert aum(logits, 0.5, labels=[0, 1]).scores.tolist() == [8.0, -8.0]


def test_dynamics_by_hand():
    right, wrong = [0.0, 3.0], [3.0, 0.0]
    logits = np.array(
        [
            [right, right, wrong, wrong],
            [right, wrong, wrong, right],
            [right, right, wrong, wrong],
            [right, wrong, wrong, wrong],
        ]
    )
    labels = [1, 1, 1, 1]
    assert forgetting(logits, 0.5, labels=labels).scores.tolist() == [0, 2, 4, 1]
    assert forgetting(logits, 0.5, labels=labels).order.tolist() == [2, 1, 3, 0]
    assert forgetting(logits, 0.5, labels=labels, keep="easy").kept.tolist() == [0, 3]
    assert aum(logits, 0.5, labels=labels).scores.tolist() == [3.0, 0.0, -3.0, -1.5]
    assert aum(logits, 0.5, labels=labels).kept.tolist() == [2, 3]
    p = 1 / (1 + np.exp(3))  # of the class with the smaller logit
    np.testing.assert_allclose(
        el2n(logits[:1], 0.5, labels=labels).scores,
        np.sqrt(2) * np.array([p, p, 1 - p, 1 - p]),
        rtol=1e-6,
    )


def test_aum_of_probabilities_is_that_of_ccs(run):
    logits, labels = run
    shifted = np.exp(logits.astype(np.float64))
    probabilities = shifted / shifted.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(
        aum(logits, 0.5, labels=labels, probabilities=True).scores,
        aum_by_loops(probabilities, labels),
        atol=1e-6,
    )


@pytest.mark.parametrize("method", DYNAMICS)
def test_dynamics_laws(run, rng, method):
    logits, labels = run
    plain = method(logits, 0.5, labels=labels)
    shuffle = rng.permutation(60)
    moved = method(logits[:, shuffle], 0.5, labels=labels[shuffle])
    np.testing.assert_allclose(moved.scores, plain.scores[shuffle], rtol=1e-6, atol=1e-6)
    if method is not forgetting:  # its counts are tied
        np.testing.assert_array_equal(shuffle[np.asarray(moved.order)], plain.order)
    constant = method(logits + 50, 0.5, labels=labels)  # logits are defined up to a constant
    np.testing.assert_allclose(constant.scores, plain.scores, atol=2e-5)
    other_key = method(logits, 0.5, labels=labels, key=jax.random.key(9))
    np.testing.assert_array_equal(other_key.order, plain.order)
    balanced = method(logits, 0.5, labels=labels, balanced=True)
    assert_pruning(balanced, 60, 30)
    assert_shares(labels, balanced.kept, 0.5)


@pytest.mark.parametrize("method", DYNAMICS)
def test_dynamics_at_the_limits(method):
    assert_pruning(method(np.zeros((1, 1, 2)), 0.9, labels=[1]), 1, 1)
    same = method(np.ones((3, 10, 4)), 0.8, labels=np.full(10, 3), keep="hard")
    assert same.kept.tolist() == [0, 1]
    extreme = method(np.full((2, 3, 2), [3e38, -3e38]), 0.5, labels=[0, 1, 0])
    if method is not aum:  # a margin of 6e38 is beyond float32
        assert_pruning(extreme, 3, 2)


@pytest.mark.parametrize("method", DYNAMICS)
def test_dynamics_rejects_bad_input(run, method):
    logits, labels = run
    with pytest.raises(ValueError, match=r"`logits` must have shape .*got shape \(60, 5\)"):
        method(logits[0], 0.5, labels=labels)
    with pytest.raises(ValueError, match="at least two classes"):
        method(logits[:, :, :1], 0.5, labels=labels)
    with pytest.raises(ValueError, match="`logits` must be finite"):
        method(np.where(logits > 3, np.nan, logits), 0.5, labels=labels)
    with pytest.raises(ValueError, match="`logits` must fit in float32"):
        method(logits.astype(np.float64) * 1e60, 0.5, labels=labels)
    with pytest.raises(ValueError, match="between 0 and 4, the columns of `logits`; got 0 to 5"):
        method(logits, 0.5, labels=np.where(labels == 3, 5, 0))
    with pytest.raises(ValueError, match="between 0 and 4, the columns of `logits`; got -1 to"):
        method(logits, 0.5, labels=labels - 1)
    with pytest.raises(TypeError, match="`labels` must be integers, the columns"):
        method(logits, 0.5, labels=np.array(list("abcd"))[labels])
    with pytest.raises(ValueError, match=r"`labels` must have shape \(60,\)"):
        method(logits, 0.5, labels=labels[1:])
    with pytest.raises(ValueError, match="`keep` must be 'hard' or 'easy'; got 'both'"):
        method(logits, 0.5, labels=labels, keep="both")
    with pytest.raises(ValueError, match=r"Pass 0\.9 to remove 90 %"):
        method(logits, 90, labels=labels)


# --- CCS


def strata_by_loops(difficulty, left, n_strata):
    low, high = difficulty[left].min(), difficulty[left].max()
    width = (high - low) / n_strata
    found = []
    for s in range(n_strata):
        last = s == n_strata - 1
        found.append(
            [
                i
                for i in left
                if low + s * width <= difficulty[i]
                and (difficulty[i] < low + (s + 1) * width or last)
            ]
        )
    return found


def budgets_by_loops(budget, sizes):
    shares, left = np.zeros(len(sizes), int), len(sizes)
    for s in np.argsort(sizes, kind="stable"):
        shares[s] = min(sizes[s], budget // left)
        budget, left = budget - shares[s], left - 1
    return shares


@pytest.mark.parametrize(("ratio", "cutoff"), [(0.9, 0.3), (0.9, None), (0.5, 0.2), (0.3, 0.0)])
def test_ccs_keeps_the_budget_of_every_stratum(rng, ratio, cutoff):
    difficulty = rng.gamma(2.0, size=500)
    pruning = ccs(difficulty, ratio, cutoff=cutoff, n_strata=20)
    n_cut = round({0.9: 0.3, 0.5: 0.0}[ratio] * 500 if cutoff is None else cutoff * 500)
    m = round((1 - ratio) * 500)
    assert_pruning(pruning, 500, m)
    np.testing.assert_allclose(pruning.scores, difficulty, rtol=1e-6)
    by_difficulty = np.argsort(difficulty)
    np.testing.assert_array_equal(pruning.order[500 - n_cut :], by_difficulty[500 - n_cut :])
    strata = strata_by_loops(difficulty, np.sort(by_difficulty[: 500 - n_cut]), 20)
    assert sum(map(len, strata)) == 500 - n_cut
    expected = budgets_by_loops(m, np.array([len(s) for s in strata]))
    kept = set(pruning.kept.tolist())
    assert [len(kept & set(s)) for s in strata] == expected.tolist()


def test_ccs_by_hand():
    """The two hardest are cut; of strata of 4, 0, 1, 1 a budget of 4 takes 2, 0, 1, 1."""
    difficulty = [0.0, 0.125, 0.25, 0.375, 1.25, 2.0, 90.0, 91.0]
    pruning = ccs(difficulty, 0.5, cutoff=0.25, n_strata=4)
    assert {4, 5} < set(pruning.kept.tolist()) < {0, 1, 2, 3, 4, 5}
    assert pruning.removed[-2:].tolist() == [6, 7]


@pytest.mark.parametrize("sizes", [[0, 0, 5], [3, 1, 4, 1, 5], [7], [2, 2, 2], [0, 0]])
def test_ccs_budgets_use_up_all_there_is(sizes):
    for budget in range(sum(sizes) + 1):
        shares = allocate(jnp.int32(budget), jnp.asarray(sizes, jnp.int32))
        assert shares.tolist() == budgets_by_loops(budget, np.array(sizes)).tolist()
        assert int(shares.sum()) == budget


def test_ccs_draws_are_uniform_and_seeded(rng):
    difficulty = np.repeat([0.0, 1.0], [40, 10])
    counts = np.zeros(50)
    for seed in range(200):
        counts[np.asarray(ccs(difficulty, 0.8, cutoff=0, key=jax.random.key(seed)).kept)] += 1
    assert counts[:40].sum() == counts[40:].sum() == 200 * 5  # half from either stratum
    assert stats.chisquare(counts[:40]).pvalue > 1e-3
    assert stats.chisquare(counts[40:]).pvalue > 1e-3
    again = ccs(difficulty, 0.8, cutoff=0, key=jax.random.key(3))
    same = ccs(difficulty, 0.8, cutoff=0, key=jax.random.key(3))
    np.testing.assert_array_equal(again.order, same.order)
    default = ccs(difficulty, 0.8)
    np.testing.assert_array_equal(default.order, ccs(difficulty, 0.8, key=jax.random.key(0)).order)


def test_ccs_by_class(rng):
    codes = np.repeat(np.arange(4), [200, 100, 60, 1])
    difficulty = rng.normal(size=361)
    difficulty[360] = -5.0
    pruning = ccs(difficulty, 0.8, cutoff=0.1, labels=codes, n_strata=10)
    assert_pruning(pruning, 361, 72)
    assert_shares(codes, pruning.kept, 0.8)
    assert 360 in pruning.kept
    left = np.argsort(difficulty)[: 361 - 36]
    assert set(pruning.kept.tolist()) <= set(left.tolist())
    for c in range(3):
        members = np.sort(left[codes[left] == c])
        strata = strata_by_loops(difficulty, members, 10)
        kept = [i for i in pruning.kept.tolist() if codes[i] == c]
        expected = budgets_by_loops(len(kept), np.array([len(s) for s in strata]))
        assert [len(set(kept) & set(s)) for s in strata] == expected.tolist()


def test_ccs_at_the_limits():
    assert_pruning(ccs([3.0], 0.9), 1, 1)
    assert_pruning(ccs(np.zeros(10), 0.9), 10, 1)
    assert_pruning(ccs(np.array([-3e38, 0, 3e38, 1, 2]), 0.6, n_strata=1000), 5, 2)
    # The whole of class 1 is cut: others fill its places.
    codes = np.repeat([0, 1], [8, 2])
    pruning = ccs(np.arange(10.0), 0.5, cutoff=0.2, labels=codes)
    assert_pruning(pruning, 10, 5)
    assert codes[np.asarray(pruning.kept)].max() == 0
    assert_pruning(ccs(np.arange(10), 0.3, cutoff=0.3), 10, 7)


def test_ccs_rejects_bad_input():
    with pytest.raises(ValueError, match=r"`difficulty` must have shape .*got shape \(2, 2\)"):
        ccs(np.zeros((2, 2)), 0.5)
    with pytest.raises(ValueError, match=r"`difficulty` must be finite; got NaN .*row 1"):
        ccs([0.0, np.nan], 0.5)
    with pytest.raises(ValueError, match=r"`cutoff` must be between 0 and 0\.5; got cutoff=0\.6"):
        ccs(np.arange(10), 0.5, cutoff=0.6)
    with pytest.raises(ValueError, match="`n_strata` must be at least 1"):
        ccs(np.arange(10), 0.5, n_strata=0)


# --- D2


def unit(points):
    points = points.astype(np.float64)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def d2_by_loops(points, difficulty, k, forward, reverse, codes=None):
    """Distances, the undirected graph and forward scores, all dense, and a replay of the greedy."""
    n = len(points)
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    joined = np.zeros((n, n), bool)
    for i in range(n):
        others = [j for j in np.argsort(squared[i], kind="stable") if j != i]
        if codes is not None:
            others = [j for j in others if codes[j] == codes[i]]
        joined[i, others[:k]] = joined[others[:k], i] = True
    x = difficulty - min(difficulty.min(), 0)
    scores = x + (joined * np.exp(-forward * squared)) @ x
    return scores, joined * np.exp(-reverse * squared)


def assert_d2_greedy(scores, messages, order):
    """No sample that was left had a larger score than the one that was picked."""
    scores, left = scores.copy(), np.ones(len(scores), bool)
    slack = 1e-5 * np.abs(scores).max()
    for pick in order:
        assert left[pick]
        assert scores[pick] >= scores[left].max() - slack
        left[pick] = False
        scores = scores - messages[pick] * scores[pick]


@pytest.mark.parametrize(
    ("k", "labeled"),
    tiers([(1, False), (5, False), (30, False), (5, True)], [(1, False), (5, True)], several=True),
)
def test_d2_against_a_dense_greedy(rng, k, labeled):
    points = rng.normal(size=(150, 6)).astype(np.float32)
    difficulty = rng.integers(0, 9, size=150).astype(np.float64)
    codes = rng.integers(0, 3, size=150) if labeled else None
    pruning = d2(
        points,
        0.8,
        labels=codes,
        difficulty=difficulty,
        n_neighbors=k,
        gamma_forward=0.7,
        gamma_reverse=0.3,
    )
    assert_pruning(pruning, 150, 30)
    scores, messages = d2_by_loops(unit(points), difficulty, k, 0.7, 0.3, codes)
    np.testing.assert_allclose(pruning.scores, scores, rtol=1e-4, atol=1e-5)
    if codes is None:
        assert_d2_greedy(scores, messages, np.asarray(pruning.order))
        return
    assert_shares(codes, pruning.kept, 0.8)
    for c in range(3):
        members = np.flatnonzero(codes == c)
        order = [i for i in pruning.order.tolist() if codes[i] == c]
        within = messages[np.ix_(members, members)]
        assert_d2_greedy(scores[members], within, np.searchsorted(members, order))


def test_d2_hubs_have_more_edges_than_one_chunk():
    """A star: the hub is the nearest neighbor of 100 points, and its pick silences them all."""
    angle = np.linspace(0, 2 * np.pi, 101)[:-1]
    points = np.concatenate([[[0.0, 0.0]], 10 * np.stack([np.cos(angle), np.sin(angle)], axis=1)])
    points[1:] *= (1 + np.arange(100) / 1000)[:, None]
    graph = np.zeros((101, 101))
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    for i in range(101):
        j = np.argsort(squared[i])[1]
        graph[i, j] = graph[j, i] = 1
    pruning = d2(points, 0.5, n_neighbors=1, gamma_forward=0, gamma_reverse=0, normalize=False)
    scores = 1 + graph.sum(axis=1)
    np.testing.assert_allclose(pruning.scores, scores)
    assert_d2_greedy(scores, graph, np.asarray(pruning.order))


def test_d2_by_hand():
    """Edges 0-1 at distance 1 and 1-2 at distance 9; the middle has the largest score, 3."""
    points = [[0.0], [1.0], [10.0]]
    near = d2(points, 0.5, n_neighbors=1, gamma_forward=0, gamma_reverse=0)
    assert near.scores.tolist() == [2, 3, 2]
    assert near.order.tolist() == [1, 0, 2]  # both neighbors lose 3; the tie goes by index
    far = d2(points, 0.5, n_neighbors=1, gamma_forward=0, gamma_reverse=0.1)
    assert far.order.tolist() == [1, 2, 0]  # 2 is too far away to lose anything
    hard = d2(points, 0.5, n_neighbors=1, gamma_forward=50, difficulty=[5.0, 2.0, 1.0])
    np.testing.assert_allclose(hard.scores, [5, 2, 1], rtol=1e-6)
    assert hard.order.tolist() == [0, 2, 1]  # 1 falls to 2 - 5 exp(-0.1)


def test_d2_cut_samples_come_last_and_are_not_in_the_graph(rng):
    points = rng.normal(size=(250, 6))
    difficulty = rng.normal(size=250)
    pruning = d2(points, 0.8, difficulty=difficulty, cutoff=0.4)
    by_difficulty = np.argsort(difficulty)
    np.testing.assert_array_equal(pruning.order[150:], by_difficulty[150:])
    rest = np.sort(by_difficulty[:150])
    alone = d2(points[rest], 0.5, difficulty=difficulty[rest])
    np.testing.assert_array_equal(pruning.order[:150], rest[np.asarray(alone.order)])
    codes = np.repeat([0, 1], [190, 60])
    labeled = d2(points, 0.8, difficulty=difficulty, cutoff=0.4, labels=codes)
    assert_pruning(labeled, 250, 50)
    assert set(labeled.kept.tolist()) <= set(rest.tolist())
    assert_shares(codes, labeled.kept, 0.8)


def test_d2_laws(rng):
    points = rng.normal(size=(150, 6))
    plain = d2(points, 0.5, key=jax.random.key(1))
    scaled = d2(points * 1024, 0.5)  # unit length undoes it
    np.testing.assert_array_equal(scaled.order, plain.order)
    difficulty = rng.gamma(2.0, size=150)
    once = d2(points, 0.9, difficulty=difficulty)
    twice = d2(points, 0.9, difficulty=difficulty * 2**30)
    np.testing.assert_array_equal(once.order, twice.order)
    shuffle = rng.permutation(150)
    moved = d2(points[shuffle], 0.9)
    np.testing.assert_array_equal(shuffle[np.asarray(moved.order)], plain.order)
    assert set(shuffle[np.asarray(moved.kept)].tolist()) <= set(plain.kept.tolist())


def test_d2_on_digits(digits):
    """Real data, with ties among the distances."""
    points, labels = digits
    pruning = d2(points, 0.9, labels=labels)
    assert_pruning(pruning, len(points), 180)
    assert_shares(labels, pruning.kept, 0.9)


def test_d2_spreads_over_clusters(rng):
    """The largest scores are all in one dense group; reverse messages send picks elsewhere."""
    group = np.repeat(np.arange(6), [125, 5, 5, 5, 5, 5])
    points = np.eye(6)[group] + 0.01 * rng.normal(size=(150, 6))
    pruning = d2(points, 0.5)
    assert set(group[np.argsort(-np.asarray(pruning.scores))[:75]]) == {0}
    assert set(group[np.asarray(pruning.kept)]) == set(range(6))


def test_d2_at_the_limits():
    assert_pruning(d2([[1.0, 2.0]], 0.9), 1, 1)
    assert_pruning(d2(np.ones((6, 2)), 0.5, n_neighbors=100), 6, 3)
    assert_pruning(d2(np.zeros((6, 2)), 0.5, difficulty=np.zeros(6)), 6, 3)
    assert_pruning(d2(np.arange(12.0).reshape(6, 2), 0.5, labels=[0, 0, 0, 0, 0, 1]), 6, 3)
    huge = np.array([[3e38, 1], [-3e38, 2], [1e-38, 3e-38], [0, 0], [0, 1e38], [1, 1]])
    assert_pruning(d2(huge, 0.5, difficulty=[1e37, 0, -1e37, 1, 2, 3]), 6, 3)
    one_left = d2(np.ones((2, 2)), 0.5, difficulty=[0.0, 1.0], cutoff=0.5)
    assert one_left.order.tolist() == [0, 1]


def test_d2_rejects_bad_input(rng):
    points = rng.normal(size=(10, 3))
    with pytest.raises(ValueError, match=r"`cutoff` needs `difficulty`; got cutoff=0\.1"):
        d2(points, 0.5, cutoff=0.1)
    with pytest.raises(ValueError, match=r"`difficulty` must have shape \(10,\)"):
        d2(points, 0.5, difficulty=np.zeros(9))
    with pytest.raises(ValueError, match=r"`cutoff` must be between 0 and 0\.5"):
        d2(points, 0.5, difficulty=np.zeros(10), cutoff=0.7)
    with pytest.raises(ValueError, match="`gamma_reverse` must be at least 0"):
        d2(points, 0.5, gamma_reverse=-1.0)
    with pytest.raises(ValueError, match="`n_neighbors` must be at least 1"):
        d2(points, 0.5, n_neighbors=0)
    with pytest.raises(ValueError, match="`features` must be a 2-D array"):
        d2(points[0], 0.5)


# --- ZCore


def zcore_by_loops(points, n_draws, n_dims, k, exponent, key):
    """The method as the paper's algorithm has it, on the same draws."""
    start_key, draw_key = jax.random.split(key)
    points = points.astype(np.float64)
    n = len(points)
    scores = np.asarray(jax.random.uniform(start_key, (n,)), np.float64) * n_draws / 1e6
    corners = np.stack([points.min(axis=0), np.median(points, axis=0), points.max(axis=0)])
    for t in range(n_draws):
        key = jax.random.fold_in(draw_key, t)
        dims, values = draw(jnp.asarray(corners, jnp.float32), n_dims, key=key)
        plane = points[:, np.asarray(dims)]
        i = np.abs(plane - np.asarray(values, np.float64)).sum(axis=1).argmin()
        scores[i] += 1
        distances = np.abs(plane - plane[i]).sum(axis=1)
        neighbors = [j for j in np.argsort(distances, kind="stable") if j != i][:k]
        if distances[neighbors[0]] == 0:
            scores[neighbors[0]] -= 1
        else:
            penalty = 1 / distances[neighbors] ** exponent
            scores[neighbors] -= penalty / penalty.sum()
    return (scores - scores.min()) / (scores.max() - scores.min())


@pytest.mark.parametrize(
    ("n_dims", "k", "exponent"),
    tiers(
        [(2, 10, 4), (1, 1000, 2), (3, 5, 1.5), (2, 1, 4), (2, 59, 0)],
        [(2, 10, 4), (1, 1000, 2), (2, 59, 0)],
        several=True,
    ),
)
def test_zcore_against_loops(rng, n_dims, k, exponent):
    points = rng.normal(size=(60, 4)).astype(np.float32)
    key = jax.random.key(5)
    options = {"n_draws": 300, "n_dims": n_dims, "exponent": exponent}
    pruning = zcore(points, 0.5, n_neighbors=k, **options, key=key)
    assert_pruning(pruning, 60, 30)
    expected = zcore_by_loops(points, k=k, key=key, **options)
    np.testing.assert_allclose(pruning.scores, expected, atol=2e-4)
    np.testing.assert_array_equal(pruning.order, np.argsort(-np.asarray(pruning.scores)))


def test_zcore_with_duplicates_against_loops(rng):
    """Whole numbers: many samples coincide in a plane, and one of them loses all."""
    points = rng.integers(0, 4, size=(80, 3)).astype(np.float32)
    key = jax.random.key(2)
    pruning = zcore(points, 0.5, n_draws=200, n_neighbors=79, key=key)
    expected = zcore_by_loops(points, 200, 2, 79, 4, key)
    np.testing.assert_allclose(pruning.scores, expected, atol=1e-4)


def test_zcore_draws_are_triangular(rng):
    corners = jnp.asarray([[0.0, -1.0, 5.0], [1.0, -1.0, 5.0], [4.0, 3.0, 5.0]])
    keys = jax.random.split(jax.random.key(0), 4000)
    dims, values = jax.vmap(lambda key: draw(corners, 2, key=key))(keys)
    assert (dims[:, 0] != dims[:, 1]).all()
    assert stats.chisquare(np.bincount(dims.ravel(), minlength=3)).pvalue > 1e-3
    first, second = values[dims == 0], values[dims == 1]
    assert stats.kstest(first, stats.triang(0.25, 0, 4).cdf).pvalue > 1e-3
    assert stats.kstest(second, stats.triang(0, -1, 4).cdf).pvalue > 1e-3  # mode at the minimum
    assert (values[dims == 2] == 5).all()


def test_zcore_by_hand():
    """Draws between 0.2 and 4.6, three of four, are for 2, and cost 1 most; 3 has the others."""
    features = [[0.0], [0.1], [0.2], [9.0]]
    n = 2000
    pruning = zcore(features, 0.5, n_draws=n)
    assert pruning.kept.tolist() == [2, 3]
    far = stats.triang(0.15 / 9, 0, 9).sf(4.6)
    near = stats.triang(0.15 / 9, 0, 9).sf(0.15) - far
    gain_3 = far  # 2 is so far away that it takes nothing back
    gain_2 = near - far / 3 * (9 / 8.9) ** 4  # the three share what 3 costs, about evenly
    loss_1 = near * 16 / 17 + far / 3
    low = pruning.scores[1]  # the least of all
    assert low == 0
    assert abs((gain_3 + loss_1) / (gain_2 + loss_1) - pruning.scores[3]) < 0.05
    pair = zcore([[0.0], [1.0]], 0.5, n_draws=1000)  # each draw gives one and takes from the other
    assert sorted(pair.scores.tolist()) == [0.0, 1.0]


def test_zcore_laws(digits, rng):
    points, labels = digits[0][:500], digits[1][:500]
    options = {"n_draws": 2000, "n_neighbors": 50}
    plain = zcore(points, 0.9, **options)
    assert_pruning(plain, 500, 50)
    again = zcore(points, 0.9, **options, key=jax.random.key(0))
    np.testing.assert_array_equal(again.scores, plain.scores)
    other = zcore(points, 0.9, **options, key=jax.random.key(1))
    assert not np.array_equal(other.order, plain.order)
    scaled = zcore(points * np.float32(2**40), 0.9, **options)
    np.testing.assert_array_equal(scaled.order, plain.order)
    assert set(plain.kept.tolist()) <= set(zcore(points, 0.5, **options).kept.tolist())
    labeled = zcore(points, 0.9, labels=labels, **options)
    np.testing.assert_array_equal(labeled.scores, plain.scores)
    assert_shares(labels, labeled.kept, 0.9)


def test_zcore_does_not_depend_on_tiles(rng, monkeypatch):
    from topoprune_jax.baselines import _zcore

    points = rng.normal(size=(70, 3))
    whole = zcore(points, 0.5, n_draws=101)
    monkeypatch.setattr(_zcore, "_TILE", 70 * 7)
    jax.clear_caches()
    tiled = zcore(points, 0.5, n_draws=101)
    np.testing.assert_allclose(tiled.scores, whole.scores, atol=1e-5)


def test_zcore_at_the_limits():
    assert_pruning(zcore([[1.0, 2.0]], 0.9, n_draws=10), 1, 1)
    assert_pruning(zcore(np.ones((20, 3)), 0.5, n_draws=50), 20, 10)
    assert_pruning(zcore(np.array([[3e38], [-3e38], [0.0]]), 0.5, n_draws=50), 3, 2)
    assert_pruning(zcore(np.eye(4), 0.5, n_dims=9, n_draws=50, labels=[0, 0, 0, 1]), 4, 2)


def test_zcore_rejects_bad_input(rng):
    points = rng.normal(size=(10, 3))
    for name in ("n_draws", "n_dims", "n_neighbors"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1"):
            zcore(points, 0.5, **{name: 0})
    with pytest.raises(ValueError, match="`exponent` must be at least 0"):
        zcore(points, 0.5, exponent=-1)
    with pytest.raises(TypeError, match="`key` must be a typed PRNG key"):
        zcore(points, 0.5, key=0)


# --- all of them


@pytest.mark.slow
def test_float64(run, rng, x64):
    logits, labels = run
    assert_pruning(el2n(logits.astype(np.float64), 0.5, labels=labels), 60, 30)
    assert_pruning(forgetting(logits, 0.5, labels=labels), 60, 30)
    hardness = -aum(logits.astype(np.float64), 0.5, labels=labels).scores
    assert hardness.dtype == jnp.float64
    assert_pruning(ccs(hardness, 0.5, labels=labels), 60, 30)
    for points in (rng.normal(size=(60, 4)), rng.normal(size=(60, 4)).astype(np.float32)):
        assert_pruning(d2(points, 0.5, difficulty=hardness, labels=labels), 60, 30)
        assert_pruning(zcore(points, 0.5, n_draws=30), 60, 30)


@pytest.mark.slow
def test_same_answer_inside_jit(rng):
    points = jnp.asarray(rng.normal(size=(40, 4)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, size=40))
    logits = jnp.asarray(rng.normal(size=(3, 40, 3)), jnp.float32)
    hardness = points[:, 0]

    def pick(shift, labels):
        several = [
            *(method(logits, 0.5, labels=labels) for method in DYNAMICS),
            d2(points, 0.5, labels=labels),
            zcore(points, 0.5, labels=labels, n_draws=50),
        ]
        return shift + jnp.stack([pruning.kept for pruning in several])

    expected = pick(0, labels)
    np.testing.assert_array_equal(jax.jit(pick)(0, labels), expected)
    np.testing.assert_array_equal(jax.jit(lambda shift: pick(shift, labels))(0), expected)
    np.testing.assert_array_equal(
        jax.jit(lambda shift: shift + ccs(hardness, 0.5, labels=labels).kept)(0),
        ccs(hardness, 0.5, labels=labels).kept,
    )
    with pytest.raises(TypeError, match="`labels` cannot be traced by JAX here"):
        jax.jit(lambda y: ccs(hardness, 0.5, labels=y).kept)(labels)
