"""The page: complete in itself, safe against what users name things, and alive in a browser."""

import base64
import html.parser
import io
import json
import re
import sys
import time

import chromium
import jax.numpy as jnp
import numpy as np
import pytest
from tiers import tiers

from topoprune_jax import RESULTS, structural_complexity
from topoprune_jax._rank import Ranking
from topoprune_jax.io import FileError
from topoprune_jax.report import check_report_path, require_report_extra, write_report
from topoprune_jax.stability import RankingStability

pytest.importorskip("plotly", reason="the extra report is not installed")
pytest.importorskip("jinja2", reason="the extra report is not installed")
Image = pytest.importorskip("PIL.Image", reason="the extra report is not installed")

N, N_KEPT = 300, 30
EVIL = "</script><script>document.title='owned'</script><b>&amp;"
STABILITY = RankingStability((0.0, 0.1), ((0.5, 0.7), (0.2, 0.4)), ((0.9, 0.8), (0.6, 0.6)), 0.05)


def make_ranking(n=N, n_kept=N_KEPT, n_components=2, result=RESULTS.successful, beta=-1.0):
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.normal(size=(n, n_components)) * [5] * n_components, dtype=jnp.float32)
    manifold = jnp.asarray(rng.normal(size=(n, 3)), dtype=jnp.float32)
    scores = structural_complexity(manifold, patch_size=min(n, 16)) if n > 1 else jnp.zeros(1)
    order = jnp.asarray(rng.permutation(n), dtype=jnp.int32)
    return Ranking(
        scores=scores,
        order=order,
        kept=order[:n_kept],
        removed=order[n_kept:],
        embedding=z,
        manifold=manifold,
        beta=jnp.asarray(beta),
        agreement_power=jnp.asarray(4.0),
        recall=jnp.asarray(1.0),
        result=result,
    )


@pytest.fixture(scope="module")
def ranking():
    return make_ranking()


@pytest.fixture(scope="module")
def arguments(ranking):
    ids = [f"img/{i:03d}.png" for i in range(N)]
    ids[int(jnp.argmax(ranking.scores))] = EVIL
    images = np.zeros((N, 4, 6), dtype=np.uint8)
    images[:, 0, 0] = np.arange(N) % 256
    return {
        "labels": np.array(["<i>cat", "dog", "emu"])[np.arange(N) % 3],
        "ids": ids,
        "images": images,
        "stability": STABILITY,
        "settings": {"seed": 7, "features": "<b>.npy"},
        "command": "topoprune report '<x>.npy'",
        "title": "Cats & <dogs>",
        "patch_size": 16,
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory, ranking, arguments):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, ranking, **arguments)
    return path


class Reader(html.parser.HTMLParser):
    """Elements, their text, and the addresses that they load from."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.pictures, self.scripts = [], [], {}, []
        self._stack, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.addresses += [attributes[k] for k in ("src", "href", "data-src") if k in attributes]
        if tag == "img":
            self.pictures.setdefault(attributes["alt"], attributes["src"])
        self._stack.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        while self._stack and self._stack.pop() != tag:
            pass

    def handle_data(self, data):
        if "script" in self._stack:
            self.scripts[-1] += data
        elif "style" not in self._stack:
            self.text.append(" ".join(data.split()))

    def words(self):
        return " ".join(" ".join(self.text).split())


def data_of(path):
    return json.loads(Reader(path.read_text()).scripts[0])


def unpack(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_the_file_is_complete_in_itself(written):
    page = Reader(written.read_text())
    assert page.tags.count("html") == 1
    assert len(page.scripts) == 3  # data, plotly.js, the page's own
    assert "link" in page.tags
    assert all(a.startswith(("data:", "#")) for a in page.addresses)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', written.read_text())
    assert "default-src 'none'" in policy.group(1)
    assert written.stat().st_size < 6_000_000
    assert list(written.parent.iterdir()) == [written]


def test_names_stay_names(written):
    """Nothing that a user called a sample, a class, a file or the page becomes markup or script."""
    page = Reader(written.read_text())
    words = page.words()
    for name in (EVIL, "<i>cat", "<b>.npy", "topoprune report '<x>.npy'", "Cats & <dogs>"):
        assert " ".join(name.split()) in words, name
    assert "document.title=" not in "".join(page.scripts[1:])
    data = data_of(written)
    assert EVIL in data["ids"]
    assert data["classNames"] == ["<i>cat", "dog", "emu"]


def test_the_same_arguments_give_the_same_bytes(written, ranking, arguments, tmp_path):
    write_report(tmp_path / "again.html", ranking, **arguments)
    assert (tmp_path / "again.html").read_bytes() == written.read_bytes()


def test_the_picture_shows_the_ranking(written, ranking):
    data = data_of(written)
    np.testing.assert_array_equal(unpack(data["x"], "<f4"), ranking.embedding[:, 0])
    np.testing.assert_array_equal(unpack(data["score"], "<f4"), ranking.scores)
    ranks = unpack(data["rank"], "<i4")
    np.testing.assert_array_equal(np.argsort(ranks), ranking.order)
    np.testing.assert_array_equal(unpack(data["kept"], "u1").astype(bool), ranks < N_KEPT)
    np.testing.assert_array_equal(unpack(data["classes"], "<i4"), np.arange(N) % 3)
    histogram = data["histogram"]
    assert (sum(histogram["kept"]), sum(histogram["removed"])) == (N_KEPT, N - N_KEPT)
    shares = data["classShares"]
    assert (sum(shares["sizes"]), sum(shares["kept"])) == (N, N_KEPT)
    # A class is named inside itself.
    for code, place in enumerate(data["labelPlaces"]):
        assert place in np.asarray(ranking.embedding, float)[np.arange(N) % 3 == code].tolist()


def test_a_region_is_the_patch_of_its_score(tmp_path, ranking):
    """Without labels the patches are those that the scores were measured on."""
    write_report(tmp_path / "page.html", ranking, patch_size=16)
    data = data_of(tmp_path / "page.html")
    assert [region["name"] for region in data["regions"]] == ["most complex", "median", "simplest"]
    for region in data["regions"]:
        score = float(ranking.scores[region["index"]])
        assert float(region["total"]) == pytest.approx(score, rel=1e-3)
        assert region["nPoints"] == len(region["x"]) == 16
        # Drawn along the two longest axes of the patch.
        place = np.asarray(ranking.manifold, float)
        among = np.argsort(np.linalg.norm(place - place[region["index"]], axis=1))[:16]
        spread = np.linalg.svd(place[among] - place[among].mean(axis=0), compute_uv=False)
        drawn = np.stack([region["x"], region["y"]], axis=1)
        np.testing.assert_allclose(np.linalg.norm(drawn, axis=0), spread[:2], rtol=1e-5)
        dims = np.array(region["dims"])
        assert (dims == 0).sum() == 15  # one component never dies
        assert (dims == 1).sum() == region["nLoops"]
        assert (np.array(region["deaths"]) > np.array(region["births"])).all()
    assert max(float(region["total"]) for region in data["regions"]) == float(
        data["regions"][0]["total"]
    )


def test_pictures_are_the_samples_own(written, ranking, arguments):
    page, data = Reader(written.read_text()), data_of(written)
    simplest = int(jnp.argmin(ranking.scores))
    uri = page.pictures[f"sample {arguments['ids'][simplest]}"]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    np.testing.assert_array_equal(shown, arguments["images"][simplest])
    sprite = data["sprite"]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(sprite["uri"].partition(",")[2]))))
    of = unpack(sprite["of"], "<i4")
    assert len(of) == N
    k = int(np.flatnonzero(of == simplest)[0])
    row, column = divmod(k, sprite["columns"])
    cell = sheet[4 * row : 4 * row + 4, 6 * column : 6 * column + 6]
    np.testing.assert_array_equal(cell, arguments["images"][simplest])


@pytest.mark.parametrize(
    "images",
    [
        np.random.default_rng(0).random((20, 40, 30)),
        np.random.default_rng(0).random((20, 40, 30, 3)).astype(np.float16),
        np.zeros((20, 5, 5, 1), dtype=bool),
        np.full((20, 5, 5), np.nan),
        np.zeros((20, 90, 200, 4), dtype=np.uint8),
    ],
    ids=["gray float", "color half", "bool", "NaN", "large with alpha"],
)
def test_any_kind_of_picture_is_shown(tmp_path, images):
    path = tmp_path / "page.html"
    write_report(path, make_ranking(20, 2), images=images)
    for uri in Reader(path.read_text()).pictures.values():
        assert uri.startswith("data:image/png;base64,")
        shown = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        assert max(shown.size) <= 96
        assert shown.width * images.shape[1] == pytest.approx(
            shown.height * images.shape[2], rel=0.05
        )


def test_floats_are_scaled_from_black_to_white(tmp_path):
    images = np.random.default_rng(0).normal(size=(20, 5, 5)) * 1e3
    write_report(tmp_path / "page.html", make_ranking(20, 2), images=images)
    shown = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        for uri in Reader((tmp_path / "page.html").read_text()).pictures.values()
    ]
    assert (np.min(shown), np.max(shown)) == (0, 255)


def test_many_samples_are_thinned_and_the_page_says_so(tmp_path):
    path = tmp_path / "page.html"
    write_report(path, make_ranking(2000, 50), max_points=500, patch_size=16)
    data, words = data_of(path), Reader(path.read_text()).words()
    kept = unpack(data["kept"], "u1")
    assert kept.sum() == 50
    assert 500 <= data["count"] < 560
    assert f"all 50 kept samples and {data['count'] - 50} of the 1,950 removed ones" in words
    assert sum(data["histogram"]["removed"]) == 1950
    # The samples of the tables and of the regions can always be shown.
    drawn = set(unpack(data["index"], "<i4").tolist())
    shown = re.findall(r'data-show="(\d+)"', path.read_text())
    assert {int(index) for index in shown} <= drawn


@pytest.mark.parametrize("n", tiers([1, 2, 3], [1, 2]))
def test_a_few_samples_make_a_page(tmp_path, n):
    write_report(tmp_path / "page.html", make_ranking(n, 1), labels=["a", "b", "b"][:n])
    assert data_of(tmp_path / "page.html")["count"] == n


def test_what_is_unknown_or_remarkable_is_said(tmp_path):
    path = tmp_path / "page.html"
    odd = make_ranking(20, 2, result=RESULTS.all_identical, beta=float("nan"))
    write_report(path, odd)
    words = Reader(path.read_text()).words()
    assert "All samples have the same features" in words
    assert "beta not recorded" in words
    assert "came without labels" in words
    assert "Not measured for this page" in words
    assert data_of(path)["histogram"]["cut"] is None


def test_the_settings_and_the_stability_are_in_the_tables(written):
    words = Reader(written.read_text()).words()
    for text in ("seed 7", "beta -1", "samples, n 300", "removed 270 (90.0000%)", "0.60 (0.50 to"):
        assert text in words, text


BAD = {
    "labels": ({"labels": np.zeros(N - 1)}, ValueError, "`labels` must have shape"),
    "ids": ({"ids": ["a"] * (N + 1)}, ValueError, r"`ids` must have shape \(300,\)"),
    "ids of objects": ({"ids": [None] * N}, TypeError, "`ids` must be strings or numbers"),
    "images": ({"images": np.zeros((N - 1, 4, 4))}, ValueError, "one picture for every one"),
    "flat images": ({"images": np.zeros((N, 16))}, ValueError, "Reshape every row"),
    "channels first": ({"images": np.zeros((N, 3, 8, 8))}, ValueError, "Move the channels"),
    "max_points": ({"max_points": 5}, ValueError, "`max_points` must be at least 100"),
    "ranking": ({"ranking": "ranking.npz"}, TypeError, "`ranking` must be a Ranking"),
    "stability": ({"stability": 1}, TypeError, "`stability` must be a RankingStability"),
    "no page": ({"path": "page.pdf"}, FileError, "must end in .html"),
    "no folder": ({"path": "absent/page.html"}, FileError, "no such folder"),
}


@pytest.mark.parametrize(("changes", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(
    tmp_path, monkeypatch, ranking, changes, error, message
):
    monkeypatch.chdir(tmp_path)
    unchecked = getattr(write_report, "__wrapped__", write_report)
    with pytest.raises(error, match=message):
        unchecked(**{"path": "page.html", "ranking": ranking} | changes)
    assert not list(tmp_path.iterdir())


def test_one_component_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 2 components"):
        write_report(tmp_path / "page.html", make_ranking(20, 2, n_components=1))


@pytest.mark.parametrize("missing", ["plotly.offline", "jinja2", "PIL.Image"])
def test_without_the_extra_it_is_named(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install 'topoprune-jax\[report\]'"):
        require_report_extra()


def test_a_place_is_checked_before_work(tmp_path):
    check_report_path(tmp_path / "page.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(FileError, match="it is a folder"):
        check_report_path(tmp_path / "folder.html")


# ---- in a browser

needs_browser = pytest.mark.skipif(chromium.find() is None, reason="no Chromium is installed")

DRAWN = """(() => {
  const traces = document.getElementById("scatter").data;
  const count = name => traces.find(trace => trace.name === name).x.length;
  return {kept: count("kept"), removed: count("removed"), other: count("other classes"),
          selected: count("selected"), type: traces[0].type,
          regions: traces.find(trace => trace.name === "median").visible,
          colors: traces.find(trace => trace.name === "kept").marker.color.length};
})()"""


@pytest.fixture(scope="module")
def page(written):
    with chromium.page() as tab:
        tab.resize(1200, 900)
        tab.open(written)
        yield tab


def choose(page, selector):
    page.run(f"document.querySelector({json.dumps(selector)}).click()")
    page.settle()
    return page.run(DRAWN)


@needs_browser
def test_the_page_loads_without_error_or_network(page, written):
    assert page.problems == []
    outside = [url for url in page.requests if not url.startswith("data:")]
    assert outside == [written.resolve().as_uri()]
    assert page.run("document.title") == "Cats & <dogs>"
    assert page.run("document.querySelectorAll('.js-plotly-plot').length") == 9


@needs_browser
def test_the_page_forbids_itself_the_network(page):
    """Nothing tried it, and nothing could: the policy stops it before a request is made."""
    script = "fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')"
    assert page.run(script) == "refused"
    assert any("Content Security Policy" in problem for problem in page.problems)
    page.problems.clear()


@needs_browser
def test_toggles_change_what_is_drawn(page):
    before = page.run(DRAWN)
    assert (before["kept"], before["removed"], before["type"]) == (30, 270, "scattergl")
    picture = page.shot()
    assert choose(page, "#show-removed")["removed"] == 0
    assert page.shot() != picture
    assert choose(page, "#show-removed")["removed"] == 270
    assert choose(page, "#show-kept")["kept"] == 0
    assert choose(page, "#show-kept")["kept"] == 30
    assert choose(page, "#show-regions")["regions"] is True
    assert "◇ median" in page.run("document.getElementById('legend').textContent")
    assert choose(page, "#show-regions")["regions"] is False
    assert page.run("document.getElementById('scatter').layout.annotations.length") == 3
    choose(page, "#show-names")
    assert page.run("(document.getElementById('scatter').layout.annotations || []).length") == 0
    choose(page, "#show-names")


@needs_browser
def test_colors_change_and_say_what_they_mean(page):
    legend = "document.getElementById('legend').textContent"
    assert choose(page, "input[name=color][value=score]")["colors"] == 30  # one for every dot
    assert "quartiles" in page.run(legend)
    choose(page, "input[name=color][value=class]")
    assert "<i>cat" in page.run(legend)
    assert page.run("document.querySelectorAll('#legend i.dot').length") == 3
    choose(page, "input[name=color][value=kept]")
    assert page.run(legend) == "keptremoved"


@needs_browser
def test_a_class_can_be_looked_at_alone(page):
    script = """(() => { const box = document.getElementById("class-filter"); box.value = "%s";
    box.dispatchEvent(new Event("change")); })()"""
    page.run(script % 1)
    page.settle()
    drawn = page.run(DRAWN)
    assert drawn["kept"] + drawn["removed"] == 100
    assert drawn["other"] == 200
    page.run(script % "")
    page.settle()
    assert page.run(DRAWN)["other"] == 0


@needs_browser
def test_a_sample_is_found_by_its_id_with_the_keyboard(page):
    page.run("document.getElementById('find').focus()")
    page.call("Input.insertText", text="img/123.png")
    page.press("Enter", code=13)
    page.settle()
    assert "Marked: img/123.png, class <i>cat" in page.run(
        "document.getElementById('selected').textContent"
    )
    assert page.run(DRAWN)["selected"] == 1
    page.run("document.getElementById('find').value = ''")
    page.call("Input.insertText", text="nobody")
    page.press("Enter", code=13)
    assert "No dot of the picture" in page.run("document.getElementById('selected').textContent")


@needs_browser
def test_a_table_shows_its_sample_and_names_stay_names(page, ranking):
    most = int(jnp.argmax(ranking.scores))
    choose(page, f".samples [data-show='{most}']")
    assert EVIL in page.run("document.getElementById('selected').textContent")
    mark = "document.getElementById('scatter').data.at(-1).x[0]"
    assert page.run(mark) == pytest.approx(float(ranking.embedding[most, 0]))
    assert page.run("document.title") == "Cats & <dogs>"
    assert page.run("document.querySelector('#selected script, #selected b b')") is None


@needs_browser
def test_pointing_at_a_dot_says_which_it_is(page, ranking, arguments):
    z = np.asarray(ranking.embedding, dtype=np.float64)
    distances = np.linalg.norm(z[:, None] - z, axis=2) + 1e9 * np.eye(N)
    # The kept sample that lies farthest from any other, so that no dot covers it.
    sample = int(ranking.kept[int(distances.min(axis=1)[ranking.kept].argmax())])
    x, y = (float(value) for value in ranking.embedding[sample])
    page.run(
        "document.getElementById('scatter').scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    page.settle()
    place = page.run(
        f"""(() => {{ const plot = document.getElementById("scatter"), l = plot._fullLayout,
        box = plot.getBoundingClientRect();
        return [box.left + l._size.l + l.xaxis.d2p({x}), box.top + l._size.t + l.yaxis.d2p({y})];
        }})()"""
    )
    page.move(*place)
    deadline = time.monotonic() + 10
    while page.run("document.getElementById('tip').hidden"):
        assert time.monotonic() < deadline, "no tip appeared"
        time.sleep(0.05)
    tip = page.run("document.getElementById('tip').innerText")
    assert arguments["ids"][sample] in tip
    assert f"kept, rank {np.flatnonzero(np.asarray(ranking.order) == sample)[0]}" in tip
    assert page.run("document.querySelector('#tip .crop') !== null")


@needs_browser
def test_it_follows_the_color_scheme_and_fits_a_phone(page):
    color = "getComputedStyle(document.body).backgroundColor"
    light = page.run(color)
    mark = "document.getElementById('scatter').data.find(t => t.name === 'kept').marker.color"
    light_dots = page.run(mark)
    page.prefer("dark")
    page.settle()
    assert page.run(color) != light
    assert page.run(mark) != light_dots
    page.prefer("light")
    page.resize(360, 740, phone=True)
    page.settle()
    assert page.run("document.documentElement.scrollWidth") <= 360
    page.resize(1200, 900)
    assert page.problems == []


@pytest.mark.slow  # seconds of drawing without a graphics card
@needs_browser
def test_without_webgl_fewer_dots_are_drawn_and_the_page_says_so(tmp_path):
    path = tmp_path / "page.html"
    write_report(path, make_ranking(7000, 700), patch_size=16)
    with chromium.page(flags=chromium.NO_GL) as tab:
        tab.open(path)
        drawn = tab.run(DRAWN)
        assert drawn["type"] == "scatter"
        assert drawn["kept"] + drawn["removed"] == 6000
        note = tab.run("document.getElementById('no-webgl').innerText")
        assert note == "This browser has no WebGL, so only 6,000 of 7,000 dots are drawn."
        assert tab.problems == []
