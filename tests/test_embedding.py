"""The embedding: its quality against umap-learn's, its model by hand, degenerate graphs, laws."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.manifold import trustworthiness
from tiers import tiers

import topoprune_jax as tp
from topoprune_jax import _embedding, _embedding_forces, _embedding_options


@pytest.fixture(scope="module")
def digits_set(digits):
    return tp.fuzzy_simplicial_set(tp.knn_graph(digits[0]))


@pytest.mark.slow
def test_trustworthiness_is_umap_learns(digits, digits_set):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import umap

        theirs = umap.UMAP(n_neighbors=16, random_state=0).fit_transform(digits[0])
    ours = tp.embed(digits_set, key=jax.random.key(0))
    assert ours.shape == (1797, 2)
    assert trustworthiness(digits[0], ours, n_neighbors=15) > (
        trustworthiness(digits[0], theirs, n_neighbors=15) - 0.004
    )


@pytest.mark.parametrize("start", tiers(["random", "array"], ["random"]))
def test_quality_does_not_hang_on_the_start(digits, digits_set, start):
    options = tp.EmbeddingOptions(start="random")
    array = None
    if start == "array":
        array = tp.principal_components(jnp.asarray(digits[0]), 2, key=jax.random.key(1))
    z = tp.embed(digits_set, options, start=array, key=jax.random.key(0))
    assert trustworthiness(digits[0], z, n_neighbors=15) > 0.98


def test_class_sorted_input_does_not_hurt(digits):
    order = np.argsort(digits[1], kind="stable")
    points = digits[0][order]
    z = tp.embed(tp.fuzzy_simplicial_set(tp.knn_graph(points)), key=jax.random.key(0))
    assert trustworthiness(points, z, n_neighbors=15) > 0.98


def test_same_key_same_bits_other_key_other_bits(digits_set):
    one, same, other = (tp.embed(digits_set, key=jax.random.key(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_progress_does_not_change_the_result_and_ends(digits_set):
    calls = []
    options = tp.EmbeddingOptions(n_epochs=25)
    loud = tp.embed(
        digits_set, options, progress=lambda *call: calls.append(call), key=jax.random.key(0)
    )
    quiet = tp.embed(digits_set, options, key=jax.random.key(0))
    np.testing.assert_array_equal(loud, quiet)
    assert calls == [("embedding", done, 25) for done in (0, 10, 20, 25)]


@pytest.mark.parametrize(("min_dist", "spread"), [(0.1, 1.0), (0.0, 1.0), (0.5, 1.0), (0.1, 3.0)])
def test_a_and_b_are_umap_learns(min_dist, spread):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap.umap_ import find_ab_params
    np.testing.assert_allclose(
        _embedding_options.fit_ab(min_dist, spread), find_ab_params(spread, min_dist), rtol=1e-5
    )


def test_attraction_by_hand():
    """One edge of weight 1: the force on either end is the gradient of log nu, toward the other."""
    graph = tp.NeighborGraph(jnp.asarray([[1], [0]]), jnp.ones((2, 1)))
    fuzzy_set = tp.fuzzy_simplicial_set(graph)
    layout = _embedding_forces.layout_of(
        fuzzy_set, fuzzy_set.degrees, jnp.zeros((2, 2)), jax.random.key(0)
    )
    z = jnp.asarray([[0.0, 0.6], [0.0, 0.8]])
    a, b = 1.5, 0.9

    def log_nu(z):
        squared = jnp.sum((z[:, 0] - z[:, 1]) ** 2)
        return -jnp.log(1 + a * squared**b)

    force, _ = _embedding_forces.attraction_on_all(layout, z, a, b)
    np.testing.assert_allclose(force, jax.grad(log_nu)(z), rtol=1e-5)


@pytest.mark.slow
def test_attraction_counts_every_edge_of_both_its_ends(rng):
    """The force equals a plain double sum over the edges, one-way edges included."""
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(rng.normal(size=(40, 3)), n_neighbors=4))
    layout = _embedding_forces.layout_of(
        fuzzy_set, fuzzy_set.degrees, jnp.zeros((40, 2)), jax.random.key(0)
    )
    z = jnp.asarray(rng.normal(size=(2, 40)), jnp.float32)
    a, b = 1.5, 0.9
    i, j, mu = fuzzy_set.edges()
    i, j = layout.place[i], layout.place[j]

    def energy(z):
        squared = jnp.sum((z[:, i] - z[:, j]) ** 2, axis=0)
        return -jnp.sum(mu * jnp.log(1 + a * squared**b))

    force, _ = _embedding_forces.attraction_on_all(layout, z, a, b)
    np.testing.assert_allclose(force, jax.grad(energy)(z), rtol=2e-4, atol=1e-4)


def test_repulsion_is_the_mean_over_all_pairs(rng):
    """Averaged over many draws, it is the mean repulsive force from the other points."""
    z = jnp.asarray(3 * rng.normal(size=(2, 12)), jnp.float32)
    a, b = 1.5, 0.9
    keys = jax.random.split(jax.random.key(0), 3000)
    mean = jnp.mean(jax.vmap(lambda k: _embedding_forces.repulsion(z, a, b, k, 32))(keys), axis=0)
    difference = z[:, :, None] - z[:, None, :]
    squared = jnp.sum(difference**2, axis=0)
    gain = 2 * b / ((1e-3 + squared) * (1 + a * squared**b))
    exact = jnp.sum(jnp.clip(gain[None] * difference, -4, 4), axis=2) / 11
    np.testing.assert_allclose(mean, exact, atol=0.03)


HELIX = np.stack([np.arange(20), np.cos(np.arange(20)), np.sin(np.arange(20))], axis=1)


def test_more_negatives_estimate_the_repulsion_more_steadily(rng):
    """The noise of a mean falls with the root of its sample, all else being equal."""
    z = jnp.asarray(rng.normal(size=(2, 400)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 200)

    def noise(n_shifts):
        draws = jax.vmap(lambda k: _embedding_forces.repulsion(z, 1.5, 0.9, k, n_shifts))(keys)
        return float(jnp.sqrt(jnp.mean(jnp.var(draws, axis=0))))

    assert 3 < noise(4) / noise(64) < 5  # 4 for independent draws


def test_spectral_start_does_not_depend_on_the_key(digits_set):
    options = tp.EmbeddingOptions()
    one, two = (
        _embedding.starting_points(digits_set, options, None, jax.random.key(s)) for s in (0, 1)
    )
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("points", "c"),
    [
        (np.ones((40, 3)), 2),  # all equal
        (np.repeat(np.eye(4, 3), 10, axis=0), 2),  # four places only
        (np.concatenate([HELIX, 100 + HELIX]), 2),  # two components
        (np.linspace(0, 1, 40)[:, None] * [1, 0, 0], 2),  # one dimension, constant columns
        (np.array([[0.0], [1.0]]), 2),  # two points
    ],
    ids=["equal", "duplicates", "components", "line", "pair"],
)
def test_degenerate_sets_give_finite_coordinates(points, c):
    k = min(10, len(points) - 1)
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=k))
    z = tp.embed(fuzzy_set, tp.EmbeddingOptions(n_components=c), key=jax.random.key(0))
    assert z.shape == (len(points), c)
    assert bool(jnp.isfinite(z).all())


def test_points_without_edges_are_finite():
    graph = tp.NeighborGraph(jnp.full((40, 10), -1), jnp.full((40, 10), jnp.inf))
    z = tp.embed(tp.fuzzy_simplicial_set(graph), key=jax.random.key(0))
    assert bool(jnp.isfinite(z).all())


@pytest.mark.slow
def test_vmap_over_keys_and_jit(rng):
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(rng.normal(size=(60, 4)), n_neighbors=6))
    keys = jax.random.split(jax.random.key(0), 3)
    batch = jax.jit(jax.vmap(lambda k: tp.embed(fuzzy_set, key=k)))(keys)
    assert batch.shape == (3, 60, 2)
    for i in range(3):
        one = tp.embed(fuzzy_set, key=keys[i])
        # Rounding differs between the two programs and the flow amplifies it: compare the shape.
        assert trustworthiness(one, np.asarray(batch[i]), n_neighbors=6) > 0.9


def test_spectral_start_finds_the_low_eigenvectors(digits_set):
    i, j, mu = digits_set.edges()
    n = digits_set.n_points
    matrix = np.zeros((n, n))
    matrix[i, j] = matrix[j, i] = mu
    root = np.sqrt(matrix.sum(axis=1))
    _, vectors = np.linalg.eigh(matrix / root[:, None] / root[None, :])
    options = {"rounds": 100, "tolerance": 0.0, "key": jax.random.key(0)}
    found = np.asarray(tp.spectral_start(digits_set, 2, **options))
    overlap = np.linalg.svd(found.T @ vectors[:, -3:-1], compute_uv=False)
    assert overlap.min() > 0.99


def test_spectral_start_goes_on_until_a_strip_lies_flat(rng):
    """The slowest wave along a strip 12 times as long as wide, which 32 products do not find."""
    strip = np.stack([np.arange(1500) / 125, rng.uniform(size=1500)], axis=1)
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(strip, n_neighbors=10))
    wave = np.cos(np.pi * strip[:, 0] / 12)

    def likeness(**options):
        found = tp.spectral_start(fuzzy_set, 1, key=jax.random.key(0), **options)
        return abs(np.corrcoef(np.asarray(found)[:, 0], wave)[0, 1])

    assert likeness() > 0.95
    assert likeness(rounds=3) < 0.8


def test_principal_components_are_numpys(digits):
    points = digits[0]
    ours = np.asarray(tp.principal_components(jnp.asarray(points), 3, key=jax.random.key(0)))
    centered = points - points.mean(axis=0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    theirs = u[:, :3] * s[:3]
    np.testing.assert_allclose(
        np.abs(ours), np.abs(theirs), atol=1e-2 * s[0] / np.sqrt(len(points))
    )


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"`n_components` must be between 1 and 64; got .*=65"):
        tp.EmbeddingOptions(n_components=65)
    with pytest.raises(ValueError, match=r"`min_dist` must be between 0 and 1; got .*=2"):
        tp.EmbeddingOptions(min_dist=2.0)
    with pytest.raises(ValueError, match=r"`n_negatives` must be at least 2; got .*=1"):
        tp.EmbeddingOptions(n_negatives=1)
    with pytest.raises(ValueError, match=r"`n_epochs` must be at least 0; got .*=-1"):
        tp.EmbeddingOptions(n_epochs=-1)
    with pytest.raises(ValueError, match="`start` must be 'spectral' or 'random'; got 'pca'"):
        tp.EmbeddingOptions(start="pca")
    graph = tp.NeighborGraph(jnp.asarray([[1], [0]]), jnp.ones((2, 1)))
    with pytest.raises(ValueError, match=r"`start` must have shape \(2, 2\).*got \(3, 2\)"):
        tp.embed(tp.fuzzy_simplicial_set(graph), start=np.eye(3)[:, :2], key=jax.random.key(0))


@pytest.mark.parametrize("n", tiers([2, 3, 100, 101, 350], [2, 101, 350]))
def test_tiles_push_as_all_at_once(n, monkeypatch):
    monkeypatch.setattr(_embedding_forces, "_TILE", 100)  # one, two and four tiles, some not full
    z = jax.random.normal(jax.random.key(0), (3, n))
    shifts = jax.random.randint(jax.random.key(1), (7,), 1, n)
    tiled = _embedding_forces._push_in_tiles(z, shifts, a=1.6, b=0.9)
    at_once = _embedding_forces._push_at_once(z, shifts, a=1.6, b=0.9)
    np.testing.assert_allclose(tiled, at_once, atol=1e-4)
    together = jax.vmap(lambda s: _embedding_forces.repulsion(z, 1.6, 0.9, s, 7))(
        jax.random.split(jax.random.key(2), 2)
    )
    one = _embedding_forces.repulsion(z, 1.6, 0.9, jax.random.split(jax.random.key(2), 2)[1], 7)
    np.testing.assert_array_equal(together[1], one)


@pytest.mark.parametrize("n_points", [pytest.param(60, marks=pytest.mark.slow), 250])
def test_forces_are_those_of_a_sum_over_all_edges(n_points, monkeypatch):
    monkeypatch.setattr(_embedding_forces, "_TILE", 100)
    monkeypatch.setattr(_embedding_forces, "_REVERSE_BLOCK", 64)
    points = np.random.default_rng(0).normal(size=(n_points, 4)).astype(np.float32)
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=6))
    start = jnp.asarray(points[:, :2])
    layout = _embedding_forces.layout_of.__wrapped__(
        fuzzy_set, fuzzy_set.degrees, start, jax.random.key(0)
    )
    a, b = 1.6, 0.9
    force, stiffness = _embedding_forces.attraction_on_all(layout, layout.start, a, b)
    z = np.asarray(layout.start.T[layout.place], np.float64)
    i, j, mu = fuzzy_set.edges()
    difference = z[i] - z[j]
    squared = (difference**2).sum(axis=1)
    gain = mu * 2 * a * b * squared ** (b - 1) / (1 + a * squared**b)
    pull = np.clip(gain[:, None] * difference, -4, 4)
    expected, total = np.zeros_like(z), np.zeros(n_points)
    np.subtract.at(expected, i, pull)
    np.add.at(expected, j, pull)
    np.add.at(total, i, gain)
    np.add.at(total, j, gain)
    np.testing.assert_allclose(force.T[layout.place], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(stiffness[layout.place], total, rtol=1e-4)


@pytest.mark.parametrize(
    ("n", "c", "given", "steps"),
    tiers(
        [
            (300, 2, None, 200),
            (300, 4, None, 80),
            (15_001, 3, None, 120),
            (15_000, 3, None, 200),
            (300, 2, 7, 7),
        ],
        [(300, 4, None, 80), (300, 2, 7, 7)],
        several=True,
    ),
)
def test_steps_of_an_embedding(n, c, given, steps):
    options = tp.EmbeddingOptions(n_components=c, n_epochs=given)
    assert _embedding_options.n_epochs_of(options, n) == steps
    if n > 300:
        return
    calls = []
    points = np.random.default_rng(0).normal(size=(n, 5))
    fuzzy_set = tp.fuzzy_simplicial_set(tp.knn_graph(points, n_neighbors=4))
    tp.embed(fuzzy_set, options, progress=lambda *call: calls.append(call), key=jax.random.key(0))
    assert calls[-1] == ("embedding", steps, steps)


@pytest.mark.parametrize("c", [1, 16, 17])
def test_squares_are_summed_over_all_coordinates(c):
    """By hand: 1 + 4 + ... + c^2, written out for up to 16."""
    difference = jnp.arange(1.0, c + 1)[:, None] * jnp.ones((1, 3))
    expected = c * (c + 1) * (2 * c + 1) / 6
    np.testing.assert_array_equal(_embedding_forces._square(difference), np.full(3, expected))


@pytest.mark.parametrize("exponent", [-0.21, 0.0, 0.79, 1.9])
def test_powers_are_right_to_what_a_force_needs(exponent, x64):
    """Of numbers whose squares are float32s too, with whole powers of two among them."""
    squared = 10.0 ** np.linspace(-19, 19, 10_001)
    squared = np.concatenate([squared, 2.0 ** np.arange(-63, 63), [1.0]])
    got = _embedding_forces._power(jnp.asarray(squared, jnp.float32), exponent)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.float32(squared).astype(float) ** exponent, rtol=2e-5)
    exact = _embedding_forces._power(jnp.asarray(squared), exponent)
    np.testing.assert_allclose(exact, squared**exponent, rtol=1e-12)
