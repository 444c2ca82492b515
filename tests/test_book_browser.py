"""The built book in a real browser: no error, no request to another machine, math typeset, widgets alive."""

import re

import nbformat
import pytest
import yaml
from playwright.sync_api import sync_playwright

import chromium
import vendor
from build_book import build
from paths import BUILD, ROOT
from serve import serving

pytestmark = pytest.mark.browser

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"]] + [chapter["file"] for part in TOC["parts"] for chapter in part["chapters"]]
VIEWS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of a fresh build; a warning fails it."""
    if not vendor.is_vendored() and not vendor.have_npm():
        pytest.skip("npm is not installed, so the pages would load JavaScript from a CDN")
    with serving(build(tmp_path_factory.mktemp("book"), strict=True)) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
        running = playwright.chromium.launch(executable_path=chromium.find(), args=arguments)
        yield running
        running.close()


@pytest.fixture
def visit(site, browser):
    """Open a page of the site and return it with the complaints gathered so far and later."""
    contexts = []

    def open_page(name: str, view: str = "light"):
        context = browser.new_context(**VIEWS[view])
        contexts.append(context)
        page, complaints = context.new_page(), []

        def only_loopback(route):
            if route.request.url.startswith((site + "/", "data:", "blob:")):
                return route.continue_()
            complaints.append(f"a request leaves for {route.request.url}")
            route.abort()

        page.route("**/*", only_loopback)
        page.on("console", lambda message: message.type == "error" and complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("response", lambda response: response.status >= 400 and complaints.append(f"missing: {response.url}"))
        page.goto(f"{site}/{name}.html", wait_until="load")
        return page, complaints

    yield open_page
    for context in contexts:
        context.close()


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


def colab_address(notebook: str) -> str:
    repository = CONFIG["repository"]
    there = repository["url"].replace("https://github.com", "https://colab.research.google.com/github")
    return f"{there}/blob/{repository['branch']}/{notebook}"


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


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", PAGES)
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
        assert page.locator("a[href*='colab']").first.get_attribute("href") == colab_address(f"{name}.ipynb")
    faults = accessibility_faults(page, axe)
    assert not faults, "\n".join(faults)


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
