/* The run scrubber: one slider through a training run, and everything at that step. */
import { colour, figure, html, num, plot, svg } from "./blocks.js";

export default {
  render(context) {
    const { model } = context;
    let data = model.get("data");
    const last = () => data.losses.length;
    const fig = figure(context, {
      title: `${data.label} learns ${data.task}: drag the step`,
      caption:
        `Steps of a recorded run. ${layerName(data.layer)} is the layer whose change ΔW is taken apart.` +
        (data.ghosts.length ? ` Thin behind it: ${data.ghosts.map((ghost) => ghost.label).join(", ")}.` : ""),
      start: { step: last() < data.steps ? last() : 0 },
    });
    const go = (x) => fig.set({ step: Math.max(0, Math.min(last(), Math.round(x))) });

    const slider = fig.slider("step", { label: "step", min: 0, max: data.steps, step: 1, format: (v) => `${v} of ${data.steps}` });
    slider.el.classList.add("al-wide");
    slider.input.addEventListener("input", () => go(+slider.input.value)); // not beyond what has been trained yet

    const answer = html("p", { class: "al-answer-now" });
    const strip = answers(go);
    const across = { domain: [0, data.steps] };
    const losses = plot({ label: "loss of the batch, nats per token", x: across, y: { log: true, format: num }, height: 150, right: 58, scrub: go });
    const scores = plot({ label: "held-out exact match", x: across, y: { domain: [0, 1] }, height: 150, right: 58, scrub: go });
    const gradients = plot({ label: "norm of the gradient, by kind of parameter", x: across, y: { log: true, format: num }, height: 150, right: 58, scrub: go });
    const values = plot({ label: "singular values of ΔW", x: { domain: [0.5, 12.5] }, right: 58, y: { log: true, format: num }, height: 150 });
    fig.row(html("div", {}, answer, strip.el));
    fig.row(losses, scores);
    fig.row(gradients, values);

    fig.draw(({ step }) => {
      const now = at(data.answers, step);
      const right = now === data.wanted;
      answer.replaceChildren(
        html("span", {}, data.prompt),
        html("strong", { style: `color: ${colour(right ? data.name : "muted")}` }, now ?? "…"),
        html("span", { class: "al-wanted" }, right ? "✓ right" : `wanted ${data.wanted}`),
      );
      strip.draw(data, step);

      const rules = [{ x: step, colour: "muted" }];
      const curve = (points, how) => [
        { points, ...how, width: 1.25, faint: true, label: null },
        { points: points.filter(([x]) => x <= step), ...how, label: null },
        { points: points.slice(-1), ...how, width: 0 }, // only its label, at the end
      ];
      const byStep = (list) => list.map((y, k) => [k, y]);
      const ghosts = (points) => data.ghosts.map((ghost) => ({ points: points(ghost), colour: ghost.name, faint: true, width: 1 }));
      const here = Math.min(step, last() - 1);
      const loss = data.losses[here];
      const score = at(data.scores, step);
      losses.draw({
        lines: [...ghosts((g) => byStep(g.losses)), ...curve(byStep(data.losses), { colour: data.name })],
        rules,
        marks: loss == null ? [] : [{ x: here, y: loss, colour: data.name }],
        title: `loss of the batch, nats per token: ${num(loss ?? NaN, 2)}`,
        y: { domain: spread([data.losses, ...data.ghosts.map((g) => g.losses)].flat()) },
      });
      scores.draw({
        lines: [...ghosts((g) => g.scores), ...curve(data.scores, { colour: data.name })],
        rules,
        marks: score == null ? [] : [{ x: at(data.scores.map(([k]) => [k, k]), step), y: score, colour: data.name }],
        title: `held-out exact match: ${num(score ?? NaN, 2)}`,
      });
      const kinds = Object.entries(data.gradients);
      const paint = (i) => (kinds.length === 1 ? data.name : ["ink", data.name, "muted"][i % 3]);
      gradients.draw({
        lines: kinds.flatMap(([kind, list], i) => curve(byStep(list), { colour: paint(i), label: kind })),
        rules,
        y: { domain: spread(kinds.flatMap(([, list]) => list)) },
      });
      const k = data.looks.filter((look) => look <= step).length - 1;
      values.draw({
        lines: [
          ...data.ghosts.map((ghost) => ({ points: numbered(at(ghost.spectra, step)), colour: ghost.name, faint: true, dots: true, width: 0 })),
          { points: numbered(data.spectra[k]), colour: data.name, dots: true, width: 0 },
        ],
        y: { domain: spread([data.spectra, ...data.ghosts.map((ghost) => ghost.spectra.map(([, list]) => list))].flat(2)) },
        title: `singular values of ΔW, ${num(100 * (data.shares[k] ?? 0), 2)} % of W`,
      });
      fig.say(
        `${step ? `After ${step} step${step > 1 ? "s" : ""}` : "Before the first step"} it answers ${now ?? "nothing yet"}` +
          (right ? ", as it should." : `, and should say ${data.wanted}.`) +
          (score == null ? "" : ` Of the held-out examples it gets ${Math.round(100 * score)} % right.`),
      );
    });

    // With a kernel the run grows while it is watched; the step goes along unless the reader has taken hold of it.
    model.on("change:data", () => {
      const atEnd = fig.state.step === last();
      data = model.get("data");
      fig.set(atEnd ? { step: last() } : {});
    });
  },
};

/** The value of the last [step, value] that is not later than this step. */
const at = (pairs, step) => pairs.findLast(([k]) => k <= step)?.[1];

/** Singular values over their index, without those that are rounding. */
const numbered = (list = []) => list.map((v, i) => [i + 1, v]).filter(([, v]) => v > 0);

/** A logarithmic axis that holds these values, and not the zeros among them. */
function spread(values) {
  const seen = values.filter((v) => v > 0);
  return seen.length ? [Math.min(...seen) * 0.8, Math.max(...seen) * 1.25] : [0.1, 10];
}

/** "model.layers.1.self_attn.q_proj" -> "q_proj of block 2" */
function layerName(path) {
  const [, block] = path.match(/\.(\d+)\./) ?? [];
  return path.split(".").at(-1) + (block == null ? "" : ` of block ${+block + 1}`);
}

/** What was answered when: a band per run, in colour where the answer is right. */
function answers(go) {
  const root = svg("svg", { class: "al-plot al-scrub", role: "img" });
  const move = (event) => {
    const box = root.getBoundingClientRect();
    go(root.steps * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
  };
  root.addEventListener("pointerdown", (event) => (root.setPointerCapture(event.pointerId), move(event)));
  root.addEventListener("pointermove", (event) => root.hasPointerCapture(event.pointerId) && move(event));
  return {
    el: html("div", { class: "al-view" }, root),
    draw(data, step) {
      const width = Math.max(200, root.clientWidth || 600);
      const X = (k) => (k / data.steps) * width;
      root.steps = data.steps;
      const rows = [data, ...data.ghosts.filter((ghost) => ghost.answers.length)];
      const parts = [];
      let top = 0;
      for (const run of rows) {
        const tall = run === data ? 32 : 14;
        const end = run.losses.length;
        run.answers.forEach(([from, text], i) => {
          const [x, w] = [X(from), X(run.answers[i + 1]?.[0] ?? end) - X(from)];
          const right = text === data.wanted;
          const fill = right ? colour(run.name) : colour("grid");
          parts.push(svg("rect", { x, y: top, width: Math.max(0, w - 1), height: tall, rx: 3, fill, opacity: run === data ? 1 : 0.6 }));
          if (run === data && w > 9 * text.length + 8)
            parts.push(svg("text", { x: x + w / 2, y: top + 21, "text-anchor": "middle", fill: colour(right ? "card" : "ink") }, text));
        });
        if (run !== data) parts.push(svg("text", { x: 4, y: top + 11, class: "al-small", fill: colour("ink") }, run.label));
        top += tall + 3;
      }
      parts.push(svg("line", { x1: X(step), x2: X(step), y1: -3, y2: top, stroke: colour("ink"), "stroke-width": 2 }));
      root.setAttribute("viewBox", `0 0 ${width} ${top}`);
      root.setAttribute("height", top);
      root.setAttribute("aria-label", data.answers.map(([k, text]) => `from step ${k}: ${text}`).join(", "));
      root.replaceChildren(...parts);
    },
  };
}
