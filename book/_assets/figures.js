/* Brings the figures of a page to life without a kernel. They are anywidgets whose code and data the page carries, so
   this is all of a widget manager that they need; the whole one is megabytes, and took longer than all else here. */
(() => {
  const scripts = (kind) => [...document.querySelectorAll(`script[type="application/vnd.jupyter.widget-${kind}+json"]`)];

  /** What a figure's render() is given as `model`. */
  function model({ state, buffers = [] }) {
    for (const { path, data } of buffers) {
      const owner = path.slice(0, -1).reduce((part, key) => part[key], state);
      owner[path.at(-1)] = new DataView(Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0)).buffer);
    }
    const heard = new EventTarget();
    return {
      get: (name) => state[name],
      set: (name, value) => {
        state[name] = value;
        heard.dispatchEvent(new Event(`change:${name}`));
      },
      on: (event, listener) => heard.addEventListener(event, listener),
      off: (event, listener) => heard.removeEventListener(event, listener),
      save_changes() {}, // there is no kernel to tell
    };
  }

  const styled = new Set(); // the figures share a style sheet
  const style = (css) => styled.has(css) || (styled.add(css), document.head.append(Object.assign(document.createElement("style"), { textContent: css })));

  async function show(view, entry) {
    const address = URL.createObjectURL(new Blob([entry.state._esm], { type: "text/javascript" }));
    const { default: figure } = await import(address);
    URL.revokeObjectURL(address);
    style(entry.state._css);
    const el = document.createElement("div");
    el.className = "widget-subarea"; // as the theme knows it
    view.before(el);
    await figure.render({ model: model(entry), el });
  }

  async function showAll() {
    const entries = Object.assign({}, ...scripts("state").map((script) => JSON.parse(script.textContent).state));
    for (const view of scripts("view")) {
      const entry = entries[JSON.parse(view.textContent).model_id];
      await show(view, entry).catch((error) => console.error("a figure stays as its first frame:", error));
    }
  }

  // A page is ready when its words, formulas and first frames are there: the load event. They are painted before
  // anything here runs; each figure then takes the place of its first frame, in order, and can be moved.
  requestAnimationFrame(() => setTimeout(showAll));
})();
