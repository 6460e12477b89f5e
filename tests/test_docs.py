"""What the documents say is run: README's code, its tables, and every docstring's example."""

import contextlib
import doctest
import importlib
import inspect
import io
import pathlib
import pkgutil
import re
import subprocess
import sys

import pytest
from tiers import tiers

import topoprune_jax
from topoprune_jax import baselines

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(topoprune_jax.__path__, "topoprune_jax.")
    if not module.name.startswith(("topoprune_jax.__main__", "topoprune_jax._host"))
)


@pytest.mark.parametrize(
    "page", tiers(["README.md", "docs/settings.md", "docs/scaling.md"], ["README.md"])
)
def test_code_prints_what_it_says(page):
    blocks = re.findall(r"```(\w*)\n(.*?)```", (ROOT / page).read_text(), re.S)
    namespace, printed, runs = {}, None, 0
    for language, text in blocks:
        if language == "python":
            stream = io.StringIO()
            with contextlib.redirect_stdout(stream):
                exec(text, namespace)
            printed, runs = stream.getvalue(), runs + 1
        elif language == "" and printed is not None:
            assert text == printed
            printed = None
    assert runs >= 2


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    assert len(pages) > 10
    method = pages[tmp_path / "method" / "index.html"]
    assert method.count("<math") >= 5
    assert "arithmatex" not in method
    reference = "".join(text for path, text in pages.items() if "reference" in path.parts)
    for name, value in vars(topoprune_jax).items():
        if not name.startswith("_") and getattr(value, "__module__", "").startswith(
            "topoprune_jax"
        ):
            assert f'id="topoprune_jax.{name}"' in reference, name


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in menu


@pytest.mark.slow
def test_interop_code_prints_what_it_says(tmp_path, monkeypatch):
    for package in ("datasets", "grain", "tensorflow_datasets", "array_record", "umap"):
        pytest.importorskip(package, reason=f"{package} is no dependency")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"(<!-- not executed -->\n)?```(\w*)\n(.*?)```",
        (ROOT / "docs" / "interop.md").read_text(),
        re.S,
    )
    namespace, printed, runs = {}, None, 0
    for skipped, language, text in blocks:
        if language == "python" and not skipped:
            stream = io.StringIO()
            with contextlib.redirect_stdout(stream):
                exec(text, namespace)
            printed, runs = stream.getvalue(), runs + 1
        elif language == "" and printed is not None:
            assert text == printed
            printed = None
    assert runs == 10
    assert sum(bool(skipped) for skipped, _, _ in blocks) == 2


TABLES = {path.stem for path in (ROOT / "benchmarks").glob("*_table*.py")} - {"write_tables"}


@pytest.mark.parametrize("name", sorted(TABLES))
def test_tables_are_the_committed_results(name):
    script = ROOT / "benchmarks" / f"{name}.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_what_the_site_takes_from_readme_has_no_links_into_the_repository():
    readme = (ROOT / "README.md").read_text()
    parts = re.findall(r"<!-- --8<-- \[start:\w+\] -->(.*?)<!-- --8<-- \[end:", readme, re.S)
    assert len(parts) == 2
    for part in parts:
        assert not re.findall(r"\]\((?!https?://)[^)]*\)", part)


def test_public_functions_have_examples():
    finder = doctest.DocTestFinder(recurse=False)
    everything = {**vars(topoprune_jax), **vars(baselines)}
    functions = [name for name, value in everything.items() if inspect.isfunction(value)]
    assert len(functions) > 40
    for name in functions:
        tests = finder.find(everything[name], name, globs={})
        assert sum(len(test.examples) for test in tests) > 0, name
