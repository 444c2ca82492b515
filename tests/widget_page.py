"""A page that shows widgets by anywidget's own front end, as JupyterLab and Colab do; no kernel, no CDN."""

import html
import json
import shutil
from pathlib import Path

from ipywidgets.embed import embed_data

from paths import VENDOR

PAGE = """<!doctype html>
<html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>widgets</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<style>body {{ margin: 0 auto; padding: 12px; max-width: 760px; background: {ground}; font-family: sans-serif }}</style>
<script src="vendor/require.js"></script><script>requirejs.config({{ baseUrl: "vendor/" }})</script>
<script src="vendor/embed-amd.js"></script></head><body>
{cells}
<script type="application/vnd.jupyter.widget-state+json">{state}</script>
</body></html>"""

CELL = """<div class="bd-content"><div class="cell_output" style="margin: 16px 0" id="cell-{k}">
<div class="output text_html">{still}</div>
<script type="application/vnd.jupyter.widget-view+json">{view}</script></div></div>"""


def write_page(folder: Path, figures, theme: str = "light") -> None:
    """folder/index.html with the figures one below the other, and the JavaScript it needs."""
    if not (folder / "vendor").exists():
        shutil.copytree(VENDOR / "vendor", folder / "vendor", ignore=shutil.ignore_patterns("mathjax"))
    data = embed_data(views=figures, drop_defaults=False)  # the code is a default
    cells = [
        CELL.format(k=k, still=figure.still_bundle()["text/html"], view=json.dumps(view))
        for k, (figure, view) in enumerate(zip(figures, data["view_specs"]))
    ]
    page = PAGE.format(
        theme=html.escape(theme),
        ground="#121212" if theme == "dark" else "#ffffff",
        cells="\n".join(cells),
        state=json.dumps(data["manager_state"]).replace("</", "<\\/"),
    )
    (folder / "index.html").write_text(page, "utf-8")
