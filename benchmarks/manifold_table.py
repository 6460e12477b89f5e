"""Writes the tables of benchmarks/README.md from results/manifold.json; `--check` only compares.

python benchmarks/manifold_table.py
"""

import re

from write_tables import main, table

OURS = "topoprune_jax"
SEEDED = "umap-learn, seeded"
PARALLEL = "umap-learn, all threads"
BESIDE = ("agreement",)  # in a record next to the contenders

# (must reach, try for)
BAR = {
    "end to end, 2-d": (7, 12),
    "end to end, 2-d, 50k": (6, 10),
    "end to end, 8-d": (4, 7),
    "first call, no cache": (4, 6),
    "first call, cache": (12, 20),
    "optimizer": (8, 20),
    "fuzzy set": (1, 2),
    "kNN, 20k x 64": (2, 2.5),
    "kNN, 50k x 512": (1, 1.5),
}
RECALL = 0.985
TRUST = -0.002


def contenders(entry, start=""):
    return {n: e for n, e in entry.items() if n not in BESIDE and n.startswith(start)}


def fastest(entry, start):
    several = contenders(entry, start)
    return min(several, key=lambda name: several[name]["median"]["wall"])


def verdict(value, bar):
    must, aim = bar
    return "yes, both" if value >= aim else "yes" if value >= must else "**no**"


def speed_rows(measure, name, entry, bar):
    """Every way of ours next to umap-learn's fastest."""
    other = fastest(entry, "umap-learn")
    theirs = entry[other]["median"]
    rows = []
    for way, found in contenders(entry, OURS).items():
        mine = found["median"]
        wall, cpu = (theirs[clock] / mine[clock] for clock in ("wall", "cpu"))
        row = [measure, name, way.removeprefix(f"{OURS}, "), seconds(mine["wall"])]
        row += [seconds(theirs["wall"]), other, f"{wall:.1f}", f"{cpu:.1f}"]
        rows.append([*row, f"{bar[0]:g} / {bar[1]:g}", verdict(wall, bar)])
    return rows


def speed(sets):
    rows = []
    for name, record in sets.items():
        for c, entry in record.get("end to end", {}).items():
            kind = f"end to end, {c}-d"
            bar = BAR[f"{kind}, 50k" if c == "2" and record["n"] > 20_000 else kind]
            rows += speed_rows(kind, name, entry, bar)
    for name, record in sets.items():
        for kind, entry in record.get("first call", {}).items():
            rows += speed_rows(f"first call, {kind}", name, entry, BAR[f"first call, {kind}"])
    for name, record in sets.items():
        for c, entry in record.get("optimizer", {}).items():
            rows += speed_rows(f"optimizer, {c}-d", name, entry, BAR["optimizer"])
    for name, record in sets.items():
        if "fuzzy" in record:
            rows += speed_rows("fuzzy set", name, record["fuzzy"], BAR["fuzzy set"])
    header = ["warm unless it says first", "set", "we", "ours, s", "theirs, s", "they"]
    return table([*header, "ratio, wall", "ratio, CPU", "must / try", "met"], rows)


def knn(sets):
    rows = []
    for name, record in sets.items():
        bar = BAR.get(f"kNN, {record['n'] // 1000}k x {record['d']}")
        entry = record["knn"]
        peer = entry["pynndescent, all threads"]["median"]["wall"]
        more = entry.get("pynndescent, more candidates, all threads")
        for way, found in contenders(entry).items():
            ratio = peer / found["median"]["wall"]
            as_complete = more and more["median"]["wall"] / found["median"]["wall"]
            judged = bar if way.startswith(OURS) else None
            met = ""
            if judged:
                right = found["recall"] >= RECALL
                met = verdict(as_complete or ratio, judged) if right else "**no** (recall)"
            row = [name, f"{record['n']} x {record['d']}", way]
            row += [seconds(found["median"][clock]) for clock in ("wall", "cpu")]
            row += [f"{found['recall']:.4f}", f"{ratio:.2f}"]
            row.append(f"{as_complete:.2f}" if as_complete else "")
            rows.append([*row, f"{judged[0]:g} / {judged[1]:g}" if judged else "", met])
    header = ["set", "size", "neighbor graph by", "wall s", "CPU s", "recall"]
    header += ["pynndescent's wall / this", "with more candidates"]
    return table([*header, "must / try", "met"], rows)


def quality(sets):
    rows = []
    for name, record in sets.items():
        for stage in ("end to end", "optimizer"):
            for c, entry in record.get(stage, {}).items():
                rows += quality_rows(f"{stage}, {c}-d", name, entry)
    header = ["", "set", "by", "trustworthiness", "kNN kept", "kNN accuracy", "steadiness"]
    return table([*header, "trust >= -.002", "steadier"], rows)


def quality_rows(what, name, entry):
    """Ours are held against the better of umap-learn's, number by number."""
    found = {n: e["quality"] for n, e in contenders(entry).items()}
    peers = [q for n, q in found.items() if not n.startswith(OURS)]
    rows = []
    for other, q in found.items():
        trust, steady = q["mean"]["trustworthiness"], steadiness(q)
        met = ["", ""]
        if other.startswith(OURS):
            gap = trust - max(p["mean"]["trustworthiness"] for p in peers)
            met[0] = f"{gap:+.4f} " + ("yes" if gap >= TRUST else "**no**")
            gap = steady - max(steadiness(p) for p in peers)
            met[1] = f"{gap:+.3f} " + ("yes" if gap > 0 else "**no**")
        rows.append(
            [
                what,
                name,
                other,
                f"{trust:.4f}",
                f"{q['mean']['knn_preservation']:.4f}",
                f"{q['mean']['knn_accuracy']:.4f}" if "knn_accuracy" in q["mean"] else "",
                f"{steady:.3f}",
                *met,
            ]
        )
    return rows


def steadiness(quality):
    return quality["steadiness"]["mean"]


def shapes(sets):
    rows = []
    for name, record in sets.items():
        for shape, known in record.get("shapes", {}).items():
            for c, entry in record["end to end"].items():
                for other, found in contenders(entry).items():
                    rows.append(
                        [
                            f"{name}, {shape}",
                            f"{c}-d",
                            other,
                            f"{found['quality']['mean']['h1_bottleneck'][shape]:.4f}",
                            f"{known['another_cover']:.4f}",
                            ", ".join(f"{bar:.3f}" for bar in known["longest_bars"][:3]),
                        ]
                    )
    header = ["shape", "", "by", "bottleneck distance of H1", "of another cover of the shape"]
    return table([*header, "its longest bars"], rows)


def fuzzy(sets):
    rows = [
        [
            name,
            "yes" if record["fuzzy"]["agreement"]["same_edges"] else "**no**",
            difference(record["fuzzy"]["agreement"]["largest_difference"]),
        ]
        for name, record in sets.items()
        if "fuzzy" in record
    ]
    return table(["set", "the edges are umap-learn's", "largest difference of memberships"], rows)


def difference(value):
    return "" if value is None else f"{value:.1e}"


def seconds(value):
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def tables(record):
    sets = record["sets"]
    commits = {record["commit"] or "an installed copy" for record in sets.values()}
    made = sorted(re.sub(r"^([0-9a-f]{12})[0-9a-f]{28}", r"\1", commit) for commit in commits)
    machine = next(iter(sets.values()))["machine"]
    parts = {
        "": f"Measured at {', '.join(made)} on {machine['cores']} cores of {machine['processor']}.",
        "### Speed": speed(sets),
        "### Neighbor graph": knn(sets),
        "### Fuzzy set": fuzzy(sets),
        "### Quality": quality(sets),
        "### Shapes of known topology": shapes(sets),
    }
    return "\n\n".join(f"{head}\n\n{text}".strip() for head, text in parts.items() if text)


if __name__ == "__main__":
    main(
        __doc__.splitlines()[0],
        "manifold",
        tables,
        lambda record: any(s["quick"] for s in record["sets"].values()),
    )
