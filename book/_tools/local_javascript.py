"""A Sphinx extension: what scripts the pages load. MathJax comes from book/_vendor where it is there, else from a CDN.

It also puts the base model beside the pages, for the figures that ask it. It is an extension, and not a second
configuration file, so that a bare `jupyter-book build .` decides the same way.
"""

import re
import runpy
from pathlib import Path

import sphinx_thebe

import vendor
from paths import ROOT, VENDOR

# Of what is vendored: the tests show the figures under Jupyter's own widget manager, the pages do without it.
TESTS_ALONE = ["vendor/*.js", "vendor/@jupyter-widgets"]
FONT_AWESOME = re.compile(r'\s*<script src="[^"]*/fontawesome\.js[^"]*"></script>')


def use_own(app, config) -> None:
    config.nb_ipywidgets_js = {"figures.js": {"defer": "defer"}}
    if vendor.is_vendored():
        config.exclude_patterns += TESTS_ALONE
        config.html_static_path.append(str(VENDOR))
        config.mathjax_path = "vendor/mathjax/tex-chtml.js"


def drop_thebe(app) -> None:
    """Jupyter Book always loads Thebe. This book does not use it, and its script, put in twice, is an error."""
    for listener in list(app.events.listeners["env-before-read-docs"]):
        if listener.handler is sphinx_thebe.init_thebe_core:
            app.disconnect(listener.id)


def drop_font_awesome(app, error) -> None:
    """The theme's style sheet draws its icons by a font; its script would draw them again, 1.5 MB before all words."""
    if error is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = page.read_text("utf-8")
            page.write_text(FONT_AWESOME.sub("", text), "utf-8")


def write_base_model(app, error) -> None:
    """One file that a page fetches when a figure first asks the model: adapterlab/kit/widgets/model.js."""
    if error is None and app.builder.format == "html":
        # By its path: importing the package would load torch, which takes seconds.
        asset = runpy.run_path(str(ROOT / "adapterlab" / "kit" / "widgets" / "asset.py"))
        (Path(app.outdir) / "_static" / asset["NAME"]).write_bytes(asset["model_bytes"]())


def setup(app) -> dict:
    app.connect("config-inited", use_own)
    app.connect("builder-inited", drop_thebe)
    app.connect("build-finished", drop_font_awesome)
    app.connect("build-finished", write_base_model)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
