/* A row of weights over the levels that its blocks can hold. One weight is the reader's: a block's scale is its largest. */
import { figure, floats, html, num, plane } from "./blocks.js";

/** Codes, scales and what they give back, in float32 as bitsandbytes computes it. */
function quantise(row, kind, size, values) {
  const f = Math.fround;
  const codes = [];
  const scales = [];
  const back = [];
  const length = kind === "int8" ? row.length : size;
  const order = values && values.map((_, i) => i).sort((i, j) => values[i] - values[j] || i - j);
  const bounds = order && order.slice(1).map((i, k) => f(f(f(values[order[k]]) + f(values[i])) / 2));
  for (let from = 0; from < row.length; from += length) {
    const block = row.slice(from, from + length);
    const scale = block.reduce((most, w) => Math.max(most, Math.abs(w)), 0);
    scales.push(scale);
    for (const w of block) {
      if (kind === "int8") {
        const code = even(f(w * f(127 * f(1 / scale)))); // as torch computes 127 / scale
        codes.push(code);
        back.push(f(code * f(scale / 127)));
      } else {
        const x = f(w * f(1 / scale));
        const above = bounds.findIndex((bound) => x <= bound);
        const code = order[above < 0 ? bounds.length : above];
        codes.push(code);
        back.push(f(f(values[code]) * scale));
      }
    }
  }
  return { codes, scales, back, length };
}

/** To the nearest whole number, ties to even. */
function even(x) {
  const down = Math.floor(x);
  return x - down > 0.5 || (x - down === 0.5 && down % 2) ? down + 1 : down;
}

const share = (x) => `${num(100 * x, 2)}\u00a0%`;
const size = (values) => Math.hypot(...values);
const hex = (code, digits) => (code & (digits === 1 ? 15 : 255)).toString(16).padStart(digits, "0");

export default {
  render(context) {
    const { row: bytes, name, at: first, codes: tables, sizes, reach, enlarged } = context.model.get("data");
    const row = Array.from(floats(bytes));
    const values = Object.fromEntries(tables);
    const n = row.length;
    const width = 1.74; // the plane has equal units
    const dx = width / n;
    const X = (i) => (i + 0.5) * dx;
    const typical = size(row) / Math.sqrt(n);

    const fig = figure(context, {
      title: "One weight pulls on its block",
      caption:
        `${n} weights of a row of ${name}. Dots are the weights, lines the levels that their block can hold, and each stem leads ` +
        "from a weight to where it is stored. Drag the handle, sideways to another weight; the arrow keys move it too.",
      start: { kind: "nf4", size: 64, at: first, value: row[first] },
    });
    fig.choice("kind", { label: "stored as", options: [...tables.map(([kind]) => [kind, kind]), ["int8", "int8"]] });
    const blocks = fig.choice("size", { label: "weights in a block", options: sizes.map((size) => [size, String(size)]) });

    const space = plane({ label: "", x: [0, width], y: [-reach, reach] });
    const errors = plane({ label: `what rounding changes, ${enlarged} times larger`, x: [0, width], y: [-0.5, 0.5] });
    const snap = (v) => Math.round(Math.max(-reach, Math.min(reach, v)) * 1024) / 1024; // what a float16 holds
    const knob = fig.handle(space, {
      label: "weight",
      at: (s) => [X(s.at), s.value],
      move: ([x, y], s) => ({ at: Math.max(0, Math.min(n - 1, Math.floor(x / dx))), value: snap(y) }),
      format: () => `weight ${fig.state.at + 1} is ${num(fig.state.value)}`,
    });
    // Sideways a key goes to the next weight, however wide that is; a weight that is left is its own again.
    knob.el.addEventListener(
      "keydown",
      (event) => {
        const [side, up] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key] ?? [];
        if (side == null) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        const far = event.shiftKey ? 5 : 1;
        fig.set({
          at: Math.max(0, Math.min(n - 1, fig.state.at + side * far)),
          value: snap(fig.state.value + (up * far) / 32),
        });
      },
      true,
    );
    fig.row(space, errors);
    const table = html("table");
    table.style.cssText = "margin: 6px 0 0; font-size: 14px; font-variant-numeric: tabular-nums; border-collapse: collapse; width: 100%";
    const bits = html("p", { class: "al-view-title" });
    const stored = html("div");
    stored.style.cssText = "font: 13px/1.5 ui-monospace, 'DejaVu Sans Mono', monospace; overflow-wrap: anywhere";
    fig.row({ el: html("div", {}, table) }, { el: html("div", { class: "al-view" }, bits, stored) });

    fig.draw((s) => {
      const now = row.slice();
      now[s.at] = s.value;
      const found = quantise(now, s.kind, s.size, values[s.kind]);
      const { codes, scales, back, length } = found;
      const wide = s.kind === "int8";
      blocks.el.style.opacity = wide ? 0.45 : 1; // int8 has no blocks
      const mine = Math.floor(s.at / length);
      const off = scales.map((_, b) => {
        const inside = now.map((w, i) => i).filter((i) => Math.floor(i / length) === b && i !== s.at);
        return size(inside.map((i) => back[i] - now[i])) / size(inside.map((i) => now[i]));
      });

      const edge = (b) => [b * length * dx, (b + 1) * length * dx];
      const levels = scales.map((scale, b) => {
        const [from, to] = edge(b);
        const box = [[from, scale], [to, scale], [to, -scale], [from, -scale]];
        const own = { fill: "grid", colour: "grid", opacity: wide ? 0.9 : b === mine ? 0.75 : 0.35, width: 1 };
        const lines = wide ? [] : values[s.kind].map((v) => space.line(from, v * scale, to, v * scale, { colour: "muted", width: 0.8, opacity: 0.8 }));
        return [space.polygon(box, own), ...lines];
      });
      const borders = (p, high) => scales.slice(1).map((_, b) => p.line(edge(b)[1], -high, edge(b)[1], high, { colour: "muted", width: 1, dash: "2 3" }));
      space.draw(
        levels.flat(),
        borders(space, reach),
        now.map((w, i) => space.line(X(i), w, X(i), back[i], { colour: "minus", width: 1.5 })),
        now.map((w, i) => space.dot(X(i), w, { size: 1.7 })),
      );
      const limit = (v) => Math.max(-0.5, Math.min(0.5, v));
      errors.draw(
        borders(errors, 0.5),
        now.map((w, i) => errors.line(X(i), 0, X(i), limit(enlarged * (back[i] - w)), { colour: "minus", width: 1.8 })),
      );
      space.el.querySelector("p").textContent = wide
        ? "the weights, and 255 levels for all of them, too close to draw"
        : `the weights, and the 16 levels of each block of ${length}`;

      const head = ["block", "scale", "the others are off by"];
      table.replaceChildren(
        html("thead", {}, html("tr", {}, ...head.map((words) => cell("th", words)))),
        html("tbody", {}, ...scales.map((scale, b) => {
          const line = html("tr", {}, cell("td", wide ? "the row" : String(b + 1)), cell("td", num(scale)), cell("td", share(off[b])));
          line.style.fontWeight = b === mine ? 600 : 400;
          return line;
        })),
      );
      const digits = wide ? 2 : 1;
      const shown = Math.min(length, 64);
      const from = Math.floor(s.at / shown) * shown;
      bits.textContent = `stored: ${length} codes of ${4 * digits} bits and a float: ${num(4 * digits + 32 / length, 4)} bits a weight${wide ? "; half the row" : ""}`;
      stored.replaceChildren(
        ...codes.slice(from, from + shown).flatMap((code, i) => {
          const piece = html(from + i === s.at ? "b" : "span", {}, hex(code, digits));
          if (from + i === s.at) piece.style.textDecoration = "underline";
          const gap = wide ? true : i % 8 === 7;
          return gap ? [piece, " "] : [piece];
        }),
      );
      const others = off.filter((_, b) => b !== mine);
      fig.say(tell(s, { off: off[mine], others, scale: scales[mine], own: row[s.at], typical, wide, length, mine }));
      Object.assign(fig.root.dataset, { codes: codes.join(","), scales: scales.join(","), back: back.join(",") }); // for whoever scripts this page
    });
  },
};

function cell(kind, words) {
  const made = html(kind, {}, words);
  made.style.cssText = "text-align: left; padding: 1px 14px 1px 0; border: 0";
  return made;
}

function tell(s, { off, others, scale, own, typical, wide, length, mine }) {
  const times = Math.abs(s.value) / typical;
  const who = `Weight ${s.at + 1} is ${num(s.value)}`;
  const largest = Math.abs(s.value) === scale;
  if (wide) {
    const how = largest ? `${who}, the largest, and sets the scale of the whole row.` : `${who}; the row has one scale, its largest weight.`;
    return `${how} 255 levels between are fine enough: all others are off by ${share(off)}.`;
  }
  const rest = others.length === 0 ? "There is no other block." : `The other ${others.length > 1 ? "blocks, off by " : "block, off by "}${others.map(share).join(", ")}, ${others.length > 1 ? "do" : "does"} not notice.`;
  if (!largest) return `${who}${s.value === own ? "" : `, where it was ${num(own)}`}. Each block's scale is its largest weight; this one is not, so it moves nothing but itself. The others in its block are off by ${share(off)}.`;
  return `${who}, ${num(times, 2)} times a typical one, and the largest of block ${mine + 1}: it alone sets the scale. The ${length - 1} others share what levels are left near zero and are off by ${share(off)}. ${rest}`;
}
