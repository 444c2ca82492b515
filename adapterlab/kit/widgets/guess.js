/* One question, three answers: the reader commits by a click before the chapter goes on. */
import { figure, guess } from "./blocks.js";

export default {
  render(context) {
    const data = context.model.get("data");
    const fig = figure(context, { title: data.question, start: { chosen: null } });
    const asked = guess({ ...data, onchange: (i) => fig.state.chosen == null && fig.set({ chosen: i }) });
    fig.row(asked);
    fig.draw((state) => asked.show(state.chosen));
  },
};
