"""Small parts of a self-contained HTML page: escaped text, numbers, tables. No script, nothing from the network."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import SupportsFloat

from teamtr_jax.validation import shown

__all__ = ["STYLE", "escaped", "number", "table", "page"]

STYLE = """*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{font:16px/1.5 system-ui,sans-serif;max-width:64em;margin:1em auto 4em;padding:0 1em;color:#222;background:#fff}
h1{font-size:1.4em;line-height:1.25;overflow-wrap:anywhere}
h2{font-size:1.2em;margin:2em 0 .3em}h3{font-size:1em;margin:1.2em 0 .2em}
p,li{max-width:46em}.note{color:#555;font-size:.9em}.wide{overflow-x:auto;margin:.5em 0}
table{border-collapse:collapse;font-size:.9em}
td,th{padding:.2em .6em;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
td:first-child,th:first-child,.text{text-align:left}th{vertical-align:bottom;color:#555;font-weight:600}
summary{cursor:pointer;padding:.3em 0}data{font-variant-numeric:tabular-nums}"""
"""What every page looks like; black on white, readable on a phone."""

RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def escaped(text: object, longest: int = 100) -> str:
    r"""A text from outside for a page: shortened, control characters as escapes, nothing in it is markup.

    Example:
      >>> print(escaped("<b>&" + chr(27)), escaped("a" * 50, 9))
      &lt;b&gt;&amp;\x1b aaaa…aaaa
    """
    return html.escape(shown(text, longest))


def number(value: SupportsFloat, sign: bool = False, floor: float = 0.0) -> str:
    """A number to three digits; the whole of it stands in the markup, for whoever reads the page by program.

    Args:
      floor: what is not larger, in size, is shown as about zero.

    Example:
      >>> print(number(-0.0123456), number(float("inf")), number(2.0, sign=True))
      <data value="-0.0123456">−0.0123</data> <data value="inf">∞</data> <data value="2.0">+2</data>
    """
    value = float(value)
    if abs(value) <= floor and value:
        return f'<data value="{value!r}">≈ 0</data>'
    before = "−" if value < 0 else "+" if sign and value > 0 else ""
    return f'<data value="{value!r}">{before}{_digits(abs(value))}</data>'


def _digits(value: float) -> str:
    """Three digits of a number ≥ 0: `38,600`, `0.00123`, `5.22·10⁻¹²`."""
    if math.isinf(value):
        return "∞"
    digits, _, power = f"{value:.2e}".partition("e")
    if value and not -4 <= int(power) < 6:
        return f"{float(digits):g}·10{str(int(power)).translate(RAISED)}"
    if value % 1 == 0:
        return f"{value:,.0f}"
    text = f"{float(f'{value:.3g}'):,.{max(0, 2 - int(power))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], name: str = "") -> str:
    """A table that scrolls by itself where it is wider than the page. Cells are markup: made by `escaped` and `number`."""
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    mark = f' id="{name}"' if name else ""
    return f"<div class=wide><table{mark}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def page(title: str, body: str, style: str = "", refresh: float | None = None) -> str:
    """The whole page. `title` is text, `body` is markup, `style` is added to `STYLE`.

    Args:
      refresh: seconds after which a browser loads it again.
    """
    again = "" if refresh is None else f"<meta http-equiv=refresh content={math.ceil(refresh)}>"
    wide = "<meta name=viewport content='width=device-width,initial-scale=1'>"
    head = f"<meta charset=utf-8>{wide}{again}<title>{escaped(title)}</title><style>{STYLE}{style}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>\n{body}\n</body></html>\n"
