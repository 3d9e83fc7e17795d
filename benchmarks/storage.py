"""
The storage adapter against other programs, on a Ceph RGW on loopback, side by side.

    python -m benchmarks.storage [FILES [ROUNDS]]

Each contestant is a whole process, start-up included, that moves the same files; the best round counts.
`20 ms` goes through a delay line in this process. The server and the delay line share the machine's CPUs with
every contestant. `s5cmd` and `aws` are looked for on PATH; one that is not installed is left out. "machine
busy" is the share of all CPUs that contestant, server and delay line used: near 100 %, nothing can be faster
with the same server.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import obstore
from obstore.store import S3Store
from tabulate import tabulate

from benchmarks.measure import HTCJOB, Cost, cost_of, print_machine
from tests.support.servers.htc_api import Vended, running_htc_api
from tests.support.servers.rgw import Rgw, running_rgw
from tests.support.wire.wire import FaultProxy

FILE_BYTES = 150_000
LARGE_BYTES = 512 << 20
SPAWNED_FILES = 20
"""Moved by the contestant that starts a process for each file; its figures are scaled to all files."""
SPAWNED = "one process per file"
BOTO3 = "boto3 + 16 threads"
AWS = "aws s3 cp --recursive"
UNCHECKED = "htcjob, checksums not compared"
"""Over http the MD5 of each object is computed, 0.2 ms for 150 kB; s5cmd compares nothing."""
PYTHON = sys.executable


class Contestant(NamedTuple):
    """One way to do a piece of work."""

    name: str
    commands: Sequence[Sequence[str]]
    """Run one after the other; `{dir}` is an empty directory made for this run."""
    environment: Mapping[str, str]
    scale: float = 1.0
    """What the figures are multiplied by."""


class Limit(NamedTuple):
    """A ratio to reach: ours against the fastest of the others whose names begin so."""

    ours: str
    against: str
    wall: float | None = None
    cpu: float | None = None
    memory_bytes: int | None = None
    """Most that ours may need, whatever the other needs."""


class Run(NamedTuple):
    """What one run of a contestant cost."""

    cost: Cost
    busy: float
    """Share of the machine's CPUs that were in use, by the server too."""


class Bench:
    """The server, the files, and what was not reached."""

    def __init__(self, rgw: Rgw, folder: Path, files: int, rounds: int) -> None:
        self.rgw = rgw
        self.folder = folder
        self.files = files
        self.rounds = rounds
        self.bucket = rgw.new_bucket()
        self.url = f"s3://{self.bucket}"
        self.missed: list[str] = []

    def environment(self, endpoint: str | None = None, **variables: str) -> dict[str, str]:
        """Give the variables that lead every contestant to the server, or to what stands before it."""
        endpoint = endpoint or self.rgw.endpoint
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": os.getcwd(),
            "AWS_ACCESS_KEY_ID": self.rgw.access_key,
            "AWS_SECRET_ACCESS_KEY": self.rgw.secret_key,
            "AWS_REGION": self.rgw.region,
            "AWS_DEFAULT_REGION": self.rgw.region,
            "AWS_ENDPOINT_URL": endpoint,
            "S3_ENDPOINT_URL": endpoint,
            "HTCJOB_LOG_LEVEL": "error",
            **variables,
        }

    def make_files(self, name: str, count: int, size_bytes: int) -> Path:
        """Make files of random content, and put them under the prefix *name*/ too."""
        folder = self.folder / name
        folder.mkdir()
        for n in range(count):
            (folder / f"{n:05}").write_bytes(os.urandom(size_bytes))
        self.put(folder, f"{name}/")
        return folder

    def put(self, folder: Path, prefix: str) -> None:
        """Put all files of *folder*, with a program that is not measured here."""
        command = [PYTHON, "-m", "benchmarks.peers.boto3_threads", "put", self.bucket, prefix, str(folder)]
        subprocess.run(command, env=self.environment(), check=True)

    def put_tiny(self, keys: Iterable[str]) -> None:
        """Make many objects of one byte."""
        store = S3Store(
            self.bucket,
            endpoint=self.rgw.endpoint,
            region=self.rgw.region,
            access_key_id=self.rgw.access_key,
            secret_access_key=self.rgw.secret_key,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )
        with ThreadPoolExecutor(32) as pool:
            for _ in pool.map(lambda key: obstore.put(store, key, b"x"), keys):
                pass

    def delete_below(self, prefix: str) -> None:
        """Remove what a contestant has put, or the server's memory fills."""
        client = self.rgw.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            if keys := [{"Key": item["Key"]} for item in page.get("Contents", ())]:
                client.delete_objects(Bucket=self.bucket, Delete={"Objects": keys, "Quiet": True})

    def race(self, title: str, contestants: Sequence[Contestant], limits: Sequence[Limit]) -> None:
        """Run all, interleaved; print the best of each and the ratios to reach."""
        runs: dict[str, list[Run]] = {one.name: [] for one in contestants}
        for _ in range(self.rounds):
            for one in contestants:
                runs[one.name].append(self._run(one))
        middle = {
            name: Cost(
                min(run.cost.wall_s for run in found),
                min(run.cost.cpu_s for run in found),
                max(run.cost.peak_memory_bytes for run in found),
            )
            for name, found in runs.items()
        }
        print(f"\n{title}")
        rows = [
            [
                name,
                f"{cost.wall_s:.2f}",
                f"{cost.cpu_s:.2f}",
                f"{cost.peak_memory_bytes / 1e6:.0f}",
                f"{min(runs[name], key=lambda run: run.cost.wall_s).busy:.0%}",
            ]
            for name, cost in middle.items()
        ]
        headers = [f"best of {self.rounds}", "wall s", "CPU s", "peak MB", "machine busy"]
        print(tabulate(rows, headers=headers, disable_numparse=True))
        for limit in limits:
            others = [name for name in middle if name.startswith(limit.against) and name != limit.ours]
            if others:
                self._judge(limit, middle, min(others, key=lambda name: middle[name].wall_s))
        sys.stdout.flush()

    def _judge(self, limit: Limit, middle: Mapping[str, Cost], against: str) -> None:
        ours, other = middle[limit.ours], middle[against]
        facts = []
        for word, ratio, bound in (
            ("wall", ours.wall_s / other.wall_s, limit.wall),
            ("CPU", ours.cpu_s / other.cpu_s, limit.cpu),
        ):
            if bound is not None:
                facts.append((f"{word} {ratio:.2f} (reach {bound})", ratio <= bound))
        if limit.memory_bytes is not None:
            peak = ours.peak_memory_bytes
            facts.append(
                (
                    f"peak {peak / 1e6:.0f} MB (reach {limit.memory_bytes / 1e6:.0f})",
                    peak <= limit.memory_bytes,
                )
            )
        line = f"{limit.ours} / {against}: {', '.join(fact for fact, _ in facts)}"
        print(f"  {line}")
        if not all(is_reached for _, is_reached in facts):
            self.missed.append(f"{line}")

    def _run(self, one: Contestant) -> Run:
        others_s = self._others_cpu_s()
        directory = tempfile.mkdtemp(dir=self.folder)
        wall_s = cpu_s = 0.0
        peak = 0
        for command in one.commands:
            cost = cost_of([word.replace("{dir}", directory) for word in command], one.environment)
            wall_s, cpu_s = wall_s + cost.wall_s, cpu_s + cost.cpu_s
            peak = max(peak, cost.peak_memory_bytes)
        others_s = self._others_cpu_s() - others_s
        shutil.rmtree(directory)
        cpus = len(os.sched_getaffinity(0))
        return Run(Cost(wall_s * one.scale, cpu_s * one.scale, peak), (cpu_s + others_s) / (cpus * wall_s))

    def _others_cpu_s(self) -> float:
        """Give the CPU seconds of the server's processes and of this one, which is the delay line, so far."""
        ticks = 0
        for name in os.listdir("/proc"):
            with suppress(OSError):
                if name.isdecimal():
                    fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                    if int(fields[1]) == os.getpid():  # the daemons are our children
                        ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK") + time.process_time()


def installed(
    name: str, commands: Sequence[Sequence[str]], environment: Mapping[str, str]
) -> list[Contestant]:
    """Give a contestant if its program is installed."""
    return [Contestant(name, commands, environment)] if shutil.which(commands[0][0]) else []


def small_files(bench: Bench, source: Path, endpoint: str | None, title: str, *, is_delayed: bool) -> None:
    """Many small files, down and up."""
    plain = bench.environment(endpoint)
    sdk = {**plain, "HTCJOB_STORAGE_ENGINE": "sdk"}
    boto3_threads = [PYTHON, "-m", "benchmarks.peers.boto3_threads"]
    unchecked = [PYTHON, "-m", "benchmarks.peers.htcjob_unchecked"]
    boto3_one = [PYTHON, "-m", "benchmarks.peers.boto3_one"]
    aws = ["aws", "s3", "cp", "--recursive", "--only-show-errors"]
    each = [f"{n:05}" for n in range(SPAWNED_FILES)]
    scale = bench.files / SPAWNED_FILES
    inputs, outputs = f"{bench.url}/small/", f"{bench.url}/out"
    down = [
        Contestant("htcjob", [[HTCJOB, "storage", "get", "-r", inputs, "-d", "{dir}"]], plain),
        Contestant("htcjob, sdk", [[HTCJOB, "storage", "get", "-r", inputs, "-d", "{dir}"]], sdk),
        Contestant(UNCHECKED, [[*unchecked, "storage", "get", "-r", inputs, "-d", "{dir}"]], plain),
        *installed("s5cmd 256", [["s5cmd", "cp", f"{inputs}*", "{dir}/"]], plain),
        *installed("s5cmd 16", [["s5cmd", "--numworkers", "16", "cp", f"{inputs}*", "{dir}/"]], plain),
        *installed(AWS, [[*aws, inputs, "{dir}"]], plain),
        Contestant(BOTO3, [[*boto3_threads, "get", bench.bucket, "small/", "{dir}"]], plain),
        Contestant(
            SPAWNED,
            [[*boto3_one, "get", bench.bucket, f"small/{n}", f"{{dir}}/{n}"] for n in each],
            plain,
            scale,
        ),
    ]
    up = [
        # A name of its own each time, or the second round would find everything there already.
        Contestant("htcjob", [[HTCJOB, "storage", "put", "-r", f"{source}", f"{outputs}-1{{dir}}/"]], plain),
        Contestant(
            "htcjob, sdk", [[HTCJOB, "storage", "put", "-r", f"{source}", f"{outputs}-2{{dir}}/"]], sdk
        ),
        *installed("s5cmd 256", [["s5cmd", "cp", f"{source}/", f"{outputs}-3{{dir}}/"]], plain),
        *installed(
            "s5cmd 16", [["s5cmd", "--numworkers", "16", "cp", f"{source}/", f"{outputs}-4{{dir}}/"]], plain
        ),
        *installed(AWS, [[*aws, f"{source}", f"{outputs}-5{{dir}}/"]], plain),
        Contestant(BOTO3, [[*boto3_threads, "put", bench.bucket, "out-6{dir}/", f"{source}"]], plain),
        Contestant(
            SPAWNED,
            [[*boto3_one, "put", bench.bucket, f"out-7{{dir}}/{n}", f"{source}/{n}"] for n in each],
            plain,
            scale,
        ),
    ]
    for way, contestants in (("down", down), ("up", up)):
        bench.race(
            f"{bench.files} x {FILE_BYTES // 1000} kB {way}, {title}",
            contestants,
            [
                Limit("htcjob", "s5cmd", wall=0.85 if is_delayed else 1.0, cpu=1.0 if way == "down" else 0.6),
                Limit("htcjob", BOTO3, wall=0.6),
                Limit("htcjob", AWS, wall=0.5),
                Limit("htcjob", SPAWNED, wall=0.05),
                Limit("htcjob, sdk", BOTO3, wall=1.05, cpu=1.05),
                *([Limit(UNCHECKED, "s5cmd", cpu=1.0)] if way == "down" else []),
            ],
        )
        bench.delete_below("out-")


def large_file(bench: Bench) -> None:
    """One large file, down and up."""
    plain = bench.environment()
    source = bench.folder / "00000"
    with source.open("wb") as file:
        for _ in range(LARGE_BYTES >> 20):
            file.write(os.urandom(1 << 20))
    # In parts, as every tool puts a large file.
    seed = [PYTHON, "-m", "benchmarks.peers.boto3_one", "put", bench.bucket, "large/00000", str(source)]
    subprocess.run(seed, env=plain, check=True)
    sdk = {**plain, "HTCJOB_STORAGE_ENGINE": "sdk"}
    url = f"{bench.url}/large/00000"
    megabytes = 150 << 20
    for way, wall, contestants in (
        (
            "down",
            1.2,
            [
                Contestant("htcjob", [[HTCJOB, "storage", "get", url, "-d", "{dir}"]], plain),
                Contestant("htcjob, sdk", [[HTCJOB, "storage", "get", url, "-d", "{dir}"]], sdk),
                *installed("s5cmd", [["s5cmd", "cp", url, "{dir}/"]], plain),
            ],
        ),
        (
            "up",
            1.0,
            [
                Contestant(
                    "htcjob", [[HTCJOB, "storage", "put", f"{source}", f"{bench.url}/out-1{{dir}}/"]], plain
                ),
                Contestant(
                    "htcjob, sdk",
                    [[HTCJOB, "storage", "put", f"{source}", f"{bench.url}/out-2{{dir}}/"]],
                    sdk,
                ),
                *installed("s5cmd", [["s5cmd", "cp", f"{source}", f"{bench.url}/out-3{{dir}}/"]], plain),
            ],
        ),
    ):
        limit = Limit("htcjob", "s5cmd", wall=wall, memory_bytes=megabytes)
        bench.race(f"1 x {LARGE_BYTES >> 20} MiB {way}", contestants, [limit])
        bench.delete_below("out-")


def cold_job(bench: Bench) -> None:
    """One small job from a cold start."""

    def vend(_project: str, _task: str | None, _region: str) -> Vended:
        given = bench.rgw.assume_role(bucket=bench.bucket)
        expires_at = given.pop("expires_at")
        given["AWS_ENDPOINT_URL_S3"] = bench.rgw.endpoint
        return Vended(given, project=f"{bench.url}/", task=f"{bench.url}/job/", expires_at=expires_at)

    with running_htc_api(vend) as api:
        vended = bench.environment(**api.environ())
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            del vended[name]
        job = [PYTHON, "-m", "benchmarks.peers.boto3_job", bench.bucket, "small/", "{dir}"]
        ours = [PYTHON, "-m", "benchmarks.peers.htcjob_job", "small/", "{dir}"]
        rounds, bench.rounds = bench.rounds, bench.rounds * 5
        bench.race(
            "a cold job: 5 files down, 10 up; ours with credentials vended by an API, boto3 with static keys",
            [
                Contestant("htcjob", [ours], vended),
                Contestant("htcjob, sdk", [ours], {**vended, "HTCJOB_STORAGE_ENGINE": "sdk"}),
                Contestant("boto3", [job], bench.environment()),
            ],
            [Limit("htcjob", "boto3", wall=0.4, cpu=0.4)],
        )
        bench.rounds = rounds


def memory(bench: Bench) -> None:
    """Peak memory, with a tenth of the files and with all."""
    few, many = bench.files // 2, bench.files * 5
    plain = bench.environment()
    for count in (few, many):
        bench.make_files(f"tiny{count}", count, 100)
    bench.race(
        f"peak memory: {few} and {many} files of 100 bytes down",
        [
            Contestant(
                f"htcjob, {count} files",
                [[HTCJOB, "storage", "get", "-r", f"{bench.url}/tiny{count}/", "-d", "{dir}"]],
                plain,
            )
            for count in (few, many)
        ],
        [Limit(f"htcjob, {many} files", f"htcjob, {few} files", memory_bytes=60_000_000)],
    )


def listing(bench: Bench) -> None:
    """List many keys."""
    keys = bench.files * 50
    bench.put_tiny(f"list/{n:07}" for n in range(keys))
    plain = bench.environment()
    module = [PYTHON, "-m"]
    bench.race(
        f"list {keys} keys",
        [
            Contestant("htcjob", [[*module, "benchmarks.peers.htcjob_list", bench.bucket, "list/"]], plain),
            Contestant(
                "htcjob, sdk",
                [[*module, "benchmarks.peers.htcjob_list", bench.bucket, "list/"]],
                {**plain, "HTCJOB_STORAGE_ENGINE": "sdk"},
            ),
            Contestant("boto3", [[*module, "benchmarks.peers.boto3_list", bench.bucket, "list/"]], plain),
        ],
        [Limit("htcjob", "boto3", cpu=0.5, memory_bytes=60_000_000)],
    )


def main() -> None:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        with running_rgw(folder / "rgw", memory_bytes=8 << 30) as rgw:
            bench = Bench(rgw, folder, files, rounds)
            source = bench.make_files("small", files, FILE_BYTES)
            small_files(bench, source, None, "loopback", is_delayed=False)
            with FaultProxy("127.0.0.1", int(rgw.endpoint.rpartition(":")[2]), round_trip_s=0.020) as line:
                small_files(bench, source, line.url, "20 ms", is_delayed=True)
            large_file(bench)
            cold_job(bench)
            memory(bench)
            listing(bench)
    print_machine()
    print(f"{time.monotonic() - started:.0f} s in all; not reached: {'; '.join(bench.missed) or 'nothing'}")


if __name__ == "__main__":
    main()
