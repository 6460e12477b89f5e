"""Writes the tables of README.md from the committed results; `--check` only compares.

python benchmarks/readme_tables.py
"""

import json
import re
import statistics
import sys
from pathlib import Path

from pruning_tables import groups, points, read, seen_by
from write_tables import table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PEER = "umap-learn and gudhi"  # as bench_rank.py names it
ANOTHER_TIME = ("rank_50000x128_again.json",)
OTHER_MACHINES = (
    "rank_50000x128_fastest.json",
    "rank_50000x128_faster.json",
    "rank_50000x128_slower.json",
    "rank_50000x128_avx2.json",
)


def load(name):
    return json.loads((RESULTS / name).read_text())


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
    return table(header, rows)


SHOWN = {
    "topoprune": "**`rank` with labels**",
    "topoprune, label-free": "**`rank` without labels**",
    "topoprune, discriminant features": '`rank` with labels, `space="discriminant_features"`',
    "topoprune, discriminant coordinates": '`rank`, `space="discriminant_coordinates"`',
    "topoprune, power 4": "`rank` with labels, `agreement_power=4`",
    "ccs with AUM": "ccs with AUM (needs logits of a training)",
    "discriminant margin": "discriminant margin (no graph, no homology)",
}
CIFAR = (
    "topoprune",
    "topoprune, label-free",
    "topoprune, discriminant features",
    "topoprune, discriminant coordinates",
    "topoprune, power 4",
    "discriminant margin",
    "ccs with AUM",
    "herding",
    "d2, label-free",
    "zcore",
    "k-center, label-free",
    "class-balanced random",
    "random",
)


def cifar():
    """Accuracies of one network, on validation and on test images, by the features."""
    columns, seconds = {}, {}
    for name in ("validation", "test"):
        runs = [
            run
            for run in read(f"accuracy_{name}")
            if (run["settings"]["network"], run["settings"]["ratio"]) == ("resnet-small", 0.9)
        ]
        for source in ("netA", "netB"):
            own = groups(seen_by(runs, source), "method")
            columns[f"{source}, {name}"] = {
                method: [run["outcome"]["last"] for run in own.get((method,), [])]
                for method in CIFAR
            }
            for method in CIFAR:
                made = own.get((method,), [])
                seconds.setdefault(method, []).extend(
                    run["outcome"]["selection_seconds"] for run in made
                )
    rows = [
        [
            SHOWN.get(method, method),
            *(points(column[method]) for column in columns.values()),
            f"{statistics.median(seconds[method]):.0f}",
        ]
        for method in CIFAR
    ]
    return table(["kept by", *columns, "selection, s"], rows)


def rank():
    record = load("rank_50000x128.json")
    kinds = [kind for kind in record["warm_median_seconds"] if kind != PEER]
    stages = dict.fromkeys(
        stage for kind in reversed(kinds) for stage in record["warm_median_seconds"][kind]
    )
    for whole in ("in turn", "total"):
        stages.pop(whole, None)
    rows = [
        [stage, *(_seconds(record["warm_median_seconds"][kind].get(stage)) for kind in kinds)]
        for stage in stages
    ]
    for name, whole in (("one after the other", "in turn"), ("**total, warm**", "total")):
        warm = [record["warm_median_seconds"][kind].get(whole) for kind in kinds]
        rows.append([name, *map(_seconds, warm)])
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
    if PEER in record["warm_median_seconds"]:
        text += f" {_peer(record, kinds[0])}"
    for other in (*ANOTHER_TIME, *OTHER_MACHINES):
        text += f"\n\n{_another(other, kinds)}"
    return f"{text}\n\n{_from_disk(load('disk.json'))}\n\n{_on_accelerators(load('scale.json'))}"


def _another(name, kinds):
    """The same at another time or on another machine, at another commit."""
    record = load(name)
    warm, first = record["warm_median_seconds"], record["first_call_seconds"]
    totals = [f"{_seconds(warm[kind]['total'])} s {kind}" for kind in kinds]
    times, first_times = (
        seconds[PEER]["total"] / seconds[kinds[0]]["total"] for seconds in (warm, first)
    )
    where = "At an earlier commit, on a machine like this,"
    if name in OTHER_MACHINES:
        where = (
            f"On {record['machine']['cores']} cores of another machine, whose widest vectors are "
            f"{record['machine']['vectors']}, and at a commit of its own"
        )
    return (
        f"{where} `rank` took "
        f"{' and '.join(totals)}, {_seconds(first[kinds[0]]['total'])} s the first time; "
        f"umap-learn and gudhi took {times:.1f} times as long, {first_times:.1f} times the first "
        f"time ([file](benchmarks/results/{name}))."
    )


def _from_disk(record):
    return (
        f"From a `.npy` file of {record['n_samples']:,} x {record['dims']}, `topoprune rank` on "
        f"two cores took {record['wall_seconds'] / 60:.1f} minutes in all and "
        f"{record['peak_memory_bytes'] / 1e9:.2f} GB at its peak "
        "([file](benchmarks/results/disk.json), made by `benchmarks/bench_disk.py`)."
    )


def _on_accelerators(record):
    """The smallest and the largest of what was measured on one."""
    runs = [run for run in record["runs"] if run["platform"] != "cpu"]
    runs.sort(key=lambda run: run["n"] * run["d"])
    said = " and ".join(
        f"{run['n']:,} x {run['d']} took {run['warm_median_seconds']['total']:.1f} s warm and "
        f"{run['peak_bytes'] / 1e9:.1f} GB"
        for run in (runs[0], runs[-1])
    )
    return (
        f"On one {runs[0]['device']}, with features that the program makes, {said}, every sample "
        "compared with every other ([file](benchmarks/results/scale.json), made by "
        "`benchmarks/bench_scale.py`)."
    )


def _peer(record, kind):
    warm, first = record["warm_median_seconds"], record["first_call_seconds"]
    mine, theirs = warm[kind]["total"], warm[PEER]
    fastest = theirs["total"] - theirs["gudhi SimplexTree"] + theirs["gudhi RipsPersistence"]
    return (
        f"In turn with it, umap-learn ({_seconds(theirs['umap-learn'])} s) and the components of "
        f"every sample's patch by gudhi's SimplexTree ({_seconds(theirs['gudhi SimplexTree'])} s) "
        f"took {_seconds(theirs['total'])} s, {theirs['total'] / mine:.1f} times as long as `rank` "
        f"{kind}; with gudhi's RipsPersistence ({_seconds(theirs['gudhi RipsPersistence'])} s) "
        f"{fastest / mine:.1f} times; the first calls, "
        f"{first[PEER]['total'] / first[kind]['total']:.1f} times."
    )


def imports():
    record = load("import_time.json")
    rows = [
        [f"`{statement}`", f"{seconds:.2f}"]
        for statement, seconds in record["median_seconds"].items()
    ]
    return table(["statement", "seconds"], [*rows, ["ratio", f"{record['ratio']:.2f}"]])


HOMOLOGY = "values and generators", "forward and backward"
HOMOLOGY_PEERS = {  # and in which of these stages
    "gudhi SimplexTree, generators": HOMOLOGY[0],
    "giotto-ph, generators": HOMOLOGY[0],
    "gudhi RipsPersistence, values only": HOMOLOGY[0],
    "ripser.py, values only": HOMOLOGY[0],
    "torch_topological": HOMOLOGY[1],
}


def persistence():
    """Ours per cloud, and how many times as long the fastest way of each peer takes."""
    record = load("persistence.json")
    rows = []
    for case, entry in record[HOMOLOGY[0]].items():
        if case not in (f"n={entry['n']}, batch={batch}" for batch in (1, 64)):
            continue
        row = [f"{entry['batch']} of {entry['n']} points"]
        for stage in HOMOLOGY:
            median = record[stage][case]["contenders"]["topoprune_jax"]["median"]["wall"]
            row.append(f"{1e6 * median / entry['batch']:,.0f}")
        for start, stage in HOMOLOGY_PEERS.items():
            ratios = [
                found["ratio_of_medians"]["wall"]
                for name, found in record[stage][case]["contenders"].items()
                if name.startswith(start)
            ]
            row.append(f"{min(ratios):.2g}" if ratios else "")
        rows.append((entry["batch"], entry["n"], row))
    ours = [f"{stage}, µs a cloud" for stage in HOMOLOGY]
    header = ["clouds", *ours, *HOMOLOGY_PEERS]
    return table(header, [row for *_, row in sorted(rows)])


def _seconds(value):
    return "" if value is None else f"{value:.1f}"


def main():
    path = ROOT / "README.md"
    old = new = path.read_text()
    tables = {
        "digits": digits,
        "cifar": cifar,
        "rank": rank,
        "persistence": persistence,
        "import": imports,
    }
    for name, make in tables.items():
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
