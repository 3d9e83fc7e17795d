"""Processes that write to one directory at once, and are killed in the middle."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from htcjob.storage.local.files import TEMP_PREFIX
from htcjob.storage.local.store import LocalStore
from tests.storage.contract import files_below, keys_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


RACER = """
import errno, os, sys
from htcjob.storage.local.store import LocalStore

directory, number, has_links = sys.argv[1:]
if has_links == "no":
    def link(*arguments):
        raise OSError(errno.EPERM, "no hard links")
    os.link = link
store = LocalStore(directory)
print("ready", flush=True)
sys.stdin.readline()
print(*[key for key in range(150) if store.put_bytes(number.encode() * 1000, f"d/{key}", if_absent=True)])
"""


WRITER = """
import os, sys
from htcjob.storage.local.store import LocalStore

directory, work = sys.argv[1:]
store = LocalStore(directory)
turn = 0
while True:
    turn += 1
    store.put(f"{work}/in{turn % 4}", f"put/{turn % 3}")
    store.put_bytes(bytes([turn % 256]) * 300_000, f"bytes/{turn % 3}")
    store.put_bytes(bytes([turn % 256]) * 300_000, f"new/{turn}", if_absent=True)
    store.get(f"put/{turn % 3}", f"{work}/out")
    print(turn, flush=True)
"""


HANGS_BEFORE_THE_NAME = """
import os, sys
from htcjob.storage.local.store import LocalStore

def hang(*arguments):
    print("ready", flush=True)
    sys.stdin.read()

os.replace = os.link = hang
directory, work, verb = sys.argv[1:]
store = LocalStore(directory)
if verb == "get":
    store.get("old", f"{work}/out")
elif verb == "put":
    store.put(f"{work}/in0", "old")
else:
    store.put_bytes(bytes(100_000), "new", if_absent=True)
"""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Yield a function that starts a Python program, which is dead at the end of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *arguments]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.mark.timeout(120)
class TestProcesses:
    @pytest.mark.parametrize("has_links", ["yes", "no"])
    def test_racing_conditional_puts(
        self,
        store: LocalStore,
        root: Path,
        start: Callable[..., subprocess.Popen[str]],
        has_links: str,
    ) -> None:
        """Of many processes that want one free name exactly one is told that it has it, and it has."""
        racers = [start(RACER, str(root), str(number), has_links) for number in range(6)]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        winners: dict[str, int] = {}
        for number, racer in enumerate(racers):
            won, _ = racer.communicate(timeout=60)
            assert racer.returncode == 0
            for key in won.split():
                assert key not in winners
                winners[key] = number
        assert len(winners) == 150
        for key, number in winners.items():
            assert store.read_range(f"d/{key}", 0) == f"{number}".encode() * 1000
        assert len(files_below(root)) == 150 + 1

    def test_kill_at_any_moment(
        self, store: LocalStore, root: Path, work: Path, start: Callable[..., subprocess.Popen[str]]
    ) -> None:
        """SIGKILL leaves no half object and no half file under a final name."""
        sources = [bytes([65 + n]) * (1_500_000 + n) for n in range(4)]
        for n, data in enumerate(sources):
            (work / f"in{n}").write_bytes(data)
        moments = random.Random(5)
        for _ in range(10):
            writer = start(WRITER, str(root), str(work))
            assert writer.stdout is not None
            for _ in range(moments.randint(1, 8)):
                assert writer.stdout.readline()
            writer.kill()
            writer.wait()
            for info in store.list():
                data = store.read_range(info.key, 0)
                if info.key.startswith("put/"):
                    assert data in sources
                else:
                    assert len(data) == 300_000
                    assert len(set(data)) == 1
            assert (work / "out").read_bytes() in sources

    @pytest.mark.parametrize("verb", ["get", "put", "if_absent"])
    def test_kill_at_the_worst_moment(
        self,
        store: LocalStore,
        root: Path,
        work: Path,
        start: Callable[..., subprocess.Popen[str]],
        verb: str,
    ) -> None:
        """A writer killed when all is written but the name leaves only what is never seen, nor in the way."""
        store.put_bytes(b"old", "old")
        (work / "in0").write_bytes(b"newer")
        writer = start(HANGS_BEFORE_THE_NAME, str(root), str(work), verb)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        writer.kill()
        writer.wait()
        left = [name for folder in (root, work) for name in files_below(folder) if TEMP_PREFIX in name]
        assert len(left) == 1
        assert keys_in(store) == ["old"]
        assert store.read_range("old", 0) == b"old"
        assert not (work / "out").exists()
        assert store.put_bytes(b"again", "new", if_absent=True) is True
        store.put(str(work / "in0"), "old")
        store.get("old", str(work / "out"))
        assert (work / "out").read_bytes() == b"newer"
