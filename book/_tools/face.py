"""A Sphinx extension: the book's colours and marks, out of adapterlab/kit/style.py and book/_assets/logo.svg.

Pages get one more style sheet, palette.css, with a variable per colour (--al-dora), per member's hue and mark, and
rules that put a family's mark beside its chapters in the contents. A chapter's title gets its mark by a class.
"""

import re
import runpy
from pathlib import Path
from urllib.parse import quote

from paths import BOOK, ROOT

LOGO = BOOK / "_assets" / "logo.svg"
MARK = re.compile(r'<g id="([\w-]+)" data-box="([^"]+)" fill="(#\w+)">(.*?)</g>', re.DOTALL)


def members() -> dict:
    """kit.style.MARKS. By the file's path: importing the package would load torch, which takes seconds."""
    return runpy.run_path(str(ROOT / "adapterlab" / "kit" / "style.py"))["MARKS"]


def slug(name: str) -> str:
    return re.sub(r"\W+|_", "-", name)


def marks() -> dict[str, str]:
    """Each family's mark by its slug: a black SVG that CSS uses as a mask."""
    return {
        family: f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{shape.strip()}</svg>'
        for family, box, _, shape in MARK.findall(LOGO.read_text("utf-8"))
    }


def palette() -> str:
    """The style sheet."""
    styles, shapes = members(), marks()

    def variables(ground: str) -> str:
        return "\n".join(f"  --al-{slug(name)}: {getattr(mark, ground)};" for name, mark in styles.items())

    shaped = {name: mark for name, mark in styles.items() if slug(mark.family) in shapes}
    lines = ["/* Made by book/_tools/face.py. */", "html {", variables("light")]
    lines += [f'  --al-mark-{family}: url("data:image/svg+xml,{quote(shape)}");' for family, shape in shapes.items()]
    lines += ["}", 'html[data-theme="dark"] {', variables("dark"), "}"]
    for name, mark in shaped.items():
        page, hue = f"{name}.html", f"--al-hue: var(--al-{slug(name)}); --al-mark: var(--al-mark-{slug(mark.family)})"
        here = f'body:has(h1.al-member-{slug(name)}) .bd-links li.current.active > a[href="#"]'
        lines.append(f".al-member-{slug(name)} {{ {hue} }}")
        lines.append(f'.bd-links a[href="{page}"], .bd-links a[href$="/{page}"], {here} {{ {hue} }}')
        lines.append(
            f'.bd-links a[href="{page}"]::before, .bd-links a[href$="/{page}"]::before, {here}::before '
            '{ content: "" }'
        )
    return "\n".join(lines) + "\n"


def write_palette(app, config) -> None:
    folder = Path(app.doctreedir) / "face"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "palette.css").write_text(palette(), "utf-8")
    config.html_static_path.append(str(folder))
    config.html_css_files.insert(0, "palette.css")
    config.html_theme_options["logo"] = {"text": config.html_title, "alt_text": ""}


def mark_title(app, pagename, templatename, context, doctree) -> None:
    """The title of a member's chapter is marked by a class."""
    member = members().get(pagename.removeprefix("book/"))
    if member and "body" in context and slug(member.family) in marks():
        name = slug(pagename.removeprefix("book/"))
        context["body"] = context["body"].replace("<h1>", f'<h1 class="al-marked al-member-{name}">', 1)


def setup(app) -> dict:
    app.connect("config-inited", write_palette)
    app.connect("html-page-context", mark_title)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
