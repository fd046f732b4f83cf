"""The pages of the documentation, and the modules that make a site of them, without MkDocs."""

import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
# templates that GitHub reads, and no pages
APART = ("ISSUE_TEMPLATE", "PULL_REQUEST_TEMPLATE.md")

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>```+)(?P<language>\w*)[^\n]*\n(?P<body>.*?)^ *(?P=ticks) *$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def site(name):
    """Import a module of the site, such as ``navigation``."""
    folder = str(REPOSITORY / ".ci" / "site")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def pages(folder=DOCS):
    return sorted(
        path for path in folder.rglob("*.md") if not any(part in APART for part in path.relative_to(folder).parts)
    )


def methods():
    return [path for path in pages(DOCS / "methods") if path.name != "index.md"]


def name_of(path):
    return path.relative_to(REPOSITORY).as_posix()


def blocks_of(text, page=""):
    for found in _FENCE.finditer(text):
        indent = len(found["indent"])
        body = "".join(line[indent:] if line.strip() else line for line in found["body"].splitlines(keepends=True))
        yield Block(page, text[: found.start()].count("\n") + 1, found["language"], body)


def without_code(text):
    """A page without fenced blocks, code and comments, as many lines long as before."""
    text = _FENCE.sub(lambda found: "\n" * found[0].count("\n"), text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text)


def front_matter(text):
    begin = re.match(r"---\n(.*?)^---\n", text, re.M | re.S)
    return (yaml.safe_load(begin[1]), text[begin.end() :]) if begin else ({}, text)
