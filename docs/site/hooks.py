"""What the site's builder does besides Markdown: formulas as MathML, and the command line's own help."""

import html
import re
import subprocess
import sys
from typing import Any

from latex2mathml.converter import convert

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
HELP = "<!-- the help of every command -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the help of every command where a page asks for it."""
    return markdown.replace(HELP, _command_help()) if HELP in markdown else markdown


def on_page_content(html_text: str, **_: Any) -> str:
    """Turn formulas into MathML, which browsers show by themselves."""

    def formula(match: re.Match[str]) -> str:
        display = "block" if match[2] == "[" else "inline"
        return convert(html.unescape(match[3]).strip(), display=display)

    return FORMULA.sub(formula, html_text)


def _command_help() -> str:
    """Return the help of all commands as Markdown, below headings of second order."""
    words = [sys.executable, "-m", "typer", "opacus_edgeworth.cli.app", "utils", "docs", "--name", "opacus-edgeworth"]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    text = re.sub(r'<span style="font-weight: bold">(.*?)</span>', r"**\1**", text)
    text = re.sub(r"^\[bold\]Exit status\[/\]\n\n(\d  .*\n\n)+", "", text, flags=re.MULTILINE)  # a page has them
    text = re.sub(r"^(\*\*Example\*\*: )?(opacus-edgeworth .*(?:\n.+)*)", r"\1`\2`", text, flags=re.MULTILINE)
    return text.split("\n", 1)[1]
