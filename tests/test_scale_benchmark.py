"""The benchmark of growth, on numbers made by hand."""

import json
from pathlib import Path

import bench_precision
import bench_scale
import numpy as np
import pytest
import scale_table

RESULTS = Path(bench_scale.__file__).parent / "results"


def test_the_benchmark_fits_exponents_and_says_what_was_not_measured():
    def run(n):
        stages = {"neighbors": {"bytes": 4e6, "seconds": 2.0}}
        return {
            "platform": "cpu", "n": n, "d": 8, "kind": "exact", "commit": "abc", "device": "cpu",
            "machine": {"cores": 2, "processor": "x"}, "recall": 1.0, "peak_bytes": 5e6,
            "warm_median_seconds": {"neighbors": 1e-6 * n**2, "total": 1e-6 * n**2 + 1e-3 * n},
            "warm_median_bytes": {"neighbors": 400.0 * n}, "first_call_seconds": 9.0,
            "plan": {
                "stages": stages, "peak_bytes": 4e6, "seconds": 2.0, "compilation_seconds": 1.0
            },
        }  # fmt: skip

    runs = [run(n) for n in (1_000, 2_000, 4_000)]
    growth = bench_scale.growth(runs)
    assert list(growth) == ["cpu, exact, d = 8"]
    (found,) = growth.values()
    assert found["sizes"] == [1_000, 2_000, 4_000]
    assert found["seconds"]["neighbors"] == pytest.approx(2)
    assert 1 < found["seconds"]["total"] < 2
    assert found["bytes"] == pytest.approx({"neighbors": 1})
    text = scale_table.tables({"runs": runs, "growth": growth})
    assert "| 4,000 x 8, exact | 0.01 | 0.00 | 0.80 yes | 20 | 2.00 | 0.10 **no** |" in text
    assert "| total but neighbors | 1.00 | 2.00 | 4.00 |  | 1.00 yes |" in text
    assert "| neighbors | 1.00 | 4.00 | 16 | 2.00 | 2.00 |" in text
    assert "Not measured: no machine with an accelerator" in text


def test_blocks_grow_from_where_there_are_any():
    """10,000 samples are compared with each other, which takes a quarter of the line's seconds."""

    def run(n, share):
        taken = {"neighbors": share * 1e-5 * n, "total": 1e-4 * n}
        return {"platform": "cpu", "n": n, "d": 8, "kind": "blocks", "warm_median_seconds": taken,
                "warm_median_bytes": {"neighbors": 400.0 * n}}  # fmt: skip

    several = [run(10_000, 0.25), run(20_000, 1), run(200_000, 1)]
    (found,) = bench_scale.growth(several).values()
    assert found["seconds"] == pytest.approx({"neighbors": 1, "total": 1})
    exact = [one | {"kind": "exact"} for one in several]
    (found,) = bench_scale.growth(exact).values()
    assert found["seconds"]["neighbors"] > 1.3


def test_an_accelerators_bytes_are_those_that_were_measured():
    """Of every size that benchmarks/bench_scale.py ran on one."""
    record = json.loads((RESULTS / "scale.json").read_text())
    runs = [run for run in record["runs"] if run["platform"] != "cpu"]
    assert len({(run["n"], run["d"]) for run in runs}) >= 5
    for run in runs:
        assert run["kind"] == "exact"
        planned, _ = scale_table.as_planned_now(run)
        assert planned == pytest.approx(run["peak_bytes"], rel=0.25)


def test_the_benchmark_of_precision_loses_what_few_bits_lose(rng):
    """Around 1 a bfloat16 number has steps of 1/128 and a tf32 one of 1/1024."""
    assert bench_precision.rounded(np.float32(1 + 1 / 128 + 1 / 500), 8) == 1 + 1 / 128
    assert bench_precision.rounded(np.float32(1 + 1 / 1024 + 1 / 4000), 11) == 1 + 1 / 1024
    features = rng.normal(size=(800, 6)) + 4  # so that the center does not do it all
    found = bench_precision.recalls(features, 10, 200)
    assert list(found) == list(bench_precision.WAYS)
    alone = [recall for recall, _ in found.values()]
    assert alone == sorted(alone)
    assert alone[0] < 1
    assert alone[-1] == 1
    assert all(recall <= measured <= 1 for recall, measured in found.values())
