/* DeLoRA's first steps: how far they move W, at any rate, rank, lambda and width, from PEFT's start or the paper's.

   A layer whose columns all have one length has to fit a few random examples, with AdamW. Only the difference is
   computed, since W itself cancels; its columns' length is all that DeLoRA sees of it. delora_cliff.py trains the same
   with the package's own classes, for the still and for the tests. */
import { figure, num, plot, random } from "./blocks.js";

const LEAST = 1e-4; // PEFT divides by no norm below it, nor does the package
const STARTS = { zero: "PEFT's: B = 0", copy: "the paper's: minus a copy" };

/** The examples, and where A and B start. B lies transposed, (r, d_out), so that each direction is in one piece. */
export function makeTask({ d_out, batch, goal }, d_in, r) {
  const X = Float64Array.from({ length: batch * d_in }, random(1).normal);
  const { normal } = random(2);
  const T = Float64Array.from({ length: batch * d_out }, () => goal * normal());
  const { uniform } = random(3);
  const A = Float64Array.from({ length: r * d_in }, () => (2 * uniform() - 1) / Math.sqrt(d_in));
  const { uniform: other } = random(4);
  const B = new Float64Array(r * d_out);
  for (let o = 0; o < d_out; o++) for (let i = 0; i < r; i++) B[i * d_out + o] = (2 * other() - 1) / Math.sqrt(r);
  return { d_in, d_out, r, batch, X, T, A, B, column: Math.sqrt(d_out / (3 * d_in)), norm: Math.sqrt(d_out / 3) };
}

/** An adapter at its start: start is "lora", "zero" or "copy". */
export function makeAdapter(task, start, lambda) {
  const { A, B } = task;
  const adapter = { start, A: A.slice(), B: start === "copy" ? B.slice() : new Float64Array(B.length), lambda: new Float64Array([lambda]) };
  if (start === "copy") adapter.frozen = { A, P: scaledB(task, adapter) };
  return adapter;
}

const dot = (x, y, from, to, n) => {
  let sum = 0;
  for (let j = 0; j < n; j++) sum += x[from + j] * y[to + j];
  return sum;
};

/** The factor of each b_i a_i^T: LoRA's alpha / r = 2, or lambda |w| / (r |a_i| |b_i|); and the two norms. */
function scales({ d_in, d_out, r, column }, { start, A, B, lambda }) {
  return Array.from({ length: r }, (_, i) => {
    if (start === "lora") return { k: 2 };
    const [a, b] = [Math.sqrt(dot(A, A, i * d_in, i * d_in, d_in)), Math.sqrt(dot(B, B, i * d_out, i * d_out, d_out))];
    return { k: (lambda[0] * column) / (r * Math.max(a, LEAST) * Math.max(b, LEAST)), a, b };
  });
}

function scaledB(task, adapter) {
  const { d_out } = task;
  const all = scales(task, adapter);
  return adapter.B.map((b, at) => all[Math.floor(at / d_out)].k * b);
}

/** Gradients of the mean square error, written out: the norms take part in them. */
export function gradients(task, adapter) {
  const { d_in, d_out, r, batch, X, T } = task;
  const { A, B, start, frozen, lambda } = adapter;
  const all = scales(task, adapter);
  const [gA, gB, gLambda] = [new Float64Array(A.length), new Float64Array(B.length), new Float64Array(1)];
  const [h, e, inner] = [new Float64Array(r), new Float64Array(d_out), new Float64Array(r)];
  for (let n = 0; n < batch; n++) {
    for (let i = 0; i < r; i++) h[i] = dot(A, X, i * d_in, n * d_in, d_in);
    for (let o = 0; o < d_out; o++) {
      e[o] = -T[n * d_out + o];
      for (let i = 0; i < r; i++) e[o] += all[i].k * h[i] * B[i * d_out + o];
    }
    if (frozen) {
      for (let i = 0; i < r; i++) {
        const h0 = dot(frozen.A, X, i * d_in, n * d_in, d_in);
        for (let o = 0; o < d_out; o++) e[o] -= h0 * frozen.P[i * d_out + o];
      }
    }
    for (let o = 0; o < d_out; o++) e[o] *= 2 / (batch * d_out);
    for (let i = 0; i < r; i++) {
      const { k } = all[i];
      const back = dot(B, e, i * d_out, 0, d_out);
      inner[i] += k * back * h[i];
      for (let o = 0; o < d_out; o++) gB[i * d_out + o] += k * e[o] * h[i];
      for (let j = 0; j < d_in; j++) gA[i * d_in + j] += k * back * X[n * d_in + j];
    }
  }
  if (start !== "lora") {
    for (let i = 0; i < r; i++) {
      const { a, b } = all[i];
      if (a > LEAST) for (let j = 0; j < d_in; j++) gA[i * d_in + j] -= (inner[i] * A[i * d_in + j]) / (a * a);
      if (b > LEAST) for (let o = 0; o < d_out; o++) gB[i * d_out + o] -= (inner[i] * B[i * d_out + o]) / (b * b);
      gLambda[0] += inner[i] / lambda[0];
    }
  }
  return [gA, gB, gLambda];
}

/** |dW| / |W|, from products of the thin factors. The copy is subtracted factor by factor, so that nothing cancels. */
export function movedBy(task, adapter) {
  const { d_in, d_out, norm } = task;
  const P = scaledB(task, adapter);
  const { A, frozen } = adapter;
  const pairs = frozen
    ? [[P.map((p, at) => p - frozen.P[at]), A], [frozen.P, A.map((a, at) => a - frozen.A[at])]]
    : [[P, A]];
  let square = 0;
  for (const [P1, A1] of pairs) {
    for (const [P2, A2] of pairs) {
      const one = P1 === P2 && A1 === A2; // symmetric: half of it will do
      for (let i = 0; i < task.r; i++) {
        for (let k = one ? i : 0; k < task.r; k++) {
          const both = dot(P1, P2, i * d_out, k * d_out, d_out);
          if (both) square += (one && k > i ? 2 : 1) * both * dot(A1, A2, i * d_in, k * d_in, d_in);
        }
      }
    }
  }
  return Math.sqrt(Math.max(0, square)) / norm;
}

function adamW(p, rate) {
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

/** { moved, bound } before and after each of so many steps. */
export function trainDelora(task, start, lambda, rate, steps) {
  const adapter = makeAdapter(task, start, lambda);
  const bound = () => (adapter.lambda[0] + (start === "copy" ? lambda : 0)) / Math.sqrt(task.d_in);
  const optimisers = [adapter.A, adapter.B, adapter.lambda].map((p) => adamW(p, rate));
  const [moved, bounds] = [[movedBy(task, adapter)], [bound()]];
  for (let t = 0; t < steps; t++) {
    const found = gradients(task, adapter);
    optimisers.forEach((step, i) => step(found[i]));
    moved.push(movedBy(task, adapter));
    bounds.push(bound());
  }
  return { moved, bounds };
}

/** [[rate, |dW| / |W| after one step], ...]: the gradient at the start is the same for all rates. */
export function firstStep(task, start, lambda, rates) {
  const found = gradients(task, makeAdapter(task, start, lambda));
  return rates.map((rate) => {
    const adapter = makeAdapter(task, start, lambda);
    [adapter.A, adapter.B, adapter.lambda].forEach((p, i) => adamW(p, rate)(found[i]));
    return [rate, movedBy(task, adapter)];
  });
}

export default {
  render(context) {
    const data = context.model.get("data");
    const fig = figure(context, {
      title: "The first steps of DeLoRA",
      caption:
        `Trained in this page: ${data.steps} steps of AdamW, without clipping or warm-up, on a layer of ${data.d_out} outputs whose ` +
        `columns are equally long, and which has to fit ${data.batch} random examples. LoRA has the same r, and α = 2 r. The bound ` +
        "is λ / √d_in; with the paper's start, λ and the λ of the copy together.",
      start: { start: "zero", rate: data.rate, lambda: data.lambda0, r: data.r, d_in: data.d_in },
    });
    fig.choice("start", { label: "start", options: Object.entries(STARTS) });
    fig.slider("rate", { label: "learning rate", values: data.rates, format: (rate) => num(rate, 2) });
    const numbers = (values) => values.map((value) => [value, String(value)]);
    fig.choice("lambda", { label: "λ", options: numbers(data.lambdas) });
    fig.choice("r", { label: "rank r", options: numbers(data.ranks) });
    fig.choice("d_in", { label: "width d_in", options: numbers(data.widths) });
    const steps = plot({ label: "‖ΔW‖ / ‖W‖ step by step", x: { label: "step", domain: [0, data.steps] }, height: 270, right: 62 });
    const rates = plot({
      label: "the same after one step, at every rate",
      x: { label: "learning rate", log: true, domain: [data.rates[0], data.rates.at(-1)] },
      y: { log: true, domain: [1e-7, 10] },
      height: 270,
      right: 62,
      scrub: (rate) => fig.set({ rate: data.rates.reduce((best, one) => (Math.abs(Math.log(one / rate)) < Math.abs(Math.log(best / rate)) ? one : best)) }),
    });
    fig.row(steps, rates);

    const known = new Map(); // going back to a setting costs nothing
    const once = (key, make) => (known.has(key) || known.set(key, make()), known.get(key));
    const run = (state, start) => {
      const lambda = start === "lora" ? 1 : state.lambda; // LoRA has none
      const key = `${start} ${lambda} ${state.r} ${state.d_in}`;
      const task = once(`${state.r} ${state.d_in}`, () => makeTask(data, state.d_in, state.r));
      return {
        ...once(`${key} ${state.rate}`, () => trainDelora(task, start, lambda, state.rate, data.steps)),
        first: once(key, () => firstStep(task, start, lambda, data.rates)),
      };
    };

    fig.draw((state) => {
      const [delora, lora] = [run(state, state.start), run(state, "lora")];
      const numbered = (values) => values.map((value, t) => [t, value]);
      const one = delora.moved[1];
      steps.draw({
        y: { domain: [0, Math.max(1.4, 1.05 * Math.max(...delora.bounds))] },
        lines: [
          { points: numbered(delora.bounds), colour: "muted", width: 1.5, label: "bound" },
          { points: numbered(lora.moved), colour: "lora", width: 1.5, label: "LoRA" },
          { points: numbered(delora.moved), colour: "delora", dots: true, label: "DeLoRA" },
        ],
        describe: `DeLoRA is at ${percent(one)} after one step and at ${percent(delora.moved.at(-1))} after ${data.steps}; LoRA at ${percent(lora.moved[1])} and ${percent(lora.moved.at(-1))}.`,
      });
      rates.draw({
        lines: [
          { points: lora.first, colour: "lora", width: 1.5, label: "LoRA" },
          { points: delora.first, colour: "delora", label: "DeLoRA" },
        ],
        marks: [{ x: state.rate, y: one, colour: "delora" }, { x: state.rate, y: lora.moved[1], colour: "lora" }],
        describe: `After one step: DeLoRA from ${percent(delora.first[0][1])} to ${percent(delora.first.at(-1)[1])} over six decades of the rate, LoRA from ${percent(lora.first[0][1])} to ${percent(lora.first.at(-1)[1])}.`,
      });
      fig.say(`${sentence(state, one, delora.first, data)} LoRA's first step moves it by ${percent(lora.moved[1])}.`);
      fig.root.dataset.first = one; // for whoever scripts this page
    });
  },
};

const percent = (share) => `${num(100 * share, 2)} %`;

function sentence({ start, rate, lambda, r, d_in }, one, [[least, first]], { d_out }) {
  if (start === "copy") {
    const follows = one > (0.8 * first * rate) / least;
    return `The first step moves W by ${percent(one)} of its norm. ${follows ? "Change the rate, and it follows; change the width, and it stays." : "At so high a rate most of each direction is new, and more of it changes little; a lower rate it follows."}`;
  }
  const edge = LEAST / Math.sqrt(d_out);
  const cliff = lambda / Math.sqrt(r * d_in);
  if (rate < edge) return `The first step moves W by ${percent(one)} of its norm: below a rate of ${num(edge)} B is shorter than the 1e−4 that the norm is clamped to, and only there the step follows the rate.`;
  return `The first step moves W by ${percent(one)} of its norm, at this rate and at every other above ${num(edge)}: λ\u00a0/\u00a0√(r\u00a0d_in) is ${percent(cliff)}.`;
}
