"""The built book in a real browser: no error, no request to another machine, math typeset, widgets alive."""

import re

import nbformat
import pytest
import yaml

import vendor
from browsing import SEEN, TOC, VIEWS
from paths import BUILD, ROOT
from repository import configured

pytestmark = pytest.mark.browser

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())


def source(name: str) -> str:
    return next(path.read_text() for path in (ROOT / f"{name}.md", ROOT / f"{name}.ipynb") if path.exists())


def prose(name: str) -> str:
    """What a page's author wrote outside code; of a notebook its Markdown cells."""
    text = source(name)
    if (ROOT / f"{name}.ipynb").exists():
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)


def has_math(name: str) -> bool:
    return bool(re.search(r"\$[^$\n]+\$", prose(name)))


def colab_addresses(notebook: str) -> list[str]:
    """Where the page's rocket leads: nowhere while the project has no public address."""
    url, branch = configured()
    there = url.replace("https://github.com", "https://colab.research.google.com/github")
    return [f"{there}/blob/{branch}/{notebook}"] if url else []


def shoot(page, name: str, view: str) -> None:
    folder = BUILD / "screenshots" / view
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name.replace('/', '-')}.png", full_page=True)


# ---- accessibility ----------------------------------------------------------------------------------

# Faults of the theme, not ours: (axe's rule, what the fault's selector holds, why it is left).
THEIRS = [
    ("label-content-name-mismatch", ".search-button-field", "the theme's search button shows Ctrl + K beside its name"),
    ("label-content-name-mismatch", ".theme-switch-button", "the theme's switch has its state as text, unseen"),
    ("label-content-name-mismatch", "summary", "sphinx-togglebutton names each folded cell 'Toggle hidden content'"),
    ("label-content-name-mismatch", ".nav-link", "the theme's contents of a page without headings"),
    ("aria-required-children", ".citation-list", "docutils' list of citations holds their targets beside them"),
]

FAULTS = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations
    .filter((fault) => ["serious", "critical"].includes(fault.impact))
    .flatMap((fault) => fault.nodes.map((node) => [fault.id, node.target.join(" "), node.failureSummary]));
}"""


@pytest.fixture(scope="module")
def axe():
    if not vendor.have_npm() and not (vendor.TEST_VENDOR / f"{vendor.AXE.spec}.js").is_file():
        return None  # no npm to fetch it with; in CI there is, and `site` asks for it
    return vendor.axe()


def accessibility_faults(page, axe) -> list[str]:
    """What axe-core calls serious or critical, and is ours."""
    if axe is None:
        return []
    page.evaluate(axe)
    return [
        f"{rule} at {selector}: {why}"
        for rule, selector, why in page.evaluate(FAULTS)
        if not any(rule == theirs and part in selector for theirs, part, _ in THEIRS)
    ]


# ---- pages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, view", SEEN)
def test_page(visit, axe, name, view):
    page, complaints = visit(name, view)
    heading = page.locator("article h1").first.inner_text()
    assert heading.strip() and CONFIG["title"] in page.title()
    if has_math(name):
        page.wait_for_selector("mjx-container", timeout=20_000)
    views = page.locator("script[type='application/vnd.jupyter.widget-view+json']").count()
    if views:
        page.wait_for_function(f"document.querySelectorAll('.widget-subarea').length >= {views}", timeout=20_000)
    page.wait_for_load_state("networkidle")
    shoot(page, name, view)
    assert not complaints, "\n".join(complaints)
    too_wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert too_wide <= 1, f"the page scrolls sideways by {too_wide} px"
    if (ROOT / f"{name}.ipynb").exists():
        buttons = page.locator(".dropdown-launch-buttons a[href*='colab']").all()
        assert [button.get_attribute("href") for button in buttons] == colab_addresses(f"{name}.ipynb")
    faults = accessibility_faults(page, axe)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("view", VIEWS)
def test_every_card_holds_what_is_on_it(visit, view):
    page, _ = visit(TOC["root"], view)
    page.wait_for_selector(".al-card mjx-container")
    page.evaluate("document.fonts.ready")
    outside = page.evaluate(
        """[...document.querySelectorAll(".al-card")].flatMap((card) => {
            const parts = [card, ...card.querySelectorAll("p, dd")];
            const wide = parts.filter((part) => part.scrollWidth > part.clientWidth);
            const edge = card.getBoundingClientRect().right - parseFloat(getComputedStyle(card).paddingRight) + 1;
            const formulas = [...card.querySelectorAll("mjx-container")];
            const out = formulas.filter((part) => part.getBoundingClientRect().right > edge);
            return [...wide, ...out].map((part) => `${card.innerText.slice(0, 9)}: ${part.localName}`);
        })"""
    )
    assert page.locator(".al-card").count() == 9 and not outside


def test_the_front_page_leads_into_the_book(visit):
    page, complaints = visit("index")
    page.wait_for_url(f"**/{TOC['root']}.html")
    assert not complaints


def test_a_broken_page_is_noticed(visit):
    """The listeners above hear what they are for."""
    page, complaints = visit(TOC["root"])
    page.evaluate("console.error('spoken'); fetch('https://example.org/x').catch(() => {}); fetch('/no-such-file')")
    page.evaluate("setTimeout(() => { throw new Error('thrown') })")
    page.wait_for_timeout(500)
    heard = "\n".join(complaints)
    assert "spoken" in heard and "example.org" in heard and "thrown" in heard and "no-such-file" in heard
