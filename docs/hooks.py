"""What the site has that MkDocs has not: equations as GitHub writes them, and pages in two languages.

Inline equations where Markdown would eat a character are $`\\mathbb E\\,x`$. Display equations are fences named math
(see mkdocs.yml), plain inline ones $x$: both render on GitHub as well.

A page in Chinese, `zh/PAGE.md`, is the twin of `PAGE.md`: its header switches to it, and each language sees its own
navigation.
"""

import re
from copy import copy
from itertools import pairwise
from xml.etree.ElementTree import Element

from markdown import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.util import AtomicString


class _Equation(InlineProcessor):
    def handleMatch(self, m, data):
        element = Element("span", {"class": "arithmatex"})
        element.text = AtomicString(rf"\({m[1]}\)")
        return element, m.start(0), m.end(0)


class Equations(Extension):
    """The inline form with backticks, as what `pymdownx.arithmatex` makes of the plain one."""

    def extendMarkdown(self, md):
        # Before code in backticks, which has 190.
        md.inlinePatterns.register(_Equation(r"\$`([^`]+)`\$", md), "equation", 191)


def on_config(config):
    """Called by MkDocs."""
    config.markdown_extensions.append(Equations())
    return config


WORD = re.compile(r"(?<=\w)([,:=])(?=\w)")


def on_page_content(html, page, config, files):
    """Called by MkDocs: long words of answers in a table may break after a mark, and are copied without a trace."""
    text = lambda m: WORD.sub(r"\1<wbr>", m[0])
    return re.sub(
        "<table>.*?</table>", lambda table: re.sub(">[^<]+<", text, table[0]), html, flags=re.DOTALL
    )


CHINESE = "zh/"


def _twin(page, pages):
    """The same page in the other language, or that language's home."""
    url = page.url.removeprefix(CHINESE) if page.url.startswith(CHINESE) else CHINESE + page.url
    return url if url in pages else (CHINESE if url.startswith(CHINESE) else "")


def on_nav(nav, config, files):
    """Called by MkDocs: the Chinese section stands last, and is what a Chinese page sees instead of the rest."""
    config.extra["pages"] = {page.url for page in nav.pages}
    for page, following in pairwise(nav.pages):
        if page.url.startswith(CHINESE) != following.url.startswith(CHINESE):
            page.next_page = following.previous_page = None


def on_page_context(context, page, config, nav):
    """Called by MkDocs before a page is written."""
    chinese = page.url.startswith(CHINESE)
    *english, section = nav.items
    own = copy(nav)
    own.items = section.children if chinese else english
    context["nav"] = own
    config.theme["language"] = "zh" if chinese else "en"
    here, twin = page.url, _twin(page, config.extra["pages"])
    config.extra["alternate"] = [
        {"name": "English", "link": twin if chinese else here, "lang": "en"},
        {"name": "中文", "link": here if chinese else twin, "lang": "zh"},
    ]
    return context
