"""Measures what a job costs on this machine, for `benchmarks.scale`: real jobs, a Ceph RGW 20 ms away."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.measure import HTCJOB, Cost, cost_of
from benchmarks.peers.scale_work import OUTPUT_BYTES, WORK_S
from benchmarks.scale_model import Design
from htcjob.job_stores import access_of_environment
from htcjob.ledger.ledger import Ledger
from htcjob.ledger.run_identity import RunIdentity
from htcjob.manifest.chunk import Share
from htcjob.manifest.manifest import Manifest
from htcjob.manifest.opening import open_chunk
from htcjob.retry import RetryPolicy
from htcjob.simulate.start_up import CONTAINER_START_S
from htcjob.storage.urls import open_store
from htcjob.transfer.transfers import Transfers
from tests.support.servers.rgw import Rgw, running_rgw
from tests.support.wire.wire import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUND_TRIP_S = 0.020
LINES = 640_000
"""Of the manifest; so many that its index is read in several parts, as that of millions is."""
FEW, MANY = 1, 64
"""Entries of the two jobs whose difference is what an entry costs."""
ROUNDS = 6
"""After a first one, which warms the caches and begins the run; the best of each counts."""
INPUT_BYTES = 60_000
"""Of each input; the photos of the face tagger."""
LARGE_BYTES = 64 << 20
"""Of the object that tells how fast many bytes come."""
HTCCTL = os.path.join(os.path.dirname(HTCJOB), "htcctl")


class Step(NamedTuple):
    """One thing that a job does."""

    name: str
    seconds: float
    requests: float
    moved_bytes: float


class Costs(NamedTuple):
    """What was measured."""

    designs: Sequence[Design]
    steps: Sequence[Step]
    """For people: what the designs' figures are made of."""


@contextmanager
def server() -> Iterator[Rgw]:
    """Run an S3 server."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_rgw(Path(folder) / "rgw", memory_bytes=2 << 30) as rgw,
    ):
        yield rgw


def measure(rgw: Rgw) -> Costs:
    """Measure a job of htcjob, and the steps of the tutorial's."""
    with (
        tempfile.TemporaryDirectory() as directory,
        FaultProxy("127.0.0.1", int(rgw.endpoint.rpartition(":")[2]), round_trip_s=ROUND_TRIP_S) as line,
    ):
        bench = _Bench(rgw, line, Path(directory))
        bench.make_inputs()
        ours, our_steps = bench.ours()
        tutorials, tutorials_steps = bench.tutorials()
        container = Step(
            "start of a container (`docker run`, see htcjob/simulate/start_up.py)", CONTAINER_START_S, 0, 0
        )
        return Costs([ours, tutorials], [container, *our_steps, *tutorials_steps])


class _Bench:
    """The server, the delay line before it, and the objects there."""

    def __init__(self, rgw: Rgw, line: FaultProxy, folder: Path) -> None:
        self._rgw = rgw
        self._line = line
        self._folder = folder
        self._url = f"s3://{rgw.new_bucket()}"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "PYTHONPATH": os.getcwd(),
            "HTCJOB_LOG_LEVEL": "error",
            "HTCJOB_TERMINATION_LOG": "",
            "HTCJOB_PROJECT_STORE": f"{self._url}/project",
            "HTCJOB_TASK_STORE": f"{self._url}/task",
            **rgw.environ(),
        }
        # Some is measured in this process, through the delay line.
        os.environ.update(rgw.environ() | {"AWS_ENDPOINT_URL_S3": line.url})

    def make_inputs(self) -> None:
        """Make the inputs of all jobs, the manifest and its index, and a large object."""
        project = self._folder / "project"
        project.mkdir()
        names = [_key(n) for n in range(LINES)]
        for name in names[: MANY * (ROUNDS + 1)]:
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_bytes(os.urandom(INPUT_BYTES))
        (project / "list.txt").write_text("".join(f"{name}\n" for name in names))
        (project / "large").write_bytes(os.urandom(LARGE_BYTES))
        cost_of([HTCJOB, "storage", "put", "-r", f"{project}/", "project:"], self._environment)
        cost_of([HTCJOB, "manifest", "index", "project:list.txt"], self._environment)

    def ours(self) -> tuple[Design, list[Step]]:
        """Measure jobs of one entry and of many; the difference is the entries'."""
        few, many = self._jobs(FEW), self._jobs(MANY)
        more = MANY - FEW
        entry_requests = (many.requests - few.requests) / more
        entry_bytes = (many.moved_bytes - few.moved_bytes) / more
        entry_cpu_s = max((many.cpu_s - few.cpu_s) / more, 0.0)
        steps = self._steps()
        start_s = few.wall_s - WORK_S
        rest = [sum(step[n] for step in steps) for n in (1, 2)]
        design = Design(
            name="htcjob",
            start_s=CONTAINER_START_S + start_s,
            start_requests=few.requests - FEW * entry_requests,
            start_bytes=few.moved_bytes - FEW * entry_bytes,
            listed_s=0.0,
            listed_bytes=0.0,
            entry_s=entry_cpu_s,
            entry_requests=entry_requests,
            entry_bytes=entry_bytes,
            has_ledger=True,
        )
        begin = Step(
            "htcjob: start and end of its processes, exit record",
            start_s - rest[0],
            few.requests - rest[1],
            0,
        )
        entry = Step("htcjob: CPU time of an entry", entry_cpu_s, entry_requests, entry_bytes)
        return design, [begin, *steps, entry]

    def _jobs(self, n_entries: int) -> _Job:
        """Run jobs with so many entries each, and give the least that one of them cost."""
        found = []
        for index in range(ROUNDS + 1):
            argv = [HTCJOB, "run", "--manifest", "list.txt", "--run", f"of-{n_entries}", "--workers", "1"]
            argv += ["--array-size", str(LINES // n_entries), "--array-index", str(index)]
            argv += ["--call", "benchmarks.peers.scale_work:work"]
            cost, requests, moved_bytes = self._counted(lambda argv=argv: self._far(argv))
            parts = self._parts(f"of-{n_entries}", index, n_entries)
            found.append(_Job(cost.wall_s, cost.cpu_s, requests - parts, moved_bytes))
        return _Job(*(min(column) for column in zip(*found[1:], strict=True)))

    def _parts(self, run: str, index: int, n_entries: int) -> int:
        """Give the parts of the ledger that a job wrote: the model has them by time."""
        store = open_store(f"{self._url}/task", access_of_environment())
        needle = f'"position":{index * n_entries},'.encode()
        keys = [info.key for info in store.list(f".htcjob/{run}/done/")]
        writer = next(key for key in keys if needle in store.read_range(key, 0)).rpartition("-")[0]
        return sum(key.startswith(writer) for key in keys)

    def _steps(self) -> list[Step]:
        """Do what a job does, one step after the other, in this process."""
        retry = RetryPolicy()
        access = access_of_environment()
        project, task = (open_store(f"{self._url}/{name}", access) for name in ("project", "task"))
        project.head("list.txt"), task.head(".htcjob/of-1/run.json")  # the connections are part of the start
        located: list[tuple[Manifest, range]] = []

        def locate() -> None:
            share = Share(LINES // 2, LINES // FEW)
            found, chunk = open_chunk(project, "list.txt", share, retry=retry)
            list(found.entries(chunk))
            located.append((found, chunk))

        def look() -> None:
            ledger = Ledger(task, "of-1", retry)
            ledger.open_run(RunIdentity.of(located[-1][0]), ["--call", "benchmarks.peers.scale_work:work"])
            ledger.done(located[-1][1])

        def move() -> None:
            with Transfers(retry) as transfers:
                path = str(self._folder / "input")
                transfers.get(project, _key(1), path)
                transfers.put(task, path, "copy")

        steps = []
        for name, act in (
            ("htcjob: its chunk of the manifest (range reads)", locate),
            ("htcjob: what is committed already (listing)", look),
            ("htcjob: get and put of an entry (transfers)", move),
        ):
            best = float("inf")
            for _ in range(ROUNDS + 1):
                started = time.perf_counter()
                _, requests, moved_bytes = self._counted(act)
                best = min(best, time.perf_counter() - started)
            steps.append(Step(name, best, requests, moved_bytes))
        return steps

    def tutorials(self) -> tuple[Design, list[Step]]:
        """Measure the processes that the tutorial's job starts."""
        get = self._process("download", ["-s", "download", _key(1), "-d", "{dir}"])
        (self._folder / "output").write_bytes(os.urandom(OUTPUT_BYTES))
        put = self._process("upload", ["upload", str(self._folder / "output")])
        near = self._environment
        small, large = (
            min(
                cost_of([HTCCTL, "-s", "download", key, "-d", str(self._folder / "near")], near).wall_s
                for _ in range(ROUNDS)
            )
            for key in (_key(1), "large")
        )
        line_bytes = (self._folder / "project" / "list.txt").stat().st_size / LINES
        byte_s = max(large - small, 0.0) / LARGE_BYTES
        started = time.perf_counter()
        with (self._folder / "project" / "list.txt").open() as file:
            lines = file.read().splitlines()
        listed_s = byte_s * line_bytes + (time.perf_counter() - started) / len(lines)
        design = Design(
            name="the tutorial's job",
            start_s=CONTAINER_START_S + get.seconds,
            start_requests=get.requests,
            start_bytes=0.0,
            listed_s=listed_s,
            listed_bytes=line_bytes,
            entry_s=get.seconds + put.seconds,
            entry_requests=get.requests + put.requests,
            entry_bytes=get.moved_bytes + put.moved_bytes,
            has_ledger=False,
        )
        million = Step("tutorial: a million lines of the list, read", listed_s * 1e6, 0, line_bytes * 1e6)
        return design, [million, get, put]

    def _process(self, verb: str, arguments: Sequence[str]) -> Step:
        best, requests, moved_bytes = float("inf"), 0, 0
        for n in range(ROUNDS + 1):
            argv = [HTCCTL, *(word.replace("{dir}", str(self._folder / f"{verb}{n}")) for word in arguments)]
            cost, requests, moved_bytes = self._counted(lambda argv=argv: self._far(argv))
            best = min(best, cost.wall_s)
        return Step(f"tutorial: a process for each {verb}", best, requests, moved_bytes)

    def _far(self, argv: Sequence[str]) -> Cost:
        return cost_of(argv, self._environment | {"AWS_ENDPOINT_URL_S3": self._line.url})

    def _counted(self, act: Callable[[], Cost | None]) -> tuple[Cost, int, int]:
        """Do something, and count requests and bytes on the wire meanwhile."""
        line = self._line
        before = line.requests, line.bytes_up + line.bytes_down
        cost = act() or Cost(0.0, 0.0, 0)
        return cost, line.requests - before[0], line.bytes_up + line.bytes_down - before[1]


def _key(n: int) -> str:
    """Give the key of an input, as long as they are in practice."""
    return f"photos/part-{n // 1000:05}/photo-{n:07}.jpg"


class _Job(NamedTuple):
    """What one job cost; requests without those for parts of the ledger."""

    wall_s: float
    cpu_s: float
    requests: float
    moved_bytes: float
