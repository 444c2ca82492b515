"""kit.Equation: which lines a term stands for, what is refused, and that pointing lights them up."""

import re

import pytest

import adapterlab as al
from adapterlab import kit

LORA = (
    "W' = W + {s} {B} {A}",
    {"s": "p.scale", "B": "lora_B", "A": ["lora_A"]},
    al.LoRA.specs,
    al.LoRA.effective_weight,
)


def sample(W, V, p, B_norm):
    """Not W @ V, as this docstring has it."""
    V = W + p.scale * p.B  # p.A is only spoken of
    return (
        V.norm(),
        B_norm < 1,
    )


def equation(formula="W' = {V}", **terms):
    return kit.Equation(formula, terms or {"V": "V"}, sample)


def test_a_term_is_in_the_lines_that_compute_it():
    shown = kit.Equation(*LORA)
    assert shown.lines("B") == [
        '"lora_B": ParamSpec((d_out, self.r)),',
        "return W + p.scale * p.lora_B @ p.lora_A, b  # (d_out, d_in)",
    ]
    assert shown.lines("s") == shown.lines("B")[1:]


def test_a_text_is_found_as_whole_words_and_not_in_what_only_speaks():
    assert equation().lines("V") == [
        "def sample(W, V, p, B_norm):",
        "V = W + p.scale * p.B  # p.A is only spoken of",
        "V.norm(),",
    ]
    assert equation("{B}", B="B").lines("B") == ["V = W + p.scale * p.B  # p.A is only spoken of"]
    assert equation("{n}", n=re.compile("_norm <")).lines("n") == ["B_norm < 1,"]
    assert len(equation("{x}", x=["V.norm", re.compile(r"B_\w+,?")]).lines("x")) == 3
    assert len(equation("{x}", x=re.compile(r"V\.norm.*B_norm", re.DOTALL)).lines("x")) == 2  # one hit, two lines


@pytest.mark.parametrize(
    "formula, terms, says",
    [
        ("W' = {V} {U}", {"V": "V", "U": "p.lora_U"}, "the term 'U' is in no line of the code: 'p.lora_U'"),
        ("{A}", {"A": "p.A"}, "the term 'A' is in no line"),  # a comment is no line of code
        ("{W V}", {"W V": "W @ V"}, "the term 'W V' is in no line"),  # nor is a docstring
        ("{V} {B}", {"V": "V"}, "the term 'B' has no pattern"),
        ("{V}", {"V": "V", "B": "B"}, "the term 'B' is not in the formula"),
    ],
)
def test_what_lights_nothing_is_refused_by_name(formula, terms, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        kit.Equation(formula, terms, sample)


def test_it_is_readable_as_text_and_where_style_sheets_are_stripped():
    shown = kit.Equation(*LORA)
    bundle = shown._repr_mimebundle_()
    assert bundle["text/plain"] == f"W' = W + s B A\n\n{kit.Source(*LORA[2:])!r}"
    bare = re.sub(r"<style>.*?</style>", "", bundle["text/html"], flags=re.DOTALL)
    words = re.sub(r"<[^>]+>", "", bare).replace("&quot;", '"')
    assert words == "W′ = W + s B A" + shown.text
    assert equation("{V} < 2").html().count("&lt;") == 2  # the formula's and the code's


def test_subscripts_and_words():
    html = equation("diag({V}) H_i H_(r−1)^T σ_0").html()
    assert "diag(<button" in html and "<i>H</i><sub><i>i</i></sub>" in html
    assert "<i>H</i><sub><i>r</i>−1</sub><sup><i>T</i></sup> <i>σ</i><sub>0</sub>" in html


# ---- in a browser -------------------------------------------------------------------------------------

LIT = """() => [...document.querySelectorAll(".al-eq .al-term, .al-eq .al-line, .al-eq .al-hit")]
    .filter((node) => getComputedStyle(node).getPropertyValue("--on").trim() === "1")
    .map((node) => node.innerText.trim())"""
B_LINES = ['"lora_B": ParamSpec((d_out, self.r)),', "lora_B"]
B_LINES += ["return W + p.scale * p.lora_B @ p.lora_A, b  # (d_out, d_in)", "lora_B"]


@pytest.fixture
def show(browser):
    """The page of an equation."""
    contexts = []

    def open_page(*arguments, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_content(kit.Equation(*arguments).html())
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.browser
def test_mouse_and_keyboard_light_up_a_terms_lines(show):
    page = show(*LORA)
    assert page.evaluate(LIT) == []
    plain = page.screenshot()
    page.locator(".al-term", has_text="B").hover()
    assert page.evaluate(LIT) == ["B", *B_LINES]
    assert page.screenshot() != plain
    page.mouse.move(0, 500)
    assert page.evaluate(LIT) == []
    page.keyboard.press("Tab")
    assert page.evaluate(LIT)[0] == "s"
    page.keyboard.press("Tab")
    assert page.evaluate(LIT) == ["B", *B_LINES]
    page.locator(".al-term", has_text="A").hover()  # the mouse goes before the focus
    assert page.evaluate(LIT)[0] == "A" and "B" not in page.evaluate(LIT)


@pytest.mark.browser
def test_a_line_lights_up_its_terms(show):
    page = show(*LORA)
    page.locator(".al-line", has_text="return W").hover()
    assert page.evaluate(LIT) == ["s", "B", "A"]
    page.locator(".al-line", has_text='"lora_A"').hover()
    assert page.evaluate(LIT) == ["A"]


@pytest.mark.browser
def test_a_finger_lights_up_and_a_phone_shows_the_formula_above(show):
    page = show(*LORA, viewport={"width": 390, "height": 800}, has_touch=True)
    page.locator(".al-term", has_text="B").tap()
    assert page.evaluate(LIT) == ["B", *B_LINES]
    formula, code = (page.locator(part).bounding_box() for part in (".al-formula", ".al-code"))
    assert formula["y"] + formula["height"] <= code["y"]
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    wide = show(*LORA, viewport={"width": 900, "height": 800})
    formula, code = (wide.locator(part).bounding_box() for part in (".al-formula", ".al-code"))
    assert formula["x"] + formula["width"] <= code["x"]


@pytest.mark.browser
def test_a_screen_reader_is_told_the_lines(show):
    page = show(*LORA)
    told = page.locator(".al-term", has_text="B").get_attribute("aria-describedby").split()
    assert [page.locator(f"#{one}").inner_text().strip() for one in told] == [B_LINES[0], B_LINES[2]]
