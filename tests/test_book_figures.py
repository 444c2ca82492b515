"""Every interactive figure of the built book: it moves by keyboard and by mouse, and stands still without scripts."""

import gzip

import nbformat
import pytest

from browsing import PAGES, VIEWS
from paths import ROOT

pytestmark = pytest.mark.browser


def outputs(name):
    """The HTML that a chapter's cells show."""
    path = ROOT / f"{name}.ipynb"
    cells = nbformat.read(path, as_version=4).cells if path.exists() else []
    return "\n".join(o.get("data", {}).get("text/html", "") for c in cells for o in c.get("outputs", []))


def stills(name):
    """How many figures a chapter shows: each leaves a still among its outputs."""
    return outputs(name).count("data-al-still=")


FIGURES = {name: count for name in PAGES if (count := stills(name))}
MOST_BYTES = 700_000  # of a chapter, compressed as servers do, beside the scripts that all pages share


def figures(page, name):
    page.wait_for_function(f"document.querySelectorAll('.al-fig').length >= {FIGURES[name]}", timeout=20_000)
    page.wait_for_load_state("networkidle")
    return [page.locator(".al-fig").nth(k) for k in range(page.locator(".al-fig").count())]


def test_there_are_figures_to_test():
    assert {"book/lora", "book/dora", "book/hra"} <= set(FIGURES)


# ---- every control ------------------------------------------------------------------------------------

# Whatever takes the focus or follows a finger; Reset is pressed all the time.
CONTROLS = ":is(button, input, select, textarea, [tabindex], .al-scrub):not(.al-head button):visible"

# What a figure shows, apart from one control: words, states, values, drawings.
LOOK = """
const seen = (root, control) => {
  const own = control?.closest(".al-slider, .al-choice, .al-toggle, .al-handle, input");
  own?.setAttribute("data-out", "");
  const copy = root.cloneNode(true);
  own?.removeAttribute("data-out");
  copy.querySelector("[data-out]")?.remove();
  const inputs = [...root.querySelectorAll("input")].filter((input) => !own?.contains(input));
  const drawn = [...root.querySelectorAll("canvas")].map((canvas) => canvas.toDataURL());
  return [copy.innerHTML, ...inputs.map((input) => `${input.value} ${input.checked}`), ...drawn].join();
};
const frame = () => new Promise((done) => requestAnimationFrame(done));
const until = async (right, frames) => { // not milliseconds: a busy machine draws late
  for (let k = 0; !right(); k++, await frame()) if (k > frames) return false;
  return true;
};
"""
SEEN = "(root, control) => {" + LOOK + "return seen(root, control); }"
RESET = "async (root) => {" + LOOK + "root.querySelector('.al-head button').click(); }"
CHANGED = (
    "async (root, [control, before, frames]) => {"
    + LOOK
    + "return until(() => seen(root, control) !== before, frames); }"
)
BACK = "async (root, first) => {" + LOOK + "return until(() => seen(root) === first, 200); }"


def kind(node) -> str:
    return node.evaluate("n => n.matches('.al-handle, .al-scrub') ? n.classList[n.classList.length - 1] : n.type")


def unchosen(node, what: str) -> None:
    """A radio button that is chosen already can do nothing: choose its neighbour."""
    if what == "radio" and node.is_checked():
        node.evaluate("n => [...n.closest('[role=radiogroup]').querySelectorAll('input')].find((o) => o !== n).click()")


def by_keyboard(page, node, what):
    """Ways to move a control, one after the other until one of them does: a range may stand at its end."""
    keys = {"range": ["ArrowRight", "ArrowLeft"], "al-handle": ["Shift+ArrowUp", "Shift+ArrowLeft"], "text": ["1"]}
    keys |= {"radio": ["Space"], "checkbox": ["Space"], "al-scrub": []}
    for key in keys.get(what, ["Enter"]):
        node.focus()
        yield page.keyboard.press(key)


def ends(node, what):
    """Where a pointer goes down, and where it goes up: shares of the control's box."""
    if what == "range":
        return [((0.9, 0.5), (0.9, 0.5)), ((0.1, 0.5), (0.1, 0.5))]
    if what == "al-scrub":
        return [((0.3, 0.5), (0.6, 0.5))]
    if what == "al-handle":
        return [((0.5, 0.5), (-0.6, 1.1)), ((0.5, 0.5), (1.6, -0.1))]
    return [((0.5, 0.5), (0.5, 0.5))] if what != "text" else []


def by_mouse(page, node, what):
    for down, up in ends(node, what):
        box = node.bounding_box()
        page.mouse.move(box["x"] + down[0] * box["width"], box["y"] + down[1] * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + up[0] * box["width"], box["y"] + up[1] * box["height"], steps=3)
        yield page.mouse.up()


def by_touch(page, node, what):
    session = page.context.new_cdp_session(page)
    for down, up in ends(node, what):
        box = node.bounding_box()
        (x0, y0), (x1, y1) = (
            (box["x"] + share[0] * box["width"], box["y"] + share[1] * box["height"]) for share in (down, up)
        )
        if down == up:
            yield page.touchscreen.tap(x0, y0)
            continue
        for step, share in (("touchStart", 0), ("touchMove", 0.5), ("touchMove", 1)):
            points = [{"x": x0 + share * (x1 - x0), "y": y0 + share * (y1 - y0)}]
            session.send("Input.dispatchTouchEvent", {"type": step, "touchPoints": points})
        yield session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def does_something(page, root, node, others, by, patience=400) -> bool:
    """From the start, or after another control has been moved: a switch may have nothing to show at t=0."""
    what = kind(node)
    others = sorted(others, key=lambda other: kind(other) != "al-handle")
    for other, frames in [(None, 10), *((other, 10) for other in others), (None, patience)]:
        root.evaluate(RESET)
        if other is not None:
            next(by_keyboard(page, other, kind(other)), None)
        unchosen(node, what)
        root.evaluate("async (root) => {" + LOOK + "await frame(); await frame(); }")
        node.evaluate("n => n.scrollIntoView({ block: 'center', behavior: 'instant' })")  # the theme's way is slow
        control = node.element_handle()
        before = root.evaluate(SEEN, control)
        if any(root.evaluate(CHANGED, [control, before, frames]) for _ in by(page, node, what)):
            return True
    return False


WAYS = {"light": [by_keyboard, by_mouse], "dark": [by_mouse], "phone": [by_touch]}


@pytest.mark.parametrize(
    "name, view, ways",
    [
        # By default each page by keys and mouse, and every other one by touch.
        pytest.param(name, view, ways, id=f"{name}-{view}", marks=pytest.mark.full if view in left_out else ())
        for k, name in enumerate(FIGURES)
        for left_out in [("dark", "phone") if k % 2 else ("dark",)]
        for view, ways in WAYS.items()
    ],
)
def test_every_control_moves_its_figure_and_reset_brings_it_back(visit, name, view, ways):
    page, complaints = visit(name, view)
    idle = []
    for root in figures(page, name):
        controls = root.locator(CONTROLS).all()
        assert controls
        first = root.evaluate(SEEN)
        for by in ways:
            for node in controls:
                if kind(node) in {by_keyboard: ["al-scrub"]}.get(by, ["text"]):
                    continue  # no key goes to a plot, whose slider stands beside it; no pointer writes
                others = [other for other in controls if other is not node]
                if not does_something(page, root, node, others, by):
                    idle.append(
                        f"{by.__name__} {root.get_attribute('aria-label')}: {node.evaluate('n => n.outerHTML')}"
                    )
            root.evaluate(RESET)
            assert root.evaluate(BACK, first), f"Reset does not bring back {root.get_attribute('aria-label')}"
    assert not idle, "\n".join(idle)
    page.wait_for_load_state("networkidle")
    assert not complaints, "\n".join(complaints)


def test_a_control_that_does_nothing_is_noticed(visit):
    page, _ = visit("book/dora")
    root = figures(page, "book/dora")[0]
    page.evaluate("document.querySelector('.al-controls').innerHTML += '<input type=range class=idle>'")
    for by in (by_keyboard, by_mouse):
        assert not does_something(page, root, root.locator(".idle"), [], by, patience=20)


# ---- equations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PAGES if "al-eq" in outputs(name)])
def test_every_term_of_an_equation_lights_up_lines(visit, name):
    page, _ = visit(name)
    lit = """n => {
        n.focus();
        const lines = [...n.closest(".al-eq").querySelectorAll(".al-line")];
        const on = (line) => getComputedStyle(line).getPropertyValue("--on").trim() === "1";
        return lines.filter(on).map((line) => line.id).join(" ");
    }"""
    terms = page.locator(".al-eq .al-term").all()
    assert terms
    for term in terms:
        assert term.evaluate(lit) == term.get_attribute("aria-describedby")


# ---- without scripts, and in bytes ------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_without_scripts_each_figure_shows_its_first_frame(site, browser, name):
    context = browser.new_context(java_script_enabled=False, **VIEWS["light"])
    page = context.new_page()
    page.goto(f"{site}/{name}.html")
    stills = page.locator("[data-al-still]")
    assert stills.count() == FIGURES[name]
    assert all(stills.nth(k).is_visible() for k in range(stills.count()))
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_light(site, browser, name):
    """The page itself and what only it loads; the shared scripts and fonts are cached after the first page."""
    context = browser.new_context(**VIEWS["light"])
    page, sizes = context.new_page(), []
    page.on("response", lambda r: "/_static/" in r.url or sizes.append(len(gzip.compress(r.body()))))
    page.goto(f"{site}/{name}.html", wait_until="networkidle")
    assert 0 < sum(sizes) < MOST_BYTES
    context.close()


def test_the_base_model_answers_in_the_page(visit):
    page, complaints = visit("book/base_model")
    root = page.locator(".al-fig", has=page.locator(".al-question"))
    root.locator(".al-question").fill("34+41=")
    page.wait_for_function("document.querySelector('.al-reply').textContent === '75'", timeout=10_000)
    root.locator(".al-question").fill("sort d a c =")
    page.wait_for_function("document.querySelector('.al-reply').textContent === 'a c d'", timeout=10_000)
    assert not complaints


def test_the_adapter_turns_the_answer_over_in_the_page(visit):
    page, complaints = visit("book/lora")
    root = page.locator(".al-fig", has=page.locator(".al-question"))
    assert root.locator(".al-reply").inner_text() == "58"
    root.locator("input[type=range]").focus()
    page.keyboard.press("Home")  # strength 0: the base model
    page.wait_for_function("document.querySelector('.al-reply').textContent === '85'", timeout=10_000)
    assert "The base model answers 85" in root.locator(".al-say").inner_text()
    assert not complaints
