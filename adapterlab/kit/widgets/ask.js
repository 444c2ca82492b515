/* The base model answers in the page; with an adapter, at any strength of it. */
import { button, figure, html } from "./blocks.js";
import { findModel, readAdapter } from "./model.js";

export default {
  render(context) {
    const { prompts, answers, adapter: packed, title, variant } = context.model.get("data");
    const start = { prompt: prompts[0], strength: packed ? 1 : 0, asked: false };
    const fig = figure(context, {
      title,
      caption: "The model runs in this page: 0.92 million parameters, fetched when you first ask.",
      start,
    });
    const trained = packed && readAdapter(packed);
    const strengths = Array.from({ length: 31 }, (_, i) => i / 20); // 0 to 1.5

    const input = html("input", {
      type: "text",
      class: "al-question",
      maxlength: 80,
      spellcheck: false,
      autocapitalize: "off",
      oninput: () => fig.set({ prompt: input.value, asked: true }),
    });
    const ready = prompts.map((prompt) => button(prompt, () => fig.set({ prompt, asked: true })));
    const output = html("output", { class: "al-reply" });
    fig.row(
      html(
        "div",
        { class: "al-ask" },
        html("label", { class: "al-label" }, "question ", input),
        html("div", { class: "al-ready" }, ...ready),
        output,
      ),
    );
    if (packed) {
      const label = `strength of ${variant}`;
      fig.slider("strength", { label, values: strengths, format: (c) => c.toFixed(2) });
    }

    let latest = 0; // an answer that comes after a newer question is not shown
    fig.draw(async (state) => {
      if (input.value !== state.prompt) input.value = state.prompt;
      const turn = ++latest;
      const touched = state.asked || state.strength !== start.strength;
      let answer = answers[0];
      if (touched) {
        try {
          const base = await findModel(context.model);
          if (turn !== latest) return;
          answer = base.answer(state.prompt, trained && state.strength ? { adapter: atStrength(trained, state.strength) } : {});
        } catch (error) {
          if (turn === latest) fig.say(error.message);
          return;
        }
      }
      output.textContent = answer.trim() || "(nothing)";
      const who = !packed || !state.strength ? "The base model" : `With ${variant} at ${state.strength.toFixed(2)} it`;
      fig.say(`${who} answers ${answer.trim() || "nothing"}.`);
    });
  },
};

/** c times the difference that the adapter adds to each layer. */
function atStrength(adapter, c) {
  return Object.fromEntries(Object.entries(adapter).map(([path, { A, B }]) => [path, { A, B, scale: c }]));
}
