"""No link of README.md, CHANGELOG.md and docs/ is dead, no anchor missing, and every page is in the menu."""

import re
from urllib.parse import unquote

import pytest

from .pages import DOCS, REPOSITORY, name_of, pages, site, without_code

_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *pages()]


def anchors(path):
    """The anchors of a page, as GitHub makes them of its headings."""
    text = re.sub(r"^(```+)[^\n]*\n.*?^\1 *$", "", path.read_text(), flags=re.M | re.S)
    found, counts = set(), {}
    for title in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, re.M):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", title.replace("`", "").lower()).replace(" ", "-")
        counts[slug] = counts.get(slug, -1) + 1
        found.add(slug if counts[slug] == 0 else f"{slug}-{counts[slug]}")
    return found | set(re.findall(r"\{\s*#([\w-]+)\s*\}|<a id=\"([\w-]+)\"", text))


def dead(path):
    """The links of a page that lead nowhere."""
    for target in _LINK.findall(without_code(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        there = (path.parent / unquote(place)).resolve() if place else path
        if not there.exists():
            yield f"{target}: not there"
        elif not there.is_relative_to(REPOSITORY.resolve()) and path.is_relative_to(REPOSITORY):
            yield f"{target}: outside of the repository"
        elif anchor and there.suffix == ".md" and unquote(anchor) not in anchors(there) | _of_markers(there):
            yield f"{target}: no such heading"


def _of_markers(path):
    """Headings that the site puts in the place of a marker."""
    return {"on-mnist"} if path == DOCS / "methods" / "index.md" else set()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_no_link_is_dead(path):
    assert not list(dead(path))


def test_dead_links_are_found(tmp_path):
    (tmp_path / "there.md").write_text("# A `title`, and more\n\n```\n# none\n```\n## Twice\n## Twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#a-title-and-more) [c](there.md#twice-1) [d](https://example.org) `[e](f.md)`\n"
        "[a](gone.md) ![p](gone.png) [b](there.md#none) [c](there.md#twice-2)\n"
    )
    assert list(dead(page)) == [
        "gone.md: not there",
        "gone.png: not there",
        "there.md#none: no such heading",
        "there.md#twice-2: no such heading",
    ]


def flat(entries):
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            yield from flat([one for below in entry.values() for one in ([below] if isinstance(below, str) else below)])


def test_every_page_is_in_the_menu_once():
    shown = sorted(path.relative_to(DOCS).as_posix() for path in pages())
    assert sorted(flat(site("navigation").navigation(shown))) == shown


def test_new_pages_find_their_place_and_what_nobody_knows_comes_last():
    navigation = site("navigation").navigation
    shown = ["index.md", "methods/gan/r1.md", "methods/gan/index.md", "methods/new/a.md", "migration/mart.md", "x/y.md"]
    assert navigation(shown) == [
        {"Start": ["index.md"]},
        {"Methods": [{"GANs": ["methods/gan/index.md", "methods/gan/r1.md"]}, {"New": ["methods/new/a.md"]}]},
        {"How to": [{"Coming from elsewhere": ["migration/mart.md"]}]},
        {"Project": ["x/y.md"]},
    ]
