"""The least of many numbers by networks of comparisons, and orders by counting and by digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from topoprune_jax import _least
from topoprune_jax._least import (
    MOST,
    compared_for,
    first_of_least,
    least,
    nth_largest,
    order_in_blocks,
    order_pairs,
)


def _rounding(k, dtype=np.float32):
    return 2.0 ** ((4 * k - 1).bit_length() - np.finfo(dtype).nmant)


@pytest.mark.parametrize("k", [1, 3, 24, MOST])
@pytest.mark.parametrize("width", [MOST, 700, 4099])
def test_finds_the_least(width, k):
    score = np.random.default_rng(width + k).normal(size=(width, 7)).astype(np.float32)
    values, places = map(np.asarray, jax.jit(least, static_argnums=1)(score, k))
    found = np.take_along_axis(score, places, axis=0)
    oracle = np.sort(score, axis=0)[:k]
    # Rounded down, in order, each place once.
    assert (values <= found).all()
    assert (found - values <= _rounding(k) * np.abs(found)).all()
    assert (np.diff(values, axis=0) >= 0).all()
    assert all(len(set(column)) == k for column in places.T)
    # What is left out is not less than the last one.
    left_out = np.ones(score.shape, bool)
    np.put_along_axis(left_out, places, False, axis=0)
    assert (np.where(left_out, score, np.inf).min(axis=0) >= values[-1]).all()
    np.testing.assert_allclose(np.sort(found, axis=0), oracle, rtol=_rounding(k))


def test_by_hand():
    score = jnp.array([[3.0], [-2.0], [jnp.inf], [0.0], [-0.5], [7.0], [1.0], [2.0], [-3.0]])
    values, places = least(score, 2)
    assert places[:, 0].tolist() == [8, 1]
    assert values[:, 0] == pytest.approx([-3.0, -2.0], rel=1e-5)


def test_all_equal_and_infinite():
    values, places = least(jnp.zeros((50, 2)), 5)
    assert (values == 0).all()
    assert all(len(set(column)) == 5 for column in np.asarray(places).T)
    values, _ = least(jnp.full((50, 2), jnp.inf), 5)
    assert jnp.isinf(values).all()
    values, places = least(jnp.full((9, 1), jnp.inf).at[4].set(1.0), 2)
    assert places[0, 0] == 4
    assert jnp.isinf(values[1, 0])


def test_all_there_are():
    score = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    _, places = least(jnp.asarray(score), 6)
    np.testing.assert_array_equal(places, np.argsort(score, axis=0))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 12, 13])
def test_networks_sort(size):
    # Whatever sorts all lists of zeros and ones sorts every list (Knuth, volume 3, 5.3.4).
    every = (np.arange(1 << size)[None, :] >> np.arange(size)[:, None]) & 1
    found = _least._compared(jnp.asarray(every, jnp.int32), _least._sorting_network(size))
    np.testing.assert_array_equal(found, np.sort(every, axis=0))
    rises = np.diff(every, axis=0)
    hills = every[:, (np.maximum.accumulate(rises == -1, axis=0) & (rises == 1)).sum(axis=0) == 0]
    found = _least._compared(jnp.asarray(hills, jnp.int32), _least._merging_network(size))
    np.testing.assert_array_equal(found, np.sort(hills, axis=0))


def test_keeps_double_precision():
    with jax.enable_x64(True):
        score = np.random.default_rng(0).normal(size=(900, 3))
        values, places = least(jnp.asarray(score), 4)
        assert values.dtype == jnp.float64
        np.testing.assert_array_equal(places, np.argsort(score, axis=0)[:4])
        found = np.take_along_axis(score, np.asarray(places), axis=0)
        np.testing.assert_allclose(values, found, rtol=_rounding(4, np.float64))


def test_is_the_same_under_vmap():
    score = jnp.asarray(np.random.default_rng(0).normal(size=(3, 300, 5)), jnp.float32)
    values, places = jax.vmap(lambda one: least(one, 9))(score)
    for i in range(3):
        alone = least(score[i], 9)
        np.testing.assert_array_equal(values[i], alone[0])
        np.testing.assert_array_equal(places[i], alone[1])


@pytest.mark.parametrize("width", [1, 2, 37])
def test_orders_pairs(width):
    rng = np.random.default_rng(width)
    keys = rng.integers(0, 5, (40, width)).astype(np.float32)
    keys[keys == 4] = np.inf
    ties = rng.integers(0, 5, (40, width)).astype(np.int32)
    found = order_pairs(jnp.asarray(keys), jnp.asarray(ties))
    for row in range(40):
        order = np.lexsort((ties[row], keys[row]))
        np.testing.assert_array_equal(found[0][row], keys[row][order])
        np.testing.assert_array_equal(found[1][row], ties[row][order])


def test_orders_nan_last():
    keys, ties = order_pairs(jnp.array([[jnp.nan, 1.0, 0.0]]), jnp.array([[5, 6, 7]]))
    assert ties.tolist() == [[7, 6, 5]]
    assert keys[0, :2].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("m", [1, 2, 700, 1 << 16])
def test_orders_in_blocks_as_numpy(m, double):
    rng = np.random.default_rng(m)
    values = np.round(rng.normal(size=m), 2) * 10.0 ** rng.integers(-30, 30, m)
    values[rng.random(m) < 0.2] = -0.0
    values[rng.random(m) < 0.2] = 0.0
    values[rng.random(m) < 0.01] = np.inf
    values[rng.random(m) < 0.01] = -np.inf
    blocks = rng.integers(0, 6, m).astype(np.int32)
    with jax.enable_x64(double):
        values = jnp.asarray(values, float)
        order = jax.jit(order_in_blocks, static_argnums=2)(blocks, values, 5)
        np.testing.assert_array_equal(order, np.lexsort((np.asarray(values), blocks)))


def test_the_first_of_the_least_is_that_of_argmin():
    values = np.random.default_rng(0).integers(-3, 3, size=(40, 90)).astype(np.float32)
    values[:, 0] = np.inf
    np.testing.assert_array_equal(first_of_least(jnp.asarray(values)), values.argmin(axis=0))
    assert first_of_least(jnp.zeros((1, 2))).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("m", [1, 2, 101])
def test_nth_largest_is_that_of_a_sort(rng, request, dtype, m):
    if dtype == "float64":
        request.getfixturevalue("x64")
    values = np.round(rng.normal(size=(m, 7)) * 10.0 ** np.arange(-3, 4)).astype(dtype)
    values[0, :2] = np.inf, -np.inf
    for n in {1, m // 2 + 1, m}:
        found = nth_largest(jnp.asarray(values), n)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, np.sort(values, axis=0)[m - n])


def test_comparisons_by_hand():
    """2 of 8: a stage sorts four pairs, three more merge them. 32 have 8 minima of groups, which
    are looked at first; 33 have 9, which have minima of their own."""
    assert compared_for(2, 8) == 4 * 2 + 3 * 2
    assert compared_for(2, 32) == 2 * compared_for(2, 8)
    assert compared_for(2, 33) == 3 * compared_for(2, 8)
