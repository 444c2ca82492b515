/* A wrong adapter, its distance from its own equation as it leaves t=0, and the checks that notice. */
import { figure, html, num, plot } from "./blocks.js";

export default {
  render(context) {
    const { adapters, checks, distances } = context.model.get("data");
    const percent = (v) => (v === 0 ? "0 %" : `${num(100 * v, 2)} %`);
    const fig = figure(context, {
      title: "Right at t=0, wrong at once",
      caption:
        "Computed beforehand by the cells of this page, in float64. Distance: how far the parameters are from their " +
        "start. Error: between what the layer runs and the dense equation, on the same input.",
      start: { which: 0, t: distances[Math.round(distances.length * 0.4)], bias: true, equal: false },
    });
    fig.choice("which", { label: "the adapter", options: adapters.map((one, i) => [i, one.label]) });
    fig.slider("t", { label: "distance from the start", values: distances, format: (v) => num(v, 2) });
    fig.toggle("bias", { label: "the layer has a bias" });
    fig.toggle("equal", { label: "r = alpha" });
    const error = plot({
      label: "error of the layer against its equation",
      x: { label: "distance from the start" },
      y: { format: percent },
      height: 220,
    });
    const list = html("ul", { style: "list-style: none; margin: 4px 0 0; padding: 0; font-size: 14px" });
    const beside = html(
      "div",
      { class: "al-view" },
      html("p", { class: "al-view-title" }, "the checks, run on this adapter"),
      list,
    );
    error.el.style.alignSelf = "start";
    fig.row(error, beside);
    fig.draw((state) => {
      const one = adapters[state.which];
      const errors = one.errors[`${state.bias ? "bias" : "none"}, ${state.equal ? "equal" : "unequal"}`];
      const now = errors[distances.indexOf(state.t)];
      const top = Math.max(0.1, ...Object.values(one.errors).flat());
      error.draw({
        lines: [{ points: distances.map((t, i) => [t, errors[i]]), colour: one.member, dots: true }],
        marks: [{ x: state.t, y: now, colour: one.member, ring: true }],
        y: { domain: [0, top * 1.08] },
        describe: `The error starts at 0 and is ${percent(now)} at distance ${num(state.t, 2)}.`,
      });
      list.replaceChildren(
        ...checks.map((name, i) => {
          const passes = one.passes[i];
          const style = `color: var(--al-${passes ? "muted" : "ink"}); font-weight: ${passes ? 400 : 600}`;
          const verdict = html("span", { style: `width: 5.2em; flex: none; ${style}` }, passes ? "✓ passes" : "✗ fails");
          return html("li", { style: "display: flex; padding: 2px 0" }, verdict, html("span", { style }, name));
        }),
      );
      const where = state.t === 0 ? "At t=0 nothing can be seen" : now === 0 ? "On this layer nothing can be seen" : "Here it shows";
      const why =
        state.t === 0 ? "the error is 0 for every adapter, right or wrong." : now === 0 ? `${one.blind}.` : `the layer is ${percent(now)} away from its own equation.`;
      const failed = one.passes.filter((passes) => !passes).length;
      fig.say(`${where}: ${why} Of ${checks.length} checks, ${failed === 0 ? "none fails" : failed === 1 ? "one fails" : `${failed} fail`}.`);
    });
  },
};
