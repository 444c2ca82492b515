/* Building blocks of the interactive figures. How to write a figure:

   // adapterlab/kit/widgets/turning.js                      # adapterlab/kit/widgets/turning.py
   import { figure, plane } from "./blocks.js";              from .. import style
                                                             from ..show import Picture
   export default {                                          from .figure import Figure
     render(context) {
       const { length } = context.model.get("data");         class Turning(Figure, js="turning.js"):
       const fig = figure(context, {                             """A row of W that the reader turns."""
         title: "Turn the row",
         caption: "What to see, in a sentence.",                 def __init__(self, length: float = 1.0):
         start: { x: length, y: 0, unit: false },                    super().__init__({"length": length})
       });
       fig.toggle("unit", { label: "keep the length" });         def still(self) -> Picture:
       const p = plane({ label: "input space" });                    fig, ax = style.figure()
       fig.handle(p, {                                               ...
         label: "tip of the row",                                    return Picture(fig, "alt text", "caption")
         at: (s) => [s.x, s.y],
         move: ([x, y]) => ({ x, y }),                       # and in __init__.py: from .turning import Turning
       });
       fig.row(p);                                           # a cell of a chapter
       fig.draw((s) => {                                     from adapterlab.kit import widgets
         p.draw(p.circle(0, 0, length), p.arrow(0, 0, s.x, s.y, { colour: "dora" }));
         fig.say(`The row has length ${num(Math.hypot(s.x, s.y))}.`);    widgets.Turning(length=1.5)
       });
     },
   };

   All that can change is in fig.state, which starts as `start`. Controls name the key they hold. Whatever changes
   (a control, a handle, fig.set({...}), Reset, the figure's width, light or dark) ends in one call of what
   fig.draw was given. It reads the state, draws everything, and keeps nothing. fig.say holds the one sentence that
   tells what is seen now; screen readers hear it, so it must carry the lesson alone.

   context.model.get("data") is the dict that Python gave: numbers, strings, lists; arrays come as bytes that
   floats() reads. Colours are names: a variant's ("dora", "ia3_ff", "base", "full"), or "ink", "muted", "grid", "card",
   "good" and "bad" (which are ink and grey: hues are for families).
   Files are ES modules: import from "./blocks.js" and others beside it, with names that are alike in both;
   figure.py joins what is imported into one module, so top-level names must differ between the files. */

// ---- elements ----------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child != null));
  return node;
}

/** html("p", { class: "note", onclick: f }, "text", child): an HTML element. */
export const html = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);

/** The same for SVG. */
export const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, name), attributes, children);

/** A colour by name: colour("dora") follows light and dark. */
export const colour = (name) => (/^[a-z]\w*$/.test(name) ? `var(--al-${name.replace("_", "-")})` : name);

// ---- numbers -----------------------------------------------------------------------------------------

/** Three significant digits for people: 0.0123, 1.2, 45600, 1.2e-5; a true minus sign. */
export function num(x, digits = 3) {
  if (x == null || Number.isNaN(x)) return "not a number";
  if (!Number.isFinite(x)) return x < 0 ? "−∞" : "∞";
  const size = Math.abs(x);
  const text =
    size !== 0 && (size < 1e-3 || size >= 1e6) ? x.toExponential(digits - 2) : String(+x.toPrecision(digits));
  return text.replaceAll("-", "−").replace("e+", "e");
}

/** Float32 numbers out of the bytes that Python's `floats` made. */
export const floats = (view) =>
  new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));

/** Repeatable randomness (mulberry32): uniform() in [0, 1), normal() with mean 0 and variance 1. */
export function random(seed) {
  let a = seed >>> 0;
  const uniform = () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return { uniform, normal };
}

// ---- the frame ---------------------------------------------------------------------------------------

/** The card that holds a figure: title, reset, controls, views, the sentence, the caption. */
export function figure({ model, el }, { title, caption = "", start = {} }) {
  const controls = html("div", { class: "al-controls" });
  const stage = html("div", { class: "al-stage" });
  const said = html("p", { class: "al-say", "aria-live": "polite" });
  const root = html(
    "section",
    // JupyterLab would take arrow keys and letters for its own; the attribute is Lumino's.
    { class: "al-fig", "aria-label": title, "data-lm-suppress-shortcuts": "true" },
    html("div", { class: "al-head" }, html("p", { class: "al-title" }, title), button("Reset", () => fig.reset())),
    controls,
    stage,
    said,
    caption && html("p", { class: "al-caption" }, caption),
  );
  root.addEventListener("keydown", (event) => event.stopPropagation());

  let draw = null;
  let waiting = false;
  const followers = []; // controls that show a part of the state
  const fig = {
    model,
    root,
    state: structuredClone(start),
    /** Change the state and draw again. */
    set(changes) {
      Object.assign(fig.state, changes);
      followers.forEach((follow) => follow(fig.state));
      fig.refresh();
    },
    reset: () => fig.set(structuredClone(start)),
    /** Draw again soon, once however often it is asked. */
    refresh() {
      if (waiting || !draw) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        draw(fig.state);
      });
    },
    /** Say what to draw; called now and after every change, with the state. */
    draw(paint) {
      draw = paint;
      followers.forEach((follow) => follow(fig.state));
      draw(fig.state);
      hideStill(model.get("still_id"));
    },
    /** Views or elements side by side where there is room for each, else below each other; they end on one line.
        fig.row(a, b).classList.add("al-lead") gives the first twice the room of the second. */
    row(...views) {
      const row = html("div", { class: "al-row" }, ...views.map((view) => view.el ?? view));
      stage.append(row);
      return row;
    },
    /** The sentence that tells what is seen. */
    say(text) {
      if (said.textContent !== text) said.textContent = text;
    },
    slider: (key, options) => control(slider({ ...options, onchange: (value) => fig.set({ [key]: value }) }), key),
    choice: (key, options) => control(choice({ ...options, onchange: (value) => fig.set({ [key]: value }) }), key),
    toggle: (key, options) => control(toggle({ ...options, onchange: (value) => fig.set({ [key]: value }) }), key),
    /** A point on a plane that can be dragged: at(state) -> [x, y], move([x, y], state) -> changes of the state. */
    handle(plane, { at, move, ...options }) {
      const point = handle(plane, { ...options, onmove: (place) => fig.set(move(place, fig.state)) });
      followers.push((state) => point.show(at(state)));
      return point;
    },
  };
  function control(made, key) {
    controls.append(made.el);
    followers.push((state) => made.show(state[key]));
    return made;
  }

  el.append(root);
  new ResizeObserver(() => fig.refresh()).observe(root);
  onThemeChange(root, () => fig.refresh());
  return fig;
}

// The picture that stood here before the scripts ran; a style rule also hides one that comes later.
function hideStill(key) {
  if (!key || document.getElementById(`al-hides-${key}`)) return;
  const rule = `[data-al-still="${key}"], .cell_output > .text_html:has(> [data-al-still="${key}"]) { display: none !important }`;
  document.head.append(html("style", { id: `al-hides-${key}` }, rule));
}

function onThemeChange(root, redraw) {
  const watcher = new MutationObserver(() => {
    if (!root.isConnected) return watcher.disconnect();
    redraw();
  });
  const attributeFilter = ["data-theme", "theme", "data-jp-theme-light", "data-jp-theme-name"];
  for (const node of [document.documentElement, document.body]) watcher.observe(node, { attributes: true, attributeFilter });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

// ---- controls: each has .el and .show(value) -----------------------------------------------------------

export const button = (text, onclick) => html("button", { type: "button", class: "al-button", onclick }, text);

/** A range with its label and the value in words. Either min, max, step, or `values`: the stops. */
export function slider({ label, min, max, step = "any", values = null, format = num, onchange }) {
  const input = html("input", {
    type: "range",
    min: values ? 0 : min,
    max: values ? values.length - 1 : max,
    step: values ? 1 : step,
    "aria-label": label,
    oninput: () => onchange(values ? values[+input.value] : +input.value),
  });
  const readout = html("output", { class: "al-readout" });
  return {
    el: html("label", { class: "al-slider" }, html("span", { class: "al-label" }, label, " ", readout), input),
    input,
    show(value) {
      input.value = values ? values.indexOf(value) : value;
      readout.textContent = format(value);
      input.setAttribute("aria-valuetext", format(value));
    },
  };
}

/** One of a few: options are [value, text] pairs. */
export function choice({ label, options, onchange }) {
  const name = `al-${Math.random().toString(36).slice(2)}`; // every figure is a module of its own: no shared counter
  const inputs = options.map(([value]) => html("input", { type: "radio", name, onchange: () => onchange(value) }));
  const texts = options.map(([, text], i) => html("label", { class: "al-option" }, inputs[i], html("span", {}, text)));
  return {
    el: html(
      "div",
      { class: "al-choice", role: "radiogroup", "aria-label": label },
      html("span", { class: "al-label" }, label),
      html("div", { class: "al-options" }, ...texts),
    ),
    show: (value) => options.forEach(([v], i) => (inputs[i].checked = v === value)),
  };
}

/** On or off. */
export function toggle({ label, onchange }) {
  const input = html("input", { type: "checkbox", role: "switch", onchange: () => onchange(input.checked) });
  return {
    el: html("label", { class: "al-toggle" }, input, html("span", { class: "al-label" }, label)),
    show: (value) => (input.checked = value),
  };
}

/** The answers to a question, which is the figure's title: a click commits, then the right one and the reason show. */
export function guess({ question, answers, right, because, onchange }) {
  const marks = answers.map(() => html("span", { class: "al-verdict" }));
  const buttons = answers.map((answer, i) =>
    html("button", { type: "button", class: "al-answer", onclick: () => onchange(i) }, html("span", {}, answer), marks[i]),
  );
  const reason = html("p", { class: "al-reason", "aria-live": "polite" });
  return {
    el: html("div", { class: "al-guess", role: "group", "aria-label": question }, ...buttons, reason),
    show(chosen) {
      const done = chosen != null;
      buttons.forEach((one, i) => {
        one.setAttribute("aria-pressed", i === chosen);
        one.setAttribute("aria-disabled", done); // not `disabled`: the focus stays where it is
        one.classList.toggle("al-right", done && i === right);
        one.classList.toggle("al-wrong", done && i === chosen && i !== right);
        marks[i].textContent = !done ? "" : i === right ? "✓ this is it" : i === chosen ? "✗ your guess" : "";
      });
      reason.textContent = done ? (chosen === right ? "Right. " : "Not this time. ") + because : "";
    },
  };
}

// ---- a plane with points that can be dragged -----------------------------------------------------------

/** A piece of the plane in equal units. draw(...shapes) replaces what is on it; handles stay above. */
export function plane({ label, x = [-1.5, 1.5], y = [-1.5, 1.5], width = 340, axes = true }) {
  const scale = width / (x[1] - x[0]);
  const height = scale * (y[1] - y[0]);
  const X = (v) => (v - x[0]) * scale;
  const Y = (v) => (y[1] - v) * scale;
  const layer = svg("g");
  const top = svg("g");
  const ground = svg("g", { stroke: colour("grid") });
  if (axes) {
    ground.append(
      svg("line", { x1: X(x[0]), x2: X(x[1]), y1: Y(0), y2: Y(0) }),
      svg("line", { x1: X(0), x2: X(0), y1: Y(y[0]), y2: Y(y[1]) }),
    );
  }
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "al-plane" }, ground, layer, top);
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", label);

  const look = ({ colour: name = "ink", width: stroke = 2, dash, fill: inside = "none", opacity } = {}) => ({
    stroke: colour(name),
    "stroke-width": stroke,
    "stroke-dasharray": dash,
    fill: inside === "none" ? "none" : colour(inside),
    opacity,
  });
  return {
    el: html("div", { class: "al-view" }, html("p", { class: "al-view-title" }, label), root),
    svg: root,
    top,
    scale,
    X,
    Y,
    /** The place of a pointer event in the plane's units. */
    place(event) {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(root.getScreenCTM().inverse());
      return [point.x / scale + x[0], y[1] - point.y / scale];
    },
    inside: ([a, b]) => [Math.min(x[1], Math.max(x[0], a)), Math.min(y[1], Math.max(y[0], b))],
    draw: (...shapes) => layer.replaceChildren(...shapes.flat().filter((shape) => shape != null)),
    line: (x1, y1, x2, y2, how) => svg("line", { x1: X(x1), y1: Y(y1), x2: X(x2), y2: Y(y2), ...look(how) }),
    arrow(x1, y1, x2, y2, how = {}) {
      const [a, b, c, d] = [X(x1), Y(y1), X(x2), Y(y2)];
      const long = Math.hypot(c - a, d - b) || 1;
      const tip = Math.min(10, long / 2); // the head never outgrows its arrow
      const [u, v] = [((c - a) / long) * tip, ((d - b) / long) * tip];
      const head = `M${c},${d} L${c - u - v / 2},${d - v + u / 2} L${c - u + v / 2},${d - v - u / 2} Z`;
      return svg(
        "g",
        { opacity: how.opacity },
        svg("line", { x1: a, y1: b, x2: c - u * 0.9, y2: d - v * 0.9, ...look({ ...how, opacity: null }) }),
        svg("path", { d: head, fill: colour(how.colour ?? "ink") }),
      );
    },
    circle: (cx, cy, r, how) => svg("circle", { cx: X(cx), cy: Y(cy), r: r * scale, ...look(how) }),
    dot: (cx, cy, how = {}) => svg("circle", { cx: X(cx), cy: Y(cy), r: how.size ?? 4, fill: colour(how.colour ?? "ink"), opacity: how.opacity }),
    /** points: [[x, y], ...]; closed unless how.open. */
    polygon: (points, how = {}) =>
      svg(how.open ? "polyline" : "polygon", { points: points.map(([a, b]) => `${X(a)},${Y(b)}`).join(" "), "stroke-linejoin": "round", ...look(how) }),
    /** Words at a place; anchor is start, middle or end, and shift moves them by pixels. */
    text: (a, b, words, { colour: name = "ink", anchor = "start", shift = [0, 0], bold = false } = {}) =>
      svg("text", { x: X(a) + shift[0], y: Y(b) + shift[1], fill: colour(name), "text-anchor": anchor, "font-weight": bold ? 600 : 400 }, words),
  };
}

/** A point to drag by mouse or finger, or to move by arrow keys (with Shift five steps at once). */
export function handle(plane, { label, colour: name = "ink", step = 0.05, format = ([a, b]) => `${num(a)}, ${num(b)}`, onmove }) {
  let place = [0, 0];
  let grip = null; // from the pointer to the point, so that it does not jump
  const knob = svg(
    "g",
    { class: "al-handle", tabindex: 0, role: "slider", "aria-label": label, "aria-roledescription": "handle, moved by the arrow keys" },
    svg("circle", { r: 22, class: "al-grip" }),
    svg("circle", { r: 13, class: "al-ring" }),
    svg("circle", { r: 8, fill: colour(name), class: "al-knob" }),
  );
  const go = (to) => onmove(plane.inside(to));
  knob.addEventListener("pointerdown", (event) => {
    const at = plane.place(event);
    grip = [place[0] - at[0], place[1] - at[1]];
    knob.setPointerCapture(event.pointerId);
    knob.focus({ preventScroll: true });
    event.preventDefault();
  });
  // Chromium takes touch-action on no part of an SVG: without this a finger scrolls the page instead.
  knob.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  knob.addEventListener("pointermove", (event) => {
    if (!grip) return;
    const at = plane.place(event);
    go([at[0] + grip[0], at[1] + grip[1]]);
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) knob.addEventListener(end, () => (grip = null));
  knob.addEventListener("keydown", (event) => {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!direction) return;
    const far = step * (event.shiftKey ? 5 : 1);
    go([place[0] + far * direction[0], place[1] + far * direction[1]]);
    event.preventDefault(); // the page does not scroll
  });
  plane.top.append(knob);
  return {
    el: knob,
    show(to) {
      place = to;
      knob.setAttribute("transform", `translate(${plane.X(to[0])} ${plane.Y(to[1])})`);
      knob.setAttribute("aria-valuenow", +to[0].toFixed(3));
      knob.setAttribute("aria-valuetext", format(to));
    },
  };
}

// ---- a matrix as coloured cells ------------------------------------------------------------------------

/** draw(values, limit): row by row; blue is +limit, brown is -limit, the ground is 0. `cell` is a cell's side in px. */
export function matrixView({ label, rows, cols, cell = 6 }) {
  const canvas = html("canvas", { width: cols, height: rows, class: "al-matrix", role: "img" });
  canvas.style.width = `${cols * cell}px`;
  const title = html("p", { class: "al-view-title" }, label);
  return {
    el: html("div", { class: "al-view" }, title, canvas),
    draw(values, limit, words = label) {
      title.textContent = words;
      canvas.setAttribute("aria-label", `${words}, ${rows} by ${cols}`);
      const style = getComputedStyle(canvas);
      const [zero, plus, minus] = ["card", "plus", "minus"].map((name) => rgb(style.getPropertyValue(`--al-${name}`)));
      const brush = canvas.getContext("2d");
      const image = brush.createImageData(cols, rows);
      for (let i = 0; i < rows * cols; i++) {
        const amount = Math.min(1, Math.abs(values[i]) / limit);
        const end = values[i] < 0 ? minus : plus;
        for (let c = 0; c < 3; c++) image.data[4 * i + c] = zero[c] + (end[c] - zero[c]) * amount;
        image.data[4 * i + 3] = 255;
      }
      brush.putImageData(image, 0, 0);
    },
  };
}

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.trim().slice(i, i + 2), 16) || 0);

// ---- lines over axes -----------------------------------------------------------------------------------

/** A line plot as wide as its place, with labels at the lines' ends.

    x, y: { label, log, domain: [from, to], format }. draw({ lines, rules, marks, x, y, describe }) with
    lines: { points: [[x, y], ...], colour, width, dash, faint, dots, label }, rules: vertical, { x, label, colour, dash },
    marks: { x, y, colour, label, ring, below }. `right` is the least room at the right, so that plots below each other line up.
    scrub(x) is called while a finger or mouse moves over it. */
export function plot({ label, x: xAxis = {}, y: yAxis = {}, height = 200, right = 0, scrub = null }) {
  const root = svg("svg", { class: scrub ? "al-plot al-scrub" : "al-plot", role: "img" });
  const title = html("p", { class: "al-view-title" }, label);
  const el = html("div", { class: "al-view" }, title, root);
  let toX = null;
  if (scrub) {
    let down = false;
    const tell = (event) => scrub(toX(event.clientX - root.getBoundingClientRect().left));
    root.addEventListener("pointerdown", (event) => {
      down = true;
      root.setPointerCapture(event.pointerId);
      tell(event);
    });
    root.addEventListener("pointermove", (event) => down && tell(event));
    for (const end of ["pointerup", "pointercancel"]) root.addEventListener(end, () => (down = false));
  }

  function draw({ lines = [], rules = [], marks = [], x = {}, y = {}, describe = "", title: words = label }) {
    title.textContent = words;
    const all = lines.flatMap((line) => line.points);
    const across = { ...xAxis, ...x };
    const up = { ...yAxis, ...y };
    across.domain ??= extent(all.map((p) => p[0]), across.log);
    up.domain ??= extent(all.map((p) => p[1]), up.log);
    const width = Math.max(200, root.clientWidth || 600);
    const longest = Math.max(0, ...lines.map((line) => (line.label ?? "").length));
    const room = longest ? Math.min(width * 0.36, longest * 7 + 14) : 14;
    const box = { left: 46, right: Math.max(right, room), top: 10, bottom: across.label ? 40 : 24 };
    const [w, h] = [width - box.left - box.right, height - box.top - box.bottom];
    const X = scaled(across, 0, w);
    const Y = scaled(up, h, 0);
    toX = (px) => unscaled(across, (px - box.left) / w);

    const frame = svg("g", { transform: `translate(${box.left} ${box.top})` });
    for (const v of ticks(up, h / 42)) {
      frame.append(
        svg("line", { x1: 0, x2: w, y1: Y(v), y2: Y(v), stroke: colour("grid") }),
        svg("text", { x: -8, y: Y(v) + 4, "text-anchor": "end", class: "al-tick" }, written(up, v)),
      );
    }
    for (const v of ticks(across, w / 62)) {
      frame.append(
        svg("line", { x1: X(v), x2: X(v), y1: h, y2: h + 4, stroke: colour("muted") }),
        svg("text", { x: X(v), y: h + 17, "text-anchor": "middle", class: "al-tick" }, written(across, v)),
      );
    }
    frame.append(svg("line", { x1: 0, x2: w, y1: h, y2: h, stroke: colour("muted") }));
    if (across.label) frame.append(svg("text", { x: w, y: h + 34, "text-anchor": "end", class: "al-tick" }, across.label));

    // A nested svg clips what leaves the axes, without an id that another figure could have too.
    const inner = svg("svg", { x: -6, y: -6, width: w + 12, height: h + 6, viewBox: `-6 -6 ${w + 12} ${h + 6}` });
    for (const rule of rules) {
      inner.append(svg("line", { x1: X(rule.x), x2: X(rule.x), y1: -6, y2: h, stroke: colour(rule.colour ?? "ink"), "stroke-width": 1.5, "stroke-dasharray": rule.dash }));
      if (rule.label) {
        const late = X(rule.x) > w * 0.7;
        inner.append(svg("text", { x: X(rule.x) + (late ? -6 : 6), y: 8, "text-anchor": late ? "end" : "start", fill: colour(rule.colour ?? "ink") }, rule.label));
      }
    }
    const ends = [];
    for (const line of lines) {
      const seen = line.points.filter(([a, b]) => Number.isFinite(X(a)) && Number.isFinite(Y(b)));
      if (!seen.length) continue;
      const stroke = colour(line.colour ?? "ink");
      const path = seen.map(([a, b], i) => `${i ? "L" : "M"}${X(a).toFixed(1)},${Y(b).toFixed(1)}`).join("");
      const look = { stroke, opacity: line.faint ? 0.45 : 1, "stroke-dasharray": line.dash };
      inner.append(svg("path", { d: path, fill: "none", "stroke-width": line.width ?? (line.faint ? 1.25 : 2.25), "stroke-linejoin": "round", ...look }));
      if (line.dots) inner.append(...seen.map(([a, b]) => svg("circle", { cx: X(a), cy: Y(b), r: 3, fill: stroke, opacity: look.opacity })));
      const last = seen.findLast(([a, b]) => X(a) <= w + 1 && Y(b) >= -1 && Y(b) <= h + 1); // the end that can be seen
      if (line.label && last) ends.push({ text: line.label, fill: stroke, y: Y(last[1]), x: X(last[0]) });
    }
    for (const mark of marks) {
      const [cx, cy, paint] = [X(mark.x), Y(mark.y), colour(mark.colour ?? "ink")];
      inner.append(svg("circle", { cx, cy, r: mark.ring ? 8 : 5, fill: mark.ring ? "none" : paint, stroke: mark.ring ? paint : colour("card"), "stroke-width": 2 }));
      if (mark.label) {
        const late = cx > w * 0.75;
        const [x, y, anchor] = mark.below ? [cx, cy + 26, "middle"] : [cx + (late ? -12 : 12), Math.max(10, cy - 8), late ? "end" : "start"];
        inner.append(svg("text", { x, y, "text-anchor": anchor, fill: paint, "font-weight": 600 }, mark.label));
      }
    }
    frame.append(inner);
    ends.sort((a, b) => a.y - b.y); // labels that would touch are pushed apart, then back inside
    ends.forEach((end, i) => i && (end.y = Math.max(end.y, ends[i - 1].y + 15)));
    for (let i = ends.length - 1, floor = h; i >= 0; i--, floor -= 15) ends[i].y = Math.min(ends[i].y, floor);
    for (const end of ends) frame.append(svg("text", { x: end.x + 9, y: end.y + 4, fill: end.fill }, end.text));

    root.setAttribute("viewBox", `0 0 ${width} ${height}`);
    root.setAttribute("height", height);
    root.setAttribute("aria-label", describe || words);
    root.replaceChildren(frame);
  }
  return { el, svg: root, draw };
}

const place = (axis, v) => (axis.log ? Math.log10(v) : v);

function scaled(axis, from, to) {
  const [a, b] = axis.domain.map((v) => place(axis, v));
  return (v) => from + ((place(axis, v) - a) / (b - a || 1)) * (to - from);
}

function unscaled(axis, share) {
  const [a, b] = axis.domain.map((v) => place(axis, v));
  const v = a + Math.min(1, Math.max(0, share)) * (b - a);
  return axis.log ? 10 ** v : v;
}

function extent(values, log) {
  const finite = values.filter((v) => Number.isFinite(v) && (!log || v > 0));
  if (!finite.length) return log ? [0.1, 10] : [0, 1];
  return [Math.min(...finite), Math.max(...finite)];
}

function ticks(axis, room) {
  const [a, b] = axis.domain;
  const made = [];
  if (axis.log) {
    const [low, high] = [Math.ceil(Math.log10(a) - 1e-9), Math.floor(Math.log10(b) + 1e-9)];
    const stride = Math.max(1, Math.ceil((high - low + 1) / Math.max(2, room)));
    for (let k = low; k <= high; k += stride) made.push(10 ** k);
    if (made.length < 2) for (const v of [2, 5]) for (const k of [low - 1, low, high]) if (v * 10 ** k >= a && v * 10 ** k <= b) made.push(v * 10 ** k);
    return [...new Set(made)];
  }
  const rough = (b - a || 1) / Math.max(1.5, room);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= rough);
  for (let k = Math.ceil(a / step - 1e-9); k * step <= b + step * 1e-9; k++) made.push(k * step);
  return made;
}

function written(axis, v) {
  if (axis.format) return axis.format(v);
  const power = Math.log10(v);
  if (!axis.log || !Number.isInteger(+power.toFixed(9)) || (v >= 0.1 && v <= 100)) return num(v);
  return "10" + String(Math.round(power)).replace(/./g, (c) => "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"["0123456789-".indexOf(c)]);
}
