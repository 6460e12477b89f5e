"""Trains a Flax network, removes 90 % of its data by its own features, and trains anew on the rest.

    pip install '.[flax,demo]'  # in a checkout
    python examples/flax_prune_and_train.py [--ratio 0.9] [--seeds 3] [--steps 1500]

scikit-learn's digits, a third held out. For each seed a small network is trained on all training
images; the activations of its hidden layers are the features; `rank` says which tenth to keep; and
new networks are trained on that tenth, on as many class-balanced random images, and on all again,
each for the same number of steps.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import topoprune_jax as tp
from topoprune_jax import baselines
from topoprune_jax.training import epoch_batches, extract_features

BATCH = 32
ADAM = optax.adam(1e-3)
PRUNED, RANDOM, FULL = "kept by topoprune_jax", "class-balanced random", "all"


class Net(nnx.Module):
    """Two hidden layers, whose activations are the features, and a linear head."""

    def __init__(self, rngs):
        self.first = nnx.Linear(64, 128, rngs=rngs)
        self.second = nnx.Linear(128, 64, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def features(self, images):
        return nnx.relu(self.second(nnx.relu(self.first(images))))

    def __call__(self, images):
        return self.head(self.features(images))


@functools.partial(jax.jit, static_argnums=0)
def fit(graph, weights, images, labels, batches):
    """The weights after one step for each row of `batches`."""

    def loss(weights, rows):
        logits = nnx.merge(graph, weights)(images[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    def step(state, rows):
        weights, memory = state
        update, memory = ADAM.update(jax.grad(loss)(weights, rows), memory, weights)
        return (optax.apply_updates(weights, update), memory), None

    return jax.lax.scan(step, (weights, ADAM.init(weights)), batches)[0][0]


def train(images, labels, kept, steps, seed):
    """A new network trained for `steps` batches of the rows `kept`: an equal budget for all."""
    graph, weights = nnx.split(Net(nnx.Rngs(seed)))
    batches = epoch_batches(kept, BATCH, key=jax.random.key(seed), epoch=0, n_steps=steps)
    return nnx.merge(graph, fit(graph, weights, images, labels, batches))


def accuracy(model, images, labels):
    """In percent."""
    return 100 * float(np.mean(extract_features(model, images).argmax(axis=1) == labels))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ratio", type=float, default=0.9, help="the fraction to remove (0.9)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500, help="of every training (1500)")
    arguments = parser.parse_args()
    pixels, digits = load_digits(return_X_y=True)
    pixels, digits = (pixels / 16).astype(np.float32), digits.astype(np.int32)
    results = {name: [] for name in (PRUNED, RANDOM, FULL)}
    for seed in range(arguments.seeds):
        x, x_test, y, y_test = train_test_split(
            pixels, digits, test_size=1 / 3, stratify=digits, random_state=seed
        )
        everything = np.arange(len(x))
        model = train(jnp.asarray(x), jnp.asarray(y), everything, arguments.steps, seed)
        features = extract_features(model, x, method="features")
        key = jax.random.key(seed)
        ranking = tp.rank(features, arguments.ratio, labels=y, key=key)
        other = baselines.class_balanced_random(features, arguments.ratio, labels=y, key=key)
        for name, kept in ((PRUNED, ranking.kept), (RANDOM, other.kept), (FULL, everything)):
            # Not the seed of the network that gave the features.
            retrained = train(jnp.asarray(x), jnp.asarray(y), kept, arguments.steps, 1000 + seed)
            results[name].append(accuracy(retrained, x_test, y_test))
        print(
            f"seed {seed}: {len(ranking.kept)} of {len(x)} kept; "
            + ", ".join(f"{name} {values[-1]:.1f} %" for name, values in results.items())
        )
    print("\nheld-out accuracy in %, mean ± std over the seeds")
    for name, values in results.items():
        spread = np.std(values, ddof=1) if len(values) > 1 else float("nan")
        print(f"{name:>22}: {np.mean(values):.1f} ± {spread:.1f}")
    paired = np.subtract(results[PRUNED], results[RANDOM])
    print(f"minus class-balanced random, seed by seed: {', '.join(f'{d:+.1f}' for d in paired)}")
    print(
        f"Ranking was better than class-balanced random for {int((paired > 0).sum())} of "
        f"{len(paired)} seeds. Three seeds of one small data set prove nothing beyond it."
    )


if __name__ == "__main__":
    main()
