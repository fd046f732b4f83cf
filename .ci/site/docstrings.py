"""Docstrings as griffe reads them: what a house style calls ``Example:`` is a section of examples."""

import re

import griffe


class Docstrings(griffe.Extension):
    """Rename sections, and turn roles of Sphinx into code, before docstrings are parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Change the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = changed(obj.docstring.value)


def changed(text: str) -> str:
    """Give a docstring in the words that griffe knows."""
    text = re.sub(r"^(\s*)Example:[ \t]*$", r"\1Examples:", text, flags=re.MULTILINE)
    return re.sub(r":(?:class|func|meth|mod|attr):`~?([^`]+)`", r"`\1`", text)
