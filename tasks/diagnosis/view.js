"use strict";
/* The playground as one sees it. Every name is put in as text. */
(() => {
  const source = document.getElementById("data");
  if (!source || !document.getElementById("pg")) return;
  const page = JSON.parse(source.textContent);
  const loaded = Playground.load(page.sample);
  const $ = (id) => document.getElementById(id);
  const count = loaded.base.length, models = loaded.models.length;
  const COLUMNS = 48, ROWS = 10;
  const OUT = { ties: "trimmed", dare_linear: "dropped", dare_ties: "dropped" };

  function svg(tag, attributes, ...inside) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...inside);
    return node;
  }

  function html(tag, text, className) {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (className) node.className = className;
    return node;
  }

  function settings() {
    const value = (id) => Number($(id).value);
    return {
      method: $("pg-method").value,
      weights: loaded.models.map((_, i) => value(`pg-weight-${i}`)),
      lambda: value("pg-lambda"), density: value("pg-density"), seed: value("pg-seed"),
      t: value("pg-t"), from: value("pg-from"), to: value("pg-to"),
    };
  }

  function percent(part, whole) {
    return whole ? `${(100 * part / whole).toFixed(part && part < whole / 100 ? 2 : 0)} %` : "0 %";
  }

  function short(value) {
    return value === 0 ? "0" : Math.abs(value) >= 0.01 ? value.toFixed(4) : value.toExponential(1);
  }

  function state(part, k) {
    if (!part.keep[k]) return "out";
    return part.agrees[k] ? "in" : "outvoted";
  }

  function sayWhatHappens(found, how) {
    const said = [];
    const total = (values, where) => values.reduce((sum, v, k) => sum + (where(k) ? v * v : 0), 0);
    found.parts.forEach((part, i) => {
      const delta = loaded.deltas[i];
      const kept = part.keep.reduce((a, b) => a + b, 0);
      const words = [];
      if (kept < count && Playground.TRIMS.has(how.method)) {
        const verb = Playground.DRAWS.has(how.method) ? "dropped at random" : "trimmed";
        words.push(`${percent(count - kept, count)} of the entries are ${verb}; ${percent(total(delta, (k) => part.keep[k]), total(delta, () => true))} of the squared length is left`);
      }
      if (part.factor !== 1) words.push(`what is left is multiplied by ${part.factor.toFixed(2)}`);
      if (Playground.ELECTS.has(how.method)) {
        const outvoted = part.keep.reduce((sum, keep, k) => sum + (keep && part.weighted[k] !== 0 && !part.agrees[k] ? 1 : 0), 0);
        words.push(`${percent(outvoted, kept)} of what is kept loses the vote on the sign`);
      }
      if (words.length) said.push(`${page.names[i]}: ${words.join("; ")}.`);
    });
    if (found.way) {
      const degrees = (found.way.angle * 180 / Math.PI).toFixed(1);
      said.push(found.way.line ? `The ends are ${degrees} degrees apart: so near that the arc is taken as a line.`
        : `The ends are ${degrees} degrees apart. At t = ${how.t} the first counts ${found.way.first.toFixed(3)}, the second ${found.way.second.toFixed(3)}: together ${(found.way.first + found.way.second).toFixed(3)}, where a line has 1.`);
    }
    if (found.merged.some(Number.isNaN)) said.push("The weights add up to 0, so there is no average.");
    const length = Math.sqrt(Playground.dot(found.change, found.change));
    const longest = Math.max(...loaded.deltas.map((d) => Math.sqrt(Playground.dot(d, d))));
    if (longest) said.push(`The merge is ${percent(length, longest)} as far from the base as the longest task vector.`);
    $("pg-said").replaceChildren(...said.map((line) => html("li", line)));
  }

  function entriesToShow(number) {
    const largest = (k) => Math.max(...loaded.deltas.map((d) => Math.abs(d[k])));
    let places = Array.from({ length: count }, (_, k) => k);
    const which = $("pg-which").value;
    if (which === "conflict") places = places.filter((k) => loaded.deltas.some((d) => d[k] > 0) && loaded.deltas.some((d) => d[k] < 0));
    places.sort((a, b) => largest(b) - largest(a) || a - b);
    if (which === "spread" && places.length > number) places = Array.from({ length: number }, (_, j) => places[Math.floor(j * places.length / number)]);
    return places.slice(0, number);
  }

  function drawStrip(found) {
    const width = 1120, height = 250, middle = height / 2, shown = entriesToShow(COLUMNS);
    const top = Math.max(1e-30, ...shown.map((k) => Math.max(Math.abs(found.change[k]) || 0, ...loaded.deltas.map((d) => Math.abs(d[k])))));
    const scale = (middle - 12) / Math.sqrt(top);
    const up = (value) => middle - Math.sign(value) * Math.sqrt(Math.abs(value)) * scale;
    const nodes = [svg("line", { x1: 0, x2: width, y1: middle, y2: middle, class: "axis" })];
    const step = width / COLUMNS, bar = (step - 6) / models;
    shown.forEach((k, column) => {
      const left = column * step + 3;
      loaded.deltas.forEach((delta, i) => {
        const y = up(delta[k]);
        nodes.push(svg("rect", { x: left + i * bar, y: Math.min(y, middle), width: Math.max(1, bar - 1), height: Math.max(0.5, Math.abs(y - middle)), class: `bar c${i % 8} ${state(found.parts[i], k)}` },
          svg("title", {}, `${page.names[i]}: ${short(delta[k])}`)));
      });
      if (!Number.isNaN(found.change[k])) nodes.push(svg("line", { x1: left - 1, x2: left + step - 6, y1: up(found.change[k]), y2: up(found.change[k]), class: "merged" }, svg("title", {}, `merged: ${short(found.change[k])}`)));
    });
    if (!shown.length) nodes.push(svg("text", { x: width / 2, y: middle - 10, "text-anchor": "middle" }, "no entry of the sample is like that"));
    $("pg-strip").replaceChildren(...nodes);
    const head = html("tr");
    ["tensor", "entry", "base", ...page.names, "merged change"].forEach((name) => head.append(html("th", name)));
    const rows = entriesToShow(ROWS).map((k) => {
      const row = html("tr");
      row.append(html("td", page.sample.names[page.sample.tensors[k]], "name"), html("td", String(page.sample.places[k])), html("td", short(loaded.base[k])));
      found.parts.forEach((part, i) => {
        const how = state(part, k), word = { in: "", out: OUT[$("pg-method").value] || "left out", outvoted: "outvoted" }[how];
        const cell = html("td", short(loaded.deltas[i][k]) + (word ? ` ${word}` : part.factor !== 1 ? ` × ${part.factor.toFixed(2)}` : ""), how);
        row.append(cell);
      });
      row.append(html("td", short(found.change[k]), "result"));
      return row;
    });
    $("pg-table").replaceChildren(head, ...rows);
  }

  function drawHistogram(found) {
    const width = 560, height = 260, bins = 41;
    const sizes = loaded.deltas.flatMap((d) => Array.from(d, Math.abs)).sort((a, b) => a - b);
    const edge = (sizes[Math.floor(sizes.length * 0.995)] || 1e-9) * 1.25;
    const counts = (values) => {
      const found = new Array(bins).fill(0);
      for (const v of values) if (!Number.isNaN(v)) found[Math.max(0, Math.min(bins - 1, Math.floor((v / edge + 1) / 2 * bins)))]++;
      return found;
    };
    const series = [...loaded.deltas.map((delta, i) => [counts(delta), `line c${i % 8}`]), [counts(found.change), "line merged"]];
    const x = (bin) => 34 + bin * (width - 44) / bins, y = (n) => height - 26 - Math.log10(n + 1) * (height - 40) / Math.log10(count + 1);
    const nodes = [];
    for (let n = 0; n <= count; n = n ? n * 10 : 1) {
      nodes.push(svg("line", { x1: 34, x2: width - 10, y1: y(n), y2: y(n), class: "grid" }), svg("text", { x: 30, y: y(n) + 4, "text-anchor": "end" }, String(n)));
    }
    for (const [values, look] of series) {
      const way = values.map((n, bin) => `${bin ? "L" : "M"}${x(bin).toFixed(1)} ${y(n).toFixed(1)}L${x(bin + 1).toFixed(1)} ${y(n).toFixed(1)}`).join("");
      nodes.push(svg("path", { d: way, class: look }));
    }
    [-1, 0, 1].forEach((at) => nodes.push(svg("text", { x: 34 + (at + 1) / 2 * (width - 44), y: height - 8, "text-anchor": at < 0 ? "start" : at ? "end" : "middle" }, short(at * edge))));
    $("pg-histogram").replaceChildren(...nodes);
  }

  function drawArc(found, how) {
    $("pg-arc-figure").hidden = !found.way;
    if (!found.way) return;
    const [v0, v1] = Playground.ends(loaded, how);
    const { angle, n0, n1 } = found.way;
    const a = [n0, 0], b = [n1 * Math.cos(angle), n1 * Math.sin(angle)];
    const at = (t) => { const w = Playground.arc(how.method, v0, v1, t); return [w.first * a[0] + w.second * b[0], w.first * a[1] + w.second * b[1]]; };
    const way = Array.from({ length: 61 }, (_, k) => at(k / 60));
    const wide = angle > 0.35;
    const inside = wide ? [...way, [0, 0]] : way;
    const box = [0, 1].map((axis) => [Math.min(...inside.map((p) => p[axis])), Math.max(...inside.map((p) => p[axis]))]);
    const room = Math.max((box[0][1] - box[0][0]) / 440, (box[1][1] - box[1][0]) / 190, 1e-12);
    const centre = box.map(([low, high]) => (low + high) / 2);
    const place = ([px, py]) => [280 + (px - centre[0]) / room, 130 - (py - centre[1]) / room];
    const line = (p, q, look) => { const [m, n] = [place(p), place(q)]; return svg("line", { x1: m[0], y1: m[1], x2: n[0], y2: n[1], class: look }); };
    const dot = (p, look, label, left) => { const m = place(p), before = left || m[0] > 420; return [svg("circle", { cx: m[0], cy: m[1], r: 5, class: look }), svg("text", { x: m[0] + (before ? -12 : 12), y: m[1] + 4, "text-anchor": before ? "end" : "start" }, label)]; };
    const origin = how.method === "slerp" ? "0" : "base", nodes = [];
    if (wide) nodes.push(line([0, 0], a, "grid"), line([0, 0], b, "grid"), ...dot([0, 0], "end", origin, true));
    nodes.push(line(a, b, "chord"));
    nodes.push(svg("path", { d: way.map((p, k) => `${k ? "L" : "M"}${place(p).map((v) => v.toFixed(1)).join(" ")}`).join(""), class: "line merged" }));
    const label = (index) => (index < 0 ? "base" : page.names[index]);
    nodes.push(...dot(a, "end", label(how.from)), ...dot(b, "end", label(how.to), wide), ...dot(at(how.t), "here", `t = ${how.t}`));
    $("pg-arc").replaceChildren(...nodes);
  }

  function showRows(method) {
    const arcs = Playground.ARCS.has(method);
    $("pg-weights").hidden = arcs;
    $("pg-lambda-row").hidden = arcs || method === "linear";
    $("pg-density-row").hidden = !Playground.TRIMS.has(method);
    $("pg-seed-row").hidden = !Playground.DRAWS.has(method);
    for (const id of ["pg-from-row", "pg-to-row", "pg-t-row"]) $(id).hidden = !arcs;
    for (const option of document.querySelectorAll("#pg-from option[value='-1'], #pg-to option[value='-1']")) option.disabled = method === "nuslerp";
    if (!arcs) return;
    const places = method === "nuslerp" ? [] : ["-1"];
    places.push(...page.names.keys());
    if (method === "nuslerp" && $("pg-from").value === "-1") $("pg-from").value = "0";
    // An arc has two ends.
    if ($("pg-to").value === $("pg-from").value || (method === "nuslerp" && $("pg-to").value === "-1")) $("pg-to").value = String(places.find((place) => String(place) !== $("pg-from").value));
  }

  function keys() {
    const swatch = (look, text) => { const node = html("span", text, "swatch"); const box = html("i", "", look); node.prepend(box); return node; };
    const names = page.names.map((name, i) => swatch(`c${i % 8}`, name));
    $("pg-histogram-key").replaceChildren(...names.map((node) => node.cloneNode(true)), swatch("merged", "merged"));
    $("pg-strip-key").replaceChildren(...names, swatch("out", "trimmed or dropped"), swatch("outvoted", "outvoted"), swatch("merged", "merged"), html("span", "heights are square roots", "quiet"));
  }

  function draw() {
    const how = settings();
    showRows(how.method);
    const now = settings();
    document.querySelectorAll("#pg-controls output").forEach((node) => { node.textContent = node.previousElementSibling.value; });
    const found = Playground.merge(loaded, now);
    sayWhatHappens(found, now);
    drawStrip(found);
    drawHistogram(found);
    drawArc(found, now);
    $("pg-recipe").textContent = Playground.recipe(page, now);
    $("pg-copied").textContent = "";
  }

  async function copy() {
    const said = $("pg-copied");
    try {
      await navigator.clipboard.writeText($("pg-recipe").textContent);
      said.textContent = "copied";
    } catch {
      const range = document.createRange();
      range.selectNodeContents($("pg-recipe"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      said.textContent = document.execCommand("copy") ? "copied" : "selected: copy it with your keyboard";
    }
  }

  page.names.forEach((name, i) => {
    const label = html("label", `weight of ${name} `, "pg-row");
    const input = html("input");
    Object.assign(input, { type: "range", id: `pg-weight-${i}`, min: "-1", max: "2", step: "0.01" });
    input.value = String(page.weights[i]);
    label.append(input, html("output"));
    $("pg-weights").append(label);
  });
  for (const id of ["pg-from", "pg-to"]) {
    ["base", ...page.names].forEach((name, k) => { const option = html("option", name); option.value = String(k - 1); $(id).append(option); });
  }
  $("pg-to").value = "0";
  if (models < 2) document.querySelector("#pg-method option[value='nuslerp']").remove();
  $("pg-size").textContent = count.toLocaleString("en");
  $("pg-of").textContent = page.sample.of.toLocaleString("en");
  keys();
  $("pg-controls").addEventListener("input", draw);
  $("pg-which").addEventListener("input", draw);
  $("pg-copy").addEventListener("click", copy);
  $("pg").hidden = false;
  draw();
})();
