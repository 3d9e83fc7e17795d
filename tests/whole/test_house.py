"""The house stays as it was built: small modules in folders that say their job, and few ways out."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "htcjob"
MODULES = sorted(PACKAGE.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_modules_and_folders_are_small():
    """No module has more than 420 lines, no folder more than 16 modules, and few modules lie loose."""
    lines = {name(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {module: n for module, n in lines.items() if n > 420} == {}
    folders = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    assert {name(folder): n for folder, n in folders.items() if n > 16} == {}
    loose = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert loose == {"errors.py", "trouble.py", "retry.py", "run_options.py", "job_stores.py"}


def test_a_long_module_says_why_it_is_one_thing():
    """A module of more than 300 lines has a sentence for it in its docstring: "One module, because …"."""
    long = [path for path in MODULES if len(path.read_text().splitlines()) > 300]
    silent = [name(path) for path in long if "One module" not in (ast.get_docstring(tree_of(path)) or "")]
    assert silent == []


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=name)
def test_a_package_is_one_sentence(path):
    """`__init__.py` is imported by all who want one module: it is a docstring of one sentence, no code."""
    tree = tree_of(path)
    docstring = ast.get_docstring(tree)
    assert docstring is not None
    assert "\n\n" not in docstring or path.parent == PACKAGE
    if path.parent not in (PACKAGE, PACKAGE / "storage"):
        assert len(tree.body) == 1


def test_few_modules_end_the_process():
    """`sys.exit` and its kind are where README and docs say; everything else raises, and is decided upon."""
    exits = {
        name(path)
        for path in MODULES
        if re.search(r"sys\.exit\(|os\._exit\(|raise SystemExit", path.read_text())
    }
    assert exits - {module for module in exits if module.startswith("supervise/worker_program/")} == {
        "attempt/early_end.py",
        "cli/htcctl.py",
        "cli/main.py",
        "python_api/job.py",
        "supervise/last_resort.py",
    }


def test_docstrings_begin_as_the_fields_do():
    """Return, Yield, Whether …; and no comment sends a reader to a document that is not here."""
    odd = []
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = (ast.get_docstring(node) or "").split(" ", 1)[0]
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                first = str(node.value.value).strip().split(" ", 1)[0]
            else:
                continue
            if first in {"Give", "Gives", "Of", "Say", "Says", "Have"}:
                odd.append(f"{name(path)}:{node.lineno if hasattr(node, 'lineno') else 1}: {first}")
        missing = re.search(r"DESIGN|HOUSE|STYLE §|shared/", path.read_text())
        if missing:
            odd.append(f"{name(path)}: {missing[0]}")
    assert odd == []
