"""
What `docs/architecture.md` shows of the code, made from the code: the tree, the layers, the walls.

`python -m tests.support.architecture` writes it into the page, where a package, a module or a contract has changed.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

PAGE = REPOSITORY / "docs" / "architecture.md"
PACKAGE = REPOSITORY / "htcjob"

_WIDTH = 110
_COLUMN = 25
"""Where the sentence of a package begins."""

_MOST_NAMED = 8
"""Forbidden modules that are named one by one; a longer list means all but a few."""


def contracts() -> list[dict[str, Any]]:
    """Return the import contracts, as `lint-imports` checks them."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    found: list[dict[str, Any]] = project["tool"]["importlinter"]["contracts"]
    return found


def layers() -> list[str]:
    """Return the rows of the layers, top to bottom."""
    (rows,) = (contract["layers"] for contract in contracts() if contract["type"] == "layers")
    return [row.replace("htcjob.", "") for row in rows]


def walls() -> list[str]:
    """Return the names of the other contracts, which say why, and whom they keep from what."""
    return [_wall(contract) for contract in contracts() if contract["type"] != "layers"]


def _wall(contract: dict[str, Any]) -> str:
    if contract["type"] == "independence":
        return f"{contract['name']} ({_named(contract['modules'])})"
    sources, forbidden = contract["source_modules"], contract["forbidden_modules"]
    what = _named(forbidden) if len(forbidden) <= _MOST_NAMED else "anything else of htcjob"
    return f"{contract['name']} ({_named(sources)} never {what})"


def _named(modules: list[str]) -> str:
    return ", ".join(f"`{module.removeprefix('htcjob.')}`" for module in modules)


def tree() -> list[str]:
    """Return the packages in the order of the layers, each with its sentence and its modules."""
    names = [name.strip() for row in layers() for name in row.split("|")]
    lines = ["htcjob/"]
    for name in names:
        if (PACKAGE / name).is_dir():
            lines += _package(PACKAGE / name, 1)
    loose = [path for path in sorted(PACKAGE.glob("*.py")) if path.name != "__init__.py"]
    return [*lines, *(_labelled(1, path.name, path) for path in loose)]


def _package(folder: Path, depth: int) -> list[str]:
    lines = [_labelled(depth, f"{folder.name}/", folder / "__init__.py")]
    modules = sorted(path.name for path in folder.glob("*.py") if path.name != "__init__.py")
    indent = "  " * (depth + 1)
    lines += textwrap.wrap(" ".join(modules), _WIDTH, initial_indent=indent, subsequent_indent=indent)
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        lines += _package(inner, depth + 1)
    return lines


def _labelled(depth: int, label: str, source: Path) -> str:
    return f"{'  ' * depth}{label}".ljust(_COLUMN - 1) + " " + _sentence(source)


def _sentence(source: Path) -> str:
    """Return the first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(source.read_text())) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.]) (?=[A-Z])", first)[0]


def page_of_the_code(page: str) -> str:
    """Return the page with the parts between `<!-- NAME -->` and `<!-- end -->` as the code has them."""
    parts = {
        "tree": ["```text", *tree(), "```"],
        "layers": ["```text", *layers(), "```"],
        "walls": [f"* {wall}" for wall in walls()],
    }
    for name, lines in parts.items():
        begin, end = f"<!-- {name}: made by python -m tests.support.architecture -->\n", "<!-- end -->"
        before, found, behind = page.partition(begin)
        assert found, f"docs/architecture.md has no place for the {name}"
        body = "\n".join(lines)
        page = f"{before}{begin}\n{body}\n\n{end}{behind.partition(end)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(page_of_the_code(PAGE.read_text()))
