r"""Keeps a circle's loop through a bottleneck that is pulled flat, by a loss on persistence.

    pip install '.[flax,plot]'  # in a checkout
    python examples/topological_autoencoder.py [--out picture.png] [--steps 1000]

Points of a noisy circle in 20 dimensions pass through two latent coordinates, of which the second
is penalized: an autoencoder obeys by flattening the circle almost to a line, and the loop is lost.
The loss of Moor et al., *Topological Autoencoders* (2020, arXiv 1906.00722), here for components
and loops, asks that the edges which matter to the topology of a batch keep their lengths:
$$\frac12 \lVert A^X[\pi^X] - A^Z[\pi^X] \rVert^2
+ \frac12 \lVert A^Z[\pi^Z] - A^X[\pi^Z] \rVert^2$$
with the distances $A$ and the generators $\pi$ of the inputs $X$ and of the latent points $Z$.
Everything is trained twice, with the term and without, for each of three seeds.
"""

import argparse
import functools
import statistics

import jax
import jax.numpy as jnp
import matplotlib
import optax
from flax import nnx

from topoprune_jax import vietoris_rips
from topoprune_jax.training import topological_loss

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SEEDS = (0, 1, 2)
N_POINTS, N_FEATURES, BATCH = 1024, 20, 64
NOISE = 0.02
FLATNESS = 10.0  # weight of the pull to a line
TOPOLOGY = 10.0  # weight of the topological term
ADAM = optax.adam(2e-3)  # a single one, for which the training step is compiled once


def noisy_circle(key):
    """Points `(n, 20)` around a unit circle in a random plane, and their angles."""
    angle_key, plane_key, noise_key = jax.random.split(key, 3)
    angles = jax.random.uniform(angle_key, (N_POINTS,), maxval=2 * jnp.pi)
    plane, _ = jnp.linalg.qr(jax.random.normal(plane_key, (N_FEATURES, 2)))
    circle = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    return circle @ plane.T + NOISE * jax.random.normal(noise_key, (N_POINTS, N_FEATURES)), angles


class Autoencoder(nnx.Module):
    """Two hidden layers on either side of two latent coordinates."""

    def __init__(self, rngs):
        layer = functools.partial(nnx.Linear, rngs=rngs)
        self.encode = nnx.Sequential(
            layer(N_FEATURES, 64), nnx.gelu, layer(64, 64), nnx.gelu, layer(64, 2)
        )
        self.decode = nnx.Sequential(
            layer(2, 64), nnx.gelu, layer(64, 64), nnx.gelu, layer(64, N_FEATURES)
        )


def loss_function(model, inputs, weight):
    latent = model.encode(inputs)
    error = jnp.mean(jnp.sum((model.decode(latent) - inputs) ** 2, axis=1))
    flatness = FLATNESS * jnp.mean(latent[:, 1] ** 2)
    return error + flatness + weight * topological_loss(latent, inputs, dims=(0, 1)), error


@nnx.jit
def train_step(model, optimizer, points, key, weight):
    inputs = jax.random.choice(key, points, (BATCH,), replace=False)
    gradients, error = nnx.grad(loss_function, has_aux=True)(model, inputs, weight)
    optimizer.update(model, gradients)
    return error


def train(points, weight, steps, seed):
    """Latent points of everything, and the reconstruction error of the last tenth of the steps."""
    model = Autoencoder(nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, ADAM, wrt=nnx.Param)
    keys = jax.random.split(jax.random.key(seed), steps)
    errors = [train_step(model, optimizer, points, key, weight) for key in keys]
    return model.encode(points), float(jnp.stack(errors[-max(1, steps // 10) :]).mean())


def longest_loop(latent):
    """The longest H1 bar of 128 latent points, a small cover of all, in units of their diameter."""
    cover = latent[:128]
    diameter = jnp.linalg.norm(cover[:, None] - cover[None], axis=-1).max()
    return float(vietoris_rips(cover, dims=(1,)).lifetimes.max() / diameter)


def picture(latents, angles, loops, path):
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    for axis, (name, latent), loop in zip(axes, latents.items(), loops, strict=True):
        axis.scatter(latent[:, 0], latent[:, 1], c=angles, cmap="twilight", s=8)
        axis.set_title(f"{name} the topological term\nlongest H1 bar: {loop:.2f} of the diameter")
        axis.set(xlabel="first latent coordinate", ylabel="second, pulled to 0")
        axis.set_aspect("equal", "datalim")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="topological_autoencoder.png", help="the picture")
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    weights = {"without": 0.0, "with": TOPOLOGY}
    loops = {name: [] for name in weights}
    errors = {name: [] for name in weights}
    for seed in SEEDS:
        points, angles = noisy_circle(jax.random.key(100 + seed))
        latents = {}
        for name, weight in weights.items():
            latents[name], error = train(points, weight, arguments.steps, seed)
            loops[name].append(longest_loop(latents[name]))
            errors[name].append(error)
        if seed == SEEDS[0]:
            picture(latents, angles, [several[0] for several in loops.values()], arguments.out)
    for name in weights:
        each = ", ".join(f"{loop:.3f}" for loop in loops[name])
        print(
            f"{name:>7} the term: longest H1 bar {statistics.mean(loops[name]):.3f} ± "
            f"{statistics.stdev(loops[name]):.3f} of the diameter ({each}); "
            f"reconstruction error {statistics.mean(errors[name]):.4f}"
        )
    helped = sum(b > a for a, b in zip(loops["without"], loops["with"], strict=True))
    print(f"The term made the longest bar longer for {helped} of {len(SEEDS)} seeds.")
    if helped < len(SEEDS):
        print("So here it does not help reliably.")
    print(f"Picture: {arguments.out}")


if __name__ == "__main__":
    main()
