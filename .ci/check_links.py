"""Crawls a built site: every link and anchor leads somewhere, every page is reached, nothing comes from a server.

python .ci/check_links.py build/site
"""

import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

START = "index.html"
# the theme's page for addresses that do not exist; a server shows it, no page links to it
ALONE = {"404.html"}
_LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href"), ("video", "src")}
_IN_CSS = re.compile(r"url\(\s*[\"']?([^\"')\s]+)|@import\s+[\"']([^\"']+)")


class Page(HTMLParser):
    """The anchors of a page, what it links to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = {"", "__top"}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one tag."""
        given = {name: value or "" for name, value in attrs}
        self.anchors.update(given[name] for name in ("id", "name") if name in given)
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        for name in given:
            # of what a head refers to, only a canonical address and neighbours are not fetched
            if (tag, name) in _LOADED and given.get("rel") not in ("canonical", "next", "prev"):
                self.loaded.append(given[name])
        self.loaded += [one[0] or one[1] for one in _IN_CSS.findall(given.get("style", ""))]


def problems(site: Path) -> Iterator[str]:
    """Give a sentence for everything that is wrong."""
    names = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    pages = {one: Page((site / one).read_text(encoding="utf-8")) for one in sorted(names) if one.endswith(".html")}
    if START not in pages:
        yield f"there is no {START} in {site}; build the site with `make docs`."
        return
    linked: dict[str, set[str]] = {}
    for name, page in pages.items():
        linked[name] = set()
        for address in [*page.links, *page.loaded]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if address in page.loaded and parts.scheme != "data":
                    yield f"{name} loads {address} from elsewhere"
                continue
            target = _target(name, parts.path)
            linked[name].add(target)
            if target not in names:
                yield f"{name} links to {address}, which is not there"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{name} links to {address}, which has no such anchor"
    for name in sorted(one for one in names if one.endswith(".css")):
        for found in _IN_CSS.findall((site / name).read_text(encoding="utf-8")):
            if urlsplit(found[0] or found[1]).netloc:
                yield f"{name} loads {found[0] or found[1]} from elsewhere"
    for one in json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))["docs"]:
        path, _, anchor = one["location"].partition("#")
        if (path or START) not in pages or unquote(anchor) not in pages[path or START].anchors:
            yield f"the search finds {one['location']}, which is not there"
    reached, waiting = set(), [START]
    while waiting:
        if (one := waiting.pop()) not in reached and one in pages:
            reached.add(one)
            waiting += linked[one]
    yield from (f"no link leads to {one}" for one in sorted(set(pages) - reached - ALONE))


def _target(page: str, path: str) -> str:
    if not path:
        return page
    path = unquote(path)
    parts = [] if path.startswith("/") else page.split("/")[:-1]
    for part in path.lstrip("/").split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in (".", ""):
            parts.append(part)
    return "/".join(parts) + ("/index.html" if path.endswith("/") and parts else "") or START


def main(arguments: list[str]) -> int:
    """Print what is wrong with a site; 1 if anything is."""
    site = Path(arguments[0]) if arguments else Path("build/site")
    found = sorted(set(problems(site)))
    sys.stdout.writelines(f"{one}\n" for one in found)
    count = len(list(site.rglob("*.html")))
    sys.stdout.write(f"{count} pages of {site}: {len(found) or 'no'} dead or foreign links\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
