"""The demonstration: fair by construction, complete in what it writes."""

import json
import sys

import numpy as np
import pytest

from topoprune_jax import cli, demo


@pytest.fixture
def few_digits(monkeypatch):
    """Every sixth digit and a short training, so that a run takes seconds."""
    points, labels = demo._digits()
    monkeypatch.setattr(demo, "_digits", lambda: (points[::6], labels[::6]))
    monkeypatch.setattr(demo, "_EPOCHS", 20)


def test_a_small_run_writes_everything(capsys, few_digits, tmp_path):
    with pytest.raises(SystemExit) as leaving:
        cli.main(["demo", "--out", f"{tmp_path}/a/b", "--seeds", "2", "--ratio", "0.8"])
    out, err = capsys.readouterr()
    assert (leaving.value.code, err) == (0, "")
    folder = tmp_path / "a" / "b"
    assert sorted(path.name for path in folder.iterdir()) == [
        "digits.csv",
        "digits.html",
        "digits.json",
        "digits.png",
    ]
    assert (folder / "digits.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "digits.html").read_text()
    assert "Which digits to keep" in page
    assert "data:image/png;base64," in page
    record = json.loads((folder / "digits.json").read_text())
    assert record["seeds"] == [0, 1]
    assert record["n_kept"] == round(0.2 * record["n_train"])
    for method in demo.METHODS:
        accuracies = record["accuracy_percent"][method]
        assert len(accuracies) == 2
        assert method in out
        assert f"{np.mean(accuracies):.1f}" in out
        assert f"{np.std(accuracies, ddof=1):.1f}" in out
    table = np.loadtxt(folder / "digits.csv", delimiter=",", skiprows=1)
    assert table.shape == (record["n_train"], 4)
    assert table[:, 3].sum() == record["n_kept"]
    for word in (
        "Where the time went",
        "train classifiers",
        "digits.png",
        "digits.html",
        "topoprune rank",
    ):
        assert word in out


def test_every_method_keeps_equally_many(digits):
    labels = digits[1]
    rng = np.random.default_rng(0)
    for n_kept in (1, 7, 10, 123, len(labels)):
        rows = demo._balanced(labels, n_kept, rng)
        assert len(np.unique(rows)) == n_kept
        counts = np.bincount(labels[rows], minlength=10)
        if n_kept < 1700:  # beyond, the smallest class is used up
            assert counts.max() - counts.min() <= 1


def test_the_split_is_by_class_and_disjoint(digits):
    labels = digits[1]
    train, test = demo._split(labels, 0)
    assert np.array_equal(np.sort(np.r_[train, test]), np.arange(len(labels)))
    shares = np.bincount(labels[test]) / np.bincount(labels)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.01)


def test_statistics_by_hand():
    result = demo.Comparison(
        accuracies={"a": np.array([90.0, 92.0, 94.0]), "b": np.array([91.0, 91.0, 91.0])},
        seeds=(0, 1, 2),
        ratio=0.9,
        n_train=10,
        n_kept=1,
        n_test=5,
    )
    assert (result.mean("a"), result.std("a")) == (92.0, 2.0)
    assert result.difference("a", "b") == (1.0, 2.0, 2)


def test_one_seed_has_no_spread():
    assert np.isnan(demo._sample_std(np.array([1.0])))


def test_without_scikit_learn_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install 'topoprune-jax\[demo\]'"):
        demo.run_demo(tmp_path)


def test_no_seeds_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`n_seeds` must be at least 1"):
        demo.run_demo(tmp_path, n_seeds=0)
