"""Pictures as every reader of a notebook gets them: the built book, JupyterLab, Colab and GitHub."""

import base64
import html
import io
import re

import matplotlib

from .style import RC


class Picture:
    """An SVG image with alt text and a caption, shown as HTML; its text form is the alt text."""

    def __init__(self, fig, alt: str, caption: str = ""):
        if not alt.strip():
            raise ValueError("a picture needs alt text: say what is to be seen")
        self.alt, self.caption, self.svg = alt, caption, _svg(fig)

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self.html()}

    def html(self, note: str = "") -> str:
        data = base64.b64encode(self.svg.encode()).decode()
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else ""
        return (
            f'<figure class="al-figure"><img alt="{html.escape(self.alt, quote=True)}" '
            f'src="data:image/svg+xml;base64,{data}" style="max-width:100%;height:auto;border-radius:6px">'
            f"{caption}{note}</figure>"
        )

    def __repr__(self) -> str:
        return f"[picture: {self.alt}]"


def _svg(fig) -> str:
    file = io.StringIO()
    with matplotlib.rc_context(RC):
        fig.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"^.*?(?=<svg)", "", file.getvalue(), flags=re.DOTALL)
