"""A Sphinx extension: pages load MathJax and the widgets' code from book/_vendor where it is there, else from a CDN.

It is an extension, and not a second configuration file, so that a bare `jupyter-book build .` decides the same way.
"""

import sphinx_thebe

import vendor
from paths import VENDOR


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


def setup(app) -> dict:
    app.connect("config-inited", use_vendored)
    app.connect("builder-inited", drop_thebe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
