"""The command line: `topoprune rank`, `plan`, `report`, `compare`, `bench`, `demo`, `completion`.

The computing modules are imported inside the commands, so that a mistyped option is answered at
once.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click
from click.shell_completion import get_completion_class

from .. import __version__
from ._bench import bench_command
from ._compare import compare_command
from ._console import BAD_INPUT, INTERRUPTED, PROGRAM
from ._console import StageTimer as StageTimer
from ._console import peak_memory as peak_memory
from ._demo import demo_command
from ._plan import plan_command
from ._programs import keep_programs
from ._rank import rank_command
from ._report import report_command

_COMPLETE = "_TOPOPRUNE_COMPLETE"
_KEEPING_NOTHING = ("bench", "completion")
"""The one measures what compiling takes, the other compiles nothing."""


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name=PROGRAM)
@click.pass_context
def _commands(context: click.Context) -> None:
    """Choose which samples to keep when you train on a fraction of your data.

    Topological data pruning: samples are ranked by how well they cover the manifold of the
    features, weighted by how complex their neighborhood is: with labels complex regions of each
    class come first; without labels groups that it finds stand for classes.

    \b
    topoprune demo                                          see it work, no data needed
    topoprune rank features.npy --ratio 0.9 --out kept.npz  rank your own features
    topoprune plan 1000000 128                              memory and seconds beforehand
    topoprune report features.npy --ratio 0.9               a page about the choice
    topoprune compare one.npz two.npz                       how two rankings differ
    topoprune rank --help                                   everything about ranking
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
    elif context.invoked_subcommand not in _KEEPING_NOTHING:
        keep_programs()


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def _completion_command(shell: str) -> None:
    """Print a script that completes commands, options and files in your shell.

    \b
    Put it where your shell reads it:
      bash:  topoprune completion bash > ~/.topoprune-complete.bash
             echo '. ~/.topoprune-complete.bash' >> ~/.bashrc
      zsh:   topoprune completion zsh > ~/.topoprune-complete.zsh
             echo '. ~/.topoprune-complete.zsh' >> ~/.zshrc
      fish:  topoprune completion fish > ~/.config/fish/completions/topoprune.fish
    """
    completion = get_completion_class(shell)
    assert completion is not None  # the three are click's own
    click.echo(completion(_commands, {}, PROGRAM, _COMPLETE).source())


for _command in (
    rank_command,
    plan_command,
    report_command,
    compare_command,
    bench_command,
    demo_command,
    _completion_command,
):
    _commands.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and leaves with its exit code: 0, 2 for bad input, 130 for Ctrl-C.

    **Arguments:**

    - `arguments`: the words after the program's name; left out, those of this process.

    !!! example

        ```python
        main(["rank", "features.npy", "--ratio", "0.9", "--out", "ranking.npz"])
        ```
    """
    try:
        # Not click's own handling of errors: it prints the usage before the one line that helps.
        code = _commands.main(
            arguments, prog_name=PROGRAM, complete_var=_COMPLETE, standalone_mode=False
        )
    except click.ClickException as error:
        click.echo(f"Error: {error.format_message()}", err=True)
        sys.exit(BAD_INPUT)
    except click.Abort as abort:
        click.echo(str(abort) or "Interrupted before the work was done.", err=True)
        sys.stdout.flush()
        # A compiled program may still run in its thread; an orderly exit would wait for it.
        os._exit(INTERRUPTED)
    sys.exit(code or 0)
