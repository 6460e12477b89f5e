"""Runs as lines of JSON: a run that is there is not made again."""

import json
import shlex
import sys
from pathlib import Path


def typed(program: str) -> str:
    """The command line, with paths that mean something on another machine too."""
    words = [
        f"$TOPOPRUNE_DATA/{Path(word).name}"
        if word.endswith((".npz", ".npy"))
        else Path(word).name
        if word.startswith("/")
        else word
        for word in sys.argv[1:]
    ]
    return f"python benchmarks/{program} " + " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    # The name of the folder is for the shell to put in.
    return word if word.startswith("$TOPOPRUNE_DATA/") else shlex.quote(word)


class Records:
    """A JSONL file of finished runs, each found again by its settings."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.runs = []
        if self.path.exists():
            for number, line in enumerate(self.path.read_text().splitlines(), 1):
                try:
                    self.runs.append(json.loads(line))
                except json.JSONDecodeError:
                    # A run that was broken off while it was written is made again.
                    print(f"{self.path}, line {number} is cut off and left out.")

    def find(self, settings: dict) -> dict | None:
        """The run with these settings, if there is one."""
        wanted = json.loads(json.dumps(settings))
        return next((run for run in self.runs if run["settings"] == wanted), None)

    def add(self, settings: dict, outcome: dict, how: dict) -> dict:
        """Writes a finished run at once, and returns its record."""
        line = json.dumps({"settings": settings, "outcome": outcome, "how": how})
        whole = not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n")
        with self.path.open("a") as file:
            file.write(("" if whole else "\n") + line + "\n")
        self.runs.append(json.loads(line))
        return self.runs[-1]
