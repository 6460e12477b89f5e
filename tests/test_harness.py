"""The harness of the pruning benchmarks, on digits and tiny budgets."""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pruning_tables
import pytest
import robustness
from harness import data
from harness.ablations import ABLATIONS, _fuzzy_filtration, _Stages
from harness.experiment import Experiment, cases
from harness.methods import METHODS
from harness.probe import Probe, ProbeBudget
from harness.records import Records
from harness.training import CPU, Trainer
from scipy.sparse.csgraph import minimum_spanning_tree
from sklearn.neighbors import NearestNeighbors

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def frozen(digits):
    """Digits as samples that are their own features: 1,200 to train on, the others to test."""
    points, labels = digits
    cut = 1200
    samples = data.Images("digits", points[:cut], labels[:cut], points[cut:], labels[cut:])
    return samples, data.Features("pixels", points[:cut], None)


def test_a_run_is_written_once_and_found_again(tmp_path, frozen):
    samples, features = frozen
    several = cases(["random", "moderate"], ["pixels"], [0.9], ["linear-probe"], [0, 1], [0])
    lines = []
    for _ in range(2):
        records = Records(tmp_path / "runs.jsonl")
        experiment = Experiment(samples, Probe, lambda *_: ProbeBudget(), records, "a command")
        lines.append([experiment.run(case, features) for case in several])
    assert lines[0] == lines[1] == records.runs
    assert len(records.runs) == 4
    random, moderate, other, again = (run["outcome"] for run in records.runs)
    assert random["n_kept"] == moderate["n_kept"] == 120
    assert random["kept"] != other["kept"]
    # One kept set is trained on once, whatever the selection seed.
    assert moderate["kept"] == again["kept"]
    assert moderate["seconds"] == again["seconds"]
    assert 0.7 < random["last"] < 1
    assert np.mean(random["per_class"]) == pytest.approx(random["last"], abs=0.05)
    assert records.runs[0]["how"]["command"] == "a command"
    assert records.runs[0]["settings"]["features"] is None  # random looks at none
    table = pruning_tables.accuracy(records.runs)
    assert "linear-probe, features of pixels, 90 % removed" in table
    assert "| moderate | yes |" in table


def test_the_table_of_transfer_pairs_runs_by_training_seed():
    def run(features, seed, last):
        settings = {"method": "topoprune", "network": "resnet-small", "ratio": 0.9}
        settings |= {"features": features, "training_seed": seed}
        return {"settings": settings, "outcome": {"last": last}}

    assert pruning_tables.transfer([run("netA", 0, 0.5)]) == "Not measured."
    runs = [run("netB", 0, 0.70), run("netB", 1, 0.60), run("netA", 0, 0.69), run("netA", 1, 0.58)]
    # Own: 70 and 60; of the other family: 69 and 58, which is 1 and 2 less.
    wanted = "| **topoprune** | resnet-small | 90 | 65.0 ± 7.1 | 63.5 ± 7.8 | -1.5 ± 0.7 |"
    assert pruning_tables.transfer(runs).splitlines()[-1] == wanted


def test_the_deciding_test_counts_the_columns_in_which_a_method_is_first():
    def run(method, features, noise, last, seed=0):
        settings = {"method": method, "features": features, "noise": noise}
        settings |= {"selection_seed": seed, "training_seed": 0}
        return {"settings": settings, "outcome": {"last": last}}

    runs = [run("herding", "netA", 0.5, 0.6), run("herding", "netB", 0.5, 0.5)]
    runs += [run("topoprune", "netA", 0.5, last, seed) for seed, last in enumerate((0.64, 0.60))]
    runs += [run("topoprune", "netB", 0.5, 0.4), run("zcore", "netB", 0.5, 0.3, seed=1)]
    assert pruning_tables.deciding(runs).splitlines()[2:] == [
        "| herding | 60.0 | **50.0** | 55.0 | 1 |",
        "| **topoprune** | **62.0 ± 2.8** | 40.0 | 51.0 | 1 |",
        "| zcore |  | 30.0 |  | 0 |",
    ]
    assert pruning_tables.one_draw(1, runs).splitlines()[2:] == [
        "| **topoprune** | **60.0** |  |  | 1 |",
        "| zcore |  | **30.0** |  | 1 |",
    ]


def test_every_selection_seed_of_the_deciding_test_has_noise_of_its_own(monkeypatch):
    clean = data.Features(
        "netA", np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32), None
    )
    seen = {}
    monkeypatch.setattr(robustness, "data", lambda arguments, source: (None, clean))
    monkeypatch.setattr(robustness, "Experiment", lambda *arguments: None)

    def kept(experiment, several, given):
        for case in several:
            seen[case.method, case.selection_seed] = given["netA"].values

    monkeypatch.setattr(robustness, "run_all", kept)
    arguments = argparse.Namespace(features=["netA"], full=None)
    several = cases(["herding", "zcore"], ["netA"], [0.9], ["resnet-small"], [0, 1], [0], noise=0.5)
    robustness.trained(arguments, None, "", several)
    assert set(seen) == {(name, seed) for name in ("herding", "zcore") for seed in (0, 1)}
    for seed in (0, 1):
        np.testing.assert_array_equal(seen["herding", seed], data.noisy(clean, 0.5, seed).values)
        np.testing.assert_array_equal(seen["zcore", seed], seen["herding", seed])
    assert np.abs(seen["herding", 0] - seen["herding", 1]).max() > 0.1


def test_the_table_of_loops_has_the_nearest_first():
    def run(method, kept):
        outcome = {"kept": kept, "whole": [1.0, 2.0]}
        return {"settings": {"features": "netA", "method": method}, "outcome": outcome}

    lines = pruning_tables.homology([run("zcore", [3.0, 6.0]), run("d2, label-free", [1.5, 1.5])])
    assert lines.splitlines()[2:] == [
        "| d2, label-free | netA | 1.500 ± 0.000 | 1.500 ± 0.707 | 1.00 |",
        "| zcore | netA | 4.500 ± 2.121 | 1.500 ± 0.707 | 3.00 |",
    ]


def test_a_line_that_was_cut_off_is_left_out(tmp_path, capsys):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"settings": {"a": 1}, "outcome": {}, "how": {}}\n{"settings": {"a"')
    records = Records(path)
    assert "line 2 is cut off" in capsys.readouterr().out
    records.add({"a": 2}, {}, {})
    whole = path.read_text().splitlines()
    assert [json.loads(whole[i])["settings"]["a"] for i in (0, 2)] == [1, 2]


@pytest.mark.slow  # convolutions take long where LLVM does not optimize
@pytest.mark.parametrize("network", ["resnet-small", "vgg-small"])
def test_training_learns_and_repeats_to_the_bit(network):
    """Squares of two brightnesses, which a few steps tell apart."""
    generator = np.random.default_rng(0)
    labels = np.arange(64, dtype=np.int32) % 2
    images = (
        generator.integers(0, 60, (64, 16, 16, 1)) + 120 * labels[:, None, None, None]
    ).astype(np.uint8)
    samples = data.Images("squares", images[:48], labels[:48], images[48:], labels[48:])
    budget = dataclasses.replace(CPU, n_steps=40, batch_size=16)
    trainer = Trainer(samples, network, budget)
    steps = []
    # Flax and optax promote.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        first, second = (
            trainer.run(np.arange(48), 3, lambda done, total: steps.append((done, total)))
            for _ in range(2)
        )
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(second, seconds=0)
    assert first.last > 0.9
    assert first.course[-1] == (40, first.last)
    assert steps[-1] == (40, 40)


def test_splits_and_changes_of_the_data(frozen):
    samples, features = frozen
    smaller, own = data.validation_split(samples, features)
    assert len(smaller.train_y) == len(own.values) == 1080
    assert len(smaller.test_y) == 120
    together = np.concatenate([smaller.train_x, smaller.test_x])
    assert len(np.unique(together, axis=0)) == len(np.unique(samples.train_x, axis=0))
    wrong = data.with_label_noise(samples, 0.2, 0).train_y != samples.train_y
    assert wrong.sum() == 240
    few, _ = data.imbalanced(samples, features, 50.0, 0)
    sizes = np.bincount(few.train_y)
    whole = np.bincount(samples.train_y)
    assert sizes[0] == whole[0]
    assert sizes[9] == round(whole[9] / 50)
    halves = data.merged(samples, [0, 1] * 5)
    np.testing.assert_array_equal(halves.train_y, samples.train_y % 2)
    assert (halves.n_classes, halves.name) != (samples.n_classes, samples.name)
    with pytest.raises(SystemExit, match=r"one number for each of the 10 classes; got 2"):
        data.merged(samples, [0, 1])
    moved = data.noisy(features, 0.5, 0).values - features.values
    spread = features.values.std(axis=0)
    np.testing.assert_allclose(moved.std(axis=0)[spread > 0], 0.5 * spread[spread > 0], rtol=0.1)
    assert (moved[:, spread == 0] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("test", ["overlap", "homology"])
def test_robustness_runs(tmp_path, test):
    generator = np.random.default_rng(0)
    n = 600
    images = generator.integers(0, 255, (n, 8, 8, 1)).astype(np.uint8)
    labels = generator.integers(0, 3, n)
    np.savez(tmp_path / "images.npz", train_x=images, train_y=labels, test_x=images, test_y=labels)
    np.savez(tmp_path / "features.npz", train_f=images.reshape(n, -1))
    out = tmp_path / "out.jsonl"
    command = [sys.executable, str(BENCHMARKS / "robustness.py"), test, "--ratio", "0.5"]
    command += ["--images", str(tmp_path / "images.npz"), "--out", str(out)]
    command += ["--features", str(tmp_path / "features.npz"), "--methods", "topoprune", "moderate"]
    command += ["--selection-seeds", "0", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(out.read_text().splitlines()) == {"overlap": 2 * 6, "homology": 2}[test]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labels", "label-free"])
def test_parts_put_together_again_are_rank(frozen, kind):
    samples, features = frozen
    own, again = {
        "labels": ("topoprune", "labels: as it is"),
        "label-free": ("topoprune, label-free, communities", "label-free: communities"),
    }[kind]
    with jax.numpy_rank_promotion("allow"):
        expected, found = (
            method.order(features, 0.9, samples.train_y, 3)
            for method in (METHODS[own], METHODS[again])
        )
        np.testing.assert_array_equal(found, expected)
        for name in ("no homology (codensity)", "simpler half, then coverage", "simplest"):
            other = METHODS[f"{kind}: {name}"].order(features, 0.9, samples.train_y, 3)
            np.testing.assert_array_equal(np.sort(other), np.arange(len(samples.train_y)))
            assert set(other[:120]) != set(expected[:120])


def test_fuzzy_filtration_by_hand():
    """Memberships of patches against SciPy's spanning trees of -log mu."""
    points = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    stages = _Stages(data.Features("points", points, None))
    variant = dataclasses.replace(ABLATIONS["label-free: fuzzy filtration"], patch_size=8)
    found = _fuzzy_filtration(variant, stages, points)
    fuzzy = stages.covering
    mu = np.zeros((40, 40))
    rows = np.repeat(np.arange(40), fuzzy.indices.shape[1])
    np.maximum.at(mu, (rows, np.asarray(fuzzy.indices).ravel()), np.ravel(fuzzy.memberships))
    mu = np.maximum(mu, mu.T)
    longest = -np.log(np.asarray(fuzzy.memberships)[np.asarray(fuzzy.memberships) > 0].min())
    with np.errstate(divide="ignore"):
        lengths = np.where(mu > 0, -np.log(mu), longest) + 1e-6  # SciPy takes 0 for no edge
    for i, patch in enumerate(NearestNeighbors(n_neighbors=8).fit(points).kneighbors(points)[1]):
        own = lengths[np.ix_(patch, patch)]
        assert found[i] == pytest.approx(minimum_spanning_tree(own).sum(), rel=1e-4)


def run(images, method, features, last, noise=0.0):
    settings = {"images": images, "method": method, "features": features, "ratio": 0.9}
    settings |= {"network": "linear-probe", "training_seed": 0, "noise": noise}
    outcome = {"last": last, "best": last, "kept": method, "selection_seconds": 1.0}
    return {"settings": settings, "outcome": outcome}


def test_tables_keep_data_sets_apart():
    """A random choice looks at no features, and is still of the data that it was made of."""
    several = [("a", 0.5), ("b", 0.75)]
    runs = [run(x, "class-balanced random", None, last) for x, last in several]
    runs += [run(x, "herding", x, last + 0.125) for x, last in several]
    tables = pruning_tables.accuracy(runs).split("####")[1:]
    assert [t.split(",")[1] for t in tables] == [" features of a", " features of b"]
    for (_, last), text in zip(several, tables, strict=True):
        assert f"| class-balanced random | yes | {100 * last:.1f} |" in text
        assert (
            f"| herding | yes | {100 * last + 12.5:.1f} | {100 * last + 12.5:.1f} | 12.5 |" in text
        )


@pytest.mark.parametrize(
    ("method", "data", "name", "wanted"),
    [
        ("topoprune, chosen power", "cifar10", "deciding", "topoprune"),
        ("topoprune", "cifar10", "deciding", "topoprune, power 4"),
        ("topoprune", "cifar10_netA", "probe_validation", "topoprune, power 4"),
        ("topoprune", "banking77_minilm", "probe_validation", "topoprune"),
        (
            "topoprune, chosen power",
            "banking77_minilm",
            "probe_test",
            "topoprune, power not bounded",
        ),
        ("topoprune, chosen power", "cifar10", "imbalance", "topoprune, power not bounded"),
        (
            "topoprune, chosen power, bounded",
            "cifar10",
            "imbalance",
            "topoprune, power bounded by a thirtieth",
        ),
        (
            "topoprune, chosen power, bounded by a fiftieth",
            "cifar10",
            "imbalance",
            "topoprune",
        ),
        (
            "topoprune, label-free, parabola",
            "cifar10",
            "deciding",
            "topoprune, label-free, beta of a parabola",
        ),
        (
            "topoprune, label-free, communities",
            "cifar10",
            "deciding",
            "topoprune, label-free",
        ),
        ("herding", "cifar10", "deciding", "herding"),
    ],
)
def test_the_default_is_called_topoprune_in_the_tables(method, data, name, wanted):
    assert pruning_tables.shown(method, data, name) == wanted


def test_the_default_of_noisy_features_has_chosen_its_space():
    """Older runs compared samples in the features, however noisy these were."""
    older, newer = "topoprune, chosen power", "topoprune, chosen space"
    assert pruning_tables.shown(older, "cifar10", "deciding", 0.5) == "topoprune, features"
    assert pruning_tables.shown(newer, "cifar10", "deciding", 0.5) == "topoprune"
    assert pruning_tables.shown(newer, "cifar10", "accuracy_test", 0.0) == "topoprune"


def test_noisy_features_have_tables_of_their_own():
    """With the runs of what looks at no features in both."""
    several = [(0.0, 0.5), (0.5, 0.25)]
    runs = [run("x", "class-balanced random", None, 0.125)]
    runs += [run("x", "herding", "a", last, noise) for noise, last in several]
    tables = pruning_tables.accuracy(runs).split("####")[1:]
    titles = [text.split(",")[1] for text in tables]
    assert titles == [" features of a", " features of a with noise 0.5"]
    for (_, last), text in zip(several, tables, strict=True):
        assert f"| herding | yes | {100 * last:.1f} |" in text
        assert "| class-balanced random | yes | 12.5 |" in text


@pytest.mark.slow
def test_what_lies_among_another_class_is_not_in_the_clearer_half():
    generator = np.random.default_rng(0)
    points = generator.normal(size=(60, 3)) + 8 * np.repeat([[0, 0, 0], [1, 0, 0]], 30, axis=0)
    labels = np.repeat(np.arange(2), 30)
    wrong = [3, 40]
    labels[wrong] = 1 - labels[wrong]
    features = data.Features("two", points.astype(np.float32), None)
    variant = ABLATIONS["labels: discriminant margin, the clearest 50 %, then coverage"]
    order = variant(features, 0.8, labels, jax.random.key(0)).order
    assert sorted(order) == list(range(60))
    assert not set(order[:30]) & set(wrong)
    for name in ("of the clearest 50 %", "of the clearest 50 %, agreement power 0"):
        variant = ABLATIONS[f"labels: discriminant coordinates, {name}"]
        order = variant(features, 0.8, labels, jax.random.key(0)).order
        assert sorted(order.tolist()) == list(range(60))
        assert not set(order[:30].tolist()) & set(wrong)
    variant = ABLATIONS["labels: discriminant coordinates, agreement power 16"]
    order = variant(features, 0.8, labels, jax.random.key(0)).order
    assert sorted(order.tolist()) == list(range(60))
    assert not set(order[:12].tolist()) & set(wrong)
    variant = ABLATIONS[
        "labels: agreement in discriminant coordinates, random of the clearest 50 %"
    ]
    order = variant(features, 0.8, labels, jax.random.key(0)).order
    assert sorted(order.tolist()) == list(range(60))
    assert not set(order[:30].tolist()) & set(wrong)
    drawn = METHODS["discriminant margin, share 0.8"].order(features, 0.5, labels, 0)
    assert not set(drawn[:46].tolist()) & set(wrong)
