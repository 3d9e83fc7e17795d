"""
Millions of entries: what a job pays to find its own, what an index costs, what it takes to look at the run.

    python -m benchmarks.manifest [LINES]

Each figure is measured side by side with what it is compared to, and printed with the ratio to reach. The
exit status is 1 when a count or a memory is not reached; times depend on what else the machine does. The
storage server is a Ceph RGW on loopback, which shares the CPUs with us; "20 ms" goes through a delay line.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tabulate import tabulate

from benchmarks.measure import HTCJOB, Cost, cost_of, interleaved, print_machine
from htcjob.ledger.layout import BLOCK_ENTRIES
from htcjob.ledger.ledger import Ledger
from htcjob.ledger.records import Output, Record
from htcjob.ledger.run_identity import RunIdentity
from htcjob.manifest.chunk import Share
from htcjob.manifest.entry_list import EntryList
from htcjob.manifest.index_writer import make_index
from htcjob.manifest.manifest import Manifest
from htcjob.manifest.opening import open_chunk
from htcjob.outcome.results import EntryResult
from htcjob.retry import RetryPolicy
from htcjob.storage.access import Access
from htcjob.storage.local.store import LocalStore
from htcjob.storage.urls import open_store
from tests.support.servers.rgw import running_rgw
from tests.support.wire.wire import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from htcjob.storage.contract import Store

FEW_LINES = 5_000
"""Of the manifest that a long one is compared with."""
ARRAY_SIZE = 1000
TURNS = 40
"""Chunks that are looked for in each manifest, in turn."""
ROUNDS = 3
ROUND_TRIP_S = 0.020
RUN_ENTRIES_COUNTED = 20_000
"""Of the run whose listing is counted on the wire."""
RETRY = RetryPolicy()
_FIND = """
import random, sys
from htcjob.job_stores import access_of_environment
from htcjob.manifest.chunk import Share
from htcjob.manifest.opening import open_chunk
from htcjob.retry import RetryPolicy
from htcjob.storage.urls import open_store
size = int(sys.argv[3])
store = open_store(sys.argv[1], access_of_environment())
open_chunk(store, sys.argv[2], Share(random.randrange(size), size), retry=RetryPolicy())
"""
"""What a job does to find its chunk, and nothing else."""
MB = 1_000_000


class Figure(NamedTuple):
    """One line of the table."""

    what: str
    found: str
    compared_with: str
    ratio: str
    reach: str
    is_reached: bool
    is_timed: bool = False


class Found(NamedTuple):
    """What it took to find chunks."""

    seconds: list[float]
    requests: int
    """The most that one chunk took."""
    excess_bytes: int
    """The most that came beyond the bytes of the chunk."""


def main(arguments: list[str]) -> int:
    """Measure, print, and give 1 when a count or a memory is not reached."""
    n_lines = int(arguments[0]) if arguments else 5_000_000
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        _write_manifest(directory / "few.txt", FEW_LINES)
        _write_manifest(directory / "many.txt", n_lines)
        figures = [
            *_of_finding(directory),
            *_of_making(directory),
            *_of_reading_all(directory),
            *_of_status(directory, n_lines),
        ]
    print_machine()
    print(f"{n_lines} lines\n")
    print(tabulate([figure[:5] for figure in figures], headers=Figure._fields[:5], disable_numparse=True))
    missed = [figure for figure in figures if not figure.is_reached]
    if missed:
        print("\nNOT reached:", *(f"{figure.what} {figure.compared_with}" for figure in missed), sep="\n  ")
    return any(not figure.is_timed for figure in missed)


def _write_manifest(path: Path, n_lines: int) -> None:
    with path.open("wb") as file:
        for start in range(0, n_lines, 1000):
            stop = min(start + 1000, n_lines)
            file.write(b"".join(b"photos/%03d/img_%09d.jpg\n" % (n % 1000, n) for n in range(start, stop)))


def _of_finding(directory: Path) -> Iterator[Figure]:
    """Find chunks of both manifests, near and far, and read the long one as a whole."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_rgw(Path(folder) / "rgw", memory_bytes=2 << 30) as rgw,
        _variables(rgw.environ()),
    ):
        url = f"s3://{rgw.new_bucket()}"
        near = open_store(url, Access(environ=rgw.environ()))
        for name in ("few.txt", "many.txt"):
            near.put(str(directory / name), name)
            make_index(near, name, RETRY)
        server = "127.0.0.1", int(rgw.endpoint.rpartition(":")[2])
        seconds: dict[str, list[float]] = {"few.txt": [], "many.txt": []}
        whole_s = []
        for turn in range(TURNS):
            index = random.Random(turn).randrange(ARRAY_SIZE)
            for name, of_name in seconds.items():
                of_name.append(_find(near, name, index)[0])
            if turn % (TURNS // ROUNDS) == 0:
                started = time.perf_counter()
                near.get("many.txt", str(directory / "whole"))
                whole_s.append(time.perf_counter() - started)
        few_s, many_s = map(min, seconds.values())  # the best: others use the CPUs too
        jobs = interleaved(
            {name: [sys.executable, "-c", _FIND, url, name, str(ARRAY_SIZE)] for name in seconds},
            {**_environment(directory), **rgw.environ()},
            rounds=TURNS,
        )
        few_job_s, many_job_s = (min(cost.wall_s for cost in costs) for costs in jobs.values())
        yield _at_most(
            f"find chunk i of {ARRAY_SIZE}, a new process as each job is",
            f"{many_job_s * 1000:.1f} ms",
            f"{FEW_LINES} lines: {few_job_s * 1000:.1f} ms",
            many_job_s / few_job_s,
            1.3,
        )
        yield Figure(
            "the same on connections that are open",
            f"{many_s * 1000:.1f} ms",
            f"{FEW_LINES} lines: {few_s * 1000:.1f} ms",
            f"{many_s / few_s:.2f}",
            "",
            is_reached=True,
        )
        faster = min(whole_s) / many_s
        # A manifest of some megabytes is not worth an index, nor a figure.
        is_long = os.path.getsize(directory / "many.txt") > 100 * MB
        yield Figure(
            "",
            f"{many_s * 1000:.1f} ms",
            f"download all: {min(whole_s):.2f} s",
            f"{faster:.0f} x faster",
            ">= 50 x" if is_long else "",
            faster >= 50 or not is_long,
            is_timed=True,
        )
        with FaultProxy(*server, round_trip_s=ROUND_TRIP_S) as line:
            far = open_store(url, Access(endpoint=line.url, environ=rgw.environ()))
            counted = _count(far, line)
        yield Figure(
            "requests on the wire for one chunk", f"{counted.requests}", "", "", "<= 3", counted.requests <= 3
        )
        yield Figure(
            "bytes beyond the chunk's own",
            f"{counted.excess_bytes}",
            "64 KiB",
            "",
            "<= 65536",
            counted.excess_bytes <= 64 * 1024,
        )
        yield Figure(
            "find it 20 ms away",
            f"{statistics.median(counted.seconds) * 1000:.1f} ms",
            "",
            "",
            "",
            is_reached=True,
        )


def _find(store: Store, name: str, index: int) -> tuple[float, Manifest, range]:
    started = time.perf_counter()
    manifest, chunk = open_chunk(store, name, Share(index, ARRAY_SIZE), retry=RETRY)
    return time.perf_counter() - started, manifest, chunk


def _count(store: Store, line: FaultProxy) -> Found:
    """Find chunks of the long manifest, and count what goes over the line."""
    found = Found([], 0, 0)
    for turn in range(TURNS):
        requests, down = line.requests, line.bytes_down
        seconds, manifest, chunk = _find(store, "many.txt", random.Random(turn).randrange(ARRAY_SIZE))
        chunk_bytes = sum(len(entry.text.encode()) + 1 for entry in manifest.entries(chunk))
        found = Found(
            [*found.seconds, seconds],
            max(found.requests, line.requests - requests),
            max(found.excess_bytes, line.bytes_down - down - chunk_bytes),
        )
    return found


def _of_making(directory: Path) -> Iterator[Figure]:
    """Make the index of a local file, against counting its lines and computing its digest."""
    path = str(directory / "many.txt")
    environment = _environment(directory)
    costs = interleaved(
        {
            "index": [HTCJOB, "manifest", "index", "many.txt"],
            "wc": ["wc", "-l", path],
            "sha256sum": ["sha256sum", path],
            "start": [HTCJOB, "manifest", "index", "few.txt"],
        },
        environment,
        rounds=ROUNDS,
    )
    wall = {name: min(cost.wall_s for cost in found) for name, found in costs.items()}
    others_s = wall["wc"] + wall["sha256sum"]
    yield _at_most(
        "make the index, whole process",
        f"{wall['index']:.2f} s",
        f"wc -l and sha256sum: {others_s:.2f} s",
        wall["index"] / others_s,
        2.0,
        # Of a short file the start of Python is all there is to see.
        is_judged=others_s > 4 * wall["start"],
    )
    yield _memory("its memory", max(cost.peak_memory_bytes for cost in costs["index"]), 100 * MB)


def _of_reading_all(directory: Path) -> Iterator[Figure]:
    """Read a manifest without an index, for the one entry of a job."""
    for path in directory.glob("*.idx"):
        path.unlink()
    environment = _environment(directory)
    chunk = [HTCJOB, "chunk", "--array-size", str(FEW_LINES), "--array-index", "0", "--manifest"]
    costs: Mapping[str, list[Cost]] = interleaved(
        {name: [*chunk, name] for name in ("few.txt", "many.txt")}, environment, rounds=1
    )
    few, many = (max(cost.peak_memory_bytes for cost in found) for found in costs.values())
    yield _memory(
        f"full read without an index, memory above that of {FEW_LINES} lines", max(many - few, 0), 20 * MB
    )


def _of_status(directory: Path, n_entries: int) -> Iterator[Figure]:
    """Look at a finished run of so many entries, and count the requests of a smaller one."""
    _write_run(directory / "run", n_entries)
    environment = {**_environment(directory), "HTCJOB_TASK_STORE": str(directory / "run")}
    cost = cost_of([HTCJOB, "status"], environment)
    yield _memory(
        f"status of a run of {n_entries} entries, {cost.wall_s:.1f} s", cost.peak_memory_bytes, 150 * MB
    )
    _write_run(directory / "counted", RUN_ENTRIES_COUNTED)
    with (
        tempfile.TemporaryDirectory() as folder,
        running_rgw(Path(folder) / "rgw") as rgw,
        _variables(rgw.environ()),
        FaultProxy("127.0.0.1", int(rgw.endpoint.rpartition(":")[2])) as line,
    ):
        url = f"s3://{rgw.new_bucket()}"
        task, local = open_store(url, Access(environ=rgw.environ())), LocalStore(str(directory / "counted"))
        parts = [info.key for info in local.list()]
        for key in parts:
            task.put_bytes(local.read_range(key, 0), key)
        variables = {
            **environment,
            **rgw.environ(),
            "AWS_ENDPOINT_URL_S3": line.url,
            "HTCJOB_TASK_STORE": url,
        }
        cost_of([HTCJOB, "status", "--run", "default"], variables)
        # A reader lists twice (parts may be put together meanwhile); the fast lane asks for each end again.
        listings = line.requests - len(parts)
    yield Figure(
        f"listings of the ledger, of {RUN_ENTRIES_COUNTED} entries",
        f"{listings}",
        "",
        "",
        "<= 4",
        listings <= 4,
    )


def _write_run(folder: Path, n_entries: int) -> None:
    """Write the records of a finished run: a block by the ledger, the others like it."""
    store = LocalStore(str(folder))
    ledger = Ledger(store, "default", RETRY)
    ledger.open_run(RunIdentity.of(EntryList(["photos/a.jpg"])), ["true"])
    run = folder / ".htcjob" / "default"
    said = (run / "run.json").read_text().replace('"entries":1', f'"entries":{n_entries}')
    (run / "run.json").write_text(said)
    ledger.commit(
        Record(
            position=n,
            entry=f"photos/img_{n:09d}.jpg",
            result=EntryResult.DONE,
            exit_status=0,
            outputs=[Output(f"tagged/img_{n:09d}.jpg", 150_000, "0" * 64)],
            work_s=0.5,
            ended_at="2026-01-01T00:00:00Z",
        )
        for n in range(BLOCK_ENTRIES)
    )
    ledger.close()
    first = next((run / "done" / f"{0:08d}").iterdir())
    lines = first.read_bytes().splitlines(keepends=True)
    for block in range(1, n_entries // BLOCK_ENTRIES):
        place = run / "done" / f"{block:08d}"
        place.mkdir()
        start = block * BLOCK_ENTRIES
        records = (
            line.replace(b'"position":%d,' % n, b'"position":%d,' % (start + n), 1)
            for n, line in enumerate(lines)
        )
        (place / first.name).write_bytes(b"".join(records))


def _environment(directory: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "PYTHONPATH": os.getcwd(),
        "HTCJOB_PROJECT_STORE": str(directory),
    }


@contextmanager
def _variables(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _at_most(
    what: str, found: str, compared_with: str, ratio: float, most: float, *, is_judged: bool = True
) -> Figure:
    reach = f"<= {most}" if is_judged else ""
    return Figure(
        what, found, compared_with, f"{ratio:.2f}", reach, ratio <= most or not is_judged, is_timed=True
    )


def _memory(what: str, found_bytes: int, most_bytes: int) -> Figure:
    found = f"{found_bytes / MB:.0f} MB"
    return Figure(what, found, "", "", f"<= {most_bytes / MB:.0f} MB", found_bytes <= most_bytes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
