"""A Sphinx extension: pages load MathJax and the widgets' code from book/_vendor where it is there, else from a CDN.

It also puts the base model beside the pages, for the figures that ask it. It is an extension, and not a second
configuration file, so that a bare `jupyter-book build .` decides the same way.
"""

import runpy
from pathlib import Path

import sphinx_thebe

import vendor
from paths import ROOT, VENDOR


def use_vendored(app, config) -> None:
    config.html_js_files.append("font-awesome.js")
    if not vendor.is_vendored():
        return
    config.html_static_path.append(str(VENDOR))
    config.mathjax_path = "vendor/mathjax/tex-chtml.js"
    config.nb_ipywidgets_js = {"vendor/require.js": {}, "require-config.js": {}, "vendor/embed-amd.js": {}}


def drop_thebe(app) -> None:
    """Jupyter Book always loads Thebe. This book does not use it, and its script, put in twice, is an error."""
    for listener in list(app.events.listeners["env-before-read-docs"]):
        if listener.handler is sphinx_thebe.init_thebe_core:
            app.disconnect(listener.id)


def write_base_model(app, error) -> None:
    """One file that a page fetches when a figure first asks the model: adapterlab/kit/widgets/model.js."""
    if error is None and app.builder.format == "html":
        # By its path: importing the package would load torch, which takes seconds.
        asset = runpy.run_path(str(ROOT / "adapterlab" / "kit" / "widgets" / "asset.py"))
        (Path(app.outdir) / "_static" / asset["NAME"]).write_bytes(asset["model_bytes"]())


def setup(app) -> dict:
    app.connect("config-inited", use_vendored)
    app.connect("builder-inited", drop_thebe)
    app.connect("build-finished", write_base_model)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
