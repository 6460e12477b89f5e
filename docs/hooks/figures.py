"""Figures of the benchmarks, which lie beside their page in the repository, join the site."""

from pathlib import Path

from mkdocs.structure.files import File

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def on_files(files, config):
    """Adds each figure where the page of the benchmarks looks for it."""
    for path in sorted(RESULTS.glob("*.png")):
        uri = f"results/{path.name}"
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files
