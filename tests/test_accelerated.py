"""What only accelerators run, run here: each against what a CPU runs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import topoprune_jax as tp
from topoprune_jax import _backend, _embedding_forces, _spectral


@pytest.fixture
def accelerated(monkeypatch):
    """As if an accelerator computed: the other branch wherever a program has one."""
    jax.clear_caches()
    monkeypatch.setattr(_backend, "is_cpu", lambda platform=None: False)
    monkeypatch.setattr(_backend, "by_platform", lambda *args, cpu, default: default(*args))
    yield
    monkeypatch.undo()
    jax.clear_caches()


@pytest.fixture
def points(rng):
    """Along a bent strip, whose eigenvectors are told apart."""
    along, across = 9 * rng.uniform(size=400), rng.uniform(size=400)
    columns = [np.cos(along), np.sin(along), along, across]
    noise = 0.1 * rng.normal(size=(400, 4))
    return jnp.asarray(np.stack(columns, axis=1) + noise, jnp.float32)


def results(points):
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=8))
    labels = np.arange(400) % 3
    start = tp.principal_components(points, 2, key=jax.random.key(1))
    options = tp.EmbeddingOptions(n_epochs=2)
    return {
        "degrees": fuzzy_set.degrees,
        "agreement": tp.class_agreement(fuzzy_set, labels),
        "manifold": tp.spectral_embedding(fuzzy_set, 4),
        "embedding": tp.embed(fuzzy_set, options, start=start, key=jax.random.key(0)),
        "scores": tp.structural_complexity(points, patch_size=12),
    }


def test_stages_are_those_of_a_cpu(points, monkeypatch, request):
    expected = results(points)
    # Several blocks, the last of which reaches back.
    monkeypatch.setattr(_embedding_forces, "_ACCELERATOR_BLOCK", 900)
    monkeypatch.setattr(_spectral, "_EDGES", 300)
    monkeypatch.setattr(_spectral, "_BLOCKS_AT_ONCE", 2)
    request.getfixturevalue("accelerated")
    found = results(points)
    for name, tolerance in [
        ("degrees", 1e-6),
        ("agreement", 1e-6),
        ("manifold", 2e-3),
        ("embedding", 1e-3),
        ("scores", 1e-5),
    ]:
        size = float(jnp.max(jnp.abs(expected[name])))
        np.testing.assert_allclose(found[name], expected[name], atol=tolerance * size, err_msg=name)


@pytest.mark.slow
def test_a_ranking_is_nearly_that_of_a_cpu(points, request):
    """Communities follow how the manifold was rounded, a little."""
    expected = {beta: tp.rank(points, 0.8, beta=beta) for beta in (1.0, None)}
    request.getfixturevalue("accelerated")
    for beta, share in ((1.0, 0.9), (None, 0.9)):
        found = tp.rank(points, 0.8, beta=beta)
        assert len(np.intersect1d(found.kept, expected[beta].kept)) >= share * 80, beta
        assert sorted(found.order.tolist()) == list(range(400))


def test_edges_in_any_order_give_the_same_bits(points, accelerated, rng):
    """Those that only their other end lists, as if an accelerator added them in another order."""
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=8))
    start = tp.principal_components(points, 2, key=jax.random.key(1))
    layout = _embedding_forces.layout_of(fuzzy_set, fuzzy_set.degrees, start, jax.random.key(0))
    count = int(layout.offsets[-1])
    order = np.append(rng.permutation(count), np.arange(count, layout.reverse_rows.shape[0]))

    def edges(layout):
        return layout.reverse_rows, layout.reverse_neighbors, layout.reverse_weights

    other = eqx.tree_at(edges, layout, tuple(values[order] for values in edges(layout)))
    one, same = (
        _embedding_forces.attraction_on_all(each, layout.start, 1.6, 0.9)
        for each in (layout, other)
    )
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_other_form_is_traced_only_where_jax_has_an_accelerator(monkeypatch):
    traced = []

    def form(name, value):
        return lambda x: (traced.append(name), x + value)[1]

    def found():
        traced.clear()
        forms = {"cpu": form("cpu", 1), "default": form("default", 2)}
        return int(jax.jit(lambda x: _backend.by_platform(x, **forms))(jnp.int32(5)))

    assert found() == 6
    assert traced == ["cpu"]
    monkeypatch.setattr(_backend, "backends", lambda: {"cuda": None, "cpu": None})
    assert found() == 6
    assert set(traced) == {"cpu", "default"}
