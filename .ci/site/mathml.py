"""Formulas: what arithmatex marks in a page becomes MathML, which browsers show without a script."""

import html as entities
import logging
import re

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)
_LOG = logging.getLogger("mkdocs.hooks.mathml")


def replaced(html: str, page: str) -> str:
    """Give a page with its formulas as MathML; one that cannot be read is a warning, and so an error of strict builds.

    Args:
        html: The page.
        page: Its path, for the warning.
    """
    html = _BLOCK.sub(lambda found: f'<div class="formula">{_converted(found[1], page, "block")}</div>', html)
    return _INLINE.sub(lambda found: _converted(found[1], page, "inline"), html)


def _converted(text: str, page: str, display: str) -> str:
    from latex2mathml.converter import convert

    latex = entities.unescape(text).strip()
    try:
        mathml = convert(latex, display=display)
    except Exception as error:
        _LOG.warning("%s: the formula %s cannot be read (%s: %s)", page, latex, type(error).__name__, error)
        return f"<code>{entities.escape(latex)}</code>"
    if "\\" in re.sub(r"<[^>]*>", "", mathml):
        _LOG.warning("%s: a command of the formula %s is not known to latex2mathml", page, latex)
    return str(mathml)
