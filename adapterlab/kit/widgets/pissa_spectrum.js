/* A cut through the singular values of W, and W' - W at t=0 in two ways of writing what is trained. */
import { colour, figure, floats, html, matrixView, num, plot, svg } from "./blocks.js";

/** x as a float with so many bits of mantissa holds it: to the nearest, ties to even. */
function rounder(bits, smallest) {
  return (x) => {
    if (x === 0) return 0;
    const step = 2 ** (Math.max(Math.floor(Math.log2(Math.abs(x))), smallest) - bits);
    const q = Math.abs(x) / step; // exact: step is a power of two
    const down = Math.floor(q);
    const up = q - down > 0.5 || (q - down === 0.5 && down % 2 === 1);
    return Math.sign(x) * (down + up) * step;
  };
}

/** B (n, most) times A (most, n), of which the first r of the inner index. */
function product(B, A, n, most, r) {
  const P = new Float64Array(n * n);
  for (let i = 0; i < n; i++)
    for (let k = 0; k < r; k++) for (let j = 0; j < n; j++) P[i * n + j] += B[i * most + k] * A[k * n + j];
  return P;
}

const size = (values) => Math.hypot(...values);
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

export default {
  render(context) {
    const data = context.model.get("data");
    const { block: n, most, kinds } = data;
    const rounders = Object.fromEntries(kinds.map(([kind, bits, smallest]) => [kind, rounder(bits, smallest)]));
    const layers = data.layers.map((layer) => {
      const energy = layer.values.map((s) => s * s);
      const total = energy.reduce((a, b) => a + b);
      let sum = 0;
      return { ...layer, W: floats(layer.W), B0: floats(layer.B0), A0: floats(layer.A0), shares: energy.map((e) => (sum += e) / total) };
    });

    const fig = figure(context, {
      title: "Cut the spectrum",
      caption:
        `Real layers of the base model. The maps are the first ${n} by ${n} entries of W′ − W before any training; all ` +
        "share one colour scale, blue for too large, brown for too small.",
      start: { layer: 0, r: data.r, kind: "bf16" },
    });
    const cut = (r) => fig.set({ r: Math.max(1, Math.min(most, Math.round(r))) });
    fig.choice("layer", { label: "the layer", options: layers.map(({ name, shape }, i) => [i, `${name}, ${shape.join(" × ")}`]) });
    fig.choice("kind", { label: "W is stored in", options: kinds.map(([kind]) => [kind, kind]) });
    fig.slider("r", { label: "rank r, or drag in the plot:", min: 1, max: most, step: 1, format: String }).el.classList.add("al-wide");

    const spectrum = plot({ label: "singular values", x: { label: "index" }, y: { format: num }, height: 190, scrub: cut });
    const meter = svg("svg", { class: "al-plot", role: "img" });
    const energy = html("div", { class: "al-view" }, html("p", { class: "al-view-title" }, "energy: the share of W’s squared entries that is cut out and trained"), meter);
    const taken = matrixView({ label: "", rows: n, cols: n, cell: 6 });
    const kept = matrixView({ label: "", rows: n, cols: n, cell: 6 });
    fig.row(spectrum);
    fig.row(energy);
    fig.row(taken, kept);

    // One colour scale for all: half a unit in the last place of bf16, at a weight of ordinary size.
    const scale = Math.max(...layers.map(({ W }) => size(W) / n)) * 2 ** -8;

    fig.draw(({ layer, r, kind }) => {
      const { name, values, shares, W: exact, B0, A0 } = layers[layer];
      const points = values.map((s, i) => [i + 1, s]);
      spectrum.draw({
        lines: [
          { points: points.slice(r), colour: "muted", dots: true, width: 1 },
          { points: points.slice(0, r), colour: "pissa", dots: true },
        ],
        rules: [{ x: r + 0.5, colour: "ink", label: `r = ${r}` }],
        x: { domain: [0.5, values.length + 0.5] },
        y: { domain: [0, values[0] * 1.12] },
        title: `the ${values.length} singular values of ${name}`,
        describe: `Singular values of ${name}, cut after the first ${r}.`,
      });
      drawMeter(layers, layer, r);

      const round = rounders[kind];
      const W = Float64Array.from(exact, round);
      const top = product(B0, A0, n, most, r);
      // The stored weight loses the top, and is rounded to what its dtype can hold; the adapter adds it again.
      const error = W.map((w, i) => round(w - top[i]) + top[i] - w);
      // Nothing is stored. At t=0 A = A0 and B = B0: (B - B0) A + B0 (A - A0) has a zero in every product.
      const [zeroB, zeroA] = [B0.map((b) => b - b), A0.map((a) => a - a)];
      const first = product(zeroB, A0, n, most, r);
      const none = product(B0, zeroA, n, most, r).map((x, i) => x + first[i]);
      const [off, offKept] = [error, none].map((map) => size(map) / size(W));
      taken.draw(error, scale, `taken out, rounded, added again: off by ${inWords(off)}`);
      kept.draw(none, scale, `difference form, W untouched: off by ${inWords(offKept)}`);
      fig.say(
        `The top ${r} of ${values.length} directions of ${name} hold ${percent(shares[r - 1])} of its energy. ` +
          `Taken out of a weight in ${kind} and added again they leave it off by ${inWords(off)}; the difference form leaves it as it was.`,
      );
      Object.assign(fig.root.dataset, { share: shares[r - 1], off, kept: offKept }); // for whoever scripts this page
    });

    /** One bar per layer, the chosen one in colour. */
    function drawMeter(all, chosen, r) {
      const width = Math.max(200, meter.clientWidth || 600);
      const left = 86;
      const [tall, gap] = [24, 6];
      meter.replaceChildren(
        ...all.flatMap(({ name, shares }, i) => {
          const [y, w] = [i * (tall + gap), (width - left) * shares[r - 1]];
          const now = i === chosen;
          const inside = w > 60;
          const at = { x: left + w + (inside ? -8 : 8), y: y + 17, "text-anchor": inside ? "end" : "start" };
          return [
            svg("text", { x: left - 8, y: y + 17, "text-anchor": "end", fill: colour("ink"), "font-weight": now ? 600 : 400 }, name),
            svg("rect", { x: left, y, width: width - left, height: tall, fill: colour("grid") }),
            svg("rect", { x: left, y, width: w, height: tall, fill: colour(now ? "pissa" : "muted") }),
            svg("text", { ...at, fill: colour(inside ? "card" : "ink"), "font-weight": 600 }, percent(shares[r - 1])),
          ];
        }),
      );
      const height = all.length * (tall + gap) - gap;
      meter.setAttribute("viewBox", `0 0 ${width} ${height}`);
      meter.setAttribute("height", height);
      meter.setAttribute("aria-label", all.map(({ name, shares }) => `${name}: ${percent(shares[r - 1])}`).join(", "));
    }
  },
};

/** A relative error: "0.12 %", "2.1e−8", "nothing". */
const inWords = (off) => (off === 0 ? "nothing" : off < 1e-5 ? num(off, 2) : `${num(100 * off, 2)}\u00a0%`);
