"""Features from models of every kind, batches of what is kept, and topological losses."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from topoprune_jax import baselines
from topoprune_jax.training import (
    KeptSource,
    epoch_batches,
    extract_features,
    persistence_regularizer,
    topological_loss,
)

N, BATCH = 11, 4  # three batches, the last one of 3


@pytest.fixture
def inputs(rng):
    return rng.normal(size=(N, 5)).astype(np.float32)


def mlp(seed=0):
    return eqx.nn.MLP(5, 3, width_size=6, depth=1, key=jax.random.key(seed))


def close(got, want):
    np.testing.assert_allclose(got, np.asarray(want), rtol=1e-5, atol=1e-6)


# Features.


def test_a_function_sees_every_sample_once_and_in_one_shape(inputs):
    traced = []

    def double(batch):
        traced.append(batch.shape)
        return 2 * batch

    features = extract_features(double, inputs, batch_size=BATCH)
    assert traced == [(BATCH, 5)]
    assert type(features) is np.ndarray
    np.testing.assert_array_equal(features, 2 * inputs)


def test_a_function_is_asked_anew_for_the_weights_that_it_holds(inputs):
    held = [jnp.float32(1)]

    def scaled(batch):
        return held[0] * batch

    np.testing.assert_array_equal(extract_features(scaled, inputs), inputs)
    held[0] = jnp.float32(3)
    np.testing.assert_array_equal(extract_features(scaled, inputs), 3 * inputs)


def test_equinox_modules_take_one_sample(inputs):
    model = mlp()
    close(extract_features(model, inputs, batch_size=BATCH), jax.vmap(model)(inputs))
    traced = []

    def hidden(model, x):
        traced.append(x.shape)
        return jax.nn.relu(model.layers[0](x))

    want = jax.vmap(lambda x: hidden(model, x))(inputs)
    traced.clear()
    close(extract_features(model, inputs, method=hidden, batch_size=BATCH), want)
    other = extract_features(mlp(1), inputs, method=hidden, batch_size=BATCH)
    assert traced == [(5,)]  # other weights, the same program
    close(other, jax.vmap(lambda x: hidden(mlp(1), x))(inputs))


def test_equinox_dropout_is_off(inputs):
    model = eqx.nn.Sequential([eqx.nn.Dropout(0.5), eqx.nn.Identity()])
    np.testing.assert_array_equal(extract_features(model, inputs), inputs)


def test_nnx_modules_are_called_in_evaluation_mode_and_not_changed(inputs):
    nnx = pytest.importorskip("flax.nnx", reason="the extra `flax` is not installed")
    traced = []

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(5, 6, rngs=rngs)
            self.normalize = nnx.BatchNorm(6, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.last = nnx.Linear(6, 3, rngs=rngs)

        def features(self, batch):
            traced.append(batch.shape)
            return self.drop(nnx.relu(self.normalize(self.first(batch))))

        def __call__(self, batch):
            return self.last(self.features(batch))

    nets = [Net(nnx.Rngs(seed)) for seed in (0, 1)]
    wants = []
    for net in nets:
        net.normalize.mean[...] += 0.5
        first = inputs @ np.asarray(net.first.kernel[...]) + np.asarray(net.first.bias[...])
        wants.append(np.maximum((first - 0.5) / np.sqrt(1 + 1e-5), 0))
    for net, want in zip(nets, wants, strict=True):
        close(extract_features(net, inputs, method="features", batch_size=BATCH), want)
        assert not net.drop.deterministic
        close(net.normalize.mean[...], np.full(6, 0.5))
    assert traced == [(BATCH, 5)]
    close(extract_features(nets[1].features, inputs, batch_size=BATCH), wants[1])
    assert traced == [(BATCH, 5)]


def test_what_an_nnx_module_stores_on_the_way_can_be_the_features(inputs):
    nnx = pytest.importorskip("flax.nnx", reason="the extra `flax` is not installed")
    if not hasattr(nnx, "capture"):
        pytest.skip("this flax has no `nnx.capture` yet")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(5, 6, rngs=rngs)
            self.last = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, batch):
            h = self.first(batch)
            self.sow(nnx.Intermediate, "hidden", h)
            return self.last(h)

    def hidden(model, batch):
        _, stored = nnx.capture(model, nnx.Intermediate)(batch)
        return stored["hidden"][0]

    net = Net(nnx.Rngs(0))
    got = extract_features(net, inputs, method=hidden, batch_size=BATCH)
    close(got, extract_features(net.first, inputs))


def test_linen_modules_bring_their_variables(inputs):
    linen = pytest.importorskip("flax.linen", reason="the extra `flax` is not installed")

    class Net(linen.Module):
        @linen.compact
        def __call__(self, batch, train=True):
            h = linen.relu(linen.Dense(6, name="hidden")(batch))
            return linen.Dense(3)(linen.Dropout(0.5, deterministic=not train)(h))

    def evaluate(module, batch):
        return module(batch, train=False)

    module = Net()
    variables = module.init(jax.random.key(0), inputs, train=False)
    got = extract_features(module, inputs, variables=variables, method=evaluate, batch_size=BATCH)
    close(got, module.apply(variables, inputs, train=False))
    on_host = jax.tree.map(np.asarray, variables)
    again = extract_features(module, inputs, variables=on_host, method=evaluate, batch_size=BATCH)
    np.testing.assert_array_equal(again, got)

    def hidden(batch):
        _, stored = module.apply(
            variables, batch, train=False, capture_intermediates=True, mutable=["intermediates"]
        )
        return stored["intermediates"]["hidden"]["__call__"][0]

    layer = variables["params"]["hidden"]
    close(
        extract_features(hidden, inputs), inputs @ np.asarray(layer["kernel"]) + layer["bias"][None]
    )
    with pytest.raises(ValueError, match="needs its `variables`; got None"):
        extract_features(module, inputs)


def test_any_source_of_samples_will_do(inputs, tmp_path):
    want = inputs.sum(axis=1, keepdims=True)
    np.save(tmp_path / "inputs.npy", inputs)
    mapped = np.load(tmp_path / "inputs.npy", mmap_mode="r")
    for source in (list(inputs), jnp.asarray(inputs), mapped, KeptSource(inputs, np.arange(N))):
        got = extract_features(lambda x: x.sum(axis=1, keepdims=True), source, batch_size=BATCH)
        close(got, want)
    both = {"x": inputs, "mask": np.arange(N) % 2 == 0}
    got = extract_features(lambda b: jnp.where(b["mask"][:, None], b["x"], 0), both, batch_size=3)
    np.testing.assert_array_equal(got, np.where(both["mask"][:, None], inputs, 0))
    samples = [{"x": row, "y": 1} for row in inputs]
    got = extract_features(lambda b: b["x"], KeptSource(samples, np.arange(N)), batch_size=3)
    np.testing.assert_array_equal(got, inputs)


def test_features_go_into_a_file(inputs, tmp_path):
    out = np.lib.format.open_memmap(
        tmp_path / "features.npy", mode="w+", dtype=np.float16, shape=(N, 5)
    )
    seen = []
    got = extract_features(
        lambda x: x, inputs, batch_size=BATCH, out=out, progress=lambda *step: seen.append(step)
    )
    assert got is out
    out.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), inputs.astype(np.float16))
    assert seen == [("extract", done, N) for done in (0, 4, 8, 11)]


def test_bfloat16_becomes_float32(inputs):
    got = extract_features(lambda x: x.astype(jnp.bfloat16), inputs)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, jnp.asarray(inputs, jnp.bfloat16).astype(jnp.float32))


def test_batches_are_spread_over_devices(inputs):
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    for rows in (inputs, inputs[:3]):
        got = extract_features(mlp(), rows, batch_size=8, sharding=spread)
        close(got, jax.vmap(mlp())(rows))
    with pytest.raises(ValueError, match="got 4 devices and batch_size=6"):
        extract_features(mlp(), inputs, batch_size=6, sharding=spread)


GOOD = np.ones((6, 2), np.float32)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, r"shape \(batch, d\), here \(6, d\); got \(6,\)", lambda: (jnp.sum, GOOD)),
        (TypeError, "must return one array of features; got tuple", lambda: (lambda x: (x,), GOOD)),
        (TypeError, "got dtype int32", lambda: (lambda x: x.astype(jnp.int32), GOOD)),
        (ValueError, "first in row 4", lambda: (jnp.log, GOOD - (np.arange(6)[:, None] >= 4) * 2)),
        (TypeError, "must hold numbers; got dtype <U1", lambda: (jnp.sin, np.full((6, 2), "a"))),
        (TypeError, "must be an array of samples.*got generator", lambda: (jnp.sin, iter_())),
        (ValueError, r"lengths \[6, 5\]", lambda: (lambda x: x[0], (GOOD, GOOD[:5]))),
        (ValueError, "at least one sample", lambda: (jnp.sin, GOOD[:0])),
        (ValueError, "fit in 32 bits", lambda: (jnp.sin, np.full((6, 2), 2**40))),
        (TypeError, "`model` must be a Flax or Equinox module", lambda: (3, GOOD)),
    ],
)
def test_what_is_wrong_is_said(error, message, call):
    model, inputs = call()
    if model is jnp.sum:
        model = lambda x: x.sum(axis=1)  # noqa: E731
    with pytest.raises(error, match=message):
        extract_features(model, inputs)


def iter_():
    return (row for row in GOOD)


def test_what_is_wrong_with_the_options_is_said():
    with pytest.raises(TypeError, match="has no method 'hidden'; got MLP"):
        extract_features(mlp(), GOOD, method="hidden")
    with pytest.raises(TypeError, match="`variables` belong to a Flax Linen module"):
        extract_features(mlp(), GOOD, variables={})
    with pytest.raises(TypeError, match="`method` belongs to a module"):
        extract_features(jnp.sin, GOOD, method="hidden")
    with pytest.raises(ValueError, match=r"`out` must be .* of shape \(6, 2\); got \(6, 3\)"):
        extract_features(jnp.sin, GOOD, out=np.empty((6, 3)))
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        extract_features(jnp.sin, GOOD, batch_size=0)
    frozen = np.empty((6, 2))
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="`out` must be writable"):
        extract_features(jnp.sin, GOOD, out=frozen)


def test_ranking_again_between_epochs_is_three_lines(digits, key):
    """The lines of the module's docstring, on a ranking that stands for `rank`."""
    images, labels = digits[0][:40], digits[1][:40]
    model = eqx.nn.MLP(64, 10, width_size=8, depth=1, key=key)
    seen = []

    def rank(features, ratio, *, labels):
        seen.append(features)
        return baselines.moderate(features, ratio, labels=labels)

    for epoch in range(2):
        features = extract_features(model, images)
        ranking = rank(features, 0.5, labels=labels)
        batches = epoch_batches(ranking.kept, 8, key=key, epoch=epoch)
        assert set(np.asarray(batches).ravel()) <= set(np.asarray(ranking.kept).tolist())
        model = eqx.tree_at(lambda m: m.layers[0].weight, model, -model.layers[0].weight)
    assert np.abs(seen[0] - seen[1]).max() > 0


# Batches.

KEPT = np.array([2, 3, 5, 7, 11, 13, 17])


def test_an_epoch_shows_every_kept_sample_once(key):
    whole = np.asarray(epoch_batches(KEPT, 3, key=key, epoch=0, drop_remainder=False))
    assert whole.shape == (3, 3)
    assert whole.dtype == np.int32
    np.testing.assert_array_equal(whole[-1, 1:], [-1, -1])
    np.testing.assert_array_equal(np.sort(whole.ravel()[:7]), KEPT)
    cut = np.asarray(epoch_batches(KEPT, 3, key=key, epoch=0))
    np.testing.assert_array_equal(cut, whole[:2])


def test_epochs_differ_and_come_again(key):
    epochs = [np.asarray(epoch_batches(KEPT, 7, key=key, epoch=epoch)) for epoch in range(20)]
    assert len({epoch.tobytes() for epoch in epochs}) == 20
    traced = jax.jit(lambda epoch: epoch_batches(KEPT, 7, key=key, epoch=epoch))(jnp.int32(5))
    np.testing.assert_array_equal(traced, epochs[5])
    first = np.array(
        [np.asarray(epoch_batches(KEPT, 1, key=key, epoch=e))[0, 0] for e in range(99)]
    )
    assert set(first) == set(KEPT.tolist())


@pytest.mark.parametrize("n_steps", [1, 2, 5, 7])
def test_equal_budgets_share_the_places_evenly(n_steps, key):
    batches = np.asarray(epoch_batches(KEPT, 4, key=key, epoch=3, n_steps=n_steps))
    assert batches.shape == (n_steps, 4)
    counts = np.array([(batches == index).sum() for index in KEPT])
    assert counts.sum() == 4 * n_steps
    assert counts.max() - counts.min() <= 1


def test_batches_drive_a_scan(key):
    data = jnp.arange(20.0)

    @jax.jit
    def epoch(total, number):
        rows = epoch_batches(KEPT, 7, key=key, epoch=number)
        return jax.lax.scan(lambda sum_, r: (sum_ + data[r].sum(), None), total, rows)[0]

    assert float(epoch(jnp.float32(0), jnp.int32(1))) == KEPT.sum()


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "`batch_size` must be at most 7, the number of kept", {"batch_size": 8}),
        (ValueError, "`kept` must be a 1-D array.*got shape .2.", {"kept": np.ones(2)}),
        (ValueError, "0 or more; got -1 to 2", {"kept": np.array([-1, 2])}),
        (ValueError, "at least one index", {"kept": np.array([], int)}),
        (TypeError, "`epoch` must be a whole number; got 0.5", {"epoch": 0.5}),
        (ValueError, "`epoch` must be between 0", {"epoch": -1}),
        (ValueError, "`n_steps` must be at least 1", {"n_steps": 0}),
    ],
)
def test_what_is_wrong_with_batches_is_said(error, message, arguments, key):
    given = {"kept": KEPT, "batch_size": 2, "epoch": 0, "key": key} | arguments
    with pytest.raises(error, match=message):
        epoch_batches(given.pop("kept"), given.pop("batch_size"), **given)


def test_a_kept_source_is_a_grain_source():
    grain = pytest.importorskip("grain", reason="grain is no dependency")
    letters = [f"sample {i}" for i in range(20)]
    source = KeptSource(letters, KEPT)
    dataset = grain.MapDataset.source(source).shuffle(seed=0)
    assert sorted(dataset[i] for i in range(len(dataset))) == sorted(letters[i] for i in KEPT)
    assert [source[i] for i in range(7)] == source.__getitems__(range(7))
    assert source[-1] == letters[17]
    with pytest.raises(IndexError):
        source[7]
    with pytest.raises(ValueError, match="indices of the 5 samples"):
        KeptSource(letters[:5], KEPT)
    with pytest.raises(TypeError, match="must have a length"):
        KeptSource(iter(letters), [0])


# Losses.


def spanning_edges(points):
    """The edges of a minimum spanning tree by Kruskal's algorithm, an oracle of its own."""
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    parts = {i: {i} for i in range(len(points))}
    edges = []
    for i, j in sorted(np.ndindex(distances.shape), key=lambda edge: distances[edge]):
        if parts[i] is not parts[j]:
            parts[i] |= parts[j]
            for member in parts[j]:
                parts[member] = parts[i]
            edges.append((i, j))
    return np.array(edges)


def test_the_topological_loss_is_that_of_the_paper(rng):
    x, z = rng.normal(size=(12, 6)), rng.normal(size=(12, 2))
    A, B = (np.linalg.norm(p[:, None] - p[None], axis=-1) for p in (x, z))
    want = sum(0.5 * ((A - B)[tuple(spanning_edges(p).T)] ** 2).sum() for p in (x, z))
    np.testing.assert_allclose(float(topological_loss(z, x)), want, rtol=1e-5)


def test_the_topological_loss_by_hand():
    square = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    assert float(topological_loss(square, square, dims=(0, 1))) == 0
    assert float(topological_loss(square @ jnp.array([[0.0, -1], [1, 0]]) + 3, square)) == 0
    # Each side has three edges of a tree, of lengths 1 and 2.
    np.testing.assert_allclose(float(topological_loss(2 * square, square)), 3.0)
    # And a loop from 1 to sqrt 2, from 2 to sqrt 8: 1 + 2 on each side.
    np.testing.assert_allclose(
        float(topological_loss(2 * square, square, dims=(1,))), 3.0, rtol=1e-6
    )


@pytest.mark.parametrize("dims", [(0,), pytest.param((0, 1), marks=pytest.mark.slow)])
def test_the_topological_loss_has_the_right_derivative(dims, rng, x64):
    x, z = (jnp.asarray(rng.normal(size=(9, d)), jnp.float64) for d in (4, 2))
    loss = jax.jit(lambda z, x: topological_loss(z, x, dims=dims))
    check_grads(loss, (z, x), order=1, modes=["rev"])


@pytest.mark.slow
def test_losses_without_a_host_call_are_the_same(rng):
    x, z = (jnp.asarray(rng.normal(size=(12, d)), jnp.float32) for d in (4, 2))
    losses = {
        "loss": lambda z, where: topological_loss(z, x, dims=(0, 1), reduction=where),
        "regularizer": lambda z, where: persistence_regularizer(
            z, dims=(0, 1), subset_size=9, reduction=where, key=jax.random.key(0)
        ),
    }
    for loss in losses.values():
        (host, slope), (device, same) = (
            jax.value_and_grad(functools.partial(loss, where=where))(z)
            for where in ("host", "device")
        )
        assert float(host) == float(device) > 0
        np.testing.assert_array_equal(slope, same)
        program = str(jax.make_jaxpr(functools.partial(loss, where="device"))(z))
        assert "pure_callback" not in program
    with pytest.raises(ValueError, match="64"):
        topological_loss(np.zeros((65, 2)), np.ones((65, 2)), dims=(1,), reduction="device")


def test_total_persistence_per_point(rng, x64):
    z = rng.normal(size=(10, 3))
    lengths = np.linalg.norm(np.subtract(*z[spanning_edges(z).T]), axis=1)
    np.testing.assert_allclose(float(persistence_regularizer(z)), lengths.sum() / 10)
    np.testing.assert_allclose(float(persistence_regularizer(z, power=2)), (lengths**2).sum() / 10)
    z = jnp.asarray(z)
    key = jax.random.key(1)
    part = jax.jit(lambda z: persistence_regularizer(z, subset_size=7, power=2.0, key=key))
    check_grads(part, (z,), order=1, modes=["rev"])
    slope = jax.grad(part)(z)
    assert int((slope != 0).any(axis=1).sum()) == 7


def test_losses_train_with_optax(rng):
    x = jnp.asarray(rng.normal(size=(12, 5)), jnp.float32)
    z = 0.1 * x[:, :2]
    optimizer = optax.sgd(0.02, momentum=0.9)

    @jax.jit
    def step(z, state):
        loss, slope = jax.value_and_grad(topological_loss)(z, x)
        update, state = optimizer.update(slope, state)
        return optax.apply_updates(z, update), state, loss

    state, losses = optimizer.init(z), []
    for _ in range(40):
        z, state, loss = step(z, state)
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]


def test_losses_are_nan_where_points_are():
    x = jnp.ones((4, 2)).at[2, 0].set(jnp.nan)
    good = jnp.arange(8.0).reshape(4, 2)
    assert np.isnan(jax.jit(topological_loss)(x, good))
    assert np.isnan(jax.jit(topological_loss)(good, x))
    assert np.isnan(jax.jit(persistence_regularizer)(x))


def test_what_is_wrong_with_losses_is_said(key):
    with pytest.raises(ValueError, match="the same samples, a row each; got 4 and 5 rows"):
        topological_loss(np.ones((4, 2)), np.ones((5, 2)))
    with pytest.raises(ValueError, match="`latents` must be finite"):
        topological_loss(np.full((4, 2), np.nan), np.ones((4, 2)))
    with pytest.raises(ValueError, match="`key` is required to draw a subset"):
        persistence_regularizer(np.ones((4, 2)), subset_size=2)
    with pytest.raises(ValueError, match="`subset_size` must be between 1 and 4"):
        persistence_regularizer(np.ones((4, 2)), subset_size=5, key=key)
    with pytest.raises(ValueError, match="dims"):
        topological_loss(np.ones((4, 2)), np.ones((4, 2)), dims=(3,))
