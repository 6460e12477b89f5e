"""Picks what to label: without any label, `rank` orders the images, and the first ones are labeled.

    pip install '.[demo]'  # in a checkout
    python examples/active_learning.py [--seeds 3] [--budgets 20 40 80 160]

scikit-learn's digits, a third held out. The labels of the training images are hidden until they are
bought. One label-free ranking serves every budget, because what is kept at a small budget is part
of what is kept at a larger one: labeling can go on down the order. The same classifier (logistic
regression on pixels) is trained on what was labeled, and compared with labeling at random (20 draws
a seed) and with everything labeled.
"""

import argparse

import jax
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import topoprune_jax as tp

DRAWS = 20


def accuracy(x, y, rows, x_test, y_test):
    """In percent, of a classifier that has seen the labels of `rows` only."""
    if len(np.unique(y[rows])) == 1:
        return 100 * float(np.mean(y_test == y[rows][0]))
    classifier = LogisticRegression(C=10.0, max_iter=2000).fit(x[rows], y[rows])
    return 100 * float(classifier.score(x_test, y_test))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=int, nargs="+", default=[20, 40, 80, 160])
    arguments = parser.parse_args()
    pixels, digits = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    ranked, drawn, found, found_by_chance, full = [], [], [], [], []
    for seed in range(arguments.seeds):
        x, x_test, y, y_test = train_test_split(
            pixels, digits, test_size=1 / 3, stratify=digits, random_state=seed
        )
        order = np.asarray(tp.rank(x, 0.9, key=jax.random.key(seed)).order)  # no labels
        rng = np.random.default_rng(seed)
        draws = [rng.permutation(len(x)) for _ in range(DRAWS)]
        ranked.append([accuracy(x, y, order[:m], x_test, y_test) for m in arguments.budgets])
        drawn.append(
            [
                np.mean([accuracy(x, y, draw[:m], x_test, y_test) for draw in draws])
                for m in arguments.budgets
            ]
        )
        found.append([len(np.unique(y[order[:m]])) for m in arguments.budgets])
        found_by_chance.append(
            [np.mean([len(np.unique(y[d[:m]])) for d in draws]) for m in arguments.budgets]
        )
        full.append(accuracy(x, y, np.arange(len(x)), x_test, y_test))
    print("held-out accuracy in %, mean over the seeds (and how many of the ten digits were met)")
    print(f"{'labels':>8} {'ranked':>14} {'random':>14} {'difference':>12}   seeds ahead")
    for column, budget in enumerate(arguments.budgets):
        ours, chance, digits_met, by_chance = (
            np.array(values)[:, column] for values in (ranked, drawn, found, found_by_chance)
        )
        print(
            f"{budget:>8} {ours.mean():>7.1f} ({digits_met.mean():>4.1f}) {chance.mean():>7.1f} "
            f"({by_chance.mean():>4.1f}) {(ours - chance).mean():>+12.1f}   "
            f"{int((ours > chance).sum())} of {len(ours)}"
        )
    print(f"{'all':>8} {np.mean(full):>7.1f}")


if __name__ == "__main__":
    main()
