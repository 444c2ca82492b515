/* Two mirrors over a letter F, and a third; beside them three rows of W under the same mirrors. */
import { figure, html, num, plane } from "./blocks.js";

const F_SHAPE = [[0, 0], [0, 5], [3, 5], [3, 4], [1, 4], [1, 3], [2.4, 3], [2.4, 2], [1, 2], [1, 0]];
const LETTER = F_SHAPE.map(([x, y]) => [0.52 + 0.13 * x, 0.13 * y]);
const REACH = 1.42; // how far out the handles stand
const START = { mirrors: [90, 90, 150], third: false, order: "R" };

const rad = (degrees) => (degrees * Math.PI) / 180;
const onCircle = (degrees, r = REACH) => [r * Math.cos(rad(degrees)), r * Math.sin(rad(degrees))];
const wrapped = (degrees, period) => degrees - period * Math.ceil(degrees / period - 0.5); // in (-period/2, period/2]
const rounded = (x, digits) => num(+x.toFixed(digits) + 0);

/** Householder: v - 2 u (u.v), with u across the mirror; two mirrors on each other cancel exactly in what is drawn. */
const mirrored = (v, degrees) => {
  const u = [-Math.sin(rad(degrees)), Math.cos(rad(degrees))];
  const twice = 2 * (u[0] * v[0] + u[1] * v[1]);
  return [v[0] - twice * u[0], v[1] - twice * u[1]];
};
const through = (v, mirrors) => mirrors.reduce(mirrored, v);
const length = ([a, b]) => Math.hypot(a, b);
const angleBetween = (v, w) => Math.abs(wrapped(((Math.atan2(w[1], w[0]) - Math.atan2(v[1], v[0])) * 180) / Math.PI, 360));

export default {
  render(context) {
    const { rows, other } = context.model.get("data");
    const fig = figure(context, {
      title: "Pull the mirrors apart",
      caption:
        "Left, the letter F meets the mirrors one after the other. Right, three rows of the weight W meet the same " +
        "mirrors; the thin ghost is W plus an arbitrary LoRA difference BA of the same size. Drag a round handle, or " +
        "turn it by the arrow keys.",
      start: START,
    });
    fig.choice("order", { label: "Which mirror comes first?", options: [["R", "H₀: W R"], ["RT", "the last: W Rᵀ"]] });
    fig.toggle("third", { label: "a third mirror" });

    const left = plane({ label: "The letter F before (grey), after the first mirror (outline), after all of them", x: [-1.62, 1.62], y: [-1.62, 1.62], axes: false });
    const right = plane({ label: "Three rows of W in two input features: W (grey), W and mirrors, W + BA (thin)", x: [-1.5, 1.5], y: [-1.5, 1.5] });
    right.svg.style.overflow = "hidden"; // a ghost may leave the plane

    // H0 is held by its upper end, H1 by its lower: two handles, though the mirrors lie on each other.
    const ends = [0, 180, 0];
    const knobs = ends.map((end, k) => {
      const turnTo = (degrees, state) => ({
        mirrors: state.mirrors.map((old, i) => (i === k ? old + wrapped(Math.round(degrees) - end - old, 180) : old)),
      });
      const knob = fig.handle(left, {
        label: `mirror H${k}`,
        colour: "ink",
        at: (state) => onCircle(state.mirrors[k] + end),
        move: ([x, y], state) => turnTo((Math.atan2(y, x) * 180) / Math.PI, state),
      });
      // On a circle an arrow key turns: left and up against the clock, right and down with it.
      knob.el.addEventListener(
        "keydown",
        (event) => {
          const sense = { ArrowLeft: 1, ArrowUp: 1, ArrowRight: -1, ArrowDown: -1 }[event.key];
          if (!sense) return;
          event.preventDefault();
          event.stopImmediatePropagation();
          fig.set(turnTo(fig.state.mirrors[k] + end + sense * (event.shiftKey ? 10 : 2), fig.state));
        },
        true,
      );
      return knob;
    });
    const table = html("table", { style: "border-collapse: collapse; margin: 0 auto; font-size: 14px; width: auto" });
    fig.row(left, right);
    fig.row(table);

    /** Part of a circle from one angle to another, with a head where it is long enough for one. */
    function arc(p, r, from, to, name, head) {
      const steps = Math.max(2, Math.ceil(Math.abs(to - from) / 4));
      const points = Array.from({ length: steps + 1 }, (_, i) => onCircle(from + ((to - from) * i) / steps, r));
      const line = p.polygon(points, { colour: name, open: true, width: head ? 2 : 1.5 });
      if (!head || Math.abs(to - from) < 12) return [line];
      const sense = Math.sign(to - from);
      const tip = [onCircle(to, r), onCircle(to - sense * 8, r * 1.07), onCircle(to - sense * 8, r * 0.93)];
      return [line, p.polygon(tip, { colour: name, fill: name, width: 1 })];
    }

    fig.draw((state) => {
      const count = state.third ? 3 : 2;
      const active = state.mirrors.slice(0, count);
      const met = state.order === "R" ? active : [...active].reverse();
      const gap = wrapped(met[1] - met[0], 180);
      const identity = !state.third && gap === 0;
      const turn = wrapped(2 * gap, 360);
      const moved = LETTER.map((v) => (identity ? v : through(v, met)));
      const flipped = LETTER.map((v) => mirrored(v, met[0]));

      knobs.forEach(({ el }, k) => {
        const degrees = wrapped(state.mirrors[k], 180);
        el.style.display = k < count ? "" : "none";
        el.setAttribute("aria-valuenow", degrees);
        el.setAttribute("aria-valuemin", -90);
        el.setAttribute("aria-valuemax", 90);
        el.setAttribute("aria-valuetext", `${num(degrees)} degrees`);
      });

      const mirrorLines = active.flatMap((degrees, k) => {
        const [x, y] = onCircle(degrees);
        const [a, b] = onCircle(degrees + ends[k], REACH - 0.02);
        const [c, d] = onCircle(degrees + ends[k] + 11, REACH + 0.03);
        return [
          left.line(-x, -y, x, y, { colour: "muted", width: 2 }),
          left.line(0, 0, a, b, { colour: "ink", width: 2.5 }),
          left.text(c, d, `H${"₀₁₂"[k]}`, { anchor: "middle", shift: [0, 5], bold: true }),
        ];
      });
      const centre = (shape) => {
        const [sx, sy] = shape.reduce(([a, b], [c, d]) => [a + c, b + d], [0, 0]);
        return (Math.atan2(sy, sx) * 180) / Math.PI;
      };
      const from = centre(LETTER);
      left.draw(
        mirrorLines,
        !state.third && !identity ? [...arc(left, 0.3, met[0], met[0] + gap, "ink"), ...arc(left, 1.16, from, from + turn, "hra", true)] : null,
        left.polygon(flipped, { colour: "muted", width: 1.25 }),
        left.polygon(LETTER, { colour: "muted", fill: "grid", width: 1.5 }),
        left.polygon(moved, { colour: "hra", fill: "hra", width: 2 }),
        left.dot(0, 0, { colour: "ink", size: 3 }),
      );

      // The same mirrors on rows of W; the ghost is as far from W as they are.
      const turned = rows.map((w) => (identity ? w : through(w, met)));
      const far = Math.hypot(...turned.flatMap((w, i) => [w[0] - rows[i][0], w[1] - rows[i][1]]));
      const ghost = rows.map((w, i) => [w[0] + far * other[i][0], w[1] + far * other[i][1]]);
      right.draw(
        ghost.map((w) => right.arrow(0, 0, ...w, { colour: "lora", width: 1.5, opacity: 0.75 })),
        rows.map((w) => right.arrow(0, 0, ...w, { colour: "base", width: 1.5 })),
        turned.map((w) => right.arrow(0, 0, ...w, { colour: "hra", width: 2.75 })),
        turned.map((w, i) => {
          const [a, b] = [w[0] * (1 + 0.17 / length(w)), w[1] * (1 + 0.17 / length(w))];
          return right.text(a, b, "abc"[i], { colour: "hra", anchor: "middle", shift: [0, 4], bold: true });
        }),
      );
      show(table, [["W", "base", rows], [state.order === "R" ? "W R" : "W Rᵀ", "hra", turned], ["W + BA", "lora", ghost]]);

      const way = turn > 0 ? "against the clock" : "with the clock";
      const product = state.order === "R" ? "R" : "Rᵀ";
      fig.say(
        state.third
          ? "Three mirrors leave the F mirrored, wherever they stand: an odd number of reflections is never the identity."
          : identity
            ? "The mirrors lie on each other: the first flips the F, the second flips it back. Nothing moves."
            : `The mirrors stand ${Math.abs(gap)}° apart, and ${product} turns the F by ${Math.abs(turn)}° ${Math.abs(turn) === 180 ? "" : way}. ` +
              "The rows turn with it and keep their lengths and angles; W + BA, as far from W, does not.",
      );
      fig.root.dataset.turn = state.third ? "mirrored" : turn; // for whoever scripts this page
    });

    function show(node, lines) {
      const cell = (text, name, how = "") => html("td", { style: `padding: 1px 7px; border: 0; white-space: nowrap; text-align: right; color: var(--al-${name}); background: none; ${how}` }, text);
      const head = ["", "|a|", "|b|", "|c|", "a to b", "b to c"].map((text) => cell(text, "muted"));
      const body = lines.map(([label, name, [a, b, c]]) => [
        cell(label, name, "text-align: left; font-weight: 600"),
        ...[a, b, c].map((v) => cell(length(v).toFixed(2), name)),
        ...[angleBetween(a, b), angleBetween(b, c)].map((v) => cell(`${rounded(v, 0)}°`, name)),
      ]);
      node.replaceChildren(html("tbody", {}, ...[head, ...body].map((cells) => html("tr", { style: "background: none; border: 0" }, ...cells))));
    }
  },
};
