"""Writes the tables of README.md from the committed results; `--check` only compares.

python benchmarks/readme_tables.py
"""

import json
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PEER = "umap-learn and gudhi"  # as bench_rank.py names it


def load(name):
    return json.loads((RESULTS / name).read_text())


def table(header, rows):
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def digits():
    record = load("digits_demo.json")
    base = record["accuracy_percent"]["class-balanced random"]
    rows = []
    for method, values in record["accuracy_percent"].items():
        paired = [value - other for value, other in zip(values, base, strict=True)]
        rows.append(
            [
                method,
                f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}",
                f"{statistics.mean(paired):+.1f} ± {statistics.stdev(paired):.1f}"
                if any(paired)
                else "",
            ]
        )
    header = ["trained on", "accuracy in %, mean ± std", "minus class-balanced random, paired"]
    betas = record["beta_without_labels"]
    return (
        f"{table(header, rows)}\n\nWithout labels `rank` chose beta = 0 in {betas.count(0)} of "
        f"{len(betas)} splits: there coverage alone decided, and the scores had no part."
    )


def rank():
    record = load("rank_50000x128.json")
    kinds = [kind for kind in record["warm_median_seconds"] if kind != PEER]
    stages = dict.fromkeys(
        stage for kind in reversed(kinds) for stage in record["warm_median_seconds"][kind]
    )
    stages.pop("total")
    rows = [
        [stage, *(_seconds(record["warm_median_seconds"][kind].get(stage)) for kind in kinds)]
        for stage in stages
    ]
    rows.append(
        ["**total, warm**", *(_seconds(record["warm_median_seconds"][k]["total"]) for k in kinds)]
    )
    # Only the very first call of the process compiled everything.
    rows.append(
        [
            "first call of the process",
            _seconds(record["first_call_seconds"][kinds[0]]["total"]),
            *[""] * (len(kinds) - 1),
        ]
    )
    text = table(["seconds", *kinds], rows)
    text += f"\n\nPeak resident memory: {record['peak_resident_gb']:.2f} GB."
    return f"{text} {_peer(record, kinds[0])}" if PEER in record["warm_median_seconds"] else text


def _peer(record, kind):
    warm, first = record["warm_median_seconds"], record["first_call_seconds"]
    parts = {name: _seconds(value) for name, value in warm[PEER].items()}
    ratio = warm[PEER]["total"] / warm[kind]["total"]
    ratio_first = first[PEER]["total"] / first[kind]["total"]
    return (
        f"In turn with it, umap-learn ({parts['umap-learn']} s) and the components of every "
        f"sample's patch by gudhi's SimplexTree ({parts['gudhi']} s) took {parts['total']} s, "
        f"{ratio:.1f} times as long as `rank` {kind}; the first calls, {ratio_first:.1f} times."
    )


def imports():
    record = load("import_time.json")
    rows = [
        [f"`{statement}`", f"{seconds:.2f}"]
        for statement, seconds in record["median_seconds"].items()
    ]
    return table(["statement", "seconds"], [*rows, ["ratio", f"{record['ratio']:.2f}"]])


def _seconds(value):
    return "" if value is None else f"{value:.1f}"


def main():
    path = ROOT / "README.md"
    old = new = path.read_text()
    for name, make in {"digits": digits, "rank": rank, "import": imports}.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        if not re.search(pattern, new, re.S):
            sys.exit(f"README.md has no place for the table '{name}'.")
        text = make()
        new = re.sub(pattern, lambda m, t=text: f"{m[1]}{t}\n{m[2]}", new, flags=re.S)
    if "--check" in sys.argv[1:]:
        sys.exit("README.md is not what the results say." if new != old else 0)
    path.write_text(new)


if __name__ == "__main__":
    main()
