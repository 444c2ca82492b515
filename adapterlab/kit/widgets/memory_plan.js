/* Memory of each GPU by the planner: a stacked bar for each variant, and the cards that hold it. */
import { colour, figure, html, num, svg } from "./blocks.js";

const CUDA = 1e9; // bytes that CUDA takes for itself, about

const gigabytes = (n) => `${num(n / 1e9)}\u00a0GB`;

/** The parts of one variant's bar, in bytes. */
function planParts(size, name, s, stops) {
  const { kept, copied, shares } = size.variants[name];
  const sharded = s.engine === "fsdp2" && s.base === "bf16";
  const [weights, adapter, gathered] = shares[sharded ? stops.gpus.indexOf(s.gpus) : 0];
  const [none, each] = kept[s.checkpointing];
  const spread = s.gpus === 1 ? 0 : sharded ? gathered : adapter;
  return {
    weights: sharded ? weights : copied[s.base],
    trained: 4 * adapter,
    activations: none + each * s.tokens,
    transient: s.tokens * size.vocabulary * 6 + spread,
  };
}

const planLooks = (name) => ({
  weights: { fill: colour("muted") },
  trained: { fill: colour(name) },
  activations: { fill: colour("muted"), opacity: 0.45 },
  transient: { fill: colour("card"), stroke: colour("muted"), "stroke-dasharray": "3 2" },
});

/** What the looks mean; the hue is each variant's own. */
function planLegend(parts) {
  const items = parts.map(([part, words]) => {
    const mark = svg("svg", { width: 22, height: 12, "aria-hidden": "true" }, svg("rect", { x: 1, y: 1, width: 20, height: 10, ...planLooks("full")[part] }));
    const item = html("span", {}, mark, ` ${words}`);
    item.style.cssText = "display: inline-block; margin: 0 14px 2px 0; font-size: 14px";
    return item;
  });
  return html("div", {}, ...items);
}

function planBars({ label }) {
  const root = svg("svg", { class: "al-plot", role: "img" });
  const [left, right, top, line] = [80, 62, 22, 27];
  return {
    el: html("div", { class: "al-view" }, html("p", { class: "al-view-title" }, label), root),
    draw(rows, cards, words) {
      const width = Math.max(240, root.clientWidth || 640);
      const height = top + rows.length * line + 8;
      const most = Math.max(...rows.map((row) => row.total));
      const end = 1.04 * Math.max(most, ...cards.filter((card) => card * 1e9 < 1.25 * most).map((card) => card * 1e9));
      const X = (v) => left + (v / end) * (width - left - right);
      const parts = [];
      for (const card of cards.filter((card) => card * 1e9 <= end)) {
        const x = X(card * 1e9);
        parts.push(svg("line", { x1: x, x2: x, y1: top - 4, y2: height, stroke: colour("ink"), "stroke-dasharray": "2 4" }));
        parts.push(svg("text", { x, y: 12, "text-anchor": "middle", class: "al-tick" }, `${card}\u00a0GB`));
      }
      rows.forEach(({ name, label: title, bytes, total }, k) => {
        const y = top + k * line + 4;
        parts.push(svg("text", { x: left - 8, y: y + 14, "text-anchor": "end", fill: colour(name) }, title));
        let at = 0;
        const bar = svg("g", {}, svg("title", {}, `${title}: ${Object.entries(bytes).map(([part, n]) => `${part} ${gigabytes(n)}`).join(", ")}`));
        for (const [part, look] of Object.entries(planLooks(name))) {
          const wide = Math.max(part === "trained" ? 1.5 : 0, X(at + bytes[part]) - X(at));
          bar.append(svg("rect", { x: X(at), y, width: wide, height: line - 9, ...look }));
          at += bytes[part];
        }
        parts.push(bar, svg("text", { x: X(total) + 5, y: y + 14, fill: colour("ink") }, num(total / 1e9)));
      });
      root.setAttribute("viewBox", `0 0 ${width} ${height}`);
      root.setAttribute("height", height);
      root.setAttribute("aria-label", words);
      root.replaceChildren(...parts);
    },
  };
}

export default {
  render(context) {
    const { models, sizes, variants, parts, cards, stops, start } = context.model.get("data");
    const fig = figure(context, {
      title: "Does it fit?",
      caption:
        "Llama's shapes, all linear layers adapted at r = 16, the adapter and Adam in float32, one row on each GPU. The planner counts bytes; " +
        "CUDA's own gigabyte and what its allocator cannot use come on top.",
      start,
    });
    const names = { ddp: "copies (DDP)", fsdp2: "shares (FSDP2)", bf16: "bf16", "8bit": "8 bits", "4bit": "4 bits" };
    const options = (key) => stops[key].map((value) => [value, names[value]]);
    fig.choice("model", { label: "the base", options: models });
    fig.choice("base", { label: "its weights in", options: options("base") });
    fig.slider("gpus", { label: "GPUs", values: stops.gpus, format: String });
    fig.choice("engine", { label: "each GPU holds", options: options("engine") });
    fig.slider("tokens", { label: "tokens of a row", values: stops.tokens, format: String });
    fig.toggle("checkpointing", { label: "compute activations again" });
    const bars = planBars({ label: "GB on each GPU" });
    fig.row(bars);
    fig.row(planLegend(parts));

    fig.draw((s) => {
      const rows = variants.map(([name, label]) => {
        const bytes = planParts(sizes[s.model], name, s, stops);
        return { name, label, bytes, total: Object.values(bytes).reduce((sum, n) => sum + n, 0) };
      });
      bars.draw(rows, cards, rows.map(({ label, total }) => `${label} ${gigabytes(total)}`).join("; "));
      fig.say(tellPlan(s, rows, cards));
      fig.root.dataset.found = JSON.stringify(Object.fromEntries(rows.map(({ name, bytes }) => [name, bytes]))); // for whoever scripts this page
    });
  },
};

function tellPlan(s, rows, cards) {
  const sorted = [...rows].sort((a, b) => a.total - b.total);
  const [least, most] = [sorted[0], sorted.at(-1)];
  const card = (row) => cards.find((size) => row.total + CUDA <= size * 1e9);
  const holds = (row) => (card(row) ? `fits into a card of ${card(row)}\u00a0GB` : "fits into none of these cards");
  const names = { weights: "the frozen weights", trained: "what is trained", activations: "the activations", transient: "what comes and goes" };
  const largest = Object.entries(most.bytes).reduce((a, b) => (b[1] > a[1] ? b : a))[0];
  const same = card(least) === card(most) ? `Every variant ${holds(most)}` : `${least.label} ${holds(least)}, ${most.label} ${holds(most)}`;
  const copied = s.base !== "bf16" && s.engine === "fsdp2" && s.gpus > 1 ? " Quantised weights are copied to every GPU, not shared out." : "";
  return `${same}: ${gigabytes(least.total)} to ${gigabytes(most.total)}. The largest part is ${names[largest]}; what is trained is ${num((100 * most.bytes.trained) / most.total, 2)}\u00a0% of ${most.label}'s.${copied}`;
}
