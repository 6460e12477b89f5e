"""Stability: overlaps and correlations that can be counted by hand, and who is called with what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topoprune_jax import RESULTS
from topoprune_jax._rank import Ranking
from topoprune_jax.stability import ranking_stability

KEY = jax.random.key(3)
FEATURES = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)


def ranking(order, scores, m=4):
    order = jnp.asarray(order, dtype=jnp.int32)
    return Ranking(
        scores=jnp.asarray(scores, dtype=jnp.float32),
        order=order,
        kept=order[:m],
        removed=order[m:],
        embedding=jnp.zeros((len(order), 2)),
        manifold=jnp.zeros((len(order), 3)),
        beta=jnp.asarray(-1.0),
        agreement_power=jnp.asarray(4.0),
        recall=jnp.asarray(1.0),
        result=RESULTS.successful,
    )


FIRST = ranking(range(40), range(40))


def test_the_same_choice_again_is_1():
    found = ranking_stability(FEATURES, FIRST, lambda x, key: FIRST, key=KEY)
    assert found.noise == (0.0, 0.1, 0.25)
    np.testing.assert_allclose(found.overlap, np.ones((3, 3)))
    np.testing.assert_allclose(found.correlation, np.ones((3, 3)))
    assert found.chance == 4 / 76


def test_overlap_and_correlation_by_hand():
    """{0, 1, 2, 3} and {2, 3, 4, 5} share 2 of 6; reversed scores correlate with -1."""
    other = ranking(np.roll(np.arange(40), -2), -np.arange(40.0))
    found = ranking_stability(
        FEATURES, FIRST, lambda x, key: other, n_repetitions=1, noise=(), key=KEY
    )
    np.testing.assert_allclose(found.overlap, [[1 / 3]])
    np.testing.assert_allclose(found.correlation, [[-1.0]])


def test_scores_that_are_all_equal_have_no_correlation():
    flat = ranking(range(40), np.ones(40))
    found = ranking_stability(FEATURES, FIRST, lambda x, key: flat, noise=(), key=KEY)
    assert np.isnan(found.correlation).all()


def test_chance_is_what_random_choices_overlap():
    rng = np.random.default_rng(0)
    draws = [
        ranking_stability(
            FEATURES,
            ranking(rng.permutation(40), range(40), m=20),
            lambda x, key: ranking(rng.permutation(40), range(40), m=20),
            n_repetitions=50,
            noise=(),
            key=KEY,
        )
        for _ in range(4)
    ]
    assert abs(np.mean([draw.overlap for draw in draws]) - draws[0].chance) < 0.02


def test_seeds_change_alone_and_noise_changes_alone():
    calls, steps = [], []

    def again(x, key):
        calls.append((np.array(x), int(jax.random.key_data(key)[-1]), key))
        return FIRST

    ranking_stability(
        FEATURES, FIRST, again, noise=(0.2,), progress=lambda *step: steps.append(step), key=KEY
    )
    seeds, noisy = calls[:3], calls[3:]
    assert len({seed for _, seed, _ in seeds}) == 3
    assert all((x == FEATURES).all() and key != KEY for x, _, key in seeds)
    assert all(key == KEY for _, _, key in noisy)
    assert len({x.tobytes() for x, _, _ in noisy}) == 3
    for x, _, _ in noisy:
        lengths = np.linalg.norm(x - FEATURES, axis=1) / np.linalg.norm(FEATURES, axis=1)
        assert abs(lengths.mean() - 0.2) < 0.02
    assert steps == [("stability", done, 6) for done in range(7)]


def test_noise_of_huge_and_of_zero_features_is_finite():
    features = np.array([[1e200, -1e200], [0.0, 0.0], [1e-200, 0.0]])
    seen = []

    def again(x, key):
        seen.append(x)
        return small

    small = ranking(range(3), range(3), m=1)
    ranking_stability(features, small, again, n_repetitions=1, noise=(0.1,), key=KEY)
    assert np.isfinite(seen[1]).all()
    assert (seen[1][1] == 0).all()
    assert (seen[1][2] != features[2]).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": FEATURES[:-1]}, "`features` must be those of the ranking, 40 rows; got 39"),
        ({"features": FEATURES * np.nan}, "`features` must be finite"),
        ({"n_repetitions": 0}, "`n_repetitions` must be at least 1"),
        ({"noise": (-0.1,)}, "`noise` must be between"),
        ({"noise": 0.1}, r"`noise` must be a list of numbers; got 0\.1\. Pass .* as \[0\.1\]"),
    ],
)
def test_bad_input_is_one_sentence(changes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        ranking_stability(
            **{"features": FEATURES, "ranking": FIRST, "rank_again": lambda x, key: FIRST}
            | {"key": KEY}
            | changes
        )
