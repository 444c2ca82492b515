/* A PEFT folder of one variant, in its own form or as an ordinary LoRA: configuration, tensors to scale, readers. */
import { colour, figure, html, num, svg } from "./blocks.js";

const FORMS = [
  ["own", "PEFT's own"],
  ["lora", "ordinary LoRA"],
];

export default {
  render(context) {
    const { variants, layer, shape } = context.model.get("data");
    const fig = figure(context, {
      title: "What the folder holds",
      caption:
        `Read from the folders that the cells of this page wrote, and the readers were tried on them. Boxes are to scale: ` +
        `the dotted one is ${layer}'s weight, ${times(shape)}, which is not in the folder.`,
      start: { which: Math.max(0, variants.findIndex((one) => one.member === "hra")), form: "own" },
    });
    fig.choice("which", { label: "variant", options: variants.map((one, i) => [i, one.label]) });
    fig.choice("form", { label: "written as", options: FORMS });
    const files = part("the folder");
    const boxes = part(`${layer}, to scale`);
    const who = part("who serves it, with the same logits");
    const side = html("div", { class: "al-view" }, files.el, who.el);
    for (const view of [boxes.el, side]) view.style.justifyContent = "flex-start";
    who.el.style.marginTop = "10px";
    fig.row(boxes, { el: side });

    fig.draw(({ which, form }) => {
      const one = variants[which];
      const found = one[form];
      const there = !("refused" in found);
      const tensors = there ? found.tensors : [];
      const unit = Math.min(1.9, Math.max(1, (boxes.el.clientWidth || 300) / 175));
      boxes.body.replaceChildren(
        ...[["weight", shape, true], ...tensors].map(([name, sides, base]) => box(name, sides, unit, base ? null : one.member)),
      );
      files.body.replaceChildren(
        ...(there
          ? [
              line("adapter_config.json", true),
              ...Object.entries(found.fields).map(([name, value]) => line(`  ${name}: ${short(value)}`)),
              line("adapter_model.safetensors", true),
              line(`  ${found.layers} layers, ${num(found.bytes / 1024, 3)} KB`),
            ]
          : [line("nothing is written")]),
      );
      who.el.hidden = !there;
      who.body.replaceChildren(
        ...Object.entries(there ? found.readers : {}).map(([reader, reads]) =>
          html("div", { style: `color: var(--al-${reads ? "ink" : "muted"})` }, `${reads ? "✓" : "✗"} ${reader}`),
        ),
      );
      const total = tensors.reduce((sum, [, sides]) => sum + count(sides), 0);
      fig.root.dataset.seen = JSON.stringify({ member: one.member, form, tensors, total });
      fig.say(there ? sentence(one, form, found, total, layer) : `${one.label} ${form === "own" ? "in a form of PEFT's own" : "as an ordinary LoRA"} is refused: ${found.refused}`);
    });
  },
};

const times = (sides) => sides.join(" × ");
const count = (sides) => sides.reduce((product, side) => product * side, 1);
const short = (value) => (Array.isArray(value) && value.length > 2 ? `${value.length} names` : JSON.stringify(value));

function part(title) {
  const body = html("div");
  return { body, el: html("div", { class: "al-view" }, html("p", { class: "al-view-title" }, title), body) };
}

function line(text, strong = false) {
  const style = `font: ${strong ? 600 : 400} 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap; overflow-wrap: anywhere`;
  return html("div", { style }, text);
}

/** A tensor as a rectangle, `unit` pixels to a number; a vector lies or stands as it is used. */
function box(name, sides, unit, member) {
  const [high, wide] = sides.length === 2 ? sides : name.includes("w_norm") ? [1, sides[0]] : [sides[0] ?? 1, 1];
  const [w, h] = [wide, high].map((side) => Math.max(3, side * unit));
  const look = member
    ? { fill: colour(member), class: "al-tensor" }
    : { fill: "none", stroke: colour("base"), "stroke-dasharray": "2 3" };
  const drawn = svg("svg", { width: w + 2, height: h + 2, "aria-hidden": "true" }, svg("rect", { x: 1, y: 1, width: w, height: h, ...look }));
  return html(
    "div",
    { style: "display: inline-block; margin: 0 14px 10px 0; vertical-align: top" },
    drawn,
    html("div", { style: "font-size: 13px; line-height: 1.3; margin-top: 3px" }, name.replace(".weight", ""), html("br"), html("span", { style: "color: var(--al-muted)" }, times(sides) || "1")),
  );
}

function sentence(one, form, found, total, layer) {
  const readers = Object.entries(found.readers);
  const able = readers.filter(([, reads]) => reads).map(([reader]) => reader);
  const all = able.length === readers.length;
  const what = form === "lora" ? `${one.label} as a LoRA of rank ${found.fields.r}` : `${one.label} in PEFT's own form`;
  const size = `${total.toLocaleString("en")} numbers for ${layer}`;
  return `${what}: ${size}. ${all ? "All of the readers tried serve it." : `It is served by ${able.join(" and ")}, and by nothing that knows only LoRA.`}`;
}
