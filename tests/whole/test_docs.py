"""The README is compared with the code: its commands run, its tables are true."""

import ast
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from htcjob.environment import context as env
from htcjob.outcome.endings import EXIT_TABLE

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
SOURCES = {path: path.read_text() for path in (REPOSITORY / "htcjob").rglob("*.py")}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def table_under(heading: str) -> list[list[str]]:
    """Give the cells of the first table below a heading or text."""
    rows = README[README.index(heading) :].split("\n|", 1)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def matches(expected: str, found: str) -> bool:
    """Tell whether a line is as the README shows it; `…` stands for anything, blanks count once."""
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in expected.split("…"))
    return re.fullmatch(pattern.replace(r"\ .*", ".*"), " ".join(found.split())) is not None


def test_every_command_gives_the_output_shown(tmp_path):
    """All console blocks, in order, in one directory, as a newcomer would type them."""
    environment = {
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
    }
    commands = 0
    for block in blocks("console"):
        for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = piece.partition("\n")
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, (command, done.stderr)
            expected, found = shown.rstrip().splitlines(), done.stdout.rstrip().splitlines()
            assert len(expected) == len(found), (command, done.stdout, done.stderr)
            for line, output in zip(expected, found, strict=True):
                assert matches(line, output), (command, line, output)
            commands += 1
    assert commands >= 12


def test_the_other_commands_are_run_by_the_gate():
    """What the README shows without output is a make target that .ci/run calls."""
    gate = (REPOSITORY / ".ci" / "run").read_text()
    shown = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(shown) >= 4
    for line in shown:
        assert line.startswith("make "), line
        assert re.search(rf"^{re.escape(line)}$", gate, re.MULTILINE), f"{line} is not in .ci/run"


def test_the_exit_table_is_the_codes():
    """Every row, in order; `--help` shows the same ones."""
    assert table_under("## Exit status") == [list(row) for row in EXIT_TABLE]


@pytest.mark.parametrize(
    ("meaning", "field"),
    [
        ("array index, from 0", "array_index"),
        ("added to a platform's index", "array_offset"),
        ("array size", "array_size"),
        ("attempt, from 1", "attempt"),
        ("when the platform ends the job, in seconds since 1970", "ends_at"),
        ("bearer token", "token"),
        ("refresh token", "refresh_token"),
        ("keys that sign it (file or URL)", "jwks"),
        ("project storage", "project_store"),
        ("task storage", "task_store"),
        ("project, task and region, for the API", "project_id task_id region"),
        ("base URL of the API", "api_url"),
        ("storage engine: `auto`, `fast`, `sdk`", "storage_engine"),
        ("manifest", "manifest"),
        ("copy of the exit record", "termination_log"),
        ("program that runs containers (`simulate --docker`)", "container_program"),
    ],
)
def test_the_variables_read_are_the_codes(meaning, field):
    """Each row has exactly the variables that env.py reads, ours first."""
    rows = dict(table_under("## Variables"))
    read = [name for part in field.split() for name in env.variables_of(part)]
    assert re.findall(r"`(\w+)`", rows[meaning]) == read


def test_the_variables_set_for_the_command_are_the_codes():
    """None more, none less than the sources set."""
    shown = {
        name for row in table_under("Set for your command") for name in re.findall(r"`(HTCJOB_\w+)", row[0])
    }
    names = ("attempt/recipe.py", "entries/pipeline.py", "entries/each.py", "supervise/worker.py")
    rooms = [SOURCES[REPOSITORY / "htcjob" / name] for name in (*names, "entries/work_directories.py")]
    is_set = {name for text in rooms for name in re.findall(r'f?"(HTCJOB_\w+)[{"]', text)}
    assert shown == is_set
    assert len(shown) > 8


def test_the_log_events_are_the_codes():
    """Names are documented, so that a program may rely on them."""
    documented = set(re.findall(r"`(\w+)`", README[README.index("Events: ") :].split("\n\n")[0]))
    assert documented == set(logged_events())
    assert len(documented) > 8


def logged_events() -> Iterator[str]:
    """Give the third argument of every call of `event(log, level, name, …)`, both arms of a condition."""
    for text in SOURCES.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "event":
                yield from (part.value for part in ast.walk(node.args[2]) if isinstance(part, ast.Constant))


def test_every_option_of_run_has_a_variable():
    """Job definitions set variables, not entrypoints."""
    from htcjob.cli.commands.run import run

    for parameter in run.params:
        if parameter.param_type_name == "option":
            assert parameter.envvar or env.variables_of(parameter.name), parameter.name


def test_the_format_of_the_index_is_the_one_that_the_code_documents():
    """Byte for byte, so that another program can read it from the README alone; test_manifest_index.py does."""
    from htcjob.manifest import index as manifest_index

    page = blocks("text")[-1]
    assert page.startswith("head")
    assert textwrap.indent(page, "    ") in (manifest_index.__doc__ or "")


def test_no_path_of_a_developers_machine_is_in_the_repository():
    """What is committed works elsewhere."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    for name in listed.splitlines():
        text = (REPOSITORY / name).read_text(errors="replace") if (REPOSITORY / name).exists() else ""
        assert "/" + "work/main" not in text, name
