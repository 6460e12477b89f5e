r"""Adds the loss of topological autoencoders to an Equinox autoencoder, and measures what it does.

    pip install '.[demo]'  # in a checkout
    python examples/equinox_topological_loss.py [--steps 1500] [--seeds 3]

scikit-learn's digits, a third held out, pass through two latent coordinates. Each seed trains twice
from the same start: for reconstruction alone, and with `weight * topological_loss(latents, images)`
(Moor et al. 2020, arXiv 1906.00722), which asks that the edges of the minimum spanning trees of
both sides keep their lengths. Measured on held-out images, in numbers that neither training saw:
the share of the ten nearest neighbors in pixels that are among the ten nearest in the latent plane;
the rank correlation of all distances; and the reconstruction error, which pays for it.
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import topoprune_jax as tp
from topoprune_jax.training import epoch_batches, extract_features, topological_loss

BATCH = 64
WEIGHT = 0.02  # of a loss that is a sum over the edges of a batch
ADAM = optax.adam(2e-3)


class Autoencoder(eqx.Module):
    encoder: eqx.nn.MLP
    decoder: eqx.nn.MLP

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.encoder = eqx.nn.MLP(64, 2, width_size=64, depth=2, key=first)
        self.decoder = eqx.nn.MLP(2, 64, width_size=64, depth=2, key=second)

    def encode(self, image):
        return self.encoder(image)


def loss(model, images, weight):
    latents = jax.vmap(model.encoder)(images)
    error = jnp.mean(jnp.sum((jax.vmap(model.decoder)(latents) - images) ** 2, axis=1))
    return error + weight * topological_loss(latents, images)


@eqx.filter_jit
def train(model, images, batches, weight):
    """The model after one step for each row of `batches`."""
    weights, rest = eqx.partition(model, eqx.is_inexact_array)

    def step(state, rows):
        weights, memory = state
        slope = jax.grad(lambda w: loss(eqx.combine(w, rest), images[rows], weight))(weights)
        update, memory = ADAM.update(slope, memory, weights)
        return (optax.apply_updates(weights, update), memory), None

    (weights, _), _ = jax.lax.scan(step, (weights, ADAM.init(weights)), batches)
    return eqx.combine(weights, rest)


def measure(model, images):
    """Kept neighbors, rank correlation of distances, squared error of reconstruction."""
    latents = extract_features(model, images, method="encode")
    near, here = (np.asarray(tp.knn_graph(p, n_neighbors=10).indices) for p in (images, latents))
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near, here, strict=True)])
    pairs = np.triu_indices(len(images), k=1)
    distances = [np.linalg.norm(p[pairs[0]] - p[pairs[1]], axis=1) for p in (images, latents)]
    decoded = extract_features(model.decoder, latents)
    error = np.mean(np.sum((decoded - images) ** 2, axis=1))
    return float(shared), float(spearmanr(*distances).statistic), float(error)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    pixels, digits = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    results = {"without": [], "with": []}
    for seed in range(arguments.seeds):
        x, x_test = train_test_split(pixels, test_size=1 / 3, stratify=digits, random_state=seed)
        start = Autoencoder(jax.random.key(seed))
        batches = epoch_batches(
            np.arange(len(x)), BATCH, key=jax.random.key(seed), epoch=0, n_steps=arguments.steps
        )
        for name, weight in (("without", 0.0), ("with", WEIGHT)):
            model = train(start, jnp.asarray(x), batches, jnp.float32(weight))
            results[name].append(measure(model, x_test))
    for name, values in results.items():
        shared, correlation, error = np.mean(values, axis=0)
        print(
            f"{name:>7} the topological loss: {100 * shared:.1f} % of the 10 nearest neighbors "
            f"kept; rank correlation of distances {correlation:.3f}; reconstruction error "
            f"{error:.2f}"
        )
    gains = np.subtract(results["with"], results["without"])
    for name, column in (("more neighbors kept", 0), ("a higher rank correlation", 1)):
        better = int((gains[:, column] > 0).sum())
        print(f"With the loss, {name}: for {better} of {len(gains)} seeds.")


if __name__ == "__main__":
    main()
