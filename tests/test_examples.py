"""The examples run, on tiny sizes."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"


def run(name, *arguments):
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_rank_features(tmp_path):
    features = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=features, y=np.arange(60) % 3)
    data, out = tmp_path / "data.npz", tmp_path / "kept.npy"
    printed = run("rank_features.py", f"{data}::x", "--labels", f"{data}::y", "--out", out)
    assert "Kept 6 of 60 samples" in printed
    assert len(set(np.load(out).tolist())) == 6


def test_topological_autoencoder(tmp_path):
    picture = tmp_path / "latents.png"
    printed = run("topological_autoencoder.py", "--steps", 2, "--out", picture)
    assert len(re.findall(r"longest H1 bar \d\.\d+ ± \d\.\d+ of the diameter", printed)) == 2
    assert picture.stat().st_size > 10_000


@pytest.mark.slow
def test_topological_autoencoder_keeps_the_loop(tmp_path):
    printed = run("topological_autoencoder.py", "--out", tmp_path / "latents.png")
    without, with_it = map(float, re.findall(r"longest H1 bar (\d\.\d+)", printed))
    assert with_it > 5 * without
    assert "longer for 3 of 3 seeds" in printed
