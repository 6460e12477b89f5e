"""`topoprune report`: one page from files, and one line for every mistake."""

import re
import sys

import numpy as np
import pytest

from topoprune_jax import cli

pytest.importorskip("plotly", reason="the extra report is not installed")

N = 80  # the size that test_cli ranks, so that nothing is compiled twice


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    np.save(path / "good.npy", rng.normal(size=(N, 5)).astype(np.float32))
    np.save(path / "labels.npy", np.arange(N) % 3)
    np.save(path / "ids.npy", np.array([f"name {i}" for i in range(N)]))
    np.save(path / "images.npy", rng.integers(0, 255, size=(N, 4, 4), dtype=np.uint8))
    np.save(path / "flat.npy", np.zeros((N, 16)))
    np.save(path / "short.npy", np.zeros((N - 1, 5), np.float32))
    return path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as leaving:
        cli.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return leaving.value.code, out, err


@pytest.fixture(scope="module")
def ranked(folder):
    """A ranking of the features at 90 % removed."""
    with pytest.raises(SystemExit) as leaving:
        cli.main(
            [
                *("rank", f"{folder}/good.npy", "--ratio", "0.9", "--quiet"),
                *("--labels", f"{folder}/labels.npy", "--out", f"{folder}/ranking.npz"),
            ]
        )
    assert leaving.value.code == 0
    return folder / "ranking.npz"


def test_a_page_from_features(capsys, monkeypatch, folder, ranked):
    monkeypatch.chdir(folder)
    code, out, err = run(
        capsys, "report", "good.npy", "--ratio", "0.9", "--labels", "labels.npy", "--quiet"
    )
    assert (code, err) == (0, "")
    assert out == ("Kept 8 of 80 samples; report written to report.html. Open it in any browser.\n")
    text = (folder / "report.html").read_text()
    assert "topoprune report good.npy --ratio 0.9 --labels labels.npy --quiet" in text
    assert "good.npy, 80 x 5 float32" in text


def test_a_page_from_a_ranking_is_about_that_ranking(capsys, monkeypatch, folder, ranked):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("topoprune_jax._rank.rank", None)  # nothing may be ranked again
    code, _, err = run(
        capsys,
        *("report", "good.npy", "--ranking", "ranking.npz", "--labels", "labels.npy"),
        *("--ids", "ids.npy", "--images", "images.npy", "--out", "other.html"),
    )
    assert (code, err) == (0, "")
    with np.load(ranked) as arrays:
        scores = arrays["score"]
    text = (folder / "other.html").read_text()
    assert f'<th scope="row" class="id">name {scores.argmax()}</th>' in text
    assert "data:image/png;base64," in text
    assert "not recorded" not in text


def test_a_ranking_without_beta_says_so(capsys, monkeypatch, folder, ranked):
    monkeypatch.chdir(folder)
    with np.load(ranked) as arrays:
        np.savez("older.npz", **{k: arrays[k] for k in arrays if k not in ("beta", "recall")})
    code, _, _ = run(capsys, "report", "good.npy", "--ranking", "older.npz", "--out", "older.html")
    assert code == 0
    assert (folder / "older.html").read_text().count("not recorded") == 2


def test_a_ranking_without_manifold_has_its_patches_in_the_embedding(
    capsys, monkeypatch, folder, ranked
):
    """As older versions took them. A manifold that is there must be one."""
    monkeypatch.chdir(folder)
    with np.load(ranked) as arrays:
        kept = {name: arrays[name] for name in arrays}
    spoiled = np.where(kept["manifold"] > 0, np.nan, 0)
    np.savez("spoiled.npz", **(kept | {"manifold": spoiled}))
    del kept["manifold"]
    np.savez("older.npz", **kept)
    pages = {}
    for name in ("ranking", "older", "spoiled"):
        code, _, err = run(
            capsys, "report", "good.npy", "--ranking", f"{name}.npz", "--out", f"{name}.html"
        )
        assert code == (2 if name == "spoiled" else 0)
        pages[name] = err if code else (folder / f"{name}.html").read_text()
    components = [
        re.search(r"manifold components\D*(\d+)", pages[name]) for name in ("ranking", "older")
    ]
    assert [found and found[1] for found in components] == ["16", "2"]
    assert "its manifold is no finite array of 80 rows and 1 or more columns" in pages["spoiled"]


def test_one_ranking_serves_every_ratio(capsys, monkeypatch, folder, ranked):
    monkeypatch.chdir(folder)
    code, out, _ = run(
        capsys, "report", "good.npy", "--ranking", "ranking.npz", "--ratio", "0.5", "--quiet"
    )
    assert code == 0
    assert out.startswith("Kept 40 of 80 samples")


def test_stability_is_measured_on_demand(capsys, monkeypatch, folder, ranked):
    monkeypatch.chdir(folder)
    code, _, _ = run(
        capsys,
        *("report", "good.npy", "--ranking", "ranking.npz", "--labels", "labels.npy"),
        *("--stability", "--out", "stable.html", "--quiet"),
    )
    assert code == 0
    text = (folder / "stable.html").read_text()
    assert "noise as long as 25%" in text
    assert "overlap with other seeds" in text


BAD = {
    "no ratio": (["good.npy"], "Missing option '--ratio'"),
    "ratio": (["good.npy", "--ratio", "90"], "Pass 0.9 to remove 90 %"),
    "not a page": (["good.npy", "--ratio", "0.9", "--out", "page.pdf"], "must end in .html"),
    "images": (["good.npy", "--ratio", "0.9", "--images", "flat.npy"], "Reshape every row"),
    "no ranking": (["good.npy", "--ranking", "labels.npy"], "as a ranking"),
    "other samples": (["short.npy", "--ranking", "ranking.npz"], "it ranks 80 samples"),
    "patch size": (["good.npy", "--ratio", "0.9", "--patch-size", "1"], "patch_size"),
    "missing": (["absent.npy", "--ratio", "0.9"], "no such file"),
}


@pytest.mark.parametrize(("words", "message"), BAD.values(), ids=BAD)
def test_mistakes_are_one_line(capsys, monkeypatch, folder, ranked, words, message):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    code, out, err = run(capsys, "report", *words)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(folder.iterdir()) == before


def test_without_the_extra_it_is_named(capsys, monkeypatch, folder):
    monkeypatch.chdir(folder)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    code, _, err = run(capsys, "report", "good.npy", "--ratio", "0.9")
    assert code == 2
    assert "pip install 'topoprune-jax[report]'" in err
