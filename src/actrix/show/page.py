"""A report as one HTML file: text, tables, pictures and videos in it, nothing fetched, light and dark."""

from __future__ import annotations

import base64
import html
import mimetypes
from collections.abc import Sequence
from pathlib import Path

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --link: #0072b2; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
figure { margin: 1rem 0; } figcaption, .note { opacity: .75; font-size: .9rem; }
img { width: 100%; max-width: 44rem; background: white; border-radius: 6px; }
video { width: 100%; max-width: 32rem; border-radius: 6px; }
.wide { overflow-x: auto; background: linear-gradient(to left, Canvas 30%, #0000) right / 3rem 100% no-repeat local,
  linear-gradient(to left, #8886, #0000) right / 1rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td:not(.number) { overflow-wrap: anywhere; min-width: 6rem; } td:first-child { white-space: nowrap; }
tr > :first-child { position: sticky; left: 0; background: Canvas; }
td.long { min-width: 18rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
pre { background: var(--soft); padding: .7rem; border-radius: 6px; overflow-x: auto; }
code { overflow-wrap: anywhere; } .differs { font-weight: 600; }
"""

GENERATOR = "actrix report"
LONG = 36
"""Characters of a cell above which it keeps some width on a phone too, whose table is then moved sideways."""


def text(value: object) -> str:
    """Safe as the content of an element."""
    return html.escape(str(value))


def table(head: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()) -> str:
    """A table; `numbers` are the columns aligned to the right. A cell may be `Marked`."""

    def cell(kind: str, i: int, value: object) -> str:
        said = text(value)
        facts = {"number": i in numbers, "long": len(said) > LONG, "differs": isinstance(value, Marked)}
        classes = " ".join(name for name, so in facts.items() if so)
        attribute = f' class="{classes}"' if classes else ""
        if i not in numbers:  # words of answers are long: a line may end after an argument
            said = said.replace(",", ",<wbr>")
        return f"<{kind}{attribute}>{said}</{kind}>"

    top = "".join(cell("th", i, name) for i, name in enumerate(head))
    body = "\n".join(f"<tr>{''.join(cell('td', i, v) for i, v in enumerate(row))}</tr>" for row in rows)
    return (
        f'<div class="wide"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


class Marked(str):
    """A cell that differs from its neighbours."""


def data_uri(path: Path) -> str:
    """The file's bytes as an address."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def picture(path: Path, caption: str) -> str:
    """A picture within the page."""
    said = text(caption)
    return f'<figure><img alt="{said}" src="{data_uri(path)}"><figcaption>{said}</figcaption></figure>'


def video(path: Path, caption: str) -> str:
    """A video within the page. It begins at a time, or browsers show nothing of it until it is played."""
    return (
        f'<figure><video controls muted loop playsinline src="{data_uri(path)}#t=0.001"></video>'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def page(title: str, parts: Sequence[str]) -> str:
    """The whole file."""
    body = "\n".join(parts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="{GENERATOR}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{text(title)}</h1>
{body}
</body>
</html>
"""
