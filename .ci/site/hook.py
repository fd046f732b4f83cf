"""What the site is made of besides the pages of docs/: the events of MkDocs, each handed to the module that knows."""

import logging
import posixpath
import re
from pathlib import Path

import api_pages
import error_pages
import mathml
import measured
import notebook_pages
import zoo_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from navigation import navigation
from repository import PACKAGE, ROOT, rooms

_LOG = logging.getLogger("mkdocs.hooks.site")
_LINK = re.compile(r"(?<=\]\()(?!\w+:)([\w/.-]+?)(#[^)\s]*)?(?=\))")
_CODE = re.compile(r"(^(?:```+|~~~+).*?^(?:```+|~~~+)[ \t]*$)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and make the navigation of all pages."""
    generated: dict[str, str | bytes] = {
        **api_pages.pages(rooms()),
        **notebook_pages.pages(ROOT / "notebooks"),
        **zoo_pages.pages(ROOT / PACKAGE / "zoo" / "cards"),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        **_listings(Path(config.docs_dir)),
    }
    for path, content in generated.items():
        files.append(File.generated(config, path, content=content))
    config.nav = navigation(file.src_uri for file in files.documentation_pages())
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what a page has markers for, name the class of a method, and lead links that leave docs/ to pages."""
    path = page.file.src_uri
    if path == "errors.md":
        markdown = markdown.replace(error_pages.MARKER, error_pages.section(error_pages.messages(), rooms()))
    markdown = markdown.replace(api_pages.MARKER, api_pages.listed(rooms()) if path == "api/index.md" else "")
    if measured.COMPARED in markdown:
        markdown = markdown.replace(measured.COMPARED, measured.side_by_side(Path(config.docs_dir)))
    if page.meta.get("method"):
        markdown = _method(markdown, page, Path(config.docs_dir))
    parts = _CODE.split(markdown)
    return "".join(
        _LINK.sub(lambda found: _led(found, path), one) if i % 2 == 0 else one for i, one in enumerate(parts)
    )


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn formulas into MathML, and let wide tables scroll by themselves."""
    return mathml.replaced(html, page.file.src_uri)


def _method(markdown: str, page: Page, docs: Path) -> str:
    # who searches for a method wants its page before the reference
    page.meta.setdefault("search", {"boost": 3})
    module, name = page.meta.get("module"), page.meta["method"]
    public = {f"{room.name}.{one.name}" for room in rooms() for one in room.names}
    if f"{module}.{name}" in public:
        line = f"`from {module} import {name}` · [API reference][{module}.{name}]"
        markdown = re.sub(r"^(# .+)$", rf"\1\n\n{line}\n{{ .import }}", markdown, count=1, flags=re.MULTILINE)
    elif module:
        _LOG.warning("%s: %s has no public name %s; correct the front matter.", page.file.src_uri, module, name)
    tables = []
    for one in page.meta.get("measured") or []:
        try:
            tables.append(measured.table(measured.read(docs / "results" / "methods" / f"{one}.json")))
        except (OSError, ValueError, KeyError) as error:
            _LOG.warning("%s: the figures %s cannot be shown (%s).", page.file.src_uri, one, error)
    return markdown.replace(measured.MARKER, "\n".join(tables))


def _led(found: re.Match[str], page: str) -> str:
    """A link out of docs/, such as to README.md or a notebook, or to a folder becomes one to the page that shows it."""
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), found[0].partition("#")[0]))
    if target == "README.md":
        shown = "index.md"
    elif target == "CHANGELOG.md":
        shown = "changelog.md"
    elif target.startswith("notebooks/"):
        shown = target.removesuffix(".ipynb") + ".md"
    elif target.startswith(f"{PACKAGE}/zoo/cards/"):
        shown = f"zoo/{posixpath.basename(target)}"
    elif found[1].endswith("/") and (ROOT / target).is_dir():
        shown = f"{target.removeprefix('docs/')}/index.md"
    else:
        return found[0]
    return posixpath.relpath(shown, posixpath.dirname(page) or ".") + (found[2] or "" if shown != "index.md" else "")


def _listings(docs: Path) -> dict[str, str]:
    """A page for each folder of results without one, so that a link to the folder leads somewhere."""
    pages = {}
    for folder in sorted(path for path in (docs / "results").iterdir() if path.is_dir()):
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
        if names and not any(name.endswith(".md") for name in names):
            # found by its names, it would hide the pages that say something
            title = f"---\nsearch:\n  exclude: true\n---\n# Files of results/{folder.name}"
            listed = [f"- [{name}]({name})" for name in names]
            pages[f"results/{folder.name}/index.md"] = "\n".join([title, "", *listed, ""])
    return pages
