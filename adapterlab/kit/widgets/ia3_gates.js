/* IA3's figure: sixteen gates trained by Adam, in float32 and in bfloat16 with every result rounded, as PyTorch does. */
import { figure, num, plane } from "./blocks.js";

const BETA1 = 0.9;
const BETA2 = 0.999;
const UNIT = 1 / 256; // half the gap between bfloat16's numbers above 1, and the whole gap below
const REACH = 0.08; // how far from 1 the faders go

const bits = new DataView(new ArrayBuffer(4));

/** The nearest bfloat16, ties to even: the upper half of a float32. */
function bf16(x) {
  bits.setFloat32(0, x);
  const all = bits.getUint32(0);
  bits.setUint32(0, ((all + 0x7fff + ((all >>> 16) & 1)) & 0xffff0000) >>> 0);
  return bits.getFloat32(0);
}

/** One gate after each of `steps` Adam steps on (g - target)^2 / 2, every result rounded by `round`. */
function trained(target, rate, steps, round) {
  const f = Math.fround;
  let [g, m, v] = [1, 0, 0];
  const path = [g];
  for (let k = 1; k <= steps; k++) {
    const grad = round(g - target);
    m = round(f(m + f((1 - BETA1) * f(grad - m))));
    v = round(f(v * BETA2));
    v = round(f(v + f(f((1 - BETA2) * grad) * grad)));
    const root = round(f(Math.sqrt(v)));
    const divisor = round(f(round(f(root / Math.sqrt(1 - BETA2 ** k))) + 1e-8));
    g = round(f(g - f(f((rate / (1 - BETA1 ** k)) * m) / divisor)));
    path.push(g);
  }
  return path;
}

export default {
  render(context) {
    const { wanted, rates, steps } = context.model.get("data");
    const targets = wanted.map((w) => 1 + w / 1000);
    const fig = figure(context, {
      title: "Sixteen gates that want to move",
      caption:
        "Each gate starts at 1 and is trained by Adam towards its dash. The faint lines are all the numbers that bfloat16 " +
        "has there: above 1 they lie twice as far apart as below. Hollow: still exactly 1.",
      start: { rate: 0.003, step: 0 },
    });
    fig.slider("rate", { label: "learning rate", values: rates });
    fig.slider("step", { label: "step", min: 0, max: steps, step: 1, format: (v) => `${v} of ${steps}` });

    const line = plane({ label: "one step from 1, in bfloat16", x: [-4.4, 5.2], y: [-1.05, 1.6], axes: false });
    line.svg.style.maxWidth = "460px"; // it says why: let it be large
    line.svg.style.overflow = "hidden";
    const faders = Object.fromEntries(["float32", "bfloat16"].map((name) => [name, plane({ label: name, x: [-1.6, 17], y: [-5.6, 5.6], axes: false })]));
    fig.row(line);
    fig.row(...Object.values(faders));
    const Y = (g) => ((g - 1) / REACH) * 5;

    function drawLine(rate) {
      const far = rate / UNIT;
      const landing = [-1, 1].map((sense) => (bf16(1 + sense * rate) - 1) / UNIT);
      const names = { "-2": "1 − 1/128", 0: "1", 2: "1 + 1/128", 4: "1 + 1/64" };
      line.draw(
        line.polygon([[-0.5, -0.42], [1, -0.42], [1, 0.95], [-0.5, 0.95]], { colour: "grid", fill: "grid", width: 0 }),
        line.text(0.25, 1.02, "rounds to 1", { anchor: "middle", colour: "muted" }),
        line.line(-4.4, 0, 5.2, 0, { colour: "ink", width: 1.5 }),
        [-4, -3, -2, -1, 0, 2, 4].map((u) => line.line(u, -0.2, u, 0.2, { colour: "ink", width: 2 })),
        Object.entries(names).map(([u, words]) => line.text(+u, -0.5, words, { anchor: "middle", shift: [0, 9] })),
        [-1, 1].map((sense, i) => [
          line.arrow(0, 0.55, sense * far, 0.55, { colour: "ia3", width: 3 }),
          line.line(sense * far, 0.5, landing[i], 0.05, { colour: "muted", width: 1.5 }),
          line.dot(landing[i], 0, { colour: "ia3", size: 6 }),
        ]).flat(),
      );
      return landing;
    }

    function drawFaders(name, gates) {
      const p = faders[name];
      const numbers = name === "float32" ? [] : [...Array(20).keys()].flatMap((k) => [1 - (k + 1) * UNIT, ...(k < 10 ? [1 + (k + 1) * 2 * UNIT] : [])]);
      p.draw(
        numbers.map((g) => p.line(0, Y(g), 16, Y(g), { colour: "grid", width: 1 })),
        p.line(0, 0, 16, 0, { colour: "muted", width: 1.5 }),
        [0.92, 1, 1.08].map((g) => p.text(-0.25, Y(g), num(g), { anchor: "end", shift: [0, 4], colour: "muted" })),
        gates.map((g, i) => {
          const x = i + 0.5;
          const still = g === 1;
          return [
            p.line(x, 0, x, Y(g), { colour: "ia3", width: 3 }),
            p.line(x - 0.36, Y(targets[i]), x + 0.36, Y(targets[i]), { colour: "ink", width: 2.5 }),
            p.polygon([[-0.3, -0.22], [0.3, -0.22], [0.3, 0.22], [-0.3, 0.22]].map(([a, b]) => [x + a, Y(g) + b]), { colour: still ? "muted" : "ia3", fill: still ? "card" : "ia3", width: 1.5 }),
          ];
        }).flat(),
      );
    }

    fig.draw(({ rate, step }) => {
      const gates = {
        float32: targets.map((t) => trained(t, rate, step, Math.fround).at(-1)),
        bfloat16: targets.map((t) => trained(t, rate, step, bf16).at(-1)),
      };
      const [down, up] = drawLine(rate);
      const counts = Object.entries(gates).map(([name, list]) => {
        drawFaders(name, list);
        const [risen, sunk] = [list.filter((g) => g > 1).length, list.filter((g) => g < 1).length];
        return `${name}: ${risen} risen, ${sunk} sunk, ${16 - risen - sunk} still exactly 1`;
      });
      const why = down && up ? "leaves 1 in both directions" : down ? "rounds back to 1 upwards, and not downwards" : "rounds back to 1 in both directions";
      fig.say(`A step of ${num(rate)} from 1 ${why}. After ${step} steps, ${counts.join("; ")}.`);
      fig.root.dataset.gates = JSON.stringify(gates); // for whoever scripts this page
    });
  },
};
