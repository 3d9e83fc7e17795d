"""The short form of `make faults`, and that its judge sees what is wrong."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.support.skipping import skip_or_fail
from tests.whole.faults import SCENARIOS, World, WrongError, judge, library, walk


@pytest.fixture(scope="module")
def preload(tmp_path_factory) -> Path:
    """The library that makes calls fail."""
    if sys.platform != "linux":
        pytest.skip("LD_PRELOAD is Linux's")
    try:
        return library(tmp_path_factory.mktemp("faults"))
    except (OSError, subprocess.CalledProcessError) as error:
        skip_or_fail("HTCJOB_REQUIRE_COMPILER", f"no C compiler: {error}")


@pytest.mark.long
def test_whatever_call_fails_nothing_is_lost(preload, tmp_path):
    """Some of all faults, chosen once for all: no bug, no traceback, no hang; and the same again completes it."""
    struck, wrong = walk(tmp_path, preload, percent=0.2)
    assert not wrong, "\n".join(
        f"python -m tests.whole.faults --only {fault}  # {problem}" for fault, problem in wrong.items()
    )
    assert sum(struck.values()) > 50


def run_each(world: World, keys: str) -> None:
    (world.task / ".htcjob/default/done/00000000").mkdir(parents=True)
    lines = []
    for position, key in enumerate(("a", "b", "d/c")):
        if key in keys:
            (world.task / f"{key}.o").parent.mkdir(exist_ok=True)
            (world.task / f"{key}.o").write_text(f"{key}\n")
        lines.append(f'{{"position":{position},"result":"done","outputs":[{{"key":"{key}.o"}}]}}\n')
    (world.task / ".htcjob/default/done/00000000/part.jsonl").write_text("".join(lines))


@pytest.mark.parametrize(
    ("keys", "status", "talk", "problem"),
    [
        ("a b d/c", 0, "", None),
        ("a b d/c", 75, "", None),
        ("a b d/c", 70, "", "status 70"),
        ("a b d/c", 1, "", "status 1"),
        ("a b d/c", 75, "Traceback (most recent call last):", "traceback"),
        ("a b d/c", None, "", "hangs"),
        ("a b d/c", 74, "", "passing trouble is 74"),
        ("a b", 0, "", "done without output"),
        ("a b", 75, "", "done without output"),
    ],
)
def test_the_judge_sees_what_is_wrong(tmp_path, keys, status, talk, problem):
    """A walk whose judge lets everything pass would find nothing."""
    world = World(tmp_path / "world")
    run_each(world, keys)
    expected = nullcontext() if problem is None else pytest.raises(WrongError, match=problem)
    with expected:
        judge(world, SCENARIOS["run-each"], status, b"", talk, is_passing=True)
