/* A needle in the cloud of a layer's inputs, raw or centred, and the energy it catches. */
import { colour, figure, num, plane, plot, svg } from "./blocks.js";

const REACH = 1.02;

const rad = (degrees) => (degrees * Math.PI) / 180;
const unit = (degrees) => [Math.cos(rad(degrees)), Math.sin(rad(degrees))];
const half = (degrees) => ((degrees % 180) + 180) % 180; // a needle has no front: 0 to 180

export default {
  render(context) {
    const { points, mean, shares, best, d_in: wide, start } = context.model.get("data");
    const caught = (degrees, name) => {
      const [c, s] = unit(degrees);
      const [[a, b], [, d]] = shares[name];
      return a * c * c + 2 * b * c * s + d * s * s;
    };
    const degrees = Array.from({ length: 181 }, (_, i) => i);
    const curves = {};
    const peaks = {};
    for (const name of ["raw", "centred"]) {
      curves[name] = degrees.map((at) => [at, 100 * caught(at, name)]);
      peaks[name] = degrees.reduce((top, at) => (caught(at, name) > caught(top, name) ? at : top), 0) % 180;
    }
    const top = 1.12 * Math.max(...Object.values(curves).flat().map(([, y]) => y));

    const fig = figure(context, {
      title: "Turn the needle",
      caption:
        `Each dot is one input of the layer, seen in a plane: its mean to the right, its longest centred extent upwards. The small ` +
        `dots on the needle are the inputs' shadows; what it catches is their mean square. Energies count all ${wide} dimensions.`,
      start: { angle: start, name: "raw" },
    });
    fig.choice("name", { label: "The inputs are taken", options: [["raw", "as they are"], ["centred", "less their mean"]] });

    const cloud = plane({ label: "Inputs of the layer; the cross is the origin", x: [-1.15, 1.15], y: [-1.15, 1.15] });
    cloud.svg.style.overflow = "hidden";
    const turnTo = (angle) => ({ angle: half(Math.round(angle)) });
    const knob = fig.handle(cloud, {
      label: "needle",
      colour: "ink",
      at: (state) => unit(state.angle).map((v) => REACH * v),
      move: ([x, y]) => turnTo((Math.atan2(y, x) * 180) / Math.PI),
    });
    // On a circle an arrow key turns: left and up against the clock, right and down with it.
    knob.el.addEventListener(
      "keydown",
      (event) => {
        const sense = { ArrowLeft: 1, ArrowUp: 1, ArrowRight: -1, ArrowDown: -1 }[event.key];
        if (!sense) return;
        event.preventDefault();
        event.stopImmediatePropagation();
        fig.set(turnTo(fig.state.angle + sense * (event.shiftKey ? 10 : 2)));
      },
      true,
    );
    const meter = plot({
      label: "Energy caught, %",
      x: { label: "angle from the mean, degrees", domain: [0, 180] },
      y: { domain: [0, top] },
      height: 260,
      scrub: (x) => fig.set(turnTo(Math.min(179, x))),
    });
    fig.row(cloud, meter);

    fig.draw(({ angle, name }) => {
      const shift = name === "raw" ? 0 : mean;
      const [c, s] = unit(angle);
      const seen = points.map(([x, y]) => [x - shift, y]);
      const share = caught(angle, name);
      const peak = peaks[name];
      const most = caught(peak, name);
      knob.el.setAttribute("aria-valuenow", angle);
      knob.el.setAttribute("aria-valuemin", 0);
      knob.el.setAttribute("aria-valuemax", 179);
      knob.el.setAttribute("aria-valuetext", `${angle} degrees, ${num(100 * share, 2)} % caught`);
      const [mx, my] = [cloud.X(mean - shift), cloud.Y(0)];
      cloud.draw(
        seen.map(([x, y]) => cloud.dot(x, y, { colour: "eva", size: 2.6, opacity: 0.6 })),
        cloud.line(-REACH * c, -REACH * s, REACH * c, REACH * s, { colour: "muted", width: 1.5 }),
        seen.map(([x, y]) => {
          const along = x * c + y * s;
          return cloud.dot(along * c, along * s, { colour: "ink", size: 2.8, opacity: 0.6 });
        }),
        cloud.line(-0.055, 0, 0.055, 0, { width: 2 }),
        cloud.line(0, -0.055, 0, 0.055, { width: 2 }),
        svg("path", { d: `M${mx - 6},${my} l6,-6 l6,6 l-6,6 Z`, fill: colour("ink"), stroke: colour("card"), "stroke-width": 1.5 }),
        cloud.text(mean - shift, 0, "mean", { anchor: "middle", shift: [0, 21], bold: true }),
      );
      const other = name === "raw" ? "centred" : "raw";
      meter.draw({
        lines: [
          { points: curves[other], colour: "muted", width: 1.25 },
          { points: curves[name], colour: "eva", width: 2.5 },
        ],
        marks: [{ x: angle, y: 100 * share, label: `${num(100 * share, 2)} %` }],
        title: `Energy caught, %: ${name} (thick), ${other} (thin)`,
        describe: `Energy caught by angle. The ${name} curve is highest at ${peak} degrees; the needle is at ${angle} degrees and catches ${num(100 * share, 2)} %.`,
      });
      const off = Math.min(half(angle - peak), half(peak - angle));
      const fromMean = Math.min(half(angle), half(-angle));
      const what = name === "raw" ? "energy" : "variance";
      const now = `The needle stands ${fromMean}° from the mean and catches ${num(100 * share, 2)} % of the ${what}.`;
      const full = `; in all ${wide} dimensions no direction catches more than ${num(100 * best[name], 2)} %.`;
      fig.say(
        off > 4
          ? `${now} Some other angle catches ${num(100 * most, 2)} %.`
          : name === "raw"
            ? `${now} This is the best there is in this plane: it points at the middle of the cloud, not along it${full}`
            : `${now} This is the best there is in this plane: without the mean only the cloud's extent counts${full}`,
      );
      fig.root.dataset.caught = share.toFixed(5); // for whoever scripts this page
    });
  },
};
