/* LoRA retrained in the page: loss against learning rate, for a rank, an alpha and a rule for the scale.

   A layer of d x d has to learn a difference of low rank from noisy batches of its inputs, with Adam, from LoRA's
   start (A as in kaiming_uniform, B zero). lora_rates.py holds the same in numpy, for the still. */
import { figure, num, plot, random } from "./blocks.js";

const RULES = { "α / r": (r, alpha) => alpha / r, "α / √r": (r, alpha) => alpha / Math.sqrt(r) };

/** The task, the same for every setting: { D, norm, seeds: [{ A0, X, noise }] }, inputs and noise step by step. */
export function makeTask({ d, rank, steps, batch, noise, seeds }) {
  const { normal } = random(0);
  const D = new Float64Array(d * d);
  for (let k = 0; k < rank; k++) {
    const u = Array.from({ length: d }, normal);
    const v = Array.from({ length: d }, normal);
    for (let i = 0; i < d; i++) for (let j = 0; j < d; j++) D[i * d + j] += (u[i] * v[j]) / Math.sqrt(d * rank);
  }
  const draws = seeds.map((seed) => {
    const X = Float64Array.from({ length: steps * batch * d }, random(3 * seed).normal);
    const { normal: error } = random(3 * seed + 1);
    return { seed, X, noise: Float64Array.from({ length: steps * batch * d }, () => noise * error()) };
  });
  return { d, steps, batch, D, norm: D.reduce((sum, x) => sum + x * x, 0), draws };
}

/** One training. Returns the share of the difference that is not learnt, and how far A and B are after each step. */
export function trainLora({ d, steps, batch, D, norm }, { seed, X, noise }, r, s, rate, watched = 0) {
  const { uniform } = random(3 * seed + 2);
  const A = Float64Array.from({ length: r * d }, () => (2 * uniform() - 1) / Math.sqrt(d));
  const B = new Float64Array(d * r);
  const start = watched ? A.slice() : null;
  const [stepA, stepB] = [adam(A, rate), adam(B, rate)];
  const [gA, gB] = [new Float64Array(r * d), new Float64Array(d * r)];
  const [h, e] = [new Float64Array(r), new Float64Array(d)];
  const moved = [[0, 0]];
  for (let t = 1; t <= steps; t++) {
    gA.fill(0);
    gB.fill(0);
    for (let n = 0, o = (t - 1) * batch * d; n < batch; n++, o += d) {
      for (let k = 0; k < r; k++) {
        let sum = 0;
        for (let j = 0; j < d; j++) sum += A[k * d + j] * X[o + j];
        h[k] = sum;
      }
      for (let i = 0; i < d; i++) {
        let sum = -noise[o + i];
        for (let j = 0; j < d; j++) sum -= D[i * d + j] * X[o + j];
        for (let k = 0; k < r; k++) sum += s * B[i * r + k] * h[k];
        e[i] = sum;
      }
      for (let k = 0; k < r; k++) {
        let back = 0;
        for (let i = 0; i < d; i++) {
          back += s * B[i * r + k] * e[i];
          gB[i * r + k] += s * e[i] * h[k];
        }
        for (let j = 0; j < d; j++) gA[k * d + j] += back * X[o + j];
      }
    }
    stepA(gA);
    stepB(gB);
    if (t <= watched) moved.push([rms(A, start), rms(B)]);
    if (t === watched) return { moved };
  }
  let left = 0;
  for (let i = 0; i < d; i++) {
    for (let j = 0; j < d; j++) {
      let sum = -D[i * d + j];
      for (let k = 0; k < r; k++) sum += s * B[i * r + k] * A[k * d + j];
      left += sum * sum;
    }
  }
  return { loss: left / norm, moved };
}

function adam(p, rate) {
  const [m, v] = [new Float64Array(p.length), new Float64Array(p.length)];
  let t = 0;
  return (g) => {
    t += 1;
    const [c, root] = [1 - 0.9 ** t, 1 - 0.999 ** t];
    for (let i = 0; i < p.length; i++) {
      m[i] += 0.1 * (g[i] - m[i]);
      v[i] += 0.001 * (g[i] * g[i] - v[i]);
      p[i] -= (rate * m[i]) / c / (Math.sqrt(v[i] / root) + 1e-8);
    }
  };
}

function rms(x, from = null) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += (x[i] - (from ? from[i] : 0)) ** 2;
  return Math.sqrt(sum / x.length);
}

/** The U: [[rate, median loss over the seeds], ...] and its bottom, by a parabola through the lowest three. */
export function sweep(task, rates, r, s) {
  const points = rates.map((rate) => {
    const losses = task.draws.map((draw) => trainLora(task, draw, r, s, rate).loss).map((x) => (x < 1e6 ? x : 1e6));
    return [rate, losses.sort((a, b) => a - b)[losses.length >> 1]];
  });
  const k = points.reduce((best, [, loss], i) => (loss < points[best][1] ? i : best), 0);
  if (k === 0 || k === points.length - 1) return { points, rate: points[k][0], loss: points[k][1] };
  const [a, b, c] = [-1, 0, 1].map((i) => Math.log(points[k + i][1]));
  const shift = (0.5 * (a - c)) / (a - 2 * b + c);
  const rate = points[k][0] * (points[k + 1][0] / points[k][0]) ** shift;
  return { points, rate, loss: Math.exp(b - 0.25 * (a - c) * shift) };
}

export default {
  render(context) {
    const data = context.model.get("data");
    const fig = figure(context, {
      title: "Rank, alpha and learning rate",
      caption:
        `Each dot is a LoRA trained in this page: ${data.steps} steps of Adam on a ${data.d} × ${data.d} layer that has to ` +
        `learn a difference of rank ${data.rank} from noisy batches; the median of ${data.seeds.length} seeds.`,
      start: { r: data.r, alpha: data.alpha, rule: "α / r", aligned: false },
    });
    fig.slider("r", { label: "rank r", values: data.ranks });
    fig.slider("alpha", { label: "alpha", values: data.alphas });
    fig.choice("rule", { label: "scale s", options: Object.keys(RULES).map((rule) => [rule, rule]) });
    fig.toggle("aligned", { label: "multiply the rate by √(s r)" });
    const losses = plot({
      label: "share of the difference not learnt",
      x: { log: true, domain: [data.rates[0], data.rates.at(-1)] },
      y: { log: true, domain: [0.01, 2], format: num },
      height: 280,
    });
    const moves = plot({
      label: "how far A and B have moved",
      x: { label: "step", domain: [0, data.watched] },
      y: { domain: [0, data.watched], format: (v) => (v ? `${num(v)} lr` : "0") },
      height: 280,
    });
    fig.row(losses, moves).classList.add("al-lead");

    const task = makeTask(data);
    const known = new Map(); // going back to a setting costs nothing
    const trained = ({ r, alpha, rule }) => {
      const s = RULES[rule](r, alpha);
      const key = `${r} ${s}`;
      if (!known.has(key)) {
        const u = sweep(task, data.rates, r, s);
        const { moved } = trainLora(task, task.draws[0], r, s, u.rate, data.watched);
        known.set(key, { s, knob: Math.sqrt(s * r), ...u, moved: moved.map((pair) => pair.map((x) => x / u.rate)) });
      }
      return known.get(key);
    };
    const first = trained(fig.state);

    fig.draw((state) => {
      const now = trained(state);
      const same = now === first;
      const by = state.aligned ? now.knob / first.knob : 1;
      losses.draw({
        x: { label: state.aligned ? "learning rate × √(s r), in the start's units" : "learning rate" },
        lines: [
          ...(same ? [] : [{ points: first.points, colour: "muted", faint: true, label: "start" }]),
          { points: now.points.map(([rate, loss]) => [rate * by, loss]), colour: "lora", dots: true },
        ],
        marks: [
          ...(same ? [] : [{ x: first.rate, y: first.loss, colour: "muted", ring: true }]),
          { x: now.rate * by, y: now.loss, colour: "lora", ring: true, below: true, label: `best ${num(now.rate, 2)}` },
        ],
        describe: `Loss against learning rate: falls to ${num(now.loss, 2)} at ${num(now.rate, 2)}, then rises.`,
      });
      moves.draw({
        lines: ["A", "B"].map((label, i) => ({
          points: now.moved.map((pair, t) => [t, pair[i]]),
          colour: i ? "lora" : "full",
          dots: true,
          label,
        })),
        describe: "After the first step A has not moved and B has, by one learning rate.",
      });
      fig.say(sentence(state, now, first, data));
    });
  },
};

function sentence({ r, rule, aligned }, now, first, { rank }) {
  const best = `s = ${rule} = ${num(now.s, 2)}: the best rate is ${num(now.rate, 2)}`;
  if (now === first) return `${best}. In the first step only B moves.`;
  const floor = r < rank ? ` Rank ${r} cannot reach a difference of rank ${rank}: ${num(now.loss, 2)} is left at any rate.` : "";
  const aside = (rates, alike) =>
    rates > 1.25 ? `${num(rates, 2)} times higher than at the start` : rates < 0.8 ? `${num(1 / rates, 2)} times lower than at the start` : alike;
  if (aligned) {
    const knob = (now.rate * now.knob) / (first.rate * first.knob);
    return `${best}. Times √(s r) it is ${aside(knob, "the same as at the start: one knob, not three")}.${floor}`;
  }
  return `${best}, ${aside(now.rate / first.rate, "about where it was at the start")}.${floor}`;
}
