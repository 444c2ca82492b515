/* One budget of directions over all layers: the largest shares are kept, wherever they are, and explain so much. */
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
        `One column is one layer, in model order. Above, a cell for each direction that it gets; below, how much of its inputs ` +
        `these explain. Lines: equal ranks. Query, key and value (q, k, v) share their input, so they share its directions; ` +
        `o, g, u, d are the other layers of a block.`,
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
      const explained = (given) => layers.map(([, spectrum], i) => spectra[spectrum][column].slice(0, given[i]).reduce((a, b) => a + b, 0));
      const [here, level] = [explained(ranks), explained(layers.map(() => r))];
      const what = column ? "variance" : "energy";
      const numbers = ranks.reduce((sum, rank, i) => sum + rank * layers[i][2], 0);

      // Cells from the bottom up; the axis keeps its length while rho moves, so that the eye can follow.
      const width = Math.max(240, root.clientWidth || 600);
      const [left, right] = [34, width - 4];
      const [top, floor, ceiling, bottom] = [24, 204, 250, 330]; // of the ranks; of the shares
      const high = Math.max(3, Math.min(most[1] * r, 2 * r + 2), ...ranks);
      const [w, h] = [(right - left) / layers.length, (floor - top) / high];
      const X = (i) => left + i * w;
      const Y = (rank) => floor - rank * h;
      const P = (share) => bottom - share * (bottom - ceiling);
      const across = (y, how) => svg("line", { x1: left, x2: right, y1: y, y2: y, ...how });
      const word = (x, y, anchor, words, look = "al-tick") => svg("text", { x, y, "text-anchor": anchor, class: look }, words);
      const shapes = [word(left, 14, "start", "rank of each layer"), word(left, ceiling - 10, "start", `${what} it explains, %`)];
      for (let tick = 0, step = Math.max(1, Math.round(high / 5)); tick <= high; tick += step) {
        shapes.push(across(Y(tick), { stroke: colour("grid") }), word(left - 6, Y(tick) + 4, "end", tick));
      }
      for (const tick of [0, 0.5, 1]) shapes.push(across(P(tick), { stroke: colour("grid") }), word(left - 6, P(tick) + 4, "end", 100 * tick));
      ranks.forEach((rank, i) => {
        for (let k = 0; k < rank; k++) {
          shapes.push(svg("rect", { x: X(i) + 1, y: Y(k + 1) + 0.75, width: w - 2, height: Math.max(1, h - 1.5), fill: colour("eva"), class: "al-cell" }));
        }
        shapes.push(svg("rect", { x: X(i) + 1, y: P(here[i]), width: w - 2, height: bottom - P(here[i]), fill: colour("eva"), class: "al-share" }));
        shapes.push(svg("line", { x1: X(i), x2: X(i + 1), y1: P(level[i]), y2: P(level[i]), stroke: colour("ink"), "stroke-width": 1.75 }));
        shapes.push(word(X(i) + w / 2, floor + 15, "middle", LETTERS[layers[i][0].split(".").pop()] ?? ""));
      });
      const blockOf = (path) => path.split(".").find((part) => /^\d+$/.test(part));
      let from = 0;
      layers.forEach(([path], i) => {
        const block = blockOf(path);
        if (i + 1 < layers.length && blockOf(layers[i + 1][0]) === block) return;
        if (block != null) shapes.push(word((X(from) + X(i + 1)) / 2, bottom + 17, "middle", `block ${block}`));
        if (i + 1 < layers.length) {
          for (const [y1, y2] of [[top, floor], [ceiling, bottom]]) shapes.push(svg("line", { x1: X(i + 1), x2: X(i + 1), y1, y2, stroke: colour("muted") }));
        }
        from = i + 1;
      });
      shapes.push(across(Y(r), { stroke: colour("ink"), "stroke-width": 1.75 }));
      root.setAttribute("viewBox", `0 0 ${width} ${bottom + 24}`);
      root.setAttribute("height", bottom + 24);
      const percents = here.map((share) => Math.round(100 * share));
      root.setAttribute("aria-label", `Ranks of ${layers.length} layers, in model order: ${ranks.join(", ")}. They explain, in percent: ${percents.join(", ")}.`);
      root.replaceChildren(...shapes);

      const [low, greatest] = [Math.min(...ranks), Math.max(...ranks)];
      const empty = ranks.filter((rank) => !rank).length;
      const mean = (values) => `${((100 * values.reduce((a, b) => a + b, 0)) / values.length).toFixed(1)} %`;
      const range = `from ${Math.min(...percents)} to ${Math.max(...percents)} % in single layers`;
      fig.say(
        cap === r
          ? `Equal ranks, ${r} for each of ${layers.length} layers: they explain ${mean(here)} of a layer's ${what} on average, ${range}. Raise ρ.`
          : `The same ${r * layers.length} directions, at most ${cap} in one layer: ranks from ${low} to ${greatest}` +
              (empty ? `, and ${empty === 1 ? "one layer goes" : `${empty} layers go`} without an adapter. ` : ". ") +
              `They explain ${mean(here)} of a layer's ${what} on average, ${range}; equal ranks explain ${mean(level)}. ` +
              `Trained: ${numbers.toLocaleString("en")} numbers, with equal ranks ${layers.reduce((sum, [, , size]) => sum + r * size, 0).toLocaleString("en")}.`,
      );
      fig.root.dataset.explained = here.map((share) => share.toFixed(5)).join(",");
      fig.root.dataset.ranks = ranks.join(","); // for whoever scripts this page
    });
  },
};
