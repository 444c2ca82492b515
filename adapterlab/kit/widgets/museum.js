/* One exhibit of the museum, its bug in or out, and what every check of the contract says. */
import { colour, figure, html } from "./blocks.js";

const VERDICTS = { p: ["✓", "passes"], f: ["✗", "fails"], d: ["◇", "fails by design"], n: ["–", "does not apply"] };

export default {
  render(context) {
    const { checks, rooms, exhibits } = context.model.get("data");
    const names = { ia3: "IA3", ia3_ff: "IA3-FF", dora: "DoRA", delora: "DeLoRA", lora: "LoRA", pissa: "PiSSA", eva: "EVA", hra: "HRA", antipasto: "AntiPaSTO" };
    const fig = figure(context, {
      title: "Put the bug in, take it out",
      caption:
        "Each check was run on both by a cell of this page. ✓ passes, ✗ fails, ◇ fails, and its authors say so, – does not apply. " +
        "What fails without the bug, too, is another story of that adapter.",
      start: { which: exhibits[0].number, on: true },
    });
    for (const room of rooms) {
      const options = exhibits.filter((one) => one.room === room).map((one) => [one.number, `${one.number} ${names[one.member]}`]);
      fig.choice("which", { label: room, options });
    }
    fig.toggle("on", { label: "the bug is in" });

    const title = html("p", { style: "font-weight: 600; margin: 0 0 4px" });
    const code = html("div", {
      class: "al-code", // no pre: pages give those a place among the keys
      style:
        "margin: 4px 0; padding: 8px 10px; border: 1px solid var(--al-grid); border-radius: 6px; background: none; color: inherit; " +
        "font: 12.5px/1.4 ui-monospace, 'DejaVu Sans Mono', monospace; white-space: pre-wrap; overflow-wrap: anywhere",
    });
    const words = html("p", { style: "font-size: 14px" });
    const left = html("div", { class: "al-view", style: "justify-content: flex-start" }, title, code, words);
    const list = html("ul", {
      style: "list-style: none; margin: 0; padding: 0; display: grid; grid-template-columns: repeat(auto-fill, minmax(118px, 1fr)); gap: 3px 6px",
    });
    const right = html(
      "div",
      { class: "al-view", style: "justify-content: flex-start" },
      html("p", { class: "al-view-title" }, "the contract"),
      list,
    );
    fig.row(left, right);

    const told = (all) => (all.length < 2 ? all.join("") : `${all.slice(0, -1).join(", ")} and ${all.at(-1)}`);
    const pass = (all) => `${told(all)} ${all.length > 1 ? "pass" : "passes"}`;
    fig.draw(({ which, on }) => {
      const one = exhibits.find((exhibit) => exhibit.number === which);
      const now = on ? one.broken : one.healthy;
      title.textContent = `${one.number}. ${one.title}`;
      title.style.color = colour(one.member);
      code.textContent = one.code;
      code.style.opacity = on ? 1 : 0.7;
      words.textContent = on ? `Let through: ${one.let}` : `Instead: ${one.fix}`;
      list.replaceChildren(
        ...checks.map(([name, proves], i) => {
          const [sign, verdict] = VERDICTS[now[i]];
          const bad = now[i] === "f" || now[i] === "d";
          const look = bad
            ? "background: var(--al-ink); color: var(--al-card); font-weight: 600"
            : `color: var(--al-${now[i] === "p" ? "ink" : "muted"})`;
          const style = `padding: 1px 7px; border-radius: 5px; font-size: 14px; ${look}`;
          return html("li", { style, title: proves, "aria-label": `${name} ${verdict}` }, `${sign} ${name}`);
        }),
      );
      const failing = [...now].filter((letter) => letter === "f").length;
      const count = `Of ${checks.length} checks, ${failing === 0 ? "none fails" : failing === 1 ? "one fails" : `${failing} fail`}.`;
      const [first] = one.caught;
      const verdict = VERDICTS[one.broken[checks.findIndex(([name]) => name === first)]][1];
      fig.say(
        on
          ? `${one.passes.length ? `${pass(one.passes)}. ` : ""}But ${first} ${verdict}: ${one.seen[first] ?? ""}${/[.!?]$/.test(one.seen[first] ?? "") ? "" : "."} ${count}`
          : `Without the bug ${pass(one.caught)}. ${count}`,
      );
    });
  },
};
