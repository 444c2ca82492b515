/* DoRA's figure: one row of W, its direction by the tip of V, its size by the circle m. Beside the right output stand
   that of a DoRA which scales the bias, and of one which normalises along dim 0. All start in one place. */
import { colour, figure, html, num, plane, svg } from "./blocks.js";

const PAIR = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const OUT = [[-0.2, 3.2], [-1.1, 0.3]];
const KINDS = { right: "DoRA", bias: "scales the bias", dim0: "along dim 0" };

/** The layer's output (y1, y2) for x by the right formula and by the two wrong ones; only row 1 is trained. */
function doraOutputs({ W, b, x }, v, m) {
  const rows = [v, W[1]]; // V
  const c = m / Math.hypot(...v);
  const dot = (row) => row[0] * x[0] + row[1] * x[1];
  const stretch = m / Math.hypot(...W[0]); // what the reader did to m's first number
  const perInput = [0, 1].map((j) => {
    const start = Math.hypot(W[0][j], W[1][j]) * (j === 0 ? stretch : 1);
    return start / Math.hypot(rows[0][j], rows[1][j]);
  });
  return {
    right: [c * dot(v) + b[0], dot(W[1]) + b[1]],
    bias: [c * (dot(v) + b[0]), dot(W[1]) + b[1]],
    dim0: rows.map((row, i) => dot(row.map((value, j) => value * perInput[j])) + b[i]),
  };
}

export default {
  render(context) {
    const data = context.model.get("data");
    const [start, second] = data.W;
    const m0 = Math.hypot(...start);
    const fig = figure(context, {
      title: "Size against direction",
      caption:
        "A layer with two inputs and two outputs; only row 1 is trained. Drag the tip of V = W + sBA, or m on its circle; " +
        "the arrow keys move them too.",
      start: { v: start, m: m0, bias: true, dim0: true, hasBias: true },
    });
    fig.toggle("bias", { label: "bug: scale bias" });
    fig.toggle("dim0", { label: "bug: dim 0" });
    fig.toggle("hasBias", { label: "layer has a bias" });

    const space = plane({ label: "row 1 of the weight", x: [-1.9, 1.9], y: [-1.5, 1.5] });
    fig.handle(space, {
      label: "tip of V",
      at: (s) => s.v,
      move: (to) => ({ v: away(to) }),
      format: ([a, b]) => `V is ${num(a)}, ${num(b)}; length ${num(Math.hypot(a, b))}`,
    });
    fig.handle(space, {
      label: "size m",
      colour: "dora",
      at: (s) => [s.m, 0],
      move: ([a]) => ({ m: Math.min(1.4, Math.max(0.6, a)) }),
      format: ([a]) => `m is ${num(a)}`,
    });

    const out = plane({ label: "the layer's output y for one input x", x: OUT[0], y: OUT[1] });
    const list = html("div", { class: "al-outputs" });
    list.style.cssText = "display: grid; grid-template-columns: 24px 1fr auto auto; gap: 2px 10px; align-items: center; margin-top: 8px; font-size: 14px; font-variant-numeric: tabular-nums";
    out.el.append(list);
    out.el.style.justifyContent = "flex-start";
    fig.row(space, out);

    fig.draw((s) => {
      const setting = { ...data, b: s.hasBias ? data.b : [0, 0] };
      const found = doraOutputs(setting, s.v, s.m);
      const kinds = Object.keys(KINDS).filter((kind) => kind === "right" || s[kind]);
      const off = Object.fromEntries(kinds.map((kind) => [kind, Math.hypot(found[kind][0] - found.right[0], found[kind][1] - found.right[1])]));
      const length = Math.hypot(...s.v);
      const turn = angle(s.v) - angle(start);
      const degrees = Math.abs(((turn * 180) / Math.PI + 540) % 360 - 180);
      const adapted = s.v.map((value) => (value * s.m) / length);
      const untouched = s.v[0] === start[0] && s.v[1] === start[1] && s.m === m0;

      const outside = (row, words) => {
        const [far, b] = row.map((value) => value * (1 + 0.22 / Math.hypot(...row)));
        const a = Math.min(1.6, Math.max(-1.6, far)); // inside the card, and then above or below the handle
        const aside = a === far ? 0 : row[1] < 0 || row[1] > 1.2 ? -0.25 : 0.25;
        return space.text(a, b + aside, words, { anchor: Math.abs(row[0]) < 0.3 ? "middle" : row[0] < 0 ? "end" : "start", shift: [0, 5], bold: true });
      };
      const across = ([a, b], words) => space.text(a + (0.25 * b) / length, b - (0.25 * a) / length, words, { anchor: "middle", shift: [0, 5], bold: true });
      const beside = ([a, b], words) => space.text(0.55 * a - 0.13 * b / s.m, 0.55 * b + 0.13 * a / s.m, words, { colour: "dora", anchor: "middle", shift: [0, 5], bold: true });
      space.draw(
        space.circle(0, 0, s.m, { colour: "dora", width: 1.5 }),
        space.arrow(0, 0, ...second, { colour: "muted", width: 1.5 }),
        space.text(...second, "row 2", { colour: "muted", shift: [8, 0] }),
        untouched ? null : space.line(0, 0, ...start, { colour: "base", width: 2, dash: "2 4" }),
        untouched ? null : space.dot(...start, { colour: "base", size: 3 }),
        space.line(0, 0, ...s.v, { colour: "ink", width: 1.5 }),
        space.arrow(0, 0, ...adapted, { colour: "dora", width: 4 }),
        untouched
          ? space.text(start[0] - 0.15, start[1] + 0.25, "W = V = W′", { bold: true })
          : [length < s.m ? across(s.v, "V") : outside(s.v, "V"), beside(adapted, "W′")],
        space.text(s.m, 0, "m", { colour: "dora", shift: [17, 5], bold: true }),
      );

      const place = Object.fromEntries(kinds.map((kind) => [kind, out.inside(found[kind])]));
      out.draw(
        out.text(OUT[0][1], 0, "y₁", { colour: "muted", anchor: "end", shift: [0, -6] }),
        out.text(0, OUT[1][1], "y₂", { colour: "muted", shift: [6, 12] }),
        kinds.slice(1).map((kind) => out.line(...place.right, ...place[kind], { colour: "muted", width: 1.5 })),
        kinds.toReversed().map((kind) => {
          const shape = mark(kind);
          shape.setAttribute("transform", `translate(${out.X(place[kind][0])} ${out.Y(place[kind][1])})`);
          return shape;
        }),
      );
      list.replaceChildren(
        ...Object.keys(KINDS).flatMap((kind) => {
          const shown = kinds.includes(kind);
          const icon = svg("svg", { width: 24, height: 22, viewBox: "-13 -13 26 26", "aria-hidden": true }, mark(kind));
          const words = !shown ? ["", ""] : [`(${found[kind].map(signed).join(", ")})`, kind === "right" ? "" : off[kind] ? `off by ${off[kind].toFixed(2)}` : "the same"];
          const cells = [icon, html("span", {}, KINDS[kind]), html("span", { "data-y": kind }, words[0]), html("span", { "data-off": kind }, words[1])];
          cells.forEach((cell) => (cell.style.opacity = shown ? 1 : 0.4));
          cells[3].style.fontWeight = off[kind] ? 600 : 400;
          cells[3].style.minWidth = "5.6em";
          return cells;
        }),
      );
      fig.say(tell(s, { c: s.m / length, length, degrees, off, untouched }));
    });
  },
};

const angle = ([a, b]) => Math.atan2(b, a);
const signed = (value) => PAIR.format(Math.abs(value) < 0.005 ? 0 : value).replace("-", "−");

/** A row of length 0 has no direction: the tip stays outside a small disc. */
function away([a, b], least = 0.6) {
  const length = Math.hypot(a, b) || 1;
  return length >= least ? [a, b] : [(a / length) * least, (b / length) * least];
}

/** Right: a dot. Wrong: a cross, upright or not, so that all three show where they lie on each other. */
function mark(kind) {
  if (kind === "right") return svg("circle", { r: 6.5, fill: colour("dora"), stroke: colour("card"), "stroke-width": 1.5 });
  const arms = kind === "bias" ? "M-9,-9L9,9M-9,9L9,-9" : "M-12,0H12M0,-12V12";
  return svg("path", { d: arms, stroke: colour("ink"), "stroke-width": 2.5, fill: "none" });
}

function tell(s, { c, length, degrees, off, untouched }) {
  if (untouched) return "t=0: the length of V is m, so c = m/|V| is 1. Three formulas, one output: no test here can tell them apart.";
  const exact = Math.abs(c - 1) < 0.005;
  const said = [`|V| = ${length.toFixed(2)}, m = ${s.m.toFixed(2)}, so c = ${c.toFixed(2)}; V is turned by ${Math.round(degrees)}°.`];
  if (degrees < 0.5 && length !== s.m) said.push("The direction is the old one, so DoRA's y depends on m alone.");
  if (s.bias && !s.hasBias) said.push("Without a bias the scaled bias cannot show.");
  else if (s.bias && exact) said.push("With c near 1 the scaled bias hides again.");
  else if (s.bias) said.push(`Scaling the bias puts y₁ off by ${off.bias.toFixed(2)}.`);
  if (s.dim0 && off.dim0 > 0.005) said.push("Along dim 0 the second output moves too, although its row was not touched.");
  return said.join(" ");
}
