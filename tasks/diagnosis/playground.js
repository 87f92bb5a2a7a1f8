"use strict";
/* The arithmetic of the playground: what merge_core does to a tensor, done to the page's sample, and
   the recipe that the settings stand for. No DOM here: a test runs these functions in a browser and
   compares them with merge_core. Everything is float64, rounded to float32 at the end. */
const Playground = (() => {
  const TINY_SUM = 1e-8;
  const TINY_NORM = 1e-7;
  const NEARLY_PARALLEL = 0.9995;
  const LINE = 1e-14;
  const TRIMS = new Set(["ties", "dare_linear", "dare_ties"]);
  const ELECTS = new Set(["ties", "dare_ties"]);
  const DRAWS = new Set(["dare_linear", "dare_ties"]);
  const ARCS = new Set(["slerp", "nuslerp"]);

  /* The sample as numbers: what float32 holds, and each task vector. */
  function load(sample) {
    const base = Float64Array.from(sample.base, Math.fround);
    const models = sample.models.map((values) => Float64Array.from(values, Math.fround));
    return { base, models, deltas: models.map((values) => values.map((v, k) => v - base[k])) };
  }

  function keptCount(density, n) {
    return density > 0 ? Math.min(n, Math.max(1, Math.floor(density * n))) : 0;
  }

  /* TIES: the largest magnitudes as float32 has them; of equal ones the first. */
  function keepLargest(delta, density) {
    const size = Float32Array.from(delta, Math.abs);
    const order = Array.from(size.keys()).sort((a, b) => size[b] - size[a] || a - b);
    const keep = new Uint8Array(delta.length);
    for (const place of order.slice(0, keptCount(density, delta.length))) keep[place] = 1;
    return keep;
  }

  /* DARE: each entry stays with this probability. The draws are the page's own (a 32-bit hash of
     entry, model and seed): merge_core's differ, and are distributed alike. */
  function keepRandom(n, density, seed, model) {
    const keep = new Uint8Array(n);
    for (let k = 0; k < n; k++) {
      let h = (Math.imul(k + 1, 0x9e3779b1) ^ Math.imul(model + 1, 0x85ebca6b) ^ Math.imul(seed + 1, 0xc2b2ae35)) >>> 0;
      for (let round = 0; round < 2; round++) {
        h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
        h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
        h ^= h >>> 16;
      }
      keep[k] = (h >>> 0) / 4294967296 < density ? 1 : 0;
    }
    return keep;
  }

  function keepAll(n) {
    return new Uint8Array(n).fill(1);
  }

  /* What merge_core's `rescale: true` does: the L1 norm is what it was. */
  function rescaled(delta, keep) {
    let before = 0, after = 0;
    delta.forEach((value, k) => { before += Math.abs(value); after += keep[k] ? Math.abs(value) : 0; });
    return before >= TINY_NORM && after >= TINY_NORM ? before / after : 1;
  }

  function sumOfTaskVectors(loaded, settings) {
    const { method, weights, density, lambda, seed } = settings;
    const n = loaded.base.length;
    const trims = TRIMS.has(method) && density < 1;
    const parts = loaded.deltas.map((delta, i) => {
      const keep = !trims ? keepAll(n) : DRAWS.has(method) ? keepRandom(n, density, seed, i) : keepLargest(delta, density);
      const factor = trims && DRAWS.has(method) ? rescaled(delta, keep) : 1;
      const weighted = delta.map((value, k) => (keep[k] ? value : 0) * factor * weights[i]);
      return { keep, factor, weighted, agrees: keepAll(n) };
    });
    const merged = new Float64Array(n), elected = new Int8Array(n);
    for (let k = 0; k < n; k++) {
      let sum = 0, total = 0, divisor = 0;
      for (const part of parts) sum += part.weighted[k];
      if (ELECTS.has(method)) {
        elected[k] = sum >= 0 ? 1 : -1;
        parts.forEach((part, i) => {
          const agrees = part.weighted[k] * elected[k] > 0;
          part.agrees[k] = agrees ? 1 : 0;
          total += agrees ? part.weighted[k] : 0;
          divisor += agrees ? weights[i] : 0;
        });
        if (method === "ties") total /= Math.abs(divisor) < TINY_SUM ? 1 : divisor;
      } else {
        total = sum;
      }
      merged[k] = loaded.base[k] + total * lambda;
    }
    return { merged, parts, elected };
  }

  function average(loaded, settings) {
    const sum = settings.weights.reduce((a, b) => a + b, 0);
    const parts = loaded.models.map((_, i) => {
      const share = sum === 0 ? 0 : settings.weights[i] / sum;
      const n = loaded.base.length;
      const weighted = loaded.deltas[i].map((value) => value * share);
      return { keep: keepAll(n), factor: 1, weighted, agrees: keepAll(n) };
    });
    const merged = loaded.base.map((_, k) => {
      let total = 0;
      loaded.models.forEach((values, i) => { total += values[k] * settings.weights[i]; });
      return Math.abs(sum) < TINY_SUM ? NaN : total / sum;
    });
    return { merged, parts, elected: new Int8Array(loaded.base.length) };
  }

  function dot(a, b) {
    return a.reduce((sum, value, k) => sum + value * b[k], 0);
  }

  /* The two factors of an arc at t, its angle, and whether it is taken as a line. */
  function arc(method, v0, v1, t) {
    const n0 = Math.sqrt(dot(v0, v0)), n1 = Math.sqrt(dot(v1, v1));
    let cosine, line;
    if (method === "slerp") {
      cosine = dot(v0, v1);
      for (const norm of [n0, n1]) if (norm > 1e-8) cosine /= norm;
      line = Math.abs(cosine) > NEARLY_PARALLEL;
    } else {
      cosine = Math.max(-1, Math.min(1, dot(v0, v1) / (Math.max(n0, 1e-7) * Math.max(n1, 1e-7))));
      line = 1 - cosine * cosine <= LINE;
    }
    const angle = Math.acos(Math.max(-1, Math.min(1, cosine)));
    const first = line ? 1 - t : Math.sin((1 - t) * angle) / Math.sin(angle);
    const second = line ? t : Math.sin(t * angle) / Math.sin(angle);
    return { first, second, angle, line, n0, n1 };
  }

  /* The ends of an arc: of slerp base or models, of nuslerp task vectors. -1 is the base. */
  function ends(loaded, settings) {
    const of = (place) => (place < 0 ? loaded.base : loaded.models[place]);
    if (settings.method === "slerp") return [of(settings.from), of(settings.to)];
    return [loaded.deltas[settings.from], loaded.deltas[settings.to]];
  }

  function alongArc(loaded, settings) {
    const [v0, v1] = ends(loaded, settings);
    const { method, from, to, t } = settings;
    const way = arc(method, v0, v1, t);
    const origin = method === "slerp" ? 0 : 1;
    const merged = v0.map((value, k) => origin * loaded.base[k] + way.first * value + way.second * v1[k]);
    const parts = loaded.deltas.map((delta, i) => {
      const share = (i === from ? way.first : 0) + (i === to ? way.second : 0);
      const keep = i === from || i === to ? keepAll(delta.length) : new Uint8Array(delta.length);
      return { keep, factor: 1, weighted: delta.map((value) => value * share), agrees: keepAll(delta.length) };
    });
    return { merged, parts, elected: new Int8Array(v0.length), way };
  }

  /* The merge of the sample: merged weights as float32 has them, and what became of each entry. */
  function merge(loaded, settings) {
    const found = ARCS.has(settings.method) ? alongArc(loaded, settings)
      : settings.method === "linear" ? average(loaded, settings) : sumOfTaskVectors(loaded, settings);
    found.merged = found.merged.map(Math.fround);
    found.change = found.merged.map((value, k) => value - loaded.base[k]);
    return found;
  }

  /* A text in YAML's double quotes, with nothing in it that a reader does not see. */
  function quoted(text) {
    return JSON.stringify(text).replace(/[\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ud800-\udfff]/gu,
      (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  }

  function number(value) {
    return String(Number(value.toPrecision(6)));
  }

  /* The recipe that the settings stand for. */
  function recipe(page, settings) {
    const { method, weights, density, lambda, t, from, to } = settings;
    const name = (place) => quoted(place < 0 ? page.base : page.models[place]);
    const lines = [`merge_method: ${method}`];
    const listed = method === "slerp" ? [to] : method === "nuslerp" ? [from, to] : page.models.map((_, i) => i);
    if (method === "slerp") lines.push(`base_model: ${name(from)}`);
    else if (method !== "linear") lines.push(`base_model: ${name(-1)}`);
    lines.push("models:");
    listed.forEach((place, k) => {
      lines.push(`  - model: ${name(place)}`);
      if (method === "slerp") return;
      const weight = method === "nuslerp" ? (k ? t : 1 - t) : weights[place];
      const own = [`weight: ${number(weight)}`];
      if (TRIMS.has(method)) own.push(`density: ${number(density)}`);
      lines.push(`    parameters: {${own.join(", ")}}`);
    });
    if (method === "slerp") lines.push(`parameters: {t: ${number(t)}}`);
    else if (method !== "linear" && method !== "nuslerp" && lambda !== 1) lines.push(`parameters: {lambda: ${number(lambda)}}`);
    for (const [key, value] of Object.entries(page.further)) lines.push(`${key}: ${quoted(value)}`);
    return lines.join("\n") + "\n";
  }

  return { load, merge, recipe, arc, ends, dot, TRIMS, ELECTS, DRAWS, ARCS };
})();
