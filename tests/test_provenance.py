"""What a results file says of the code that made it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from topoprune_jax import _provenance

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def test_runs_that_are_added_to_results_do_not_make_a_commit_dirty(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", *who, "-C", tmp_path, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    package, results = tmp_path / "topoprune_jax", tmp_path / "benchmarks" / "results"
    package.mkdir()
    results.mkdir(parents=True)
    for file in (package / "a.py", results / "runs.jsonl"):
        file.write_text("1\n")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "one")
    monkeypatch.setattr(_provenance, "__file__", str(package / "_provenance.py"))
    commit = git("rev-parse", "HEAD")
    assert _provenance._commit() == commit
    (results / "runs.jsonl").write_text("1\n2\n")
    (tmp_path / "untracked").write_text("")
    assert _provenance._commit() == commit
    (package / "a.py").write_text("2\n")
    assert _provenance._commit() == f"{commit}-dirty"


def test_a_copy_inside_of_another_checkout_has_no_commit(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    package = tmp_path / "environment" / "topoprune_jax"
    package.mkdir(parents=True)
    monkeypatch.setattr(_provenance, "__file__", str(package / "_provenance.py"))
    assert _provenance._commit() is None


@pytest.mark.parametrize(
    ("listed", "widest"),
    [("flags : sse2 avx avx2", "avx2"), ("flags : avx2 avx512f", "avx512f"), ("none", None)],
)
def test_the_widest_vectors_of_the_cpu_are_named(tmp_path, monkeypatch, listed, widest):
    (tmp_path / "cpuinfo").write_text(listed)
    monkeypatch.setattr(_provenance, "Path", lambda _: tmp_path / "cpuinfo")
    assert _provenance._vectors() == widest


def test_results_name_no_path_of_a_machine():
    root = Path(__file__).parent.parent / "benchmarks" / "results"
    files = [*root.glob("*.json"), *root.glob("*.jsonl")]
    assert len(files) > 10
    for file in files:
        found = re.search(r"[ \"](/(tmp|home|root|work|Users|var)/[^\" ]*)", file.read_text())
        assert found is None, (file.name, found)
