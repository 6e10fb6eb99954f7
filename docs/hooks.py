"""Inline equations as GitHub has them where Markdown would eat a character: $`\\mathbb E\\,x`$.

Display equations are fences named math (see mkdocs.yml), plain inline ones $x$: both render on GitHub as well.
"""

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
