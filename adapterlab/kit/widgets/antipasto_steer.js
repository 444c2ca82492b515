/* A trained AntiPaSTO under a coefficient and a cap: two axes turn and stretch, answers and scores follow. */
import { figure, html, num, plane, plot } from "./blocks.js";

/** The angle, and where W' takes v1 and v2 in (u1, u2): diag(S + c dS) R, R the capped Cayley rotation of one entry. */
function steeredTips({ S, dS, t }, cap, c) {
  const limit = 2 * Math.tan(cap / 2);
  const angle = 2 * Math.atan((limit * Math.tanh((c * t) / 2 / limit)) / 2);
  const [one, two] = S.map((s, k) => s + c * dS[k]);
  const [x, y] = [Math.cos(angle), Math.sin(angle)];
  return { angle, tips: [[one * x, -two * y], [one * y, two * x]] };
}

/** How far the image of the unit circle reaches along each output axis. */
const radii = ([v, w]) => [Math.hypot(v[0], w[0]), Math.hypot(v[1], w[1])];

export default {
  render(context) {
    const { pair, caps, trained, coefficients, prompts, answers, scores, cosines } = context.model.get("data");
    const fig = figure(context, {
      title: "Steer it both ways",
      caption:
        `In the picture: the two singular axes of one layer that training turned most (${pair.axes.join(" and ")}), without the others. ` +
        `W takes each to a grey arrow, W′ to a coloured one, and W′ at the opposite coefficient to a thin one. Answers and scores are the whole ` +
        `model's, computed beforehand. It was trained at coefficient 1 and cap ${num(trained)} alone.`,
      start: { c: 1, cap: trained },
    });
    const share = (v) => v.toFixed(2);
    const signed = (c) => (c > 0 ? `+${num(c)}` : num(c));
    const slide = fig.slider("c", { label: "coefficient", values: coefficients, format: signed });
    slide.el.classList.add("al-wide");
    fig.choice("cap", { label: "cap (max_angle), radians", options: caps.map((cap) => [cap, num(cap)]) });

    const [wide, high] = [0, 1].map((k) => 1.4 * Math.max(...caps.flatMap((cap) => coefficients.flatMap((c) => radii(steeredTips(pair, cap, c).tips)[k]))));
    const p = plane({ label: "where W and W′ take two axes of the input", x: [-wide, wide], y: [-high, high] });
    const list = html("table", { style: "border-collapse: collapse; width: 100%; margin: 4px 0 0" });
    const beside = html("div", { class: "al-view" }, html("p", { class: "al-view-title" }, "the model's answers"), list);
    beside.style.justifyContent = "center";
    fig.row(p, beside);

    const looks = { add_rev: ["antipasto", 3], "add, sub": ["ink", 2], sort: ["muted", 2] };
    const legend = html("p", { class: "al-view-title" }, "exact match:");
    for (const [name, [hue]] of Object.entries(looks)) legend.append(" ", html("span", { style: `color: var(--al-${hue}); font-weight: 600; white-space: nowrap; margin-left: 0.35em` }, name));
    const axis = { label: "coefficient", domain: [coefficients[0], coefficients.at(-1)] };
    const toCoefficient = (x) => fig.set({ c: coefficients.reduce((a, b) => (Math.abs(b - x) < Math.abs(a - x) ? b : a)) });
    const behaviour = plot({ label: "behaviour", x: axis, y: { domain: [0, 1] }, height: 190, scrub: toCoefficient });
    const weights = plot({ label: "weights", x: axis, y: { domain: [-1, 0] }, height: 190, scrub: toCoefficient });
    behaviour.el.querySelector(".al-view-title").replaceWith(legend);
    fig.row(behaviour, weights);

    const half = (coefficients.length - 1) / 2; // coefficients[half] is 0, and cosines begin after it
    fig.draw(({ c, cap }) => {
      const [k, i] = [caps.indexOf(cap), coefficients.indexOf(c)];
      const opposite = coefficients.length - 1 - i;
      const here = steeredTips(pair, cap, c);
      const there = steeredTips(pair, cap, -c);
      const base = steeredTips(pair, cap, 0);
      const ring = ([v, w], how) =>
        p.polygon(Array.from({ length: 72 }, (_, n) => [Math.cos((n * Math.PI) / 36), Math.sin((n * Math.PI) / 36)]).map(([a, b]) => [a * v[0] + b * w[0], a * v[1] + b * w[1]]), how);
      p.draw(
        ring(base.tips, { colour: "base", width: 1.25 }),
        ring(here.tips, { colour: "antipasto", width: 1.5 }),
        base.tips.map((v) => p.arrow(0, 0, ...v, { colour: "base", width: 2 })),
        c ? there.tips.map((v) => p.arrow(0, 0, ...v, { colour: "antipasto", width: 1.25, opacity: 0.6 })) : null,
        here.tips.map((v) => p.arrow(0, 0, ...v, { colour: "antipasto", width: 3 })),
        here.tips.map((v, n) => p.text(...v, `W′v${"₁₂"[n]}`, { colour: "antipasto", anchor: n && v[0] < 0 ? "end" : "start", shift: n ? [v[0] < 0 ? -5 : 5, -6] : [5, v[1] > 0 ? -4 : 14], bold: true })),
      );

      const cell = (words, style) => html("td", { style: `border: 0; background: none; padding: 4px 5px; height: 34px; overflow-wrap: anywhere; ${style}` }, words);
      const mono = "font-family: ui-monospace, monospace;";
      const short = (words) => (words.length > 12 ? `${words.slice(0, 11)}…` : words || "(nothing)");
      list.replaceChildren(
        html("tbody", {}, ...prompts.map((prompt, n) => {
          const [now, plain] = [answers[k][i][n], answers[k][half][n]];
          return html("tr", { style: "background: none; border: 0" }, cell(prompt, `${mono} font-size: 14px; white-space: nowrap`), cell(short(now), `${mono} font-size: ${now.length > 8 ? 13 : 16}px; font-weight: 600`), cell(now === plain ? "as the base" : `base: ${plain}`, "color: var(--al-muted); font-size: 13px"));
        })),
      );

      const lines = Object.entries(looks).map(([name, [hue, width]]) => ({ points: coefficients.map((x, n) => [x, scores[name][k][n]]), colour: hue, width }));
      const [task, sums] = [scores.add_rev[k], scores["add, sub"][k]];
      behaviour.draw({ lines, rules: [{ x: c, colour: "muted" }], marks: [{ x: c, y: task[i], colour: "antipasto" }], describe: `Exact match at ${signed(c)}: ${Object.keys(looks).map((name) => `${name} ${share(scores[name][k][i])}`).join(", ")}.` });
      const mirrored = (row) => coefficients.map((x, n) => [x, row[Math.abs(n - half) - 1] ?? -1]);
      const cosine = c ? cosines[k][Math.abs(i - half) - 1] : -1;
      weights.draw({
        lines: cosines.map((row, n) => ({ points: mirrored(row), colour: "antipasto", width: n === k ? 3 : 1, faint: n !== k, label: num(caps[n]) })),
        rules: [{ x: c, colour: "muted" }],
        marks: [{ x: c, y: cosine, colour: "antipasto" }],
        title: "cosine of dW(c) and dW(−c), by cap",
        describe: `The cosine between dW(c) and dW(−c) is ${num(+cosine.toFixed(2))} at ${signed(c)}; −1 would be a perfect mirror.`,
      });

      const turn = num(Math.abs((here.angle * 180) / Math.PI), 2);
      const how = cosine < -0.9 ? "almost a mirror" : cosine < -0.6 ? "roughly a mirror" : "hardly a mirror";
      fig.say(
        c === 0
          ? "At 0 nothing turns and nothing stretches: this is the base model, bit for bit."
          : `At ${signed(c)} the pair turns by ${turn}°. The weights are ${how} of those at ${signed(-c)}: cosine ${num(+cosine.toFixed(2))}. ` +
              `Not so the behaviour: add_rev scores ${share(task[i])} here and ${share(task[opposite])} there, plain sums ${share(sums[i])} and ${share(sums[opposite])}.`,
      );
      fig.root.dataset.tips = JSON.stringify(here.tips); // for whoever scripts this page
    });
  },
};
