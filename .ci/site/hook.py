"""What the site is made of besides the pages of docs/: the events of MkDocs, each handed to the module that knows."""

import api_pages
import mathml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from navigation import navigation
from repository import rooms


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and make the navigation of all pages."""
    for path, text in api_pages.pages(rooms()).items():
        files.append(File.generated(config, path, content=text))
    config.nav = navigation(file.src_uri for file in files.documentation_pages())
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn formulas into MathML."""
    return mathml.replaced(html, page.file.src_uri)
