"""The command line: every mistake is one line and exit code 2, every success leaves its files."""

import contextlib
import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import tiers

import topoprune_jax
from topoprune_jax import cli
from topoprune_jax.cli import _console, _programs

N = 80
SHOW_CURSOR = "\x1b[?25h"


def run(capsys, *arguments):
    """Exit code, stdout and stderr of the command line, run in this process."""
    with pytest.raises(SystemExit) as leaving:
        cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return leaving.value.code, out, err


def python_m(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "topoprune_jax", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with good and bad features and labels."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    good = rng.normal(size=(N, 5)).astype(np.float32)
    labels = np.arange(N) % 3
    nan, infinite, nan_labels = good.copy(), good.copy(), labels.astype(float)
    nan[7, 1], infinite[7, 1], nan_labels[7] = np.nan, np.inf, np.nan
    arrays = {
        "good": good,
        "labels": labels,
        "short_labels": labels[:-1],
        "nan_labels": nan_labels,
        "fraction_labels": labels + 0.5,
        "labels_2d": labels[:, None],
        "nan": nan,
        "inf": infinite,
        "strings": good.astype(str),
        "complex": good + 1j,
        "dates": np.zeros((N, 5), dtype="datetime64[s]"),
        "one_d": good[:, 0],
        "three_d": good[:, :, None],
        "no_rows": good[:0],
        "no_columns": good[:, :0],
        "one_row": good[:1],
        "few_rows": good[:10],
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", good.astype(object), allow_pickle=True)
    np.savez(folder / "both.npz", x=good, y=labels)
    (folder / "corrupt.npz").write_bytes((folder / "both.npz").read_bytes()[:400])
    names = np.array(["a", "b", "c"])[labels]
    np.savez(folder / "columns.npz", x=good, name=names, id=[f"n{i}" for i in range(N)])
    np.savez(folder / "two.npz", x=good, z=good)
    (folder / "text.npy").write_text("1,2\n3,4\n")
    (folder / "notes.txt").write_text("1,2\n3,4\n")
    (folder / "empty.npy").touch()
    return folder


BAD = {
    "NaN": (["nan.npy"], "NaN or infinity, first in row 7"),
    "infinity": (["inf.npy"], "NaN or infinity, first in row 7"),
    "strings": (["strings.npy"], "must hold numbers"),
    "dates": (["dates.npy"], "must hold numbers"),
    "objects": (["objects.npy"], "holds Python objects"),
    "complex": (["complex.npy"], "must hold real numbers"),
    "1-D": (["one_d.npy"], "must be a 2-D array"),
    "3-D": (["three_d.npy"], "must be a 2-D array"),
    "0 rows": (["no_rows.npy"], r"row.*\(0, 5\)"),
    "0 columns": (["no_columns.npy"], r"column.*\(80, 0\)"),
    "ratio 90": (["good.npy", "--ratio", "90"], "Pass 0.9 to remove 90 %"),
    "ratio 1": (["good.npy", "--ratio", "1"], r"must be in \[0, 1\)"),
    "ratio -0.1": (["good.npy", "--ratio", "-0.1"], r"must be in \[0, 1\)"),
    "ratio nan": (["good.npy", "--ratio", "nan"], r"must be in \[0, 1\)"),
    "ratio inf": (["good.npy", "--ratio", "inf"], r"must be in \[0, 1\)"),
    "ratio abc": (["good.npy", "--ratio", "abc"], "'abc' is not a valid float"),
    "labels too short": (
        ["good.npy", "--labels", "short_labels.npy"],
        "labels.*79 of them for the 80",
    ),
    "labels 2-D": (
        ["good.npy", "--labels", "labels_2d.npy"],
        r"labels.*\(80, 1\)",
    ),
    "labels NaN": (["good.npy", "--labels", "nan_labels.npy"], "labels.*index 7"),
    "labels fractions": (["good.npy", "--labels", "fraction_labels.npy"], "fraction 0.5"),
    "labels missing": (["good.npy", "--labels", "absent.npy"], "absent.npy.*no such file"),
    "missing file": (["absent.npy"], "no such file"),
    "a folder": (["."], "holds files of several types"),
    "wrong type": (["text.npy"], "its content is not that of a .npy file"),
    "not a type": (["notes.txt"], "it is none of .npy, .npz, .parquet"),
    "empty file": (["empty.npy"], "the file is empty"),
    "corrupt npz": (["corrupt.npz"], "damaged or incomplete"),
    "which array": (["two.npz"], r"which holds x \(80, 5\), z \(80, 5\): name one as .*::x"),
    "ids twice": (
        ["both.npz::x", "--ids", "good.npy", "--id-column", "y"],
        "leave one out",
    ),
    "no such column": (["both.npz", "--label-column", "t"], r"cannot find 't' .* y \(80,\)"),
    "too few ids": (["good.npy", "--ids", "short_labels.npy"], "ids.*79 of them for the 80"),
    "ids of fractions": (["good.npy", "--ids", "fraction_labels.npy"], "got float64"),
    "no such array": (["both.npz::z"], r"x \(80, 5\), y \(80,\)"),
    "output of unknown type": (
        ["good.npy", "--out", "out.txt"],
        "must end in .npz, .csv, .par",
    ),
    "output folder missing": (["good.npy", "--out", "absent/out.npz"], "no such folder"),
    "output is a folder": (["good.npy", "--out", "folder.npz"], "it is a folder"),
    "output unwritable": (["good.npy", "--out", "/proc/out.npz"], "cannot write to '/proc'"),
    "output is the input": (["both.npz::x", "--out", "both.npz"], "it is the input"),
    "n_neighbors 0": (["good.npy", "--n-neighbors", "0"], "n_neighbors"),
    "n_neighbors x": (["good.npy", "--n-neighbors", "x"], "not a valid integer"),
    "patch_size 0": (["good.npy", "--patch-size", "0"], "patch_size"),
    "beta -51": (["good.npy", "--beta", "-51"], "beta"),
    "neighbors": (["good.npy", "--neighbors", "near"], "neighbors"),
    "space": (["good.npy", "--space", "near"], "space"),
    "space without labels": (["good.npy", "--space", "discriminant_features"], "needs `labels`"),
    "beta nan": (["good.npy", "--beta", "nan"], "beta"),
    "seed -1": (["good.npy", "--seed", "-1"], "seed"),
    "unknown option": (["good.npy", "--rato", "0.9"], "No such option"),
    "two files": (["good.npy", "good.npy"], "extra argument"),
    "no file": ([], "Missing argument 'FEATURES'"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_exit_code_2(
    capsys, monkeypatch, files, tmp_path, arguments, message
):
    (tmp_path / "folder.npz").mkdir()
    monkeypatch.chdir(tmp_path)
    inputs = {path.name for path in files.iterdir()}
    words = [
        f"{files}/{word}" if word.partition("::")[0] in inputs | {"."} else word
        for word in arguments
    ]
    for option, value in (("--ratio", "0.9"), ("--out", "out.npz")):
        if option not in words:
            words += [option, value]
    code, out, err = run(capsys, "rank", *words)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert re.match("Error: .", err)
    assert re.search(message, err)
    assert not (tmp_path / "out.npz").exists()
    assert (files / "both.npz").stat().st_size > 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnk"], "No such command 'rnk'"),
        (["--rank"], "No such option"),
        (["rank", "x.npy", "--out", "x.npz"], "Missing option '--ratio'"),
        (["rank", "x.npy", "--ratio", "0.9"], "Missing option '--out'"),
        (["demo", "--ratio", "90"], "Pass 0.9 to remove 90 %"),
        (["demo", "--seeds", "0"], "seeds"),
        (["demo", "--out", "/proc/demo"], "cannot make the folder '/proc/demo'"),
    ],
)
def test_usage_is_one_line_too(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


@pytest.mark.parametrize("kind", tiers(["npz", "csv"], ["csv"]))
def test_rank_writes_what_the_library_returns(capsys, files, tmp_path, kind):
    path = tmp_path / f"out.{kind}"
    code, out, err = run(
        capsys, "rank", f"{files}/both.npz::x", "--labels", f"{files}/both.npz::y",
        "--ratio", "0.75", "--seed", "3", "--n-neighbors", "5", "--patch-size", "8", "--out", path,
    )  # fmt: skip
    assert code == 0
    assert out == f"Kept 20 of 80 samples (25.0%); ranking written to {path}\n"
    assert "Where the time went" in err
    assert err.startswith("Features: x\n")
    expected = topoprune_jax.rank(
        np.load(files / "good.npy"), 0.75, labels=np.load(files / "labels.npy"),
        n_neighbors=5, patch_size=8, key=jax.random.key(3),
    )  # fmt: skip
    if kind == "npz":
        columns = np.load(path)
        np.testing.assert_array_equal(columns["order"], np.asarray(expected.order))
        np.testing.assert_array_equal(columns["embedding"], np.asarray(expected.embedding))
    else:
        with open(path, newline="") as stream:
            rows = list(csv.DictReader(stream))
        columns = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    np.testing.assert_array_equal(columns["index"], np.arange(N))
    np.testing.assert_array_equal(np.argsort(columns["rank"]), np.asarray(expected.order))
    np.testing.assert_array_equal(np.flatnonzero(columns["kept"]), np.sort(expected.kept))
    np.testing.assert_array_equal(
        np.asarray(columns["score"], dtype=np.float32), np.asarray(expected.scores)
    )


def test_quiet_says_only_the_summary(capsys, files, tmp_path):
    code, out, err = run(
        capsys, "rank", files / "good.npy", "--ratio", "0.75", "--n-neighbors", "5",
        "--patch-size", "8", "--out", tmp_path / "out.npz", "--quiet",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert out.count("\n") == 1


SETTINGS = ["--n-neighbors", "5", "--patch-size", "8", "--quiet"]


def test_rank_keeps_ids_and_tells_machines(capsys, files, tmp_path):
    """Labels and ids from columns of the features' own file; stdout is one JSON object."""
    data, path = files / "columns.npz", tmp_path / "out.csv"
    code, out, err = run(
        capsys, "rank", data, "--label-column", "name", "--id-column", "id", "--ratio", "0.75",
        "--seed", "3", "--space", "discriminant_features", "--out", path, "--json", *SETTINGS,
    )  # fmt: skip
    assert (code, err) == (0, "")
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["index", "id", "score", "rank", "kept"]
    assert [row["id"] for row in rows] == [f"n{i}" for i in range(N)]
    summary = json.loads(out)
    kept = np.array([row["kept"] == "1" for row in rows])
    names = np.load(data)["name"]
    assert summary["classes"] == {
        name: {
            "n": int((names == name).sum()),
            "kept": int(kept[names == name].sum()),
            "kept_share": kept[names == name].mean(),
        }
        for name in ("a", "b", "c")
    }
    assert (summary["n_samples"], summary["n_kept"], summary["ratio"]) == (N, 20, 0.75)
    assert summary["features"] == {"file": str(data), "names": ["x"], "shape": [N, 5]}
    assert summary["settings"] == {
        "seed": 3, "n_neighbors": 5, "neighbors": "auto", "manifold": "spectral",
        "patch_size": 8, "space": "discriminant_features", "beta": -1.0, "agreement_power": 4.0,
    }  # fmt: skip
    assert {"read", "neighbors", "embedding", "selection", "write"} <= set(summary["seconds"])
    assert sum(summary["seconds"].values()) <= summary["seconds_total"]
    assert (summary["version"], summary["out"]) == (topoprune_jax.__version__, str(path))


def test_the_output_is_no_shard_of_the_input(capsys, files, tmp_path):
    np.save(tmp_path / "a.npy", np.load(files / "good.npy"))
    code, _, err = run(capsys, "rank", tmp_path, "--ratio", "0.9", "--out", tmp_path / "out.npz")
    assert code == 2
    assert "one more shard" in err
    assert os.listdir(tmp_path) == ["a.npy"]


def test_a_missing_library_is_one_line(capsys, monkeypatch, files, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, out, err = run(
        capsys, "rank", files / "good.npy", "--ratio", "0.9", "--out", tmp_path / "x.parquet"
    )
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "pip install 'topoprune-jax[io]'" in err


@pytest.fixture(scope="module")
def rankings(tmp_path_factory):
    """Two rankings of eight samples, the second with its rows shuffled, and one of others."""
    folder = tmp_path_factory.mktemp("rankings")
    one = [3, 0, 1, 2, 7, 6, 5, 4]  # rank of every sample
    two = [0, 3, 2, 1, 7, 6, 4, 5]

    def write(name, ranks, n_kept, rows, ids=tuple("abcdefgh")):
        lines = [f"{i},{ids[i]},{(i % 3) / 4},{ranks[i]},{int(ranks[i] < n_kept)}" for i in rows]
        (folder / name).write_text("\n".join(["index,id,score,rank,kept", *lines]) + "\n")

    write("one.csv", one, 4, range(8))
    write("two.csv", two, 2, [5, 4, 7, 0, 1, 2, 3, 6])
    write("other.csv", one, 4, range(8), ids="abcdefgx")
    np.save(folder / "labels.npy", np.array([0, 0, 0, 0, 1, 1, 1, 1]))
    np.save(folder / "few.npy", np.array([0, 0]))
    return folder


def test_compare_shows_what_both_keep(capsys, rankings):
    code, out, err = run(
        capsys, "compare", rankings / "one.csv", rankings / "two.csv", "--labels",
        rankings / "labels.npy",
    )  # fmt: skip
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    # Half: both keep samples 0 to 3. As in the files: {0, 1, 2, 3} and {0, 3}.
    assert ["50%", "4", "4", "4", "100.0%", "50.0%", "1.000"] in lines
    assert ["as", "in", "the", "files", "4", "2", "2", "100.0%", "50.0%", "0.500"] in lines
    # 1 - 6 (9 + 9 + 1 + 1 + 0 + 0 + 1 + 1) / (8 * 63)
    assert "Rank correlation of the orders: 0.738, of the scores: 1.000" in out
    assert ["0", "4", "4", "2", "2", "100.0%", "-1.000"] in lines
    assert ["1", "4", "0", "0", "0", "-", "0.800"] in lines


def test_compare_for_machines(capsys, rankings):
    code, out, _ = run(
        capsys, "compare", rankings / "one.csv", rankings / "two.csv", "--json", "--labels",
        rankings / "labels.npy",
    )  # fmt: skip
    assert code == 0
    told = json.loads(out)
    assert (told["n_samples"], told["matched_by"]) == (8, "id")
    assert [one["ratio"] for one in told["overlaps"]] == [0.3, 0.5, 0.7, 0.8, 0.9, None]
    assert told["overlaps"][2] == {
        "ratio": 0.7, "n_kept_a": 2, "n_kept_b": 2, "n_shared": 0, "share": 0.0,
        "share_by_chance": 0.25, "jaccard": 0.0,
    }  # fmt: skip
    assert told["classes"]["1"]["overlaps"][-1]["share"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["one.csv", "other.csv"], "they rank different samples, 1 only in the first"),
        (["one.csv", "labels.npy"], "it lacks index, score, rank, kept"),
        (["one.csv", "two.csv", "--labels", "few.npy"], "2 of them for the 8 samples"),
        (["one.csv", "absent.csv"], "no such file"),
    ],
)
def test_compare_says_what_is_wrong(capsys, rankings, words, message):
    words = [word if word.startswith("--") else rankings / word for word in words]
    code, out, err = run(capsys, "compare", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_bench_keeps_first_and_warm_calls_apart(capsys, monkeypatch, files, tmp_path):
    """With a ranking that sleeps longer in its first call at a size."""
    calls = []

    def sleep(points, ratio, *, progress, key):
        progress("neighbors", 0, 1)
        time.sleep(0.01 if len(points) in calls else 0.2)
        calls.append(len(points))
        progress("neighbors", 1, 1)
        return types.SimpleNamespace(order=jnp.arange(len(points)))

    monkeypatch.setattr("topoprune_jax._rank.rank", sleep)
    path = tmp_path / "bench.json"
    code, out, err = run(
        capsys, "bench", files / "good.npy", "--sizes", "40,20", "--repeats", "2", "--out", path
    )
    assert (code, err) == (0, "")
    assert calls == [20, 20, 20, 40, 40, 40]
    record = json.loads(path.read_text())
    assert [run["first_call"] for run in record["runs"]] == [True, False, False] * 2
    for run_ in record["runs"]:
        assert (run_["seconds"]["neighbors"] > 0.15) == run_["first_call"]
        assert run_["peak_memory_bytes_so_far"] > 1e7
    assert {"command", "commit", "versions", "device", "machine", "runs"} <= set(record)
    assert re.search(r"^neighbors +0\.2\d +0\.0\d", out, re.MULTILINE)
    assert "20 samples of 5 features on cpu" in out
    calls.clear()
    code, out, _ = run(capsys, "bench", "--sizes", "30", "--dims", "3", "--repeats", "1", "--json")
    assert (code, json.loads(out)["n_features"], calls) == (0, 3, [30, 30])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sizes", "a"], "'a' is not a list of whole numbers"),
        (["--sizes", "1,9"], "a size must be at least 2"),
        (["--ratio", "90"], "Pass 0.9 to remove 90 %"),
        (["--out", "bench.txt"], "the name must end in .json"),
        (["good.npy", "--sizes", "81"], "cannot take 81 samples from .* it has 80"),
        (["one_d.npy", "--sizes", "9"], "must be a 2-D array"),
    ],
)
def test_bench_says_what_is_wrong(capsys, files, words, message):
    words = [files / word if word.endswith(".npy") else word for word in words]
    code, out, err = run(capsys, "bench", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(message, err)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(capsys, shell):
    code, out, _ = run(capsys, "completion", shell)
    assert code == 0
    assert f"_TOPOPRUNE_COMPLETE={shell}_complete" in out
    assert "topoprune" in out


@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [
        ("topoprune co", "1", ["plain,compare", "plain,completion"]),
        ("topoprune rank x.npy --label", "3", ["plain,--labels", "plain,--label-column"]),
        ("topoprune rank fea", "2", ["file,fea"]),
        ("topoprune rank x.npy --neighbors p", "4", ["plain,projected"]),
    ],
)
def test_completion_answers_the_shell(capsys, monkeypatch, words, place, expected):
    monkeypatch.setenv("_TOPOPRUNE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", place)
    code, out, _ = run(capsys)
    assert code == 0
    assert out.split() == expected


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], *([command, "-h"] for command in ("rank", "demo", "compare", "bench"))],
)
def test_help(capsys, arguments):
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: topoprune")
    if "rank" in arguments:
        assert "Fraction of the samples to REMOVE" in " ".join(out.split())


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"topoprune, version {topoprune_jax.__version__}\n", "")


def add_wrong_shapes(*_, **__):
    return jnp.ones(3) + jnp.ones(4)


def promote_implicitly(*_, **__):
    return jnp.ones(3, dtype=jnp.int32) + jnp.ones(3, dtype=bool)


def unpack_wrongly(*_, **__):
    a, b = [1, 2, 3]
    return a + b


@pytest.mark.parametrize("defect", [add_wrong_shapes, promote_implicitly, unpack_wrongly])
def test_a_defect_keeps_its_traceback(monkeypatch, files, tmp_path, defect):
    """One-line TypeErrors and ValueErrors too are not blamed on the user's data."""
    monkeypatch.setattr("topoprune_jax._rank.rank", defect)
    words = ["rank", f"{files}/good.npy", "--ratio", "0.9", "--out", f"{tmp_path}/out.npz"]
    with pytest.raises((TypeError, ValueError)):
        cli.main(words)


@pytest.mark.parametrize("missing", ["sklearn", "matplotlib"])
def test_a_missing_extra_is_one_line(capsys, monkeypatch, tmp_path, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    code, out, err = run(capsys, "demo", "--out", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "pip install 'topoprune-jax[demo]'" in err


def test_timer_adds_up_stages_that_take_turns(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 32.0, 32.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    with cli.StageTimer() as timer:  # 0
        timer("a", 0, 2)  # 1: before the first stage, which belongs to none
        timer("a", 1, 2)  # 3
        timer("b", 1, 1)  # 7: begins where the last call ended
        timer("a", 2, 2)  # 15
        timer("b", 0, 1)  # 31: a new round of b, nothing done yet
    assert timer.seconds == {"a": 2.0 + 8.0, "b": 4.0}
    assert timer.total == 32.0
    assert dict(timer.rows())["everything else"] == "18.00"


def test_timer_table_is_aligned_and_tells_memory():
    with cli.StageTimer() as timer, timer.stage("read"):
        pass
    lines = timer.table().splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "read", "everything", "total", "peak"]
    assert len({len(line) for line in lines}) == 1
    assert 1e7 < cli.peak_memory() < 1e11


def test_python_m_runs_and_pipes_hold_plain_text(files, tmp_path):
    done = python_m(
        "rank", files / "good.npy", "--ratio", "0.75", "--n-neighbors", "5",
        "--patch-size", "8", "--out", tmp_path / "out.npz",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Kept 20 of 80 samples")
    assert "\x1b" not in done.stderr
    assert "━" not in done.stderr
    assert re.search(r"^total +\d+\.\d\d$", done.stderr, re.MULTILINE)
    assert re.search(r"^peak resident memory +\d+\.\d\d GB$", done.stderr, re.MULTILINE)


def test_python_m_bad_input(files, tmp_path):
    done = python_m("rank", files / "nan.npy", "--ratio", "0.9", "--out", tmp_path / "out.npz")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


@contextlib.contextmanager
def rank_on_a_terminal(*arguments):
    """The command with its stderr on a terminal: the process, and a function that reads it.

    The function reads until it has seen the given text, or to the end.
    """
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "topoprune_jax", "rank", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    ) as process:
        os.close(theirs)

        def read(until=None):
            seen = ""
            with contextlib.suppress(OSError):  # how Linux says that a terminal is closed
                while (until is None or until not in seen) and (chunk := os.read(ours, 4096)):
                    seen += chunk.decode(errors="replace")
            return seen

        yield process, read
    os.close(ours)


@pytest.fixture
def unset_cache(monkeypatch, tmp_path):
    """JAX as it is where nobody said where programs are kept; the user's folder is `tmp_path`."""
    names = [
        "jax_compilation_cache_dir",
        "jax_compilation_cache_max_size",
        "jax_persistent_cache_min_compile_time_secs",
    ]
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(_programs.platformdirs, "user_cache_path", lambda *_, **__: tmp_path)
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_a_folder_of_the_users(unset_cache):
    _programs.keep_programs()
    folder = jax.config.jax_compilation_cache_dir
    assert [str(path) for path in unset_cache.iterdir()] == [folder]
    assert jax.config.jax_compilation_cache_max_size > 0
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_who_has_said_where_programs_go_is_heeded(unset_cache):
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    _programs.keep_programs()
    assert jax.config.jax_compilation_cache_dir == "elsewhere"
    assert not list(unset_cache.iterdir())


def test_who_wants_nothing_kept_is_heeded(unset_cache):
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        _programs.keep_programs()
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert jax.config.jax_compilation_cache_dir is None
    assert not list(unset_cache.iterdir())


def test_a_user_without_a_home_gets_no_folder_named_tilde(unset_cache, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    nowhere = _programs.Path("~/.cache/topoprune_jax")  # what expands to itself there
    monkeypatch.setattr(_programs.platformdirs, "user_cache_path", lambda *_, **__: nowhere)
    _programs.keep_programs()
    assert jax.config.jax_compilation_cache_dir is None
    assert not list(tmp_path.iterdir())


def test_without_a_folder_to_write_in_nothing_is_kept(unset_cache, monkeypatch):
    monkeypatch.setattr(_programs.os, "access", lambda *_: False)
    _programs.keep_programs()
    assert jax.config.jax_compilation_cache_dir is None
    (unset_cache / "file").write_text("")
    monkeypatch.setattr(
        _programs.platformdirs, "user_cache_path", lambda *_, **__: unset_cache / "file"
    )
    _programs.keep_programs()
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize("words", [("bench", "--sizes", "none"), ("completion", "bash")])
def test_bench_compiles_what_it_measures_and_completion_nothing(capsys, unset_cache, words):
    run(capsys, *words)
    assert jax.config.jax_compilation_cache_dir is None
    assert not list(unset_cache.iterdir())


@pytest.mark.slow
def test_the_next_command_finds_the_programs(files, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    rankings, programs = [], []
    for name in ("first.npz", "second.npz"):
        command = ("rank", files / "good.npy", "--ratio", 0.5, "--out", tmp_path / name)
        assert python_m(*command, env=environment).returncode == 0
        rankings.append(np.load(tmp_path / name))
        kept = (tmp_path / "topoprune_jax").rglob("*-cache")
        programs.append({path.name: path.stat().st_mtime_ns for path in kept})
    assert programs[0]
    assert programs[0] == programs[1]
    for array in rankings[0].files:
        np.testing.assert_array_equal(rankings[0][array], rankings[1][array])


def test_a_terminal_gets_a_drawn_table(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _console.show(
        "[b]",
        ("stage", "seconds"),
        [("read", "0.10"), ("[b]", "1.00"), ("total", "12.00")],
        err=True,
    )
    out, err = capsys.readouterr()
    assert out == ""
    assert "─" in err
    lines = [line.rstrip() for line in err.splitlines()]
    assert next(line for line in lines if "read" in line).endswith(" 0.10")
    assert next(line for line in lines if "total" in line).endswith("12.00")
    assert any(line.split() == ["[b]", "1.00"] for line in lines)


def test_ctrl_c_stops_within_two_seconds(tmp_path):
    """The signal comes in the middle of a stage that takes far longer than two seconds."""
    features = np.random.default_rng(0).normal(size=(100_000, 128)).astype(np.float16)
    np.save(tmp_path / "big.npy", features)
    words = [tmp_path / "big.npy", "--ratio", "0.9", "--out", tmp_path / "out.npz"]
    kept = tmp_path / "kept"
    with rank_on_a_terminal(*words, "--checkpoint", kept) as (process, read):
        bar = read(until="neighbors")
        process.send_signal(signal.SIGINT)
        sent = time.perf_counter()
        seen = read()
        process.wait(timeout=60)
        waited = time.perf_counter() - sent
    assert process.returncode == 130, seen
    assert "━" in bar + seen
    assert waited < 2.0
    assert "Traceback" not in seen
    assert seen.endswith(
        "Interrupted before the work was done; what is finished is kept in "
        f"'{kept}', where the same command goes on.\r\n"
    )
    assert SHOW_CURSOR in seen
    assert sorted(os.listdir(tmp_path)) == ["big.npy", "kept"]
    assert "topoprune.json" in os.listdir(kept)


def test_ctrl_c_without_a_checkpoint_says_that_nothing_is_kept(
    capsys, monkeypatch, files, tmp_path
):
    def interrupted(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr("topoprune_jax._rank.rank", interrupted)
    monkeypatch.setattr(os, "_exit", sys.exit)
    words = ("rank", files / "good.npy", "--ratio", "0.9", "--out", tmp_path / "out.npz")
    code, out, err = run(capsys, *words)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == (
        "Interrupted before the work was done; nothing is kept, because no --checkpoint was given."
    )


def test_checkpoint_serves_another_ratio_and_refuses_other_features(capsys, files, tmp_path):
    words = ("rank", files / "good.npy", "--out", tmp_path / "out.npz")
    words += ("--checkpoint", tmp_path / "kept")
    assert run(capsys, *words, "--ratio", "0.9", "--quiet")[0] == 0
    first = np.load(tmp_path / "out.npz")
    code, out, err = run(capsys, *words, "--ratio", "0.5")
    assert code == 0, err
    assert "Kept 40 of 80 samples" in out
    assert "embedding" not in err  # a stage of the table of times
    again = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(again["order"], first["order"])
    assert (int(again["kept"].sum()), int(first["kept"].sum())) == (40, 8)
    code, out, err = run(capsys, *words, "--ratio", "0.5", "--patch-size", "8", "--seed", "1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "holds another ranking: patch_size 64 there and 8 here, another key." in err
    code, out, err = run(capsys, *words[:4], "--ratio", "0.5", "--checkpoint", files)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "it holds other files" in err
