"""Puts the tables of runs (JSONL) into benchmarks/README.md, and draws their figures.

python benchmarks/pruning_tables.py [--figures]
"""

import argparse
import json
import statistics
from collections import defaultdict
from functools import partial
from pathlib import Path

from harness.data import ARCHITECTURES
from harness.methods import METHODS, PARTS
from write_tables import HERE, put_into_readme, table

RESULTS = HERE / "results"
BASE = {True: "class-balanced random", False: "random"}
OURS = (
    "topoprune",
    "topoprune, features",
    "topoprune, label-free",
    "topoprune, discriminant coordinates",
    "topoprune, discriminant features",
)
_OTHERS = ("discriminant margin", "herding", "topoprune, features")
_FRESH = {  # the first draw on which nothing of a method was chosen, as a selection seed
    "topoprune, features": 1,
    "topoprune, discriminant coordinates": 1,
    "topoprune, discriminant features": 2,
    "topoprune, power 4, discriminant coordinates": 1,
    "topoprune, power 4, discriminant features": 1,
}


def shown(method, data, name, noise=0.0):
    """What the runs of a method on some data are called in the tables of a file. They were made
    when `rank` had the power 4 unless asked for another one, which it still chooses for the small
    classes of banking77, and many when that could be as high for small classes as for large ones,
    which those of CIFAR-10 are, unless of 1:50; when it compared samples in the features
    however noisy these are; and without labels when strata stood for classes, with a beta that
    `choose_beta` took from a list, then from a parabola."""
    if method == "topoprune, chosen space":
        return "topoprune"
    if method in ("topoprune, label-free", "topoprune, label-free, neighbors by blocks"):
        return method.replace("label-free", "label-free, beta of a list")
    if method == "topoprune, label-free, parabola":
        return "topoprune, label-free, beta of a parabola"
    if method == "topoprune, label-free, communities":
        return "topoprune, label-free"
    plain, chosen, bounded = method.partition(", chosen power")
    if chosen and plain == "topoprune" and noise:
        return "topoprune, features"
    small = data == "banking77_minilm"
    imbalanced = (name, plain) == ("imbalance", "topoprune")
    if chosen and not bounded and (small or imbalanced):
        return f"{plain}, power not bounded"
    if bounded == ", bounded" and imbalanced:
        return f"{plain}, power bounded by a thirtieth"
    if chosen or small or method not in _OF_POWER_4:
        return plain
    return method.replace("topoprune", "topoprune, power 4", 1)


_OF_POWER_4 = (
    "topoprune",
    "topoprune, discriminant coordinates",
    "topoprune, discriminant features",
    "topoprune, neighbors by blocks",
)


def read(name):
    """The runs of a file, by the names of the tables; what was run is in `of`."""
    path = RESULTS / f"{name}.jsonl"
    runs = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for run in runs:
        if "method" not in run["settings"]:
            continue
        run["of"] = METHODS[run["settings"]["method"]]
        data = run["settings"].get("images", "")
        noise = run["settings"].get("noise", 0.0)
        run["settings"]["method"] = shown(run["of"].name, data, name, noise)
    return runs


def points(values):
    """Mean +- sample standard deviation in percent."""
    values = [100 * value for value in values]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def groups(runs, *names):
    """Runs by some of their settings, in the order in which they first came."""
    found = defaultdict(list)
    for run in runs:
        found[tuple(run["settings"][name] for name in names)].append(run)
    return found


def by_training_seed(runs, measure):
    """Mean over selection seeds for every training seed."""
    return {
        seed: statistics.mean(run["outcome"][measure] for run in several)
        for (seed,), several in groups(runs, "training_seed").items()
    }


def paired(runs, base, measure="last"):
    """Difference to another method, training seed by training seed."""
    mine, theirs = by_training_seed(runs, measure), by_training_seed(base, measure)
    return [mine[seed] - theirs[seed] for seed in mine if seed in theirs]


def selection_spread(runs):
    """Standard deviation over selection seeds, the training seed fixed, averaged over those."""
    spreads = [
        statistics.stdev([run["outcome"]["last"] for run in several])
        for several in groups(runs, "training_seed").values()
        if len(several) > 1
    ]
    return f"{100 * statistics.mean(spreads):.1f}" if spreads else ""


def seen_by(runs, features, noise=None):
    """Runs that used these features, with this noise if any is given, or none."""
    return [
        run
        for run in runs
        if run["settings"]["features"] is None
        or (
            run["settings"]["features"] == features
            and noise in (None, run["settings"].get("noise", 0.0))
        )
    ]


def accuracy(runs):
    """A table for every data set, network, set of features, noise on them and ratio."""
    parts = []
    for (_, network, ratio), several in groups(runs, "images", "network", "ratio").items():
        settings = [run["settings"] for run in several if run["settings"]["features"]]
        sources = {(run["features"], run.get("noise", 0.0)) for run in settings}
        for source, noise in sorted(sources):
            own = groups(seen_by(several, source, noise), "method")
            rows = []
            for (method,), made in own.items():
                of = made[0].get("of") or METHODS[method]
                seconds = [run["outcome"]["selection_seconds"] for run in made]
                base = own.get((BASE[of.labels],), [])
                difference = paired(made, base) if base else []
                rows.append(
                    (
                        -statistics.mean(run["outcome"]["last"] for run in made),
                        [
                            f"**{method}**" if method in OURS else method,
                            "yes" if of.labels else "",
                            points(run["outcome"]["last"] for run in made),
                            points(run["outcome"]["best"] for run in made),
                            points(difference),
                            selection_spread(made),
                            str(len({run["outcome"]["kept"] for run in made})),
                            str(len(made)),
                            "" if of.name in PARTS else f"{statistics.median(seconds):.1f}",
                        ],
                    )
                )
            beside = f" with noise {noise:g}" if noise else ""
            head = f"#### {network}, features of {source}{beside}, {100 * ratio:g} % removed"
            header = ["method", "labels", "last", "best", "to random of its kind, paired"]
            header += ["std over selections", "kept sets", "runs", "selection, s"]
            parts.append(f"{head}\n\n{table(header, [row for _, row in sorted(rows)])}")
    return "\n\n".join(parts) or "Not measured."


def deciding(runs):
    """Methods down, noise and features across, and the mean of a method that has all of them and
    how many columns it leads; the best of a column in bold."""
    columns = sorted(
        {
            (run["settings"]["features"], run["settings"]["noise"])
            for run in runs
            if run["settings"]["features"]
        }
    )
    if not columns:
        return "Not measured."
    cells = {}
    for (method,), made in groups(runs, "method").items():
        for source, noise in columns:
            own = [
                run["outcome"]["last"]
                for run in made
                if run["settings"]["features"] is None
                or (run["settings"]["features"], run["settings"]["noise"]) == (source, noise)
            ]
            if own:
                cells[method, source, noise] = own
    best = {
        column: max(
            (statistics.mean(v) for (_, *place), v in cells.items() if tuple(place) == column)
        )
        for column in columns
    }
    rows = []
    for method in dict.fromkeys(method for method, *_ in cells):
        own = [cells.get((method, *column)) for column in columns]
        leads = [
            v is not None and statistics.mean(v) == best[c]
            for v, c in zip(own, columns, strict=True)
        ]
        texts = [points(values or []) for values in own]
        rows.append(
            [
                f"**{method}**" if method in OURS else method,
                *(
                    f"**{text}**" if first else text
                    for text, first in zip(texts, leads, strict=True)
                ),
                f"{100 * statistics.mean(map(statistics.mean, own)):.1f}" if all(own) else "",
                str(sum(leads)),
            ]
        )
    header = ["method", *(f"{source}, noise {noise:g}" for source, noise in columns)]
    return table([*header, "mean", "first in"], rows)


def overlap(runs):
    """Mean Jaccard index of the kept sets, by noise, and over pairs of selection seeds."""
    if not runs:
        return "Not measured."
    noises = sorted({run["settings"]["noise"] for run in runs} - {0.0})
    parts = []
    for (source,), several in groups(runs, "features").items():
        rows = []
        for (method,), made in groups(several, "method").items():
            row = [f"**{method}**" if method in OURS else method]
            for noise in [0.0, *noises]:
                own = [r["outcome"]["jaccard"] for r in made if r["settings"]["noise"] == noise]
                row.append(f"{statistics.mean(own):.2f}" if own else "")
            rows.append(row)
        header = ["method", "another seed", *(f"noise {noise:g}" for noise in noises)]
        parts.append(f"#### Features of {source}\n\n{table(header, rows)}")
    return "\n\n".join(parts)


def one_draw(seed, runs):
    """The deciding test on one draw of the noise, the first training seed."""
    return deciding(
        [
            run
            for run in runs
            if run["settings"]["training_seed"] == 0
            and (run["settings"]["selection_seed"] == seed or run["settings"]["features"] is None)
        ]
    )


def pairs(runs):
    """Mean difference of ours to each of a few others, with its standard error: runs of the same
    features, noise and draw of it, the first training seed."""
    made = {}
    for run in runs:
        settings = run["settings"]
        if settings["training_seed"] == 0 and settings["features"]:
            place = settings["selection_seed"], settings["features"], settings["noise"]
            made[settings["method"], place] = run["outcome"]["last"]
    draws = sorted({place[0] for _, place in made})
    rows = []
    for ours in dict.fromkeys((*OURS, *_FRESH)):
        if not any(method == ours for method, _ in made):
            continue
        fresh = max(draws[0], _FRESH.get(ours, draws[0]))
        for since in dict.fromkeys((draws[0], fresh)):
            own = {place[0] for method, place in made if method == ours}
            several = [draw + 1 for draw in sorted(own) if draw >= since]
            row = [ours, f"{several[0]} to {several[-1]}"]
            for other in _OTHERS:
                found = [
                    100 * (value - made[other, place])
                    for (method, place), value in made.items()
                    if method == ours and place[0] >= since and (other, place) in made
                ]
                row.append(_mean_and_error(found) if other != ours else "")
            rows.append(row)
    if not rows:
        return "Not measured."
    return table(["method", "draws", *(f"to {other}" for other in _OTHERS)], rows)


def _mean_and_error(values):
    if len(values) < 2:
        return ""
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):+.2f} ± {error:.2f} ({len(values)})"


def transfer(runs):
    """Trained networks down: selected by features of their own family, and of the other one."""
    rows = []
    for (method, network, ratio), made in groups(runs, "method", "network", "ratio").items():
        own = [r for r in made if ARCHITECTURES.get(r["settings"]["features"]) == network]
        other = [
            r for r in made if ARCHITECTURES.get(r["settings"]["features"]) not in (network, None)
        ]
        if own and other:
            row = [f"**{method}**" if method in OURS else method, network, f"{100 * ratio:g}"]
            row += [points(run["outcome"]["last"] for run in several) for several in (own, other)]
            rows.append([*row, points(paired(other, own))])
    header = ["method", "trained", "removed, %", "features of its family", "of the other"]
    return table([*header, "difference, paired"], sorted(rows)) or "Not measured."


def homology(runs):
    """Distance of the kept set's loops from the whole's, beside that of two draws of the whole."""
    rows = []
    for (source, method), (run,) in groups(runs, "features", "method").items():
        kept, whole = run["outcome"]["kept"], run["outcome"]["whole"]
        texts = [
            f"{statistics.mean(several):.3f} ± {statistics.stdev(several):.3f}"
            for several in (kept, whole)
        ]
        ratio = statistics.mean(kept) / statistics.mean(whole)
        name = f"**{method}**" if method in OURS else method
        rows.append((source, ratio, [name, source, *texts, f"{ratio:.2f}"]))
    header = ["method", "features", "kept to whole", "whole to whole", "ratio"]
    return table(header, [row for *_, row in sorted(rows)]) or "Not measured."


def shares(runs):
    """What is taken for noise, by the noise that was put on the features; mean over its draws."""
    noises = sorted({run["settings"]["noise"] for run in runs})
    rows = []
    for (source,), several in groups(runs, "features").items():
        found = groups(several, "noise")
        values = [[run["outcome"]["share"] for run in found[(noise,)]] for noise in noises]
        rows.append([source, *(f"{statistics.mean(own):.3f}" for own in values)])
    return table(["features", *(f"noise {noise:g}" for noise in noises)], rows)


def of_communities(runs):
    """Of every set of features and noise what was found, and of k-means with as many centers."""
    rows = []
    for run in sorted(
        runs, key=lambda run: (run["settings"]["features"], run["settings"]["noise"])
    ):
        found = run["outcome"]
        values = (
            found[f"{kind}{name}"] for name in ("pure", "modularity") for kind in ("", "k_means_")
        )
        head = [run["settings"]["features"], f"{run['settings']['noise']:g}"]
        rows.append([*head, str(found["communities"]), *(f"{value:.3f}" for value in values)])
    header = ["features", "noise", "communities", "of their majority's class", "k-means"]
    return table([*header, "modularity", "k-means"], rows)


def draw(path, curves, x_label, y_label):
    """A line for each method: `curves` has means and spreads by place on the x axis."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for method, values in curves.items():
        places = sorted(values)
        means = [statistics.mean(values[place]) for place in places]
        spreads = [
            statistics.stdev(values[place]) if len(values[place]) > 1 else 0 for place in places
        ]
        style = {"linewidth": 2.5} if method in OURS else {"linewidth": 1, "alpha": 0.8}
        axes.errorbar(places, means, spreads, label=method, capsize=2, **style)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def curves(runs, place, value):
    """Values of every method by their place."""
    found = defaultdict(lambda: defaultdict(list))
    for run in runs:
        found[run["settings"]["method"]][place(run)].append(value(run))
    return found


def draw_all():
    """Accuracy against the ratio, of the methods that have several; overlap against noise."""
    runs = read("accuracy_validation")
    for network, source in groups(runs, "network", "features"):
        own = [r for r in seen_by(runs, source) if r["settings"]["network"] == network]
        several = {
            method: values
            for method, values in curves(
                own,
                lambda run: 100 * run["settings"]["ratio"],
                lambda run: 100 * run["outcome"]["last"],
            ).items()
            if len(values) > 1
        }
        looking = {run["settings"]["method"] for run in own if run["of"].features}
        if source and looking & several.keys():
            draw(
                RESULTS / f"accuracy_{network}_{Path(source).stem}.png",
                several,
                "removed, %",
                "accuracy, %",
            )
    noisy = [run for run in read("overlap") if run["settings"]["noise"] > 0]
    for (source,), own in groups(noisy, "features").items():
        draw(
            RESULTS / f"overlap_{Path(source).stem}.png",
            curves(
                own, lambda run: run["settings"]["noise"], lambda run: run["outcome"]["jaccard"]
            ),
            "noise, in standard deviations of each feature",
            "Jaccard index with what is kept of clean features",
        )


TABLES = {
    "accuracy on validation images": ("accuracy_validation", accuracy),
    "accuracy on test images": ("accuracy_test", accuracy),
    "deciding test": ("deciding", deciding),
    "deciding test, fresh noise": ("deciding", partial(one_draw, 1)),
    "deciding test, third draw": ("deciding", partial(one_draw, 2)),
    "deciding test, fourth draw": ("deciding", partial(one_draw, 3)),
    "deciding test, in pairs": ("deciding", pairs),
    "deciding test, test images": ("deciding_test", deciding),
    "deciding test, test images, in pairs": ("deciding_test", pairs),
    "share of noise": ("noise_share", shares),
    "communities": ("communities", of_communities),
    "transfer": ("accuracy_validation", transfer),
    "label noise": ("label_noise", accuracy),
    "imbalance": ("imbalance", accuracy),
    "coarse classes": ("coarse", accuracy),
    "overlap": ("overlap", overlap),
    "homology": ("homology", homology),
    "probe": ("probe_validation", accuracy),
    "probe on test rows": ("probe_test", accuracy),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    parser.add_argument("--show", action="store_true", help="print the tables instead")
    parser.add_argument("--figures", action="store_true", help="draw the figures too")
    arguments = parser.parse_args()
    for name, (source, write) in TABLES.items():
        text = write(read(source))
        if arguments.show:
            print(f"### {name}\n\n{text}\n")
        else:
            put_into_readme(name, text, check=arguments.check)
    if arguments.figures:
        draw_all()


if __name__ == "__main__":
    main()
