"""The examples run, on tiny sizes."""

import importlib.util
import os
import pathlib
import re
import socket
import subprocess
import sys

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"


needs_flax = pytest.mark.skipif(
    importlib.util.find_spec("flax") is None, reason="the extra `flax` is not installed"
)


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


@pytest.mark.slow
def test_equinox_topological_loss():
    printed = run("equinox_topological_loss.py", "--steps", 2, "--seeds", 1)
    assert len(re.findall(r"rank correlation of distances -?\d\.\d+", printed)) == 2
    assert "for 0 of 1 seeds" in printed or "for 1 of 1 seeds" in printed


@pytest.mark.slow
def test_equinox_topological_loss_keeps_distances():
    printed = run("equinox_topological_loss.py")
    without, with_it = map(float, re.findall(r"correlation of distances (\d\.\d+)", printed))
    assert with_it > without
    assert "higher rank correlation: for 3 of 3 seeds" in printed


@needs_flax
@pytest.mark.slow
def test_flax_prune_and_train():
    printed = run("flax_prune_and_train.py", "--seeds", 2, "--steps", 20)
    assert "120 of 1198 kept" in printed
    assert len(re.findall(r": \d+\.\d ± \d+\.\d$", printed, re.M)) == 3
    assert re.search(r"better than class-balanced random for [012] of 2 seeds", printed)


@pytest.mark.slow
def test_active_learning():
    printed = run("active_learning.py", "--seeds", 1, "--budgets", 1, 20, 80)
    rows = re.findall(r"^ +(\d+) +(\d+\.\d) \( *(\d+\.\d)\)", printed, re.M)
    assert [int(row[0]) for row in rows] == [1, 20, 80]
    accuracies = [float(row[1]) for row in rows]
    assert accuracies[0] < 30 < accuracies[1] < accuracies[2]
    assert float(rows[1][2]) == 10  # digits met among twenty labels


@pytest.mark.slow
def test_text_embeddings(tmp_path):
    printed = run("text_embeddings.py")
    number = int(re.search(r"(\d+) paragraphs of 5 sources", printed)[1])
    assert number > 1500
    assert f"{round(number / 10)} of {number} embeddings kept" in printed
    kept, chance, everything = map(float, re.findall(r": (\d+\.\d) ±", printed))
    assert 50 < min(kept, chance) < everything

    np.save(tmp_path / "own.npy", np.random.default_rng(0).normal(size=(60, 5)))
    printed = run("text_embeddings.py", tmp_path / "own.npy", "--out", tmp_path / "kept.npy")
    assert "6 of 60 embeddings kept" in printed
    assert len(set(np.load(tmp_path / "kept.npy").tolist())) == 6


@pytest.mark.slow
def test_two_processes_stand_for_a_pod(tmp_path):
    script = tmp_path / "pod.py"
    text = (EXAMPLES / "tpu_pod.md").read_text()
    script.write_text(re.search(r"```python\n(.*?)```", text, re.S)[1])
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    setting = os.environ | {"COORDINATOR": address, "N_PROCESSES": "2", "JAX_PLATFORMS": "cpu"}
    setting["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    processes = [
        subprocess.Popen(
            [sys.executable, str(script)],
            env=setting | {"PROCESS_ID": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    ends = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    kept = [re.search(r"60 features, kept (\[.*\])", printed)[1] for printed, _ in ends]
    assert kept[0] == kept[1]
    assert len(set(kept[0].strip("[]").split(", "))) == 12
