"""One page about a ranking that anybody can open: a single HTML file that needs no network.

Needs the extra `report`.
"""

import base64
import io as streams
import json
import os
from collections.abc import Mapping
from importlib import metadata, resources
from typing import Any

import jax
import numpy as np

from . import __version__
from . import _checks as checks
from ._files import check_place, replacing
from ._persistence import vietoris_rips
from ._rank import Ranking
from ._results import RESULTS
from ._types import ArrayInput
from ._views import (
    choose_regions,
    class_shares,
    extremes,
    is_geometric,
    kept_mask,
    patch_of,
    places,
    score_bins,
    score_cut,
    thin,
)
from .stability import RankingStability

_TABLE_PIXELS = 96
_HOVER_PIXELS = 32
_HOVER_PICTURES = 4000
_MAX_CLASS_ROWS = 40
_PACKAGES = ("jax", "jaxlib", "gudhi", "numpy")


def write_report(
    path: str | os.PathLike[str],
    ranking: Ranking,
    *,
    labels: ArrayInput | None = None,
    ids: ArrayInput | None = None,
    images: ArrayInput | None = None,
    stability: RankingStability | None = None,
    settings: Mapping[str, str | int | float] | None = None,
    command: str | None = None,
    title: str = "Which samples to keep",
    patch_size: int = 64,
    max_points: int = 50_000,
    n_examples: int = 10,
) -> None:
    """Writes a page about a ranking as ONE HTML file that opens offline, in any browser.

    The embedding as a picture to search and to point at, colored by choice, by complexity or by
    class; the distribution of the scores; the share of each class that is kept; the persistence
    diagrams of three neighborhoods; the most and the least complex samples; how stable the choice
    is; and what is needed to make it again. The page forbids itself any connection to a network.
    The same arguments give the same file.

    **Arguments:**

    - `path`: a name that ends in `.html`; an existing file is replaced.
    - `ranking`: what `rank` returned, with n samples and c >= 2 embedding components, of which the
        first two are drawn.
    - `labels`: (n,) classes, those that were ranked with. Where the ranking knew none, leave them
        out: they also say which samples make a patch.
    - `ids`: (n,) names of the samples, strings or numbers; the row of the features unless given.
    - `images`: (n, h, w) in gray, or (n, h, w, 3) in color, memory-mapped too: only those shown are
        read. Bytes are taken as they are; other numbers are scaled, the least shown to black and
        the largest to white.
    - `stability`: what `ranking_stability` returned.
    - `settings`: further rows for the table at the end, such as the file of the features or the
        seed. What the ranking itself says, and the versions, are there already.
    - `command`: what was typed, to be typed again.
    - `title`: the heading.
    - `patch_size`: m of the patches, the one that was ranked with.
    - `max_points`: above so many samples, removed ones are thinned out of the picture (and of
        nothing else), and the page says so. At least 100.
    - `n_examples`: rows of the tables of the most and the least complex samples.

    **Raises:** ImportError without the extra; `FileError` if the file cannot be written; TypeError
    or ValueError with one sentence for labels, ids or images that do not match the ranking, an
    embedding of one component, or an option out of range.

    !!! example

        ```python
        ranking = topoprune_jax.rank(features, 0.9, labels=labels)
        write_report("report.html", ranking, labels=labels, settings={"seed": 0})
        ```
    """
    check_report_path(path)
    page = require_report_extra()
    checks.check_instance(ranking, Ranking, name="ranking", hint="Pass what `rank` returned.")
    embedding = np.asarray(ranking.embedding, dtype=np.float64)
    if embedding.shape[1] < 2:
        raise ValueError(
            f"a page needs an embedding of at least 2 components; got shape {embedding.shape}. "
            "Rank with two or more embedding components."
        )
    manifold = np.asarray(ranking.manifold, dtype=np.float64)
    n = len(embedding)
    codes, class_names = _classes(labels, n)
    names = None if ids is None else checks.check_names(ids, n, name="ids")
    pictures = None if images is None else checks.check_pictures(images, n)
    if stability is not None:
        hint = "Pass what `ranking_stability` returned."
        checks.check_instance(stability, RankingStability, name="stability", hint=hint)
    patch_size = checks.check_count(patch_size, name="patch_size", low=2)
    max_points = checks.check_count(max_points, name="max_points", low=100)
    n_examples = checks.check_count(n_examples, name="n_examples", low=1, high=1000)

    scores = np.asarray(ranking.scores, dtype=np.float64)
    ranks = np.empty(n, dtype=np.int32)
    ranks[np.asarray(ranking.order)] = np.arange(n, dtype=np.int32)
    kept = kept_mask(np.asarray(ranking.kept), n)
    most, least = extremes(scores, n_examples)
    regions = choose_regions(scores)
    patches = {
        name: patch_of(manifold, sample, patch_size, codes) for name, sample in regions.items()
    }
    drawn = thin(kept, max_points, always=np.concatenate([most, least, *patches.values()]))
    n_kept = int(kept.sum())
    data = {
        "count": len(drawn),
        "x": _packed(embedding[drawn, 0], np.float32),
        "y": _packed(embedding[drawn, 1], np.float32),
        "index": _packed(drawn, np.int32),
        "score": _packed(scores[drawn], np.float32),
        "place": _packed(places(scores)[drawn], np.float32),
        "rank": _packed(ranks[drawn], np.int32),
        "kept": _packed(kept[drawn], np.uint8),
        "classes": None if codes is None else _packed(codes[drawn], np.int32),
        "classNames": class_names,
        "ids": None if names is None else [names[i] for i in drawn],
        "quartiles": [float(q) for q in np.quantile(scores, (0, 0.25, 0.5, 0.75, 1))],
        "labelPlaces": _label_places(embedding, codes),
        "histogram": _histogram(scores, kept, float(ranking.beta)),
        "classShares": None if codes is None else _shares(codes, kept),
        "regions": [
            _region(name, regions[name], manifold, patch) for name, patch in patches.items()
        ],
        "sprite": None if pictures is None else _sprite(pictures, drawn, ranks),
    }

    def described(sample: int) -> dict[str, Any]:
        return {
            "index": sample,
            "id": str(sample) if names is None else names[sample],
            "klass": None if codes is None else class_names[codes[sample]],
            "score": f"{scores[sample]:.4g}",
            "rank": int(ranks[sample]),
            "kept": bool(kept[sample]),
        }

    shown = np.concatenate([most, least]).astype(int)
    thumbnails = {} if pictures is None else _thumbnails(pictures, shown)
    html = page.render(
        title=title,
        version=__version__,
        n=n,
        n_kept=n_kept,
        n_removed=n - n_kept,
        n_drawn=len(drawn),
        n_drawn_kept=int(kept[drawn].sum()),
        n_classes=len(class_names),
        has_images=pictures is not None,
        n_hover=min(len(drawn), _HOVER_PICTURES),
        has_ids=names is not None,
        cut=data["histogram"]["cut"],
        beta=float(ranking.beta),
        quartiles=[f"{q:.3g}" for q in data["quartiles"]],
        remark=RESULTS[ranking.result],
        class_table=_class_table(codes, class_names, kept),
        max_class_rows=_MAX_CLASS_ROWS,
        regions=[
            described(regions[name]) | region | {"name": name}
            for name, region in zip(regions, data["regions"], strict=True)
        ],
        most=[described(int(i)) | {"picture": thumbnails.get(int(i))} for i in most],
        least=[described(int(i)) | {"picture": thumbnails.get(int(i))} for i in least],
        pixelated=pictures is not None and max(pictures.shape[1:3]) <= 48,
        stability=None if stability is None else _stability_rows(stability),
        chance=None if stability is None else stability.chance,
        settings=_settings(ranking, n, patch_size, settings or {}),
        command=command,
        data=json.dumps(data, allow_nan=False),
        style=_asset("report.css"),
        script=_asset("report.js"),
        plotly=_plotly(),
    )
    with replacing(path) as stream:
        stream.write(html.encode("utf-8"))


def check_report_path(path: str | os.PathLike[str]) -> None:
    """Raises now, before long work, if `write_report` could not write to `path`.

    **Raises:** `FileError` if the name does not end in `.html`, the folder is missing or does not
    let files be made, or `path` is itself a folder.

    !!! example

        ```python
        check_report_path("report.html")  # fine, says nothing
        check_report_path("report.pdf")  # FileError: ... must end in .html.
        ```
    """
    check_place(path, (".html",))


def require_report_extra() -> Any:
    """The page's template, or an ImportError that names the extra.

    !!! example

        ```python
        require_report_extra()  # before long work
        ```
    """
    try:
        import jinja2
        import PIL.Image  # noqa: F401
        import plotly.offline  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "a report needs plotly, jinja2 and pillow; install them with: "
            "pip install 'topoprune-jax[report]'"
        ) from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["script_json"] = _script_json
    environment.filters["thousands"] = lambda number: f"{number:,}"
    return environment.from_string(_asset("report.html.jinja"))


def _asset(name: str) -> str:
    return (resources.files("topoprune_jax") / "_page" / name).read_text("utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _script_json(text: str) -> Any:
    """JSON that stays data inside a <script> element, whatever strings it holds."""
    from markupsafe import Markup

    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _packed(values: np.ndarray, dtype: type) -> str:
    """Numbers as base64 of little-endian bytes: a third of their size as JSON."""
    return base64.b64encode(values.astype(np.dtype(dtype).newbyteorder("<")).tobytes()).decode()


def _classes(labels: ArrayInput | None, n: int) -> tuple[np.ndarray | None, list[str]]:
    if labels is None:
        return None, []
    codes = np.asarray(checks.check_labels(labels, n))
    _, first = np.unique(codes, return_index=True)
    names = checks.check_names(np.asarray(labels)[first], len(first), name="labels")
    return codes, names


def _label_places(embedding: np.ndarray, codes: np.ndarray | None) -> list[list[float]]:
    """Where a class is named: the sample of it that is nearest to its median, so always inside."""
    if codes is None:
        return []
    named = []
    for code in range(int(codes.max()) + 1):
        points = embedding[codes == code, :2]
        nearest = ((points - np.median(points, axis=0)) ** 2).sum(axis=1).argmin()
        named.append([float(value) for value in points[nearest]])
    return named


def _histogram(scores: np.ndarray, kept: np.ndarray, beta: float) -> dict[str, Any]:
    edges = score_bins(scores)
    return {
        "edges": edges.tolist(),
        "log": bool(is_geometric(edges)),
        "kept": np.histogram(scores[kept], edges)[0].tolist(),
        "removed": np.histogram(scores[~kept], edges)[0].tolist(),
        "cut": score_cut(scores, int(kept.sum()), beta),
    }


def _shares(codes: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
    """Classes to draw, by code: all of them, or those with the least and the largest shares."""
    sizes, counts = class_shares(codes, kept)
    order = np.argsort(counts / sizes, kind="stable")
    if len(order) > _MAX_CLASS_ROWS:
        half = _MAX_CLASS_ROWS // 2
        order = np.concatenate([order[:half], order[-half:]])
    else:
        order = np.arange(len(sizes))
    return {
        "codes": order.tolist(),
        "sizes": sizes[order].tolist(),
        "kept": counts[order].tolist(),
        "overall": float(kept.mean()),
    }


def _class_table(
    codes: np.ndarray | None, names: list[str], kept: np.ndarray
) -> list[dict[str, Any]]:
    if codes is None:
        return []
    sizes, counts = class_shares(codes, kept)
    return [
        {"name": name, "size": int(size), "kept": int(count), "share": f"{count / size:.1%}"}
        for name, size, count in zip(names, sizes, counts, strict=True)
    ]


def _flat(points: np.ndarray) -> np.ndarray:
    """Points as they are in the plane; others along the two axes in which they extend most."""
    if points.shape[1] == 2:
        return points
    points = np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))
    axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2]
    return (points - points.mean(axis=0)) @ np.pad(axes[:2], ((0, 2 - min(2, len(axes))), (0, 0))).T


def _region(name: str, sample: int, manifold: np.ndarray, patch: np.ndarray) -> dict[str, Any]:
    points = manifold[patch]
    diagram = vietoris_rips(points.astype(np.float32), dims=(0, 1))
    births, deaths = np.asarray(diagram.births, float), np.asarray(diagram.deaths, float)
    dims = np.asarray(diagram.dims)
    finite = np.asarray(diagram.is_finite)
    loops = finite & (dims == 1)
    lengths = (deaths - births)[loops]
    flat = _flat(points)
    return {
        "name": name,
        "index": int(sample),
        "x": flat[:, 0].tolist(),
        "y": flat[:, 1].tolist(),
        "births": births[finite].tolist(),
        "deaths": deaths[finite].tolist(),
        "dims": dims[finite].tolist(),
        "nPoints": len(patch),
        "nLoops": int(loops.sum()),
        "total": f"{deaths[finite & (dims == 0)].sum():.4g}",
        "longestLoop": f"{lengths.max():.3g}" if len(lengths) else None,
    }


def _as_bytes(pictures: np.ndarray) -> np.ndarray:
    """Pictures (a, h, w) or (a, h, w, channels) as 8-bit gray, RGB or RGBA."""
    if pictures.ndim == 4 and pictures.shape[3] == 1:
        pictures = pictures[..., 0]
    if pictures.dtype == np.uint8:
        return pictures
    values = pictures.astype(np.float64)
    finite = np.isfinite(values)
    low = values[finite].min() if finite.any() else 0.0
    high = values[finite].max() if finite.any() else 0.0
    scaled = (values - low) * (255.0 / (high - low) if high > low else 0.0)
    return np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0).round().astype(np.uint8)


def _data_uri(picture: Any, kind: str) -> str:
    stream = streams.BytesIO()
    if kind == "JPEG":
        picture.convert("RGB").save(stream, format="JPEG", quality=85)
    else:
        picture.save(stream, format="PNG", optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _thumbnails(pictures: np.ndarray, samples: np.ndarray) -> dict[int, str]:
    from PIL import Image

    small = {}
    for sample, pixels in zip(samples, _as_bytes(np.asarray(pictures[samples])), strict=True):
        picture = Image.fromarray(pixels)
        picture.thumbnail((_TABLE_PIXELS, _TABLE_PIXELS))
        small[int(sample)] = _data_uri(picture, "PNG")
    return small


def _sprite(pictures: np.ndarray, drawn: np.ndarray, ranks: np.ndarray) -> dict[str, Any]:
    """One picture with the small pictures of the drawn samples that rank best, in rows of 64."""
    from PIL import Image

    chosen = np.sort(np.argsort(ranks[drawn])[:_HOVER_PICTURES])
    h, w = pictures.shape[1:3]
    scale = min(1.0, _HOVER_PIXELS / max(h, w))
    width, height = max(1, round(w * scale)), max(1, round(h * scale))
    columns = min(64, len(chosen))
    rows = -(-len(chosen) // columns)
    color = pictures.ndim == 4 and pictures.shape[3] > 1
    sheet = Image.new("RGB" if color else "L", (columns * width, rows * height))
    for place, pixels in enumerate(_as_bytes(np.asarray(pictures[drawn[chosen]]))):
        picture = Image.fromarray(pixels).convert(sheet.mode).resize((width, height))
        sheet.paste(picture, (place % columns * width, place // columns * height))
    return {
        "uri": _data_uri(sheet, "JPEG" if color else "PNG"),
        "of": _packed(chosen, np.int32),
        "columns": columns,
        "rows": rows,
        "width": width,
        "height": height,
    }


def _stability_rows(stability: RankingStability) -> list[dict[str, Any]]:
    rows = []
    for level, overlap, correlation in zip(
        stability.noise, stability.overlap, stability.correlation, strict=True
    ):
        mean, relation = float(np.mean(overlap)), float(np.mean(correlation))
        rows.append(
            {
                "change": f"noise as long as {level:.0%} of each sample's features"
                if level
                else "other seeds",
                "overlap": mean,
                "overlap_range": f"{min(overlap):.2f} to {max(overlap):.2f}",
                "correlation": None if np.isnan(relation) else relation,
                "correlation_range": f"{min(correlation):.2f} to {max(correlation):.2f}",
                "runs": len(overlap),
            }
        )
    return rows


def _settings(
    ranking: Ranking, n: int, patch_size: int, given: Mapping[str, str | int | float]
) -> list[tuple[str, str]]:
    """What the ranking says of itself, then what the caller knows, then the versions."""
    m = ranking.kept.shape[0]

    def recorded(value: float, form: str) -> str:
        return "not recorded" if np.isnan(value) else format(value, form)

    rows = {
        "samples, n": f"{n:,}",
        "kept, m": f"{m:,}",
        "removed": f"{n - m:,} ({1 - m / n:.4%})",
        "embedding components": str(ranking.embedding.shape[1]),
        "manifold components": str(ranking.manifold.shape[1]),
        "patch size": str(patch_size),
        "beta": recorded(float(ranking.beta), "g"),
        "agreement power": recorded(float(ranking.agreement_power), ".3g"),
        "recall of the neighbor search": recorded(float(ranking.recall), ".1%"),
    }
    rows |= {key: str(value) for key, value in given.items()}
    rows["topoprune_jax"] = __version__
    rows |= {name: metadata.version(name) for name in _PACKAGES}
    rows["device"] = jax.devices()[0].device_kind
    return list(rows.items())
