/* One budget of directions over all layers: the largest shares are kept, wherever they are. */
import { colour, figure, html, svg } from "./blocks.js";

const LETTERS = { q_proj: "q", k_proj: "k", v_proj: "v", o_proj: "o", gate_proj: "g", up_proj: "u", down_proj: "d" };

/** As the package does it: all directions of all layers, the largest share first, ties by the layer's path. */
function pour(layers, spectra, column, r, rho) {
  const offers = layers.flatMap(([path, spectrum], i) =>
    spectra[spectrum][column].slice(0, Math.floor(rho * r + 1e-9)).map((share) => ({ share, path, i })),
  );
  offers.sort((a, b) => b.share - a.share || (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
  const kept = offers.slice(0, r * layers.length);
  const ranks = layers.map(() => 0);
  for (const { i } of kept) ranks[i] += 1;
  return ranks;
}

export default {
  render(context) {
    const { spectra, layers, most } = context.model.get("data");
    const stops = [];
    for (let r = 1; r <= most[0]; r *= 2) stops.push(r);
    const fig = figure(context, {
      title: "Pour ranks between layers",
      caption:
        `One column is one layer, in model order; each has as many cells as EVA gives it directions. Query, key and value ` +
        `(q, k, v) share their input, so they share its directions; o, g, u, d are the other layers of a block.`,
      start: { r: stops[Math.max(0, stops.length - 2)], rho: 1, column: 0 },
    });
    fig.slider("r", { label: "rank r, on average", values: stops });
    fig.slider("rho", { label: "ρ (cap ρ r)", min: 1, max: most[1], step: 0.125 });
    fig.choice("column", { label: "The inputs are taken", options: [[0, "as they are"], [1, "less their mean"]] });

    const root = svg("svg", { class: "al-plot", role: "img" });
    fig.row(html("div", { class: "al-view" }, root));

    fig.draw(({ r, rho, column }) => {
      const ranks = pour(layers, spectra, column, r, rho);
      const cap = Math.floor(rho * r + 1e-9);
      const explained = (given) => layers.reduce((sum, [, spectrum], i) => sum + spectra[spectrum][column].slice(0, given[i]).reduce((a, b) => a + b, 0), 0) / layers.length;
      const numbers = ranks.reduce((sum, rank, i) => sum + rank * layers[i][2], 0);

      // Cells from the bottom up; the axis keeps its length while rho moves, so that the eye can follow.
      const width = Math.max(240, root.clientWidth || 600);
      const box = { left: 30, right: 4, top: 8, bottom: 40 };
      const height = 250;
      const high = Math.max(3, Math.min(most[1] * r, 2 * r + 2), ...ranks);
      const [w, h] = [(width - box.left - box.right) / layers.length, (height - box.top - box.bottom) / high];
      const X = (i) => box.left + i * w;
      const Y = (rank) => height - box.bottom - rank * h;
      const shapes = [];
      for (let tick = 0, step = Math.max(1, Math.round(high / 5)); tick <= high; tick += step) {
        shapes.push(svg("line", { x1: box.left, x2: width - box.right, y1: Y(tick), y2: Y(tick), stroke: colour("grid") }));
        shapes.push(svg("text", { x: box.left - 6, y: Y(tick) + 4, "text-anchor": "end", class: "al-tick" }, tick));
      }
      ranks.forEach((rank, i) => {
        for (let k = 0; k < rank; k++) {
          shapes.push(svg("rect", { x: X(i) + 1, y: Y(k + 1) + 0.75, width: w - 2, height: Math.max(1, h - 1.5), fill: colour("eva"), class: "al-cell" }));
        }
        const name = layers[i][0].split(".").pop();
        shapes.push(svg("text", { x: X(i) + w / 2, y: height - box.bottom + 15, "text-anchor": "middle", class: "al-tick" }, LETTERS[name] ?? ""));
      });
      const blockOf = (path) => path.split(".").find((part) => /^\d+$/.test(part));
      let from = 0;
      layers.forEach(([path], i) => {
        const block = blockOf(path);
        if (i + 1 < layers.length && blockOf(layers[i + 1][0]) === block) return;
        if (block != null) shapes.push(svg("text", { x: (X(from) + X(i + 1)) / 2, y: height - 6, "text-anchor": "middle", class: "al-tick" }, `block ${block}`));
        if (i + 1 < layers.length) shapes.push(svg("line", { x1: X(i + 1), x2: X(i + 1), y1: box.top, y2: height - box.bottom, stroke: colour("muted") }));
        from = i + 1;
      });
      shapes.push(svg("line", { x1: box.left, x2: width - box.right, y1: Y(r), y2: Y(r), stroke: colour("ink"), "stroke-width": 1.75 }));
      root.setAttribute("viewBox", `0 0 ${width} ${height}`);
      root.setAttribute("height", height);
      root.setAttribute("aria-label", `Ranks of ${layers.length} layers, in model order: ${ranks.join(", ")}.`);
      root.replaceChildren(...shapes);

      const [low, top] = [Math.min(...ranks), Math.max(...ranks)];
      const empty = ranks.filter((rank) => !rank).length;
      const equal = explained(layers.map(() => r));
      const what = column ? "variance" : "energy";
      const percent = (share) => `${(100 * share).toFixed(1)} %`;
      fig.say(
        cap === r
          ? `Equal ranks, ${r} for each of ${layers.length} layers: together they explain ${percent(equal)} of a layer's ${what} on average. Raise ρ.`
          : `The same ${r * layers.length} directions, at most ${cap} in one layer: ranks from ${low} to ${top}` +
              (empty ? `, and ${empty === 1 ? "one layer goes" : `${empty} layers go`} without an adapter. ` : ". ") +
              `On average they explain ${percent(explained(ranks))} of a layer's ${what}, equal ranks ${percent(equal)}. ` +
              `Trained: ${numbers.toLocaleString("en")} numbers, with equal ranks ${layers.reduce((sum, [, , size]) => sum + r * size, 0).toLocaleString("en")}.`,
      );
      fig.root.dataset.ranks = ranks.join(","); // for whoever scripts this page
    });
  },
};
