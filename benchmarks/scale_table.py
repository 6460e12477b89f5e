"""Writes the tables of benchmarks/README.md about growth and the plan from results/scale.json.

python benchmarks/scale_table.py [--check | --show JSON]
"""

import re

import numpy as np
from bench_scale import ACCELERATOR_SIZES, KINDS
from write_tables import main, table

from topoprune_jax import EmbeddingOptions
from topoprune_jax._graph_exact import TILE_BYTES
from topoprune_jax._plan import problem_of
from topoprune_jax._speed import Speed
from topoprune_jax._stages import peaks, seconds_of, stages

BAR = 1.15  # on the exponents of all stages but the exact search
WITHIN = 0.25  # of the measured peak, the plan's
QUADRATIC = {"exact": {"neighbors", "total"}, "labels": {"class neighbors", "total"}}


def tables(record):
    runs = sorted(record["runs"], key=lambda run: (run["d"], run["kind"], run["n"]))
    on_cpu = [run for run in runs if run["platform"] == "cpu"]
    others = [run for run in runs if run["platform"] != "cpu"]
    parts = {"": made(runs)}
    parts["### The plan beside what was measured"] = planned(on_cpu)
    for name, found in record.get("growth", {}).items():
        if name.startswith("cpu"):
            parts[f"### Growth with n: {name.removeprefix('cpu, ')}"] = grown(name, found, on_cpu)
    parts["### On accelerators"] = (
        accelerators(others)
        if others
        else "Not measured: no machine with an accelerator was at hand. The program measures one "
        "where it runs on one."
    )
    return "\n\n".join(f"{head}\n\n{text}".strip() for head, text in parts.items() if text)


def made(runs):
    commits = sorted(
        {re.sub(r"^([0-9a-f]{12})[0-9a-f]{28}", r"\1", str(run["commit"])) for run in runs}
    )
    machines = sorted(
        {
            f"{run['machine']['cores']} cores of {run['machine']['processor']}, {run['device']}"
            for run in runs
        }
    )
    return f"Measured at {', '.join(commits)} on {'; '.join(machines)}."


def planned(runs):
    rows = []
    for run in runs:
        plan, warm = run["plan"], run["warm_median_seconds"]["total"]
        share, lasts = plan["peak_bytes"] / run["peak_bytes"], plan["seconds"] / warm
        rows.append(
            [
                f"{run['n']:,} x {run['d']}, {run['kind']}",
                gigabytes(run["peak_bytes"]),
                gigabytes(plan["peak_bytes"]),
                f"{share:.2f} " + ("yes" if abs(share - 1) <= WITHIN else "**no**"),
                seconds(warm),
                seconds(plan["seconds"]),
                f"{lasts:.2f} " + ("yes" if abs(lasts - 1) <= WITHIN else "**no**"),
                seconds(run["first_call_seconds"]),
                seconds(plan["seconds"] + plan["compilation_seconds"]),
                f"{run['recall']:.3f}",
            ]
        )
    header = ["samples x features, neighbors", "peak, GB", "planned, GB", "planned / peak, within"]
    header[-1] += f" {WITHIN:.0%}"
    header += ["warm, s", "planned, s", f"planned / warm, within {WITHIN:.0%}"]
    header += ["first call, s", "planned, s", "recall"]
    return table(header, rows)


def grown(name, found, runs):
    """A row for every stage: seconds at each size, exponents, the plan at the largest."""
    kind, d = re.match(r"cpu, (.*), d = (\d+)", name).groups()
    own = {run["n"]: run for run in runs if run["kind"] == kind and run["d"] == int(d)}
    sizes = found["sizes"]
    last = own[sizes[-1]]
    rows = []
    for stage, exponent in found["seconds"].items():
        planned = last["plan"]["stages"].get(stage, {})
        is_bound = stage not in QUADRATIC.get(kind, set())
        met = ("yes" if exponent <= BAR else "**no**") if is_bound else ""
        rows.append(
            [
                stage,
                *(seconds(own[n]["warm_median_seconds"][stage]) for n in sizes),
                seconds(planned["seconds"]) if planned else "",
                f"{exponent:.2f} {met}".strip(),
                gigabytes(last["warm_median_bytes"][stage]) if planned else "",
                gigabytes(planned["bytes"]) if planned else "",
                f"{found['bytes'][stage]:.2f}" if stage in found["bytes"] else "",
            ]
        )
    searches = sorted(QUADRATIC.get(kind, set()) - {"total"})
    if searches and all(stage in found["seconds"] for stage in searches):
        taken = [own[n]["warm_median_seconds"] for n in sizes]
        rest = [one["total"] - sum(one[stage] for stage in searches) for one in taken]
        exponent = np.polyfit(np.log(sizes), np.log(np.maximum(rest, 1e-9)), 1)[0]
        met = "yes" if exponent <= BAR else "**no**"
        row = [f"total but {' and '.join(searches)}", *map(seconds, rest), ""]
        rows.append([*row, f"{exponent:.2f} {met}", "", "", ""])
    header = ["stage, seconds", *(f"{n:,}" for n in sizes), f"planned, {sizes[-1]:,}"]
    header += [f"exponent, <= {BAR}", f"peak, GB, {sizes[-1]:,}", "planned, GB", "exponent"]
    return table(header, rows)


def as_planned_now(run):
    """Bytes and seconds that `plan` as it is would have said, at the speed measured then."""
    kind = KINDS[run["kind"]]
    sizes = (run["n"] // kind["classes"],) * kind["classes"] if kind["classes"] else ()
    rest = kind["neighbors"], "spectral", 64, EmbeddingOptions()
    problem = problem_of(run["n"], run["d"], sizes, 15, *rest)
    several = stages(problem, tile_bytes=TILE_BYTES, platform=run["platform"])
    speed = Speed(**run["speed"])
    return max(peaks(several)), sum(seconds_of(stage, speed) for stage in several)


def accelerators(runs):
    rows = []
    for run in runs:
        taken = run["warm_median_seconds"]
        achieved = 2.0 * run["n"] ** 2 * run["d"] / taken["neighbors"]
        most = run["ceilings"]["float32, FLOP/s"]
        halves = run["ceilings"]["bfloat16, FLOP/s"]
        is_exact = run["kind"] == "exact"
        held, lasts = as_planned_now(run)
        rows.append(
            [
                f"{run['device']}, {run['n']:,} x {run['d']}, {run['kind']}",
                seconds(run["first_call_seconds"]) + " (kept)" * run["compilation_cache"],
                seconds(taken["total"]),
                seconds(taken["neighbors"]),
                f"{achieved / 1e12:.1f}" if is_exact else "",
                f"{most / 1e12:.1f}",
                f"{achieved / most:.0%}" if is_exact else "",
                f"{halves / 1e12:.0f}",
                f"{3 * achieved / halves:.0%}" if is_exact else "",
                f"{run['ceilings']['bytes/s'] / 1e9:.0f}",
                gigabytes(run["peak_bytes"]),
                f"{gigabytes(run['plan']['peak_bytes'])}; {gigabytes(held)}",
                f"{seconds(run['plan']['seconds'])}; {seconds(lasts)}",
            ]
        )
    header = ["device, samples x features, neighbors", "first call, s", "warm, s", "neighbors, s"]
    header += ["TFLOP/s of them", "ceiling, float32", "share", "ceiling, bfloat16"]
    header += ["share of its three products", "ceiling, GB/s", "peak, GB"]
    header += ["planned then; as fitted since, GB", "s"]
    measured = {(run["n"], run["d"]) for run in runs}
    missing = [f"{n:,} x {d}" for n, d in ACCELERATOR_SIZES if (n, d) not in measured]
    note = f"Not measured: {', '.join(missing)}. " if missing else ""
    note += (
        "Kept: there was a folder for JAX's compilation cache, empty when the machine was new. The "
        "share of three products: the search takes three products of bfloat16 numbers for one of "
        "float32. The plan was fitted to these runs when they had been made."
    )
    return f"{table(header, rows)}\n\n{note}"


def seconds(value):
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def gigabytes(size):
    return f"{size / 1e9:.2f}"


if __name__ == "__main__":
    main(__doc__.splitlines()[0], "scale", tables, lambda record: len(record["runs"]) < 2)
