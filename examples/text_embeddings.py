"""Ranks sentence embeddings: your own `.npy` or `.npz`, or those of real text that is here already.

    pip install '.[demo]'  # in a checkout
    python examples/text_embeddings.py embeddings.npy [--labels labels.npy] [--ratio 0.9]
    python examples/text_embeddings.py

Without a file it embeds about two thousand paragraphs that ship with Python and the packages of
this environment: Python's language reference (`pydoc`), scikit-learn's descriptions of data sets,
and the docstrings of NumPy, SciPy and JAX. The class is where a paragraph is from, the embedding
TF-IDF followed by a truncated SVD to 100 dimensions. A third is held out, and a classifier trained
on what is kept tells the source of the rest, next to class-balanced random paragraphs.
"""

import argparse
import importlib
import importlib.resources
import inspect
import re
import sys

import jax
import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import topoprune_jax as tp
from topoprune_jax import baselines
from topoprune_jax.io import read_array

MODULES = {
    "numpy": ("numpy", "numpy.linalg", "numpy.random"),
    "scipy": ("scipy.stats", "scipy.optimize", "scipy.signal"),
    "jax": ("jax", "jax.numpy", "jax.lax", "jax.random"),
}
PER_SOURCE = 500
SEEDS = (0, 1, 2)


def paragraphs(texts):
    """Paragraphs of at least twelve words, each once, in the order of the texts."""
    found = {}
    for text in texts:
        for part in re.split(r"\n\s*\n", text):
            words = part.split()
            # Tables, signatures and code are no sentences.
            if (
                words
                and words[0] != ">>>"
                and 12 <= len(words) <= 150
                and sum(w.isalpha() for w in words) > len(words) / 2
            ):
                found[" ".join(words)] = None
    return list(found)


def docstrings(names):
    for name in names:
        module = importlib.import_module(name)
        for _, value in sorted(vars(module).items(), key=lambda item: item[0]):
            if inspect.isclass(value) or inspect.isroutine(value):
                yield inspect.getdoc(value) or ""


def real_text():
    """Paragraphs and their sources, at most `PER_SOURCE` of each."""
    import pydoc_data.topics

    from sklearn import datasets

    folder = importlib.resources.files(datasets) / "descr"
    descriptions = sorted(folder.iterdir(), key=lambda path: path.name)
    sources = {
        "python": pydoc_data.topics.topics.values(),
        "scikit-learn": (p.read_text() for p in descriptions if p.name.endswith(".rst")),
        **{name: docstrings(modules) for name, modules in MODULES.items()},
    }
    texts, labels = [], []
    for name, documents in sources.items():
        parts = paragraphs(documents)
        rows = np.random.default_rng(0).permutation(len(parts))[:PER_SOURCE]
        texts += [parts[row] for row in sorted(rows)]
        labels += [name] * len(rows)
    return np.array(texts), np.array(labels)


def embed(texts):
    """TF-IDF of words, reduced to 100 dimensions."""
    counts = TfidfVectorizer(sublinear_tf=True, min_df=2, stop_words="english").fit_transform(texts)
    return TruncatedSVD(100, random_state=0).fit_transform(counts).astype(np.float32)


def describe(ranking, labels, texts):
    """Prints how many of each class are kept, and what lies at the ends of the complexity."""
    if labels is not None:
        kept = labels[np.asarray(ranking.kept)]
        shares = [f"{name} {np.sum(kept == name)}" for name in np.unique(labels)]
        print("kept of each class: " + ", ".join(shares))
    if texts is not None:
        order = np.argsort(np.asarray(ranking.scores))
        for title, rows in (("simplest", order[:2]), ("most complex", order[-2:])):
            for row in rows:
                print(f"{title} region: [{labels[row]}] {texts[row][:90]}")


def compare(embeddings, labels, ratio):
    """Prints the held-out accuracy of classifiers trained on what is kept."""
    results = {"kept by topoprune_jax": [], "class-balanced random": [], "all": []}
    for seed in SEEDS:
        x, x_test, y, y_test = train_test_split(
            embeddings, labels, test_size=1 / 3, stratify=labels, random_state=seed
        )
        key = jax.random.key(seed)
        chosen = (
            tp.rank(x, ratio, labels=y, key=key).kept,
            baselines.class_balanced_random(x, ratio, labels=y, key=key).kept,
            np.arange(len(x)),
        )
        for values, rows in zip(results.values(), map(np.asarray, chosen), strict=True):
            classifier = LogisticRegression(C=10.0, max_iter=2000).fit(x[rows], y[rows])
            values.append(100 * classifier.score(x_test, y_test))
    print(f"\nheld-out accuracy in % of telling the class, mean ± std over {len(SEEDS)} seeds")
    for name, values in results.items():
        print(f"{name:>22}: {np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("embeddings", nargs="?", help="a .npy or .npz file; PATH::NAME names one")
    parser.add_argument("--labels", help="class labels, one an embedding, in the same way")
    parser.add_argument("--ratio", type=float, default=0.9, help="the fraction to remove (0.9)")
    parser.add_argument("--out", help="where to save the indices to keep, as .npy")
    arguments = parser.parse_args()
    texts = labels = None
    if arguments.embeddings is None:
        texts, labels = real_text()
        embeddings = embed(texts)
        print(f"{len(texts)} paragraphs of {len(np.unique(labels))} sources")
    else:
        embeddings = read_array(arguments.embeddings)
        labels = None if arguments.labels is None else read_array(arguments.labels)
    ranking = tp.rank(embeddings, arguments.ratio, labels=labels, key=jax.random.key(0))
    print(f"{len(ranking.kept)} of {len(embeddings)} embeddings kept")
    describe(ranking, labels, texts)
    if arguments.out is not None:
        np.save(arguments.out, np.asarray(ranking.kept))
        print(f"indices to keep: {arguments.out}")
    if texts is not None:
        compare(embeddings, labels, arguments.ratio)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, TypeError) as error:
        sys.exit(f"Error: {error}")
