/* Two gates on two hidden units of a feed-forward block: after up_proj they stretch its rows, before down_proj they turn
   down_proj's rows, and the block computes the same. */
import { figure, html, num, plane } from "./blocks.js";

const SCALE = 0.8; // where an axis handle of gate 1 stands
const MOST = 2;

const dot = (a, b) => a[0] * b[0] + a[1] * b[1];
const size = (v) => Math.hypot(...v);
const apply = (matrix, v) => matrix.map((row) => dot(row, v));
const silu = (v) => v / (1 + Math.exp(-v));
const gateValue = (g) => Math.round(20 * Math.min(MOST, Math.max(0, g))) / 20;
const turnOf = (v, w) => (size(v) && size(w) ? (Math.abs(Math.atan2(v[0] * w[1] - v[1] * w[0], dot(v, w))) * 180) / Math.PI : null);

/** The block's output for x: down(silu(gate x) * up x), from matrices that hold their gates already. */
const blockOutput = ({ up, gate, down }, x) => {
  const opened = apply(gate, x).map(silu);
  return apply(down, apply(up, x).map((h, k) => h * opened[k]));
};

export default {
  render(context) {
    const data = context.model.get("data");
    const { up, down, x } = data;
    const fig = figure(context, {
      title: "Carry two gates from one side to the other",
      caption:
        "Two hidden units of a feed-forward block and three of its outputs, cut out of the trained weights. Grey: without " +
        "gates. Drag a round handle, or move it by the arrow keys; then carry the gates to the other side.",
      start: { gates: [1, 1], side: "input" },
    });
    fig.choice("side", { label: "Where do the two gates stand?", options: [["output", "after up: IA3"], ["input", "before down: IA3-FF"]] });

    const corners = [0, MOST].flatMap((a) => [0, MOST].map((b) => [a, b])); // everything is linear in each gate
    const heights = corners.flatMap((g) => [...gatedInput(down, g), up[0].map((v) => v * g[0]), up[1].map((v) => v * g[1]), [0, SCALE * g[1]]]).map((row) => row[1]);
    const box = { x: [-1.75, 1.75], y: [Math.min(-0.5, ...heights) - 0.3, Math.max(0.5, ...heights) + 0.3] };
    const left = plane({ label: "rows of up_proj, in two input features", ...box });
    const right = plane({ label: "rows of down_proj, in the two hidden units", ...box });
    const base = blockOutput(data, x);
    const ends = corners.map((g) => blockOutput({ ...data, down: gatedInput(down, g) }, x));
    const span = (i) => [Math.min(...ends.map((y) => y[i])), Math.max(...ends.map((y) => y[i]))];
    const pad = 0.2 * Math.max(span(0)[1] - span(0)[0], span(1)[1] - span(1)[0]);
    const around = (i) => [span(i)[0] - pad, span(i)[1] + pad];
    const out = plane({ label: "outputs a and b of the block, for one input", x: around(0), y: around(1) });
    out.svg.style.maxWidth = "260px";
    const table = html("table", { style: "border-collapse: collapse; margin: 0 auto; font-size: 14px; width: auto" });

    const change = (k, g, state) => ({ gates: state.gates.map((old, i) => (i === k ? gateValue(g) : old)) });
    const knobs = { input: [], output: [] };
    for (const k of [0, 1]) {
      const words = (g) => `gate ${k + 1} is ${num(g)}`;
      knobs.input.push(
        fig.handle(right, {
          label: `gate ${k + 1}, on an axis of down_proj`,
          colour: "ia3_ff",
          at: (s) => (k === 0 ? [SCALE * s.gates[0], 0] : [0, SCALE * s.gates[1]]),
          move: (to, s) => change(k, to[k] / SCALE, s),
          format: (to) => words(to[k] / SCALE),
        }),
      );
      knobs.output.push(
        fig.handle(left, {
          label: `gate ${k + 1}, on a row of up_proj`,
          colour: "ia3",
          at: (s) => up[k].map((v) => v * s.gates[k]),
          move: (to, s) => change(k, dot(to, up[k]) / dot(up[k], up[k]), s),
          format: (to) => words(dot(to, up[k]) / dot(up[k], up[k])),
        }),
      );
    }
    for (const [side, pair] of Object.entries(knobs)) {
      pair.forEach(({ el }, k) => {
        // A gate is one number: every arrow key turns it up or down.
        el.addEventListener(
          "keydown",
          (event) => {
            const sense = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
            if (!sense) return;
            event.preventDefault();
            event.stopImmediatePropagation();
            fig.set(change(k, fig.state.gates[k] + sense * (event.shiftKey ? 0.25 : 0.05), fig.state));
          },
          true,
        );
        el.dataset.side = side;
      });
    }
    fig.row(left, right);
    const below = fig.row(out, table);
    below.style.alignItems = "center";

    fig.draw(({ gates, side }) => {
      Object.entries(knobs).forEach(([name, pair]) => pair.forEach(({ el }) => (el.style.display = name === side ? "inline" : "none")));
      const name = side === "output" ? "ia3" : "ia3_ff";
      const stretched = up.map((row, k) => row.map((v) => v * gates[k]));
      const turned = gatedInput(down, gates);
      const now = side === "output" ? { up: stretched, down } : { up, down: turned };
      drawRows(left, up, now.up, ["u₁", "u₂"], side === "output" ? name : "base");
      drawRows(right, down, now.down, ["a", "b", "c"], side === "input" ? name : "base");

      const here = blockOutput({ ...data, ...now }, x);
      const there = blockOutput({ ...data, ...(side === "output" ? { up, down: turned } : { up: stretched, down }) }, x);
      const off = Math.max(...here.map((v, i) => Math.abs(v - there[i])));
      out.draw(
        out.line(base[0], base[1], here[0], here[1], { colour: "grid", width: 2 }),
        out.dot(base[0], base[1], { colour: "base", size: 5 }),
        out.text(base[0], base[1], "no gates", { colour: "base", anchor: "middle", shift: [0, 24] }),
        out.dot(here[0], here[1], { colour: name, size: 6 }),
        out.circle(there[0], there[1], 11 / out.scale, { colour: side === "output" ? "ia3_ff" : "ia3", width: 2 }),
      );
      show([["u₁", up[0], now.up[0]], ["u₂", up[1], now.up[1]], ...["a", "b", "c"].map((row, i) => [row, down[i], now.down[i]])]);

      const turns = now.down.map((row, i) => turnOf(down[i], row)).filter((t) => t !== null);
      const same = off < 1e-12 ? "0" : num(off);
      fig.say(
        gates.every((g) => g === 1)
          ? "Both gates are 1: nothing has moved on either side."
          : (side === "output"
              ? `On up_proj's output the gates ${gates.map((g) => num(g)).join(" and ")} stretch its rows, and none turns.`
              : `On down_proj's input the gates ${gates.map((g) => num(g)).join(" and ")} stretch the axes: its rows turn, by up to ${Math.round(Math.max(...turns))}°.`) +
              ` The ring is the block's output with the same gates on the other side: the difference is ${same}.`,
      );
      fig.root.dataset.seen = JSON.stringify({ ...now, here, there, gates }); // for whoever scripts this page
    });

    function drawRows(p, before, after, names, paint) {
      p.draw(
        paint === "base" ? [] : before.map((row) => p.arrow(0, 0, ...row, { colour: "base", width: 1.5 })),
        after.map((row) => p.arrow(0, 0, ...row, { colour: paint, width: paint === "base" ? 2 : 3 })),
        before.filter((row, i) => size(row) !== size(after[i])).map((row) => p.dot(...row, { colour: "base", size: 3.5 })), // a longer arrow hides the old tip
        after.map((row, i) => {
          const along = size(row) > 0.05 ? row : before[i]; // a gate of 0 leaves no direction
          const beyond = Math.max(size(row), turnOf(before[i], along) < 10 ? size(before[i]) : 0) + 0.24; // clear of both arrows
          const [a, b] = along.map((v) => (v / size(along)) * beyond);
          return p.text(a, b, names[i], { colour: paint, anchor: "middle", shift: [0, 5], bold: true });
        }),
      );
    }

    function show(rows) {
      const cell = (text, how = "") => html("td", { style: `padding: 1px 9px; border: 0; white-space: nowrap; text-align: right; background: none; ${how}` }, text);
      const line = (...cells) => html("tr", { style: "background: none; border: 0" }, ...cells);
      const head = line(...["row", "length", "turned"].map((text) => cell(text, "color: var(--al-muted)")));
      const body = rows.map(([label, before, after]) => {
        const turn = turnOf(before, after);
        return line(cell(label, "font-weight: 600"), cell(`× ${(size(after) / size(before)).toFixed(2)}`), cell(turn === null ? "" : `${Math.round(turn)}°`));
      });
      table.replaceChildren(html("tbody", {}, head, ...body));
    }
  },
};

function gatedInput(down, gates) {
  return down.map((row) => row.map((v, k) => v * gates[k]));
}
