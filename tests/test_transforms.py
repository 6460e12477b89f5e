"""Every public function that takes arrays, under every transformation of JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import topoprune_jax as tp
from topoprune_jax import _backend
from topoprune_jax.alpha import alpha_complex

GRID = np.linspace(0.1, 2, 5)
RING = np.stack([np.arange(9), (np.arange(9) + 1) % 9], axis=1)


@pytest.fixture(autouse=True, scope="module")
def calls_of_one_cpu():
    """The host is called as where there is one CPU, in its own memory; as from several devices it
    is in the other files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backend, "is_one_cpu", lambda: True)
        jax.clear_caches()
        yield
    jax.clear_caches()


def _distances(x):
    difference = x[:, None] - x[None, :]
    far = jnp.sum(difference * difference, axis=-1)
    return jnp.where(far > 0, jnp.sqrt(jnp.where(far > 0, far, 1)), 0)


def _known(x):
    return jax.lax.stop_gradient(x)


def _graph(x):
    return tp.knn_graph(_known(x), n_neighbors=5)


def _fuzzy_set(x):
    return tp.fuzzy_simplicial_set(_graph(x))


def _moved(x):
    def loss(z):
        return tp.total_persistence(tp.vietoris_rips(z, dims=(0,)))

    return tp.optimize_topology(x, loss, steps=2, optimizer=optax.sgd(0.02)).points


def _nearby(x):
    state = tp.ManifoldState(points=_known(x), embedding=_known(x), n_neighbors=4)
    return tp.transform(state, x[:3] + 0.1)


def _ranked(x, labels, **options):
    # Coordinates and scores enlarge what programs round differently; what is kept stays.
    options |= {"embedding": tp.EmbeddingOptions(n_epochs=1)}
    ranking = tp.rank(x, 0.5, labels=labels, n_neighbors=4, patch_size=4, **options)
    return ranking.kept, ranking.removed, ranking.beta


def _of_diagram(summary):
    return lambda x: summary(tp.vietoris_rips(x))


# Each takes a cloud (9, 2) and gives arrays or a diagram, differentiable in the cloud.
DIFFERENTIABLE = {
    "vietoris_rips": tp.vietoris_rips,
    "vietoris_rips, on the device": lambda x: tp.vietoris_rips(x, reduction="device"),
    "vietoris_rips, cosine": lambda x: tp.vietoris_rips(x + 3, metric="cosine"),
    "diagram_from_generators": lambda x: tp.diagram_from_generators(
        x, tp.rips_generators(_known(x), dims=(0, 1, 2))
    ),
    "rips_from_distances": lambda x: tp.rips_from_distances(_distances(x)),
    "weighted_rips": lambda x: tp.weighted_rips(x, 0.3 + 0.1 * jnp.sin(x[:, 0])),
    "distance_to_measure": lambda x: tp.distance_to_measure(x, n_neighbors=3),
    "graph_components": lambda x: tp.graph_components(x, _graph(x)),
    "lower_star": lambda x: tp.lower_star(x[:, 0], RING, dims=(0, 1)),
    "alpha_complex": alpha_complex,
    "total_persistence": _of_diagram(tp.total_persistence),
    "persistent_entropy": _of_diagram(tp.persistent_entropy),
    "betti_curve": _of_diagram(lambda d: tp.betti_curve(d, GRID, dim=0, smoothing=0.1)),
    "persistence_landscape": _of_diagram(lambda d: tp.persistence_landscape(d, GRID, dim=0)),
    "persistence_silhouette": _of_diagram(lambda d: tp.persistence_silhouette(d, GRID, dim=0)),
    "persistence_image": _of_diagram(
        lambda d: tp.persistence_image(
            d, dim=0, birth_range=(0, 2), lifetime_range=(0, 2), resolution=(3, 4), bandwidth=0.3
        )
    ),
    "sliced_wasserstein": lambda x: tp.sliced_wasserstein(
        tp.vietoris_rips(x), tp.vietoris_rips(x * x), dim=0, n_directions=5
    ),
    "optimize_topology": _moved,
    "transform": _nearby,
}
# Each takes a cloud (9, 2) and gives what has no derivative, or none that is asked for.
DISCRETE = {
    "knn_graph": _graph,
    "knn_graph, projected": lambda x: tp.knn_graph(x, n_neighbors=5, method="projected"),
    "fuzzy_simplicial_set": _fuzzy_set,
    "embed": lambda x: tp.embed(
        _fuzzy_set(x), tp.EmbeddingOptions(n_epochs=5, start="random"), key=jax.random.key(0)
    ),
    "embed_ensemble": lambda x: (
        tp.embed_ensemble(
            _fuzzy_set(x),
            tp.EmbeddingOptions(n_epochs=5, start="random"),
            n_members=2,
            key=jax.random.key(0),
        ).spread
    ),
    "spectral_start": lambda x: jnp.abs(tp.spectral_start(_fuzzy_set(x), 1, key=jax.random.key(0))),
    "connected_components": lambda x: tp.connected_components(_fuzzy_set(x)),
    "spectral_embedding": lambda x: jnp.abs(tp.spectral_embedding(_fuzzy_set(x), 1)),
    "spectral_embedding, by component": lambda x: jnp.abs(
        tp.spectral_embedding(_fuzzy_set(x), 1, by_component=True)
    ),
    "principal_components": lambda x: jnp.abs(tp.principal_components(x, 2, key=jax.random.key(0))),
    "structural_complexity": lambda x: tp.structural_complexity(x, patch_size=4),
    "discriminant_coordinates": lambda x: jnp.abs(
        tp.discriminant_coordinates(x, np.arange(9) // 3)
    ),
    "discriminant_features": lambda x: jnp.abs(tp.discriminant_features(x, np.arange(9) // 3)),
    "noise_share": tp.noise_share,
    "communities": lambda x: tp.communities(_fuzzy_set(x), x, n_cells=4, key=jax.random.key(0)),
    "modularity": lambda x: tp.modularity(_fuzzy_set(x), np.arange(9) // 3),
    "kmeans_strata": lambda x: tp.kmeans_strata(x, 3, key=jax.random.key(0)),
    "select": lambda x: tp.select(_fuzzy_set(x), x[:, 0], 0.5).kept,
    "class_agreement": lambda x: tp.class_agreement(_fuzzy_set(x), np.arange(9) // 3),
    "choose_agreement_power": lambda x: tp.choose_agreement_power(1 / (1 + x[:, 0] ** 2)),
    "choose_beta": lambda x: tp.choose_beta(
        x, _fuzzy_set(x), x[:, 0], strata=np.arange(9) // 3, ratio=0.5
    ),
    "rips_generators": lambda x: tp.rips_generators(x).edges,
    "rank": lambda x: _ranked(x, None),
    "rank, labels": lambda x: _ranked(x, np.arange(9) // 3),
    "rank, power": lambda x: _ranked(x, np.arange(9) // 3, agreement_power=2.0),
}


def numbers(function, x):
    """All real numbers of the result in one vector, infinities left out."""
    leaves = [leaf.ravel() for leaf in jax.tree.leaves(function(x))]
    whole = jnp.concatenate([leaf.astype(x.dtype) for leaf in leaves])
    return jnp.where(jnp.isfinite(whole), whole, 0)


def value(function, x):
    """One number that depends on every number of the result."""
    whole = numbers(function, x)
    return jnp.sum(whole * jnp.cos(jnp.arange(whole.size, dtype=whole.dtype)))


def _scan(f, x):
    return jax.lax.scan(lambda carry, item: (carry, f(item)), None, x)[1]


def _while(f, x):
    def body(state):
        i, values = state
        return i + 1, values.at[i].set(f(x[i]))

    start = jnp.zeros((), jnp.int32), jnp.zeros(len(x), x.dtype)
    return jax.lax.while_loop(lambda state: state[0] < len(x), body, start)[1]


def _cond(f, x):
    return jnp.stack([jax.lax.cond(item[0, 0] < 9, f, lambda y: y[0, 0], item) for item in x])


def _sharded(n_devices, f, x):
    mesh = Mesh(np.array(jax.devices()[:n_devices]), ("shard",))
    return jax.shard_map(jax.vmap(f), mesh=mesh, in_specs=P("shard"), out_specs=P("shard"))(x)


TRANSFORMS = {
    "jit": lambda f, x: jnp.stack([jax.jit(f)(item) for item in x]),
    "vmap": lambda f, x: jax.vmap(f)(x),
    "vmap of vmap": lambda f, x: jax.vmap(jax.vmap(f))(x.reshape(2, 4, *x.shape[1:])).ravel(),
    "map": lambda f, x: jax.lax.map(f, x, batch_size=3),
    "scan": _scan,
    "while_loop": _while,
    "cond": _cond,
    "remat": lambda f, x: jax.vmap(jax.checkpoint(f))(x),
    "shard_map on 1": functools.partial(_sharded, 1),
    "shard_map on 2": functools.partial(_sharded, 2),
    "shard_map on 8": functools.partial(_sharded, 8),
}
CLOUDS = np.random.default_rng(5).normal(size=(8, 9, 2)).astype(np.float32)

# The fast tier holds each transformation with the function that stresses it most, and each function
# once or more here or in the file of its own tests; `make test-all` holds the product.
QUICK = {
    *(("vietoris_rips", transform) for transform in ("vmap of vmap", "scan", "shard_map on 8")),
    ("vietoris_rips, on the device", "remat"),
    ("weighted_rips", "cond"),
    ("graph_components", "shard_map on 8"),
    ("graph_components", "vmap of vmap"),
    ("lower_star", "vmap of vmap"),
    ("alpha_complex", "vmap of vmap"),
    ("alpha_complex", "while_loop"),
    ("optimize_topology", "remat"),
    ("structural_complexity", "shard_map on 2"),
    ("knn_graph", "shard_map on 2"),
}


def table(names, transforms):
    return [
        (name, transform)
        if (name, transform) in QUICK
        else pytest.param(name, transform, marks=pytest.mark.slow)
        for name in names
        for transform in transforms
    ]


@pytest.mark.parametrize(("name", "transform"), table(DIFFERENTIABLE, TRANSFORMS))
def test_neither_values_nor_gradients_change(name, transform):
    points = jnp.asarray(CLOUDS)
    f = functools.partial(value, DIFFERENTIABLE[name])
    plain = jax.jit(jax.value_and_grad(f))
    expected, slopes = zip(*(plain(item) for item in points), strict=True)
    apply = functools.partial(TRANSFORMS[transform], f)
    if transform == "while_loop":  # which JAX does not differentiate backwards from outside
        values = jax.jit(apply)(points)
        slope = jax.jit(lambda x: _while(lambda y: jnp.sum(jax.grad(f)(y) ** 2), x))(points)
        slopes = [jnp.sum(item**2) for item in slopes]
    else:
        both = jax.value_and_grad(lambda x: (jnp.sum(apply(x)), apply(x)), has_aux=True)
        (_, values), slope = jax.jit(both)(points)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(slope, slopes, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "transform"), table(DISCRETE, TRANSFORMS))
def test_values_do_not_change(name, transform):
    points = jnp.asarray(CLOUDS)
    f = functools.partial(value, DISCRETE[name])
    plain = jax.jit(f)
    values = jax.jit(functools.partial(TRANSFORMS[transform], f))(points)
    np.testing.assert_allclose(values, [plain(item) for item in points], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("vietoris_rips", "knn_graph", "select")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in (*DIFFERENTIABLE, *DISCRETE)
    ],
)
def test_arrays_that_a_traced_function_closes_over_are_looked_at(name):
    """Constants are JAX arrays with values inside `jit`, `scan` and `grad`, not tracers."""
    function = {**DIFFERENTIABLE, **DISCRETE}[name]
    cloud = jnp.asarray(CLOUDS[0])
    expected = numbers(function, cloud)

    def scaled(t):
        return t * numbers(function, cloud)

    np.testing.assert_allclose(jax.jit(scaled)(1.0), expected, rtol=1e-4, atol=1e-4)
    steps = jax.lax.scan(lambda c, t: (c, scaled(t)), None, jnp.ones(2, cloud.dtype))[1]
    np.testing.assert_allclose(steps[1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("function", [tp.vietoris_rips, tp.knn_graph, alpha_complex])
def test_a_bad_constant_is_named_while_tracing(function):
    bad = jnp.asarray(CLOUDS[0]).at[3, 0].set(jnp.nan)
    with pytest.raises(ValueError, match="must be finite; got NaN or infinity, first in row 3"):
        jax.jit(lambda t: jax.tree.map(lambda leaf: leaf, (t, function(bad))))(1.0)


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("vietoris_rips", "alpha_complex")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in DIFFERENTIABLE
    ],
)
def test_an_optimizer_inside_jit_walks_as_outside(name):
    slope = jax.grad(functools.partial(value, DIFFERENTIABLE[name]))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-3, momentum=0.5))

    def step(state, _):
        x, memory = state
        updates, memory = optimizer.update(slope(x), memory, x)
        return (optax.apply_updates(x, updates), memory), None

    x = jnp.asarray(CLOUDS[0])
    start = outside = (x, optimizer.init(x))
    one_step = jax.jit(lambda state: step(state, None)[0])
    for _ in range(5):
        outside = one_step(outside)
    inside = jax.jit(lambda state: jax.lax.scan(step, state, length=5)[0])(start)
    assert (inside[0] != x).any()
    np.testing.assert_allclose(inside[0], outside[0], rtol=1e-4, atol=1e-5)


def products(jaxpr):
    """The matrix products of a program, in its loops and branches too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from products(inner)


@pytest.mark.parametrize("name", [*DIFFERENTIABLE, *DISCRETE])
def test_products_keep_the_precision_of_their_numbers(name):
    """Unless asked, accelerators multiply in less: TPUs in bfloat16, GPUs in TensorFloat-32."""
    f = functools.partial(value, {**DIFFERENTIABLE, **DISCRETE}[name])
    traced = jax.make_jaxpr(f if name in DISCRETE else jax.value_and_grad(f))(CLOUDS[0])
    highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    found = list(products(traced.jaxpr))
    assert found or name != "rank"  # which has some: they are really looked for
    for equation in found:
        assert equation.params["precision"] == highest, equation


def test_the_table_names_every_public_function():
    """What is not in the table runs on the host, holds results, or has tests of its own."""
    named = {name.split(",")[0] for name in (*DIFFERENTIABLE, *DISCRETE)}
    host = {"plan", "kept_count", "compare_rankings", "bottleneck_distance", "wasserstein_distance"}
    public = {name for name, thing in vars(tp).items() if callable(thing) and name.islower()}
    assert public - {"alpha_complex"} == (named - {"alpha_complex"}) | host
