"""The data's way through the code: who may import whom, and what importing the package loads."""

import ast
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import topoprune_jax

PACKAGE = pathlib.Path(topoprune_jax.__file__).parent

# A module imports only from rows above its own.
ROWS = [
    {"_types", "_results", "_host", "_files", "_memory"},
    {"_checks", "_distance", "_sources", "_speed"},
    {"_backend"},
    {"_arrays", "_arrow", "_callback", "_checkpoint", "_csv", "_lanes", "_least", "_sums"},
    {"_diagram", "_spanning_forest", "_steps", "_subspace", "_topology"},
    {"_loops"},
    {"_diagram_distances", "_flag", "_mesh"},
    {"_graph_exact", "_graph_tree", "_persistence", "_strata"},
    {"_graph_wide", "_ring"},
    {"_graph_search"},
    {"_axes", "_features", "_graph_approximate", "_graph_boxes"},
    {"_graph_groups", "_noise"},
    {"_discriminant", "_graph", "alpha"},
    {"_filtrations", "_fuzzy", "_summaries"},
    {"_components", "_coverage", "_locality"},
    {"_communities", "_spectral", "_score", "_select"},
    {"_beta", "_compare", "_embedding_options"},
    {"_embedding_forces"},
    {"_embedding_runs", "_transform"},
    {"_embedding"},
    {"_ensemble"},
    {"_stages"},
    {"_plan"},
    {"_rank", "baselines"},
    {"_ranking_files"},
    {"_views"},
    {"_extraction", "interop", "io", "plot", "_provenance", "stability"},
    {"_image_data", "report", "training"},
    {"_image_building", "demo"},
    {"data"},
    {"cli"},
    {"__main__"},
]
# The two halves meet in `_rank` only; `_graph` serves both.
MANIFOLD = {
    "_beta",
    "_communities",
    "_coverage",
    "_discriminant",
    "_embedding",
    "_embedding_forces",
    "_embedding_options",
    "_embedding_runs",
    "_ensemble",
    "_fuzzy",
    "_locality",
    "_noise",
    "_select",
    "_spectral",
    "_strata",
    "_transform",
}
HOMOLOGY = {
    "_callback",
    "_diagram",
    "_diagram_distances",
    "_filtrations",
    "_flag",
    "_loops",
    "_spanning_forest",
    "_topology",
    "alpha",
    "_persistence",
    "_summaries",
    "_score",
    "_host",
}


def modules():
    """Name of each module (or folder) of the package, and its files."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if name != "__init__":
            found.setdefault(name, []).append(path)
    return found


def imported(name):
    """Modules of the package that a module imports, wherever in the file it does."""
    found = set()
    for path in modules()[name]:
        depth = len(path.relative_to(PACKAGE).parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == depth:
                parts = [node.module] if node.module else [alias.name for alias in node.names]
                found |= {part.split(".")[0] for part in parts}
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for full in names:
                # From outside the package's own modules only the name of the package itself.
                if full.startswith("topoprune_jax."):
                    found.add(full.split(".")[1])
    return (found & set(modules())) - {name}


def test_every_module_has_a_row():
    assert set(modules()) == set().union(*ROWS)


@pytest.mark.parametrize("name", sorted(set().union(*ROWS)))
def test_imports_go_one_way(name):
    row = next(i for i, names in enumerate(ROWS) if name in names)
    above = set().union(*ROWS[:row])
    assert imported(name) <= above


@pytest.mark.parametrize("name", sorted(MANIFOLD | HOMOLOGY))
def test_the_halves_do_not_see_each_other(name):
    other = HOMOLOGY if name in MANIFOLD else MANIFOLD
    assert not imported(name) & other


def test_only_one_module_calls_the_host():
    for name, paths in modules().items():
        text = "".join(path.read_text() for path in paths)
        assert bool(re.search(r"(pure|buffer|io)_callback\(", text)) <= (name == "_callback")
        assert bool(re.search(r"^\s*(import|from) gudhi", text, re.M)) <= (name == "_host")


def test_the_host_knows_no_jax():
    for path in modules()["_host"]:
        assert "jax" not in path.read_text().replace("topoprune_jax", "")


def test_importing_the_package_loads_nothing_heavy():
    heavy = [
        "flax",
        "optax",
        "tensorflow_datasets",
        "tensorflow",
        "umap",
        "sklearn",
        "matplotlib",
        "numba",
        "click",
        "rich",
        "pandas",
        "torch",
        "plotly",
        "jinja2",
        "PIL",
    ]
    code = f"import sys, topoprune_jax\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_documented_and_typed():
    values = {name: value for name, value in vars(topoprune_jax).items() if name[0] != "_"}
    public = [name for name, value in values.items() if not inspect.ismodule(value)]
    assert {"knn_graph", "embed", "vietoris_rips", "select", "rank", "RESULTS"} <= set(public)
    for name in public:
        assert vars(topoprune_jax)[name].__doc__
    assert (PACKAGE / "py.typed").exists()
