"""README and documentation are compared with the code: their commands run, their tables and links are true."""

import ast
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import click
import pytest

import htcjob
from htcjob.environment.variables import variables_of
from htcjob.outcome.reasons import EXIT_TABLE
from tests.support import architecture

REPOSITORY = Path(__file__).parents[2]
PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text()
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
}
"""What a user reads, by its name in the repository."""
SOURCES = {path: path.read_text() for path in (REPOSITORY / "htcjob").rglob("*.py")}

LINE_BREAK = "\\\n"
"""What a command that is broken into lines has at the end of each but the last."""
GOES_ON = "(../README.md#sixty-seconds)"
"""A page with this link begins where the front page's commands have ended."""


def blocks(language: str, *names: str) -> list[str]:
    """Return the blocks of code in some language, of all pages or of those named."""
    texts = [PAGES[name] for name in names or PAGES]
    return [block for text in texts for block in _blocks(language, text)]


def _blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def table_under(name: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading or text of a page."""
    page = PAGES[name]
    rows = page[page.index(heading) :].split("\n|", 1)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows]


def matches(expected: str, found: str) -> bool:
    """Whether a line is as a page shows it; `…` stands for anything, blanks count once."""
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in expected.split("…"))
    return re.fullmatch(pattern.replace(r"\ .*", ".*"), " ".join(found.split())) is not None


def commands_in(name: str) -> list[tuple[str, str]]:
    """Return the commands of a page's console blocks, each in one line, with the output shown."""
    joined = [block.replace(LINE_BREAK, " ") for block in blocks("console", name)]
    pieces = [re.split(r"^\$ ", block, flags=re.MULTILINE)[1:] for block in joined]
    return [(piece.partition("\n")[0], piece.partition("\n")[2]) for block in pieces for piece in block]


@pytest.fixture(scope="module")
def after_the_front_page(tmp_path_factory) -> Callable[[], Path]:
    """Give the directory that the front page's commands were run in, each time as they left it."""
    directory = tmp_path_factory.mktemp("front-page")
    left = tmp_path_factory.mktemp("left") / "copy"
    follow("README.md", directory)
    shutil.copytree(directory, left, symlinks=True)

    def directory_again() -> Path:
        shutil.rmtree(directory)
        return shutil.copytree(left, directory, symlinks=True)

    return directory_again


@pytest.mark.parametrize("name", [name for name in PAGES if commands_in(name)])
def test_every_command_gives_the_output_shown(name, tmp_path, request):
    """All console blocks of a page, in order, in one directory, as a newcomer would type them."""
    goes_on = GOES_ON in PAGES[name]
    follow(name, request.getfixturevalue("after_the_front_page")() if goes_on else tmp_path)


def follow(name: str, directory: Path) -> None:
    """Run a page's commands, each of which gives what the page shows."""
    for command, shown in commands_in(name):
        done = run(command, directory)
        assert done.returncode == 0, (command, done.stderr)
        expected, found = shown.rstrip().splitlines(), done.stdout.rstrip().splitlines()
        assert len(expected) == len(found), (command, done.stdout, done.stderr)
        for line, output in zip(expected, found, strict=True):
            assert matches(line, output), (command, line, output)


def run(command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a shell whose PATH has htcjob, as `. .venv/bin/activate` does it."""
    environment = {
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "HOME": str(directory),
        "LC_ALL": "C.UTF-8",
    }
    return subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_commands_are_shown_with_their_output():
    """On the front page and on the pages of those who run a job; so the test above is not empty."""
    assert sum(len(commands_in(name)) for name in PAGES) >= 24
    assert len(commands_in("README.md")) >= 4


def test_a_command_that_is_only_shown_is_one_that_htcjob_understands(monkeypatch):
    """In a block of `bash` or in a sentence: its options are there and take what they are given; it is not run."""
    from htcjob.cli.main import cli

    monkeypatch.setenv("HTCJOB_PROJECT_STORE", "in")
    monkeypatch.setenv("HTCJOB_TASK_STORE", "out")
    understood = 0
    for name, page in PAGES.items():
        shown = "".join(blocks("bash", name)).replace(LINE_BREAK, " ")
        lines = shown.splitlines() + re.findall(r"`([^`\n]+)`", page)
        for line in lines:
            if re.match(r"(?:\w+=\S* )*htcjob \w+ [^…|]*$", line):
                words = shlex.split(line, comments=True)
                command: click.Command = cli
                words = words[words.index("htcjob") + 1 :]
                while isinstance(command, click.Group):
                    _, command, words = command.resolve_command(click.Context(command), words)
                # A name alone stands for the command, whatever that needs; --help ends by itself.
                with suppress(click.exceptions.Exit, *([] if words else [click.MissingParameter])):
                    command.make_context(command.name, words)
                understood += 1
    assert understood > 24


def test_every_option_that_a_sentence_names_is_one():
    """Each is an option of htcjob, or of another program that the sentence is about."""
    from htcjob.cli.main import cli

    def options(command: click.Command) -> set[str]:
        own = {option for parameter in command.params for option in parameter.opts}
        if not isinstance(command, click.Group):
            return own
        context = click.Context(command)
        return own.union(*(options(command.get_command(context, n)) for n in command.list_commands(context)))

    others = {"--user", "--tmpfs", "--joblog", "--resume", "--token", "--array"}
    known = options(cli) | others
    named = {
        (page, option) for page, text in PAGES.items() for option in re.findall(r"`(--[a-z][a-z-]*)", text)
    }
    assert [(page, option) for page, option in sorted(named) if option not in known] == []
    assert len(named) > 30


def test_the_front_page_is_read_in_one_go():
    """It is the first thing that anybody sees; whatever is longer has a page of its own."""
    assert len(PAGES["README.md"].splitlines()) <= 150
    assert len(PAGES["README.md"].encode()) <= 8000


def test_the_front_pages_statuses_are_those_of_the_table():
    """Its five rows promise nothing that the whole table does not."""
    again = {status: "yes" in helps for status, _, helps in EXIT_TABLE}
    again["143"] = again["128+n"]
    rows = table_under("README.md", "## Exit status")
    assert len(rows) == 5
    for statuses, _, helps in rows:
        for status in statuses.split():
            assert ("yes" in helps) == again[status], status


def test_the_other_commands_are_run_by_the_gate():
    """What the pages show without output is a make target that .ci/run calls; so is any `make` among others."""
    gate = (REPOSITORY / ".ci" / "run").read_text()
    shown = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(shown) >= 4
    shown += [line for block in blocks("bash") for line in block.splitlines() if line.startswith("make ")]
    assert "make demo" in shown
    for line in shown:
        assert line.startswith("make "), line
        assert re.search(rf"^{re.escape(line)}$", gate, re.MULTILINE), f"{line} is not in .ci/run"


def test_the_exit_table_is_the_codes():
    """Every row, in order; `--help` shows the same ones."""
    assert table_under("docs/exit-status.md", "# Exit status") == [list(row) for row in EXIT_TABLE]


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
    """Each row has exactly the variables that `environment/` reads, ours first."""
    rows = dict(table_under("docs/variables.md", "## Read by htcjob"))
    read = [name for part in field.split() for name in variables_of(part)]
    assert re.findall(r"`(\w+)`", rows[meaning]) == read


def test_the_variables_of_rescale_are_those_that_simulate_injects():
    """And the token; what a page says of the platform is what an array is tried with."""
    from htcjob.simulate.injection import JobIdentity, injected_variables

    shown = {
        name
        for row in table_under("docs/htc-api.md", "## What is injected")
        for name in re.findall(r"`(\w+)`", row[0])
    }
    injected = injected_variables(
        JobIdentity.make(), array_index=0, array_size=1, attempt=1, project_store="in", task_store="out"
    )
    assert shown == {*injected, "RESCALE_HTC_BEARER_TOKEN"}


def test_the_variables_set_for_the_command_are_the_codes():
    """None more, none less than the sources set."""
    shown = {
        name
        for row in table_under("docs/variables.md", "## Set for your command")
        for name in re.findall(r"`(HTCJOB_\w+)", row[0])
    }
    parts = ("attempt/", "entries/", "supervise/worker")
    rooms = [text for path, text in SOURCES.items() if _name(path).startswith(parts)]
    is_set = {name for text in rooms for name in re.findall(r'f?"(HTCJOB_\w+)[{"]', text)}
    assert shown == is_set
    assert len(shown) > 8


def _name(path: Path) -> str:
    return path.relative_to(REPOSITORY / "htcjob").as_posix()


def test_the_log_events_are_the_codes():
    """Names are documented, so that a program may rely on them."""
    documented = {
        name
        for row in table_under("docs/exit-status.md", "### Events")
        for name in re.findall(r"`(\w+)`", row[0])
    }
    assert documented == set(logged_events())
    assert len(documented) > 8


def logged_events() -> Iterator[str]:
    """Yield the third argument of every call of `event(log, level, name, …)`, both arms of a condition."""
    for text in SOURCES.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "event":
                yield from (part.value for part in ast.walk(node.args[2]) if isinstance(part, ast.Constant))


def test_every_option_of_run_has_a_variable():
    """Job definitions set variables, not entrypoints."""
    from htcjob.cli.commands.run import run

    for parameter in run.params:
        if parameter.param_type_name == "option":
            assert parameter.envvar or variables_of(parameter.name), parameter.name


def test_the_format_of_the_index_is_the_codes():
    """Byte for byte, so that another program can read it from the page alone; test_manifest_index.py does."""
    from htcjob.manifest import index_format as code

    (page,) = blocks("text", "docs/manifest-index.md")
    fields = re.findall(
        r"^(?:head)? +(\d+|…) +(\d+|…)(?: bytes| each)? {2,}(.*)$", page.split("\npages")[0], re.M
    )
    offset = 0
    for kind, (shown_offset, shown_bytes, _) in zip(
        re.findall(r"\d*[a-zA-Z]", code.HEAD.format), fields, strict=False
    ):
        assert (int(shown_offset), int(shown_bytes)) == (offset, struct.calcsize("<" + kind)), kind
        offset += struct.calcsize("<" + kind)
    assert offset == code.HEAD.size == 96
    assert ["…", str(code.TABLE_ROW.size)] == list(fields[14][:2])
    assert ["…", str(code.CRC.size)] == list(fields[15][:2])
    pages, sizes = page.split("\npages")[1].split("\nsizes")
    assert sum(map(int, re.findall(r"^ +… +(8) {2,}", pages, re.M))) == code.PAGE_START.size
    (row,) = re.findall(r"… +(\d+) each +a row for each group: (.*)$", pages, re.M)
    assert int(row[0]) == code.GROUP_ROW.size
    parts = [struct.calcsize("<" + kind) for kind in code.GROUP_ROW.format.strip("<")]
    assert list(map(int, re.findall(r"\((\d)\)", row[1]))) == parts
    assert re.search(rf"… +{code.SIZE_BYTES} each +size of each", sizes)
    assert f"at most {code.MOST_PAGES}" in page
    assert f"at most {code.LONGEST_TAG_BYTES} bytes" in page
    assert f"version, {code.VERSION}\n" in page
    assert " ".join(f"{byte:02X}" for byte in code.MAGIC) in page
    assert "docs/manifest-index.md" in code.__doc__


def files(*patterns: str) -> dict[str, str]:
    """Return the text of the repository's own files, by name."""
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return {
        name: (REPOSITORY / name).read_text(errors="replace")
        for name in listed
        if (REPOSITORY / name).is_file()
    }


def anchors(text: str) -> set[str]:
    """Return the names of a page's headings as the repository's page and the site make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere():
    """To a file of the repository, and to a heading that it has."""
    links = 0
    for name, text in files("*.md").items():
        for path, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", text):
            target = (REPOSITORY / name).parent / path if path else REPOSITORY / name
            assert target.exists(), (name, path)
            assert not anchor or anchor in anchors(target.read_text()), (name, path, anchor)
            links += 1
    assert links > 60


def test_every_page_that_a_source_names_is_here():
    """A clone has what its comments point to."""
    named = 0
    for name, text in files("*.py", "*.c", "*.toml", "*Dockerfile", "Makefile", ".ci/*", "docker/*").items():
        for page in (
            re.findall(r"[\w/-]*/[\w-]+\.md\b|\b[\w]+-[\w-]+\.md\b", text)
            if name != "tests/whole/test_docs.py"
            else ()
        ):
            assert (REPOSITORY / page.lstrip("/")).is_file(), (name, page)
            named += 1
    assert named > 4


def test_the_architecture_is_the_codes():
    """Tree, layers and walls: after a change of them, `python -m tests.support.architecture` writes the page anew."""
    page = architecture.PAGE.read_text()
    assert page == architecture.page_of_the_code(page)
    named = re.findall(r"`(htcjob/[\w/]+(?:\.py)?)`", page)
    assert [name for name in named if not (REPOSITORY / name).exists()] == []
    assert len(named) > 8


@pytest.mark.parametrize(
    ("page", "found", "instead", "said"),
    [
        ("docs/limits.md", "# Limits", "# Limits", ""),
        ("docs/limits.md", "# Limits", "# Limits\n\n[gone](nowhere.md)", "nowhere.md"),
        ("docs/limits.md", "# Limits", "# Limits\n\n[gone](running.md#nowhere)", "#nowhere"),
        ("mkdocs.yml", "      - Limits: limits.md\n", "", "limits.md"),
    ],
    ids=["as it is", "a dead link", "a dead anchor", "a page outside the navigation"],
)
def test_the_site_has_no_dead_end(tmp_path, page, found, instead, said):
    """`make docs` builds it as it is, and refuses a link or a page that leads nowhere."""
    pytest.importorskip("mkdocs")
    for name in ("README.md", "CHANGELOG.md", "LICENSE", "mkdocs.yml", "docs", "examples"):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, tmp_path / name)
    text = (tmp_path / page).read_text()
    assert found in text
    (tmp_path / page).write_text(text.replace(found, instead, 1))
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=tmp_path,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == bool(said), done.stderr
    assert said in done.stderr
    assert (tmp_path / "build" / "docs" / "index.html").exists() or said


def test_the_changelog_has_this_version():
    """What is newer than the last one stands above it, as unreleased."""
    versions = re.findall(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.M)
    assert versions[:2] == ["Unreleased", htcjob.__version__]


def test_no_path_of_a_developers_machine_is_in_the_repository():
    """What is committed works elsewhere."""
    for name, text in files().items():
        assert "/" + "work/main" not in text, name
