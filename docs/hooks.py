"""Hooks of MkDocs: front page and changelog, which lie outside `docs/`, are pages of the site, too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]

PAGE_OF = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
"""Pages that lie outside `docs/`, because that is where people look for them."""

_LINK = re.compile(r"\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
"""A link to a file, not to a place on the same page or on another site: text, path, anchor."""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside `docs/`."""
    for name, page in PAGE_OF.items():
        files.append(File.generated(config, page, abs_src_path=str(REPOSITORY / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Return the page with links that lead where the site has the files."""
    outside = {page: name for name, page in PAGE_OF.items()}
    folder = (REPOSITORY / outside.get(page.file.src_uri, f"docs/{page.file.src_uri}")).parent
    return _LINK.sub(lambda link: _of_the_site(link, folder), markdown)


def _of_the_site(link: re.Match[str], folder: Path) -> str:
    """Return a link as the site needs it; a link to a file that is not part of the site becomes its text."""
    text, path, anchor = link.groups(default="")
    target = (folder / path).resolve()
    if target.parent == REPOSITORY / "docs" or not target.exists():
        return f"[{text}]({target.name}{anchor})"
    if target.parent == REPOSITORY and target.name in PAGE_OF:
        return f"[{text}]({PAGE_OF[target.name]}{anchor})"
    return text
