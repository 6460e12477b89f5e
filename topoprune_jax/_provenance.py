"""What a file of results must say of how it was made, so that somebody else can make it again."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("topoprune-jax", "jax", "jaxlib", "equinox", "gudhi", "numpy")


def provenance(command: str, *, packages: tuple[str, ...] = ()) -> dict[str, Any]:
    """The command, commit, versions and machine of a run, ready for JSON.

    **Arguments:**

    - `command`: what was typed, with paths that mean something elsewhere.
    - `packages`: distributions whose versions matter besides this package's own needs.
    """
    return {
        "command": command,
        "commit": _commit(),
        "versions": {name: metadata.version(name) for name in (*_PACKAGES, *packages)}
        | {"python": platform.python_version()},
        "device": jax.devices()[0].device_kind,
        "machine": {
            "system": platform.system(),
            "processor": platform.machine(),
            "vectors": _vectors(),
            "cores": os.cpu_count(),
        },
    }


def _vectors() -> str | None:
    """The widest vector instructions of the CPU, which decide how fast it computes; None where the
    system does not list them as Linux does."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return None
    widest = (name for name in ("avx512f", "avx2", "avx", "sve", "asimd", "neon") if name in flags)
    return next(widest, None)


def _commit() -> str | None:
    """The commit of the checkout of this file, `-dirty` if more than results changed, or None."""
    package = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(package), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's checkout, whose commit says nothing.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent:
            return None
        # Runs are added to files of results, which change nothing that is measured.
        elsewhere = (":(top)", ":(top,exclude)benchmarks/results")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *elsewhere)
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
