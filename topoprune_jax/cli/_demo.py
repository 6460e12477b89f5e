"""`topoprune demo`."""

import click

from ._console import PROGRAM, StageTimer, bar_wanted, interruptible, show, user_errors, warn


@click.command("demo")
@click.option(
    "--out",
    default="demo-output",
    show_default=True,
    metavar="DIR",
    help="Folder for the picture, the ranking and the results; made if it is missing.",
)
@click.option(
    "--ratio",
    type=float,
    default=0.9,
    show_default=True,
    help="Fraction of the training samples to REMOVE: 0.9 keeps a tenth.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Repetitions, each with its own split, random choices and training.",
)
def demo_command(out: str, ratio: float, seeds: int) -> None:
    """Prune scikit-learn's digits and compare on held-out images. No download.

    Ranks two thirds of the 1,797 images, trains the same small network on what each method keeps
    (equally many samples each) and reports accuracy on the last third. Writes a picture of the
    embedding, a report that opens in any browser, the ranking and every single result.

    Needs the extra `demo`: pip install 'topoprune-jax[demo]'
    """
    from .._checks import check_ratio

    with user_errors(), StageTimer(bar=bar_wanted(quiet=False)) as timer:
        check_ratio(ratio)

        def work():
            from ..demo import run_demo

            command = f"{PROGRAM} demo --out {out} --ratio {ratio:g} --seeds {seeds}"
            return run_demo(out, ratio=ratio, n_seeds=seeds, command=command, progress=timer)

        demo = interruptible(work)
    from .. import demo as methods
    from .._results import RESULTS

    result = demo.comparison
    warn(RESULTS[demo.ranking.result])
    show(
        f"Where the time went ({2 * seeds} rankings of {result.n_train:,} samples)",
        ("stage", "seconds"),
        timer.rows(),
        err=False,
    )
    click.echo()
    names = {name: f"{name} ({result.n_kept:,} samples)" for name in methods.METHODS}
    names[methods.FULL] = f"{methods.FULL} ({result.n_train:,})"
    show(
        f"Accuracy in % on {result.n_test:,} held-out images, mean and sample std over "
        f"{seeds} seeds, {ratio:.0%} removed",
        ("trained on", "mean", "std", "seeds"),
        [
            (names[name], f"{result.mean(name):.1f}", f"{result.std(name):.1f}", f"{seeds}")
            for name in methods.METHODS
        ],
        err=False,
    )
    click.echo()
    rows = []
    for ours, other in (
        (methods.AWARE, methods.BALANCED),
        (methods.FREE, methods.BALANCED),
        (methods.FREE, methods.RANDOM),
    ):
        mean, std, wins = result.difference(ours, other)
        rows.append((f"{ours} - {other}", f"{mean:+.1f}", f"{std:.1f}", f"{wins} of {seeds}"))
    show(
        "Difference in points on the same split and training seed",
        ("difference", "mean", "std", "seeds above 0"),
        rows,
        err=False,
    )
    click.echo(
        f"\nPicture:  {demo.picture}\nReport:   {demo.report} (open it in any browser)\n"
        f"Ranking:  {demo.table}\nResults:  {demo.results}\n"
        f"Next: rank your own features with `{PROGRAM} rank features.npy --ratio 0.9 --out "
        "ranking.npz`."
    )
