"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);

  function unpack(text, Kind) {
    const raw = atob(text);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Kind(bytes.buffer);
  }
  const x = unpack(data.x, Float32Array), y = unpack(data.y, Float32Array);
  const score = unpack(data.score, Float32Array), place = unpack(data.place, Float32Array);
  const rank = unpack(data.rank, Int32Array), row = unpack(data.index, Int32Array);
  const kept = unpack(data.kept, Uint8Array);
  const classes = data.classes === null ? null : unpack(data.classes, Int32Array);
  const at = new Map();
  row.forEach((sample, i) => at.set(sample, i));
  const pictureOf = new Map();
  if (data.sprite) unpack(data.sprite.of, Int32Array).forEach((i, k) => pictureOf.set(i, k));

  // Sequential: viridis without the end that the background would swallow. Classes: Paul Tol's
  // muted scheme on white, and his light one on black, both made for color-blind readers.
  const themes = {
    light: {
      scale: ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30"],
      palette: ["#332288", "#cc6677", "#117733", "#88ccee", "#882255", "#ddaa33", "#44aa99", "#aa4499",
        "#999933", "#4477aa"],
    },
    dark: {
      scale: ["#414487", "#355f8d", "#2a788e", "#21918c", "#22a884", "#44bf70", "#7ad151", "#fde725"],
      palette: ["#77aadd", "#ee8866", "#44bb99", "#eedd88", "#ffaabb", "#bbcc33", "#99ddff", "#c79fef",
        "#aaaa00", "#ffffff"],
    },
  };
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const coarse = window.matchMedia("(pointer: coarse)");
  const theme = () => (dark.matches ? themes.dark : themes.light);
  const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const font = () => ({ family: getComputedStyle(document.body).fontFamily, size: 13, color: token("ink") });
  const count = (number) => number.toLocaleString("en-US");
  const brief = (number) => String(Number(number.toPrecision(4)));
  // Plotly reads a few tags in its texts; a name that looks like one must stay a name.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
  const idOf = (i) => (data.ids === null ? String(row[i]) : data.ids[i]);

  function element(tag, text, className) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function hasWebgl() {
    try {
      const context = document.createElement("canvas").getContext("webgl");
      const found = context !== null;
      context?.getExtension("WEBGL_lose_context")?.loseContext();
      return found;
    } catch { return false; }
  }
  const webgl = hasWebgl();
  const SVG_POINTS = 6000;
  const all = Int32Array.from({ length: data.count }, (_, i) => i);
  let drawable = all;
  if (!webgl && data.count > SVG_POINTS) {
    const step = data.count / SVG_POINTS;
    drawable = Int32Array.from({ length: SVG_POINTS }, (_, i) => Math.floor(i * step));
    $("no-webgl").hidden = false;
    $("no-webgl").textContent =
      `This browser has no WebGL, so only ${count(SVG_POINTS)} of ${count(data.count)} dots are drawn.`;
  }

  // ---- classes: the ten largest have colors, the others share one until they are chosen
  const classSizes = data.classNames.map(() => 0);
  if (classes) for (const code of classes) classSizes[code] += 1;
  const bySize = data.classNames.map((_, code) => code).sort((a, b) => classSizes[b] - classSizes[a] || a - b);
  const colored = bySize.slice(0, 10).sort((a, b) => a - b);
  const slot = new Map(colored.map((code, k) => [code, k]));
  const colorOf = (code) => (slot.has(code) ? theme().palette[slot.get(code)] : token("removed"));

  // ---- the manifold
  const state = { color: "kept", showKept: true, showRemoved: true, regions: false,
    names: true, klass: "", selected: -1 };
  const scatter = $("scatter");
  let views = [];  // for every trace the samples of its dots, in their order

  const pick = (source, indices) => Float32Array.from(indices, (i) => source[i]);
  function dots(name, indices, marker) {
    views.push(indices);
    return { type: webgl ? "scattergl" : "scatter", mode: "markers", name, hoverinfo: "none",
      x: pick(x, indices), y: pick(y, indices), marker: { line: { width: 0 }, ...marker } };
  }

  function traces() {
    views = [];
    const chosen = state.klass === "" ? null : Number(state.klass);
    const inside = (i) => chosen === null || classes[i] === chosen;
    const room = Math.min(1, Math.max(0.62, scatter.clientWidth / 900));
    const size = room * Math.min(6, Math.max(2.4, Math.sqrt(90000 / drawable.length)));
    const outside = chosen === null ? [] : drawable.filter((i) => !inside(i));
    const groups = [
      ["removed", state.showRemoved ? drawable.filter((i) => !kept[i] && inside(i)) : []],
      ["kept", state.showKept ? drawable.filter((i) => kept[i] && inside(i)) : []],
    ];
    const made = [dots("other classes", outside, { color: token("faint"), size: size * 0.8 })];
    for (const [name, indices] of groups) {
      const marker = { size: name === "kept" ? size * 1.55 : size, opacity: name === "kept" ? 1 : 0.8 };
      if (state.color === "kept") marker.color = token(name);
      else if (state.color === "score") {
        marker.color = pick(place, indices);
        marker.cmin = 0; marker.cmax = 1;
        marker.colorscale = theme().scale.map((color, k, list) => [k / (list.length - 1), color]);
      } else {
        const colors = data.classNames.map((_, code) =>
          (chosen === code && !slot.has(code) ? token("kept") : colorOf(code)));
        marker.color = Array.from(indices, (i) => colors[classes[i]]);
      }
      made.push(dots(name, indices, marker));
    }
    // Vector graphics lie above what WebGL draws.
    const rings = { type: "scatter", mode: "markers", hoverinfo: "skip" };
    const shapes = { "most complex": "square-open", median: "diamond-open", simplest: "circle-open" };
    data.regions.forEach((region) => {
      views.push([]);
      made.push({ ...rings, name: region.name, x: region.x, y: region.y, visible: state.regions,
        marker: { symbol: shapes[region.name], size: 8, color: token("accent"), line: { width: 1.2 } } });
    });
    views.push([]);
    const marked = state.selected < 0 ? [] : [state.selected];
    made.push({ ...rings, name: "selected", x: pick(x, marked), y: pick(y, marked),
      marker: { symbol: "circle-open", size: 20, color: token("accent"), line: { width: 3 } } });
    return made;
  }

  function nameTags() {
    const box = $("show-names");
    if (!box || !state.names) return [];
    return data.labelPlaces.map(([px, py], code) => ({
      x: px, y: py, showarrow: false, text: `<b>${plain(shorten(data.classNames[code], 22))}</b>`,
      font: { ...font(), size: 17, shadow: ["-1px -1px", "1px -1px", "-1px 1px", "1px 1px", "0 0"]
        .map((offset) => `${offset} 3px ${token("card")}`).join(", ") },
    })).filter((_, code) => state.klass === "" || Number(state.klass) === code);
  }

  const bare = () => ({ showgrid: false, zeroline: false, showticklabels: false, ticks: "" });
  const layout = () => ({
    uirevision: "stay", margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, hovermode: "closest",
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: font(), hoverdistance: 12,
    dragmode: coarse.matches ? "pan" : "zoom", xaxis: bare(), yaxis: { ...bare(), scaleanchor: "x" },
    annotations: nameTags(),
    modebar: { bgcolor: "rgba(0,0,0,0)", color: token("quiet"), activecolor: token("kept") },
  });
  const config = {
    responsive: true, displaylogo: false, displayModeBar: true,
    modeBarButtons: [["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"], ["toImage"]],
    toImageButtonOptions: { filename: "manifold", scale: 2 },
  };

  function legend() {
    const parts = [];
    const entry = (color, text) => {
      const span = element("span");
      const dot = element("i", undefined, "dot");
      dot.style.background = color;
      span.append(dot, text);
      return span;
    };
    if (state.color === "kept") {
      parts.push(entry(token("kept"), "kept"), entry(token("removed"), "removed"));
    } else if (state.color === "score") {
      const scale = element("span", undefined, "scale");
      const bar = element("i");
      bar.style.background = `linear-gradient(90deg, ${theme().scale.join(", ")})`;
      const ticks = element("b");
      data.quartiles.forEach((value) => ticks.append(element("span", String(Number(value.toPrecision(3))))));
      scale.append(bar, ticks);
      parts.push(scale, element("span", "least, quartiles and most complex; large dots are kept"));
    } else {
      colored.forEach((code) => parts.push(entry(colorOf(code), data.classNames[code])));
      if (bySize.length > colored.length) parts.push(entry(token("removed"), "other classes"));
      parts.push(element("span", "large dots are kept"));
    }
    if (state.regions) {
      const signs = { "most complex": "□", median: "◇", simplest: "○" };
      const list = data.regions.map(({ name }) => `${signs[name]} ${name}`).join("  ");
      parts.push(element("span", `neighborhoods: ${list}`));
    }
    $("legend").replaceChildren(...parts);
  }

  function crop(i) {
    const k = pictureOf.get(i);
    if (k === undefined) return null;
    const { columns, rows, width, height, uri } = data.sprite;
    const zoom = Math.max(1, Math.round(64 / Math.max(width, height)));
    const made = element("span", undefined, zoom > 1 ? "crop pixelated" : "crop");
    made.style.width = `${width * zoom}px`;
    made.style.height = `${height * zoom}px`;
    made.style.backgroundImage = `url(${uri})`;
    made.style.backgroundSize = `${columns * width * zoom}px ${rows * height * zoom}px`;
    made.style.backgroundPosition =
      `${-(k % columns) * width * zoom}px ${-Math.floor(k / columns) * height * zoom}px`;
    return made;
  }

  function describe(i) {
    const text = element("div");
    text.append(element("b", idOf(i)), element("br"));
    if (classes) text.append(`class ${data.classNames[classes[i]]}`, element("br"));
    text.append(`${kept[i] ? "kept" : "removed"}, rank ${count(rank[i])}`, element("br"),
      `score ${brief(score[i])}`);
    const picture = crop(i);
    return picture ? [picture, text] : [text];
  }

  let drawn = Promise.resolve();
  function draw() {
    legend();
    drawn = Plotly.react(scatter, traces(), layout(), config);
    return drawn;
  }

  function select(i, scroll) {
    state.selected = i;
    const text = element("span");
    text.append("Marked: ", element("b", idOf(i)), classes ? `, class ${data.classNames[classes[i]]}` : "",
      `, ${kept[i] ? "kept" : "removed"}, rank ${count(rank[i])}, score ${brief(score[i])}.`);
    const picture = crop(i);
    $("selected").replaceChildren(...(picture ? [picture, text] : [text]));
    const mark = scatter.data.length - 1;
    Plotly.restyle(scatter, { x: [[x[i]]], y: [[y[i]]] }, [mark]);
    if (scroll) scatter.scrollIntoView({ block: "center" });
  }

  const sampleAt = (event) => {
    const point = event.points.find((p) => views[p.curveNumber]?.length);
    return point ? views[point.curveNumber][point.pointNumber] : -1;
  };

  function showTip(event) {
    const i = sampleAt(event);
    const tip = $("tip");
    if (i < 0) { tip.hidden = true; return; }
    tip.replaceChildren(...describe(i));
    tip.hidden = false;
    const frame = scatter.getBoundingClientRect();
    const px = event.event.clientX - frame.left, py = event.event.clientY - frame.top;
    const left = px + 16 + tip.offsetWidth > frame.width ? px - 16 - tip.offsetWidth : px + 16;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${Math.max(0, Math.min(py - 10, frame.height - tip.offsetHeight))}px`;
  }

  // ---- the small pictures
  const axis = (title, more) => ({ title: { text: title, standoff: 8 }, gridcolor: token("grid"), zeroline: false,
    linecolor: token("line"), fixedrange: true, automargin: true, ...more });
  const small = (more) => ({ showlegend: false, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: font(), margin: { l: 8, r: 10, t: 8, b: 8 }, dragmode: false, hoverlabel: { font: { size: 13 } }, ...more });
  const quietly = { responsive: true, displayModeBar: false };

  function drawScores() {
    const { edges, log, cut } = data.histogram;
    const middle = edges.slice(1).map((edge, k) => (log ? Math.sqrt(edge * edges[k]) : (edge + edges[k]) / 2));
    const width = edges.slice(1).map((edge, k) => edge - edges[k]);
    const ranges = edges.slice(1).map((edge, k) => `${brief(edges[k])} to ${brief(edge)}`);
    const bars = (name) => ({ type: "bar", name, x: middle, y: data.histogram[name], customdata: ranges,
      width: log ? undefined : width, marker: { color: token(name), line: { width: 0 } },
      hovertemplate: `%{y:,} ${name}<br>score %{customdata}<extra></extra>` });
    const shapes = cut === null ? [] : [{ type: "line", x0: cut, x1: cut, yref: "paper", y0: 0, y1: 1,
      line: { color: token("accent"), width: 2, dash: "dash" } }];
    return Plotly.react("scores", [bars("kept"), bars("removed")], small({
      barmode: "stack", bargap: 0.06, shapes,
      xaxis: axis("structural complexity", { type: log ? "log" : "linear", showgrid: false }),
      yaxis: axis("samples", { rangemode: "tozero", tickformat: ",~d" }) }), quietly);
  }

  function drawClasses() {
    const shares = data.classShares;
    if (!shares) return null;
    const box = $("classes");
    box.style.height = `${Math.max(240, 70 + 24 * shares.codes.length)}px`;
    const names = shares.codes.map((code) => data.classNames[code]);
    const bars = { type: "bar", orientation: "h", y: shares.codes.map((_, k) => k),
      x: shares.kept.map((value, k) => (100 * value) / shares.sizes[k]), marker: { color: token("kept") },
      customdata: names.map((name, k) => [plain(name), count(shares.kept[k]), count(shares.sizes[k])]),
      hovertemplate: "class %{customdata[0]}<br>%{customdata[1]} of %{customdata[2]} kept (%{x:.1f} %)<extra></extra>" };
    const overall = 100 * shares.overall;
    return Plotly.react(box, [bars], small({ bargap: 0.3,
      shapes: [{ type: "line", x0: overall, x1: overall, yref: "paper", y0: 0, y1: 1,
        line: { color: token("accent"), width: 2, dash: "dash" } }],
      xaxis: axis("kept, in % of the class", { rangemode: "tozero" }),
      yaxis: axis("", { autorange: "reversed", showgrid: false, tickvals: bars.y,
        ticktext: names.map((name) => plain(shorten(name, 24))) }) }), quietly);
  }

  function drawRegions() {
    return data.regions.flatMap((region, k) => {
      const patch = Plotly.react(`patch-${k}`, [
        { type: "scatter", mode: "markers", x: region.x, y: region.y, hoverinfo: "skip",
          marker: { size: 7, color: token("kept"), opacity: 0.85 } },
        { type: "scatter", mode: "markers", x: region.x.slice(0, 1), y: region.y.slice(0, 1), hoverinfo: "skip",
          marker: { size: 17, symbol: "circle-open", color: token("accent"), line: { width: 2.5 } } },
      ], small({ xaxis: axis("", { tickfont: { size: 11 } }), yaxis: axis("", { scaleanchor: "x", tickfont: { size: 11 } }) }), quietly);
      const top = 1.06 * Math.max(...region.deaths, 1e-9);
      const kinds = [["pieces that merge", 0, "circle", "kept"], ["loops that close", 1, "diamond", "h1"]];
      const bars = kinds.map(([name, dim, symbol, color]) => {
        const mine = region.dims.map((d, i) => (d === dim ? i : -1)).filter((i) => i >= 0);
        return { type: "scatter", mode: "markers", name, cliponaxis: false,
          x: mine.map((i) => region.births[i]), y: mine.map((i) => region.deaths[i]),
          marker: { symbol, size: dim ? 9 : 8, color: token(color), opacity: 0.75 },
          hovertemplate: `H${dim}: born %{x:.3g}, dead %{y:.3g}<extra></extra>` };
      });
      const diagonal = { type: "scatter", mode: "lines", x: [0, top], y: [0, top], hoverinfo: "skip",
        line: { color: token("quiet"), width: 1 } };
      const ends = { range: [-0.03 * top, top], nticks: 5, tickfont: { size: 11 } };
      const diagram = Plotly.react(`diagram-${k}`, [diagonal, ...bars],
        small({ xaxis: axis("birth", ends), yaxis: axis("death", ends) }), quietly);
      return [patch, diagram];
    });
  }

  const drawAll = () => Promise.all([draw(), drawScores(), drawClasses(), ...drawRegions()]);

  // ---- wiring
  const bind = (id, name) => $(id)?.addEventListener("change", (event) => { state[name] = event.target.checked; draw(); });
  bind("show-kept", "showKept");
  bind("show-removed", "showRemoved");
  bind("show-regions", "regions");
  bind("show-names", "names");
  document.querySelectorAll("input[name=color]").forEach((radio) =>
    radio.addEventListener("change", () => { state.color = radio.value; draw(); }));
  const filter = $("class-filter");
  if (filter) {
    data.classNames.forEach((name, code) => filter.append(new Option(shorten(name, 60), String(code))));
    filter.addEventListener("change", () => { state.klass = filter.value; draw(); });
  }
  $("find").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const wanted = event.target.value.trim();
    if (wanted === "") return;
    let i = -1;
    if (data.ids !== null) {
      i = data.ids.indexOf(wanted);
      if (i < 0) i = data.ids.findIndex((id) => id.toLowerCase().includes(wanted.toLowerCase()));
    } else i = at.get(Number(wanted)) ?? -1;
    if (i >= 0) select(i, false);
    else $("selected").textContent = `No dot of the picture is called "${wanted}".`;
  });
  document.addEventListener("click", (event) => {
    const sample = event.target.dataset?.show;
    if (sample !== undefined) select(at.get(Number(sample)), true);
  });
  drawAll().then(() => {
    scatter.on("plotly_hover", showTip);
    scatter.on("plotly_unhover", () => { $("tip").hidden = true; });
    scatter.on("plotly_click", (event) => { const i = sampleAt(event); if (i >= 0) select(i, false); });
    document.documentElement.dataset.ready = "yes";
  });
  dark.addEventListener("change", drawAll);
})();
