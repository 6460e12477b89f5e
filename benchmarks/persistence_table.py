"""Writes the tables of benchmarks/README.md from results/persistence.json; `--check` only compares.

python benchmarks/persistence_table.py
"""

import re

from write_tables import main, table

OURS = "topoprune_jax"
MET = {True: "yes", False: "**no**", None: "not measured"}


def bars(record):
    rows = []
    for bar in record["bars"]:
        row = [bar["measure"], bar["case"]]
        if "megabytes" in bar:
            row += ["", f"{bar['megabytes']:.0f} MB", "", f"<= {bar['at_most_megabytes']} MB"]
        else:
            single = bar.get("times_faster_than_one_thread")
            row += [bar["against"], times(bar["times_faster"]), times(single)]
            row += [f">= {bar['must_reach']:.2f}"]
        rows.append([*row, MET[bar["met"]]])
    header = ["", "clouds", "against the fastest way of", "theirs / ours"]
    return table([*header, "its one thread / ours", "must reach", "met"], rows)


def stage(entries):
    """A row for each case, a column for each peer: its median wall seconds over ours."""
    named = {name for entry in entries.values() for name in entry["contenders"]}
    peers = sorted(named - {OURS}, key=str.lower)
    rows = []
    for case, entry in entries.items():
        found = entry["contenders"]
        mine = found[OURS]["median"]["wall"]
        row = [case, f"{1e6 * mine / entry['batch']:.1f}"]
        row += [
            times(found[name]["ratio_of_medians"]["wall"]) if name in found else ""
            for name in peers
        ]
        compiling = sum(entry["compile_seconds"].values())
        rows.append([*row, f"{compiling:.2f}"])
    return table(["clouds", "ours, µs a cloud", *peers, "ours, s to compile"], rows)


def host_threads(record):
    rows = [
        [f"n={entry['n']}, batch={entry['batch']}"]
        + [f"{1e3 * found['median']['wall']:.1f}" for found in entry["contenders"].values()]
        + [times(entry["speedup"])]
        for entry in record["host threads"]
    ]
    return table(["clouds", "1 thread, ms", "2 threads, ms", "times faster"], rows)


def memory(record):
    entry = record["memory"]
    rows = [
        [name, *(f"{found['median_bytes'][key] / 1e6:.0f}" for key in ("total", "compile"))]
        for name, found in entry["contenders"].items()
    ]
    case = "batch={batch}, n={n}, d={d}".format(**entry)
    return table([f"peak growth in MB, {case}", "total", "of it to compile"], rows)


def left_out(record):
    rows = [
        [lacking["stage"], lacking["case"], lacking["contender"], lacking["reason"]]
        for lacking in record["left_out"]
    ]
    rows += [
        ["all", "all", name, version.removeprefix("left out: ")]
        for name, version in record["peers"].items()
        if version.startswith("left out")
    ]
    return table(["left out of", "clouds", "contender", "because"], rows)


def times(ratio):
    return "" if ratio is None else f"{ratio:.2f}"


def tables(record):
    stages = (
        "values and generators",
        "components only",
        "loops on the device",
        "forward and backward",
    )
    entries = [entry for name in stages for entry in record.get(name, {}).values()]
    commits = {entry.get("commit") or record["commit"] or "an installed copy" for entry in entries}
    made = sorted(re.sub(r"^([0-9a-f]{12})[0-9a-f]{28}", r"\1", commit) for commit in commits)
    machine = record["machine"]
    measured = (
        f"Measured at {', '.join(made)} on {machine['cores']} cores of {machine['processor']}."
    )
    peers = {name: version for name, version in record["peers"].items() if version[0].isdigit()}
    versions = record["versions"]
    named = {name: versions[name] for name in ("jax", "gudhi", "numpy")} | peers
    parts = {
        "": f"{measured} " + ", ".join(f"{n} {v}" for n, v in named.items()) + ".",
        "### The bars": bars(record),
    }
    heads = {
        "values and generators": ("Values and generators of components and loops", stage),
        "components only": ("Components only", stage),
        "loops on the device": ("Loops on the device, next to the host", stage),
        "forward and backward": ("Forward and backward", stage),
        "host threads": ("Threads on the host", lambda _: host_threads(record)),
        "memory": ("Memory of forward and backward", lambda _: memory(record)),
    }
    for name, (head, write) in heads.items():
        # A run that was broken off has what it got to.
        parts[f"### {head}"] = write(record[name]) if name in record else "Not measured."
    parts["### Left out"] = left_out(record)
    return "\n\n".join(f"{head}\n\n{text}".strip() for head, text in parts.items() if text)


if __name__ == "__main__":
    main(__doc__.splitlines()[0], "persistence", tables, lambda record: record["quick"])
