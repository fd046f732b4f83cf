"""HTML written so that text from files can never become markup."""

import re
from collections.abc import Sequence
from html import escape

_NUMBER = re.compile(r"(?:< ?)?[-+]?\d[\d.]*(?:e[-+]?\d+)?(?: (?:±|to) [\d.]+)?(?: %)?|-?")
_TAG = re.compile(r"<[^>]*>")
_LONG = 34

Cell = str
"""The content of a table's cell: text, which is escaped, or :class:`Markup`."""


class Markup(str):
    """HTML that is ready. Every other string is text, and is escaped where it meets this one."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: str | None) -> Markup:
    """Write an element.

    Args:
        name: Its name.
        children: What it holds; text is escaped, :class:`Markup` is not.
        attributes: Its attributes, ``class_`` for ``class``; ``""`` for one without a value, None for none.

    Returns:
        The element with its end tag.

    Example:
        >>> element("p", "a < b", element("b", "!"), class_="note")
        '<p class="note">a &lt; b<b>!</b></p>'
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + (f'="{escape(value)}"' if value else "")
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(child if isinstance(child, Markup) else escape(child) for child in children)
    return Markup(f"<{name}{written}>{inner}</{name}>")


def joined(*parts: str) -> Markup:
    """Put parts one after the other; text is escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def table(caption: str, head: Sequence[Cell], rows: Sequence[Sequence[Cell]]) -> Markup:
    """Write a table that scrolls sideways where the screen is narrow; the first column names the rows.

    Columns of numbers are aligned to the right.

    Args:
        caption: What the table shows.
        head: The names of its columns.
        rows: Its cells, as many as names.

    Returns:
        The table.

    Example:
        >>> written = table("Accuracy", ["run", "acc"], [["a", "97.0 %"], ["b", "-"]])
        >>> written.count('class="num"')
        3
    """
    numbers = [all(_NUMBER.fullmatch(_TAG.sub("", row[place])) for row in rows) for place in range(len(head))]
    classes = [("num" if number else None) for number in numbers]
    names = [element("th", name, scope="col", class_=kind) for name, kind in zip(head, classes, strict=True)]
    lines = []
    for row in rows:
        long = len(_TAG.sub("", row[0])) > _LONG
        cells = [element("th", row[0], scope="row", class_="long" if long else None)]
        cells += [element("td", cell, class_=kind) for cell, kind in zip(row[1:], classes[1:], strict=True)]
        lines.append(element("tr", *cells))
    inner = element(
        "table", element("caption", caption), element("thead", element("tr", *names)), element("tbody", *lines)
    )
    return element("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def folded(summary: str, *children: str) -> Markup:
    """Write what opens when it is asked for."""
    return element("details", element("summary", summary), *children)


def section(key: str, title: str, *children: str) -> Markup:
    """Write a section of the page with its heading."""
    return element("section", element("h2", title), *children, id=key)
