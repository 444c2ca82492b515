"""What the browser tests share: a Chromium, the built book, and pages whose every complaint is heard."""

import pytest
import yaml
from playwright.sync_api import sync_playwright

import chromium
import vendor
from build_book import build
from paths import ROOT
from serve import serving

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text())
PAGES = [TOC["root"]] + [chapter["file"] for part in TOC["parts"] for chapter in part["chapters"]]
VIEWS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}, "has_touch": True},
}

# By default each page on a phone, and every other one in dark in place of light; all of them with --full.
SEEN = [
    pytest.param(name, view, id=f"{name}-{view}", marks=pytest.mark.full if view == ("dark", "light")[k % 2] else ())
    for k, name in enumerate(PAGES)
    for view in VIEWS
]


@pytest.fixture(scope="module")  # not longer: while it runs, so does an event loop, which executing a notebook refuses
def browser():
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
        running = playwright.chromium.launch(executable_path=chromium.find(), args=arguments)
        yield running
        running.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The address of a fresh build; a warning fails it."""
    if not vendor.is_vendored() and not vendor.have_npm():
        pytest.skip("npm is not installed, so the pages would load JavaScript from a CDN")
    with serving(build(tmp_path_factory.mktemp("book"), strict=True)) as address:
        yield address


@pytest.fixture
def visit(site, browser):
    """Open a page of the site and return it with the complaints gathered so far and later."""
    contexts = []

    def open_page(name: str, view: str = "light"):
        contexts.append(browser.new_context(**VIEWS[view]))
        page, complaints = contexts[-1].new_page(), []
        listen(page, site, complaints)
        page.goto(f"{site}/{name}.html", wait_until="load")
        return page, complaints

    yield open_page
    for context in contexts:
        context.close()


def listen(page, address: str, complaints: list[str]) -> None:
    """Gather errors, missing files, and requests to anything but the address; these are stopped."""

    def only_loopback(route):
        if route.request.url.startswith((address + "/", "data:", "blob:")):
            return route.continue_()
        complaints.append(f"a request leaves for {route.request.url}")
        route.abort()

    page.route("**/*", only_loopback)
    page.on("console", lambda message: message.type == "error" and complaints.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("response", lambda response: response.status >= 400 and complaints.append(f"missing: {response.url}"))
