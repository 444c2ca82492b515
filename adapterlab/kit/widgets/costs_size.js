/* Costs by formula at a size that the reader sets: two rows of dots per variant, and the parts of one of them. */
import { colour, figure, html, num, svg } from "./blocks.js";

/** A term is a product written with spaces: "4 n d" (see bench/formulas.py, which holds them all). */
function termValue(term, at) {
  return term.split(" ").reduce((product, factor) => product * (factor in at ? at[factor] : +factor), 1);
}

const total = (terms, at) => terms.reduce((sum, [, term]) => sum + termValue(term, at), 0);

function inBytes(n) {
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) if (n >= size) return `${num(n / size)}\u00a0${unit}`;
  return `${num(n)}\u00a0B`;
}

const inPercent = (share) => `${num(100 * share, 2)}\u00a0%`;

/** A marker of matplotlib's name about a place. */
function dotMark(marker, x, y, size, look) {
  if (marker === "s") return svg("rect", { x: x - size * 0.9, y: y - size * 0.9, width: size * 1.8, height: size * 1.8, ...look });
  if (marker === "^") return svg("path", { d: `M${x},${y - size * 1.2} L${x + size * 1.15},${y + size * 0.9} L${x - size * 1.15},${y + size * 0.9} Z`, ...look });
  return svg("circle", { cx: x, cy: y, r: size, ...look });
}

/** Dots on a logarithmic axis, a row for each variant. draw(rows, chosen): rows are [label, colour, marker, ours, theirs]. */
function dotRows({ label, domain, ticks, format }) {
  const root = svg("svg", { class: "al-plot", role: "img" });
  const [left, right, top, line] = [84, 16, 6, 25];
  return {
    el: html("div", { class: "al-view" }, html("p", { class: "al-view-title" }, label), root),
    draw(rows, chosen, words) {
      const width = Math.max(220, root.clientWidth || 340);
      const height = top + rows.length * line + 24;
      const [a, b] = domain.map(Math.log);
      const X = (v) => left + ((Math.log(Math.min(domain[1], Math.max(domain[0], v))) - a) / (b - a)) * (width - left - right);
      const parts = ticks.flatMap((tick) => [
        svg("line", { x1: X(tick), x2: X(tick), y1: top, y2: height - 20, stroke: colour("grid") }),
        svg("text", { x: X(tick), y: height - 5, "text-anchor": "middle", class: "al-tick" }, format(tick)),
      ]);
      rows.forEach(([name, paint, marker, ours, theirs], k) => {
        const y = top + (k + 0.5) * line;
        if (k === chosen) parts.push(svg("rect", { x: 0, y: y - line / 2, width, height: line, fill: colour("grid"), opacity: 0.55 }));
        parts.push(svg("text", { x: left - 10, y: y + 4.5, "text-anchor": "end", fill: colour(paint), "font-weight": k === chosen ? 600 : 400 }, name));
        if (ours === 0) {
          parts.push(svg("text", { x: left, y: y + 4.5, fill: colour("muted") }, "none"));
          return;
        }
        if (theirs != null) {
          parts.push(svg("line", { x1: X(ours), x2: X(theirs), y1: y, y2: y, stroke: colour("muted"), "stroke-dasharray": "4 3" }));
          parts.push(dotMark(marker, X(theirs), y, 6, { fill: colour("card"), stroke: colour(paint), "stroke-width": 2 }));
        }
        parts.push(dotMark(marker, X(ours), y, 4.2, { fill: colour(paint) }));
      });
      root.setAttribute("viewBox", `0 0 ${width} ${height}`);
      root.setAttribute("height", height);
      root.setAttribute("aria-label", words);
      root.replaceChildren(...parts);
    },
  };
}

/** What one side keeps, largest first. */
function partsTable() {
  const title = html("p", { class: "al-view-title" });
  const table = html("table");
  table.style.cssText = "margin: 2px 0 0; font-size: 14px; border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums";
  return {
    el: html("div", {}, title, table),
    draw(words, terms, at) {
      title.textContent = words;
      const parts = terms.map(([what, term]) => [what, term, termValue(term, at)]).filter(([, , n]) => n > 0);
      parts.sort((one, other) => other[2] - one[2]);
      table.replaceChildren(...parts.map(([what, , n]) => html("tr", {}, sizeCell(what, "left"), sizeCell(inBytes(n), "right"))));
    },
  };
}

function sizeCell(words, side) {
  const made = html("td", {}, words);
  made.style.cssText = `text-align: ${side}; padding: 1px 0 1px ${side === "right" ? 12 : 0}px; border: 0; vertical-align: top; white-space: ${side === "right" ? "nowrap" : "normal"}`;
  return made;
}

export default {
  render(context) {
    const { kept, multiplied, variants, stops, bytes, start } = context.model.get("data");
    const fig = figure(context, {
      title: "What it costs at your size",
      caption:
        "One linear layer, as wide as it is high, with adapters in float32. Filled: this library. Hollow, at the dashes' other end: PEFT. " +
        "By formula, which the tests compare with real layers; times are not in it.",
      start,
    });
    fig.slider("width", { label: "features, in and out", values: stops.width, format: String });
    fig.slider("tokens", { label: "tokens in a step", values: stops.tokens, format: String });
    fig.slider("r", { label: "rank", values: stops.r, format: String });
    fig.choice("dtype", { label: "the base is in", options: stops.dtype.map((name) => [name, name]) });
    fig.choice("variant", { label: "list the parts of", options: variants.map(([name, label]) => [name, label]) });

    const memory = dotRows({ label: "kept for the backward pass", domain: [2 ** 13, 2 ** 35], ticks: [2 ** 15, 2 ** 20, 2 ** 25, 2 ** 30], format: inBytes });
    const work = dotRows({ label: "multiply-adds of a step, beside the frozen layer's", domain: [5e-4, 200], ticks: [0.001, 0.1, 10], format: inPercent });
    const ours = partsTable();
    const theirs = partsTable();
    fig.row(memory, work);
    fig.row(ours, theirs);

    fig.draw((s) => {
      const low = bytes[s.dtype] < 4 ? 1 : 0;
      const at = { n: s.tokens, d: s.width, r: s.r, e: bytes[s.dtype], l: low, f: 1 - low };
      const frozen = 2 * s.tokens * s.width ** 2;
      const found = (table) =>
        Object.fromEntries(["adapterlab", "peft"].map((by) => [by, Object.fromEntries(Object.entries(table[by]).map(([name, terms]) => [name, total(terms, at)]))]));
      const [bytesKept, products] = [found(kept), found(multiplied)];
      const chosen = variants.findIndex(([name]) => name === s.variant);
      const rows = (values, per = 1) =>
        variants.map(([name, label, marker]) => [label, name, marker, values.adapterlab[name] / per, name in values.peft ? values.peft[name] / per : null]);
      const told = (values, format) => variants.map(([name, label]) => `${label} ${format(values.adapterlab[name])}${name in values.peft ? `, PEFT ${format(values.peft[name])}` : ""}`).join("; ");
      memory.draw(rows(bytesKept), chosen, `kept for the backward pass: ${told(bytesKept, inBytes)}`);
      work.draw(rows(products, frozen), chosen, `multiply-adds beside the frozen layer's: ${told(products, (v) => inPercent(v / frozen))}`);

      const label = variants[chosen][1];
      ours.draw(`${label} here keeps`, kept.adapterlab[s.variant], at);
      const known = s.variant in kept.peft;
      theirs.draw(known ? `${label} in PEFT keeps` : `PEFT has no ${label}`, known ? kept.peft[s.variant] : [], at);
      fig.say(tellCosts(s, label, { bytesKept, products, frozen, kept, at, known }));
      fig.root.dataset.found = JSON.stringify({ kept: bytesKept, multiplied: products }); // for whoever scripts this page
    });
  },
};

function tellCosts(s, label, { bytesKept, products, frozen, kept, at, known }) {
  const most = (by) => kept[by][s.variant].reduce((best, part) => (termValue(part[1], at) > termValue(best[1], at) ? part : best));
  const grows = (term) => (term.split(" ").includes("n") ? "grows with the tokens" : "is there whatever the number of tokens");
  const part = (by) => `the largest part, ${most(by)[0]}, ${grows(most(by)[1])}`;
  const share = (by) => inPercent(products[by][s.variant] / frozen);
  const [here, there] = [bytesKept.adapterlab[s.variant], bytesKept.peft[s.variant]];
  const factor = there / here;
  const more = factor > 1.05 ? `, ${num(factor, 2)} times as much` : factor < 0.95 ? `, ${num(100 * factor, 2)}\u00a0% of that` : "";
  const theirs = known ? ` PEFT keeps ${inBytes(there)}${more}; ${part("peft")}.` : "";
  const work = products.adapterlab[s.variant] === 0
    ? " It multiplies no matrices beside the layer's."
    : ` A step adds ${share("adapterlab")} to the frozen layer's multiply-adds${known ? `; PEFT's adds ${share("peft")}` : ""}.`;
  return `${label} keeps ${inBytes(here)}; ${part("adapterlab")}.${theirs}${work}`;
}
