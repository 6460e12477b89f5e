"""Formulas as MathML, which browsers draw without a script."""

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(?P<tag>div|span) class="arithmatex">\\(?P<open>[\[(])(?P<tex>.*?)\\[\])]</(?P=tag)>', re.S
)


def on_page_content(content: str, **_: object) -> str:
    """The page with its formulas converted."""

    def formula(match: re.Match[str]) -> str:
        display = "block" if match["open"] == "[" else "inline"
        return convert(html.unescape(match["tex"]).strip(), display=display)

    return _FORMULA.sub(formula, content)
