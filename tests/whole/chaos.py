"""
Arrays of the face tagger in the worst of worlds, until they are done: `make chaos SEEDS=5`.

    python -m tests.whole.chaos SEEDS [PHOTOS]

With more than ten seeds each is a short one; `make chaos SEEDS=300` is the long watch.

Storage fails, goes away and comes back; disks fill; inputs are absent or damaged; workers crash, hang and fork;
attempts, several at a time, are warned, stopped and killed at any moment, and tried again as a platform would;
records lie in many small parts, which are put together, and people read them all the while: what was done once
stays done. At the end each entry has one result, and the outputs and values are those of a run that nothing disturbed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import cycle, islice
from pathlib import Path

from htcjob.errors import AbsentError, HtcjobError
from htcjob.ledger.reader import final_records
from htcjob.manifest.chunk import chunk_bounds
from htcjob.retry import RetryPolicy
from htcjob.storage.access import Access
from htcjob.storage.contract import Store
from htcjob.storage.urls import open_store
from htcjob.transfer.transfers import Transfers
from tests.support.disk import CannotMountError, small_disk
from tests.support.processes import commands_with, pids_with
from tests.support.servers.rgw import Rgw, running_rgw
from tests.support.wire.wire import FaultProxy

ARRAY_SIZE = 4
AT_A_TIME = 2
"""Attempts."""
MOST_ATTEMPTS = 60
"""Of one index; a platform's limit is lower, its world better."""
ENTRIES = 200
"""Of the long form; where there are fewer photos, they come again under other names."""
MOST_LONG_SEEDS = 10
"""With more of them each has few and small photos, and several run side by side."""
CHEAP_ENTRIES = 10
CHEAP_AT_A_TIME = 4
REPOSITORY = Path(__file__).parents[2]
FAULTS = {"answer": 0.08, "reset": 0.04, "lose": 0.03, "truncate": 0.03, "drop": 0.02}
"""Of all requests, one in five in all."""
KILLED = (-9, -11)
"""By us, and by the program itself where it is the attempt."""
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
BAD_EVERY = 6
"""So many good inputs lie between two that are absent, unusable or damaged."""
LOOK_EVERY_S = 4.0


class Chaos:
    """
    One array, over one bucket of *rgw*.

    Args:
        rgw: The server.
        photos: Photos by key.
        folder: For work directories.
        seed: Of all bad luck. Every third seed is for a Python loop (`htcjob.Job`), the others for `--call`.
        program: The module that is run as htcjob.
    """

    def __init__(
        self,
        rgw: Rgw,
        photos: dict[str, Path],
        folder: Path,
        *,
        seed: int,
        program: str = "tests.support.small_parts",
    ) -> None:
        self.seed = seed
        self.rgw = rgw
        self.folder = folder
        self.is_loop = seed % 3 == 0
        self.program = program
        self.keys: list[str] = []
        self.good: dict[int, str] = {}
        """Those that can be done, by position."""
        for n, key in enumerate(photos):
            if n % BAD_EVERY == 1:
                self.keys.append((f"absent-{n}", f"unusable//{n}", f"damaged-{n}")[n // BAD_EVERY % 3])
            self.good[len(self.keys)] = key
            self.keys.append(key)
        self.bucket = rgw.new_bucket()
        project = self._store("project")
        for key, photo in photos.items():
            project.put(str(photo), key)
        for key in self.keys:
            if key.startswith("damaged"):
                project.put_bytes(b"no photo", key)
        project.put_bytes("".join(f"{key}\n" for key in self.keys).encode(), "list.txt")
        self.disk_kb = max(1500, 3 * max(photo.stat().st_size for photo in photos.values()) // 1024)
        self.endings: Counter[str] = Counter()
        self.has_failed = threading.Event()
        """One index is not to be tried any more, so no other is."""
        self.readings = 0
        """Of the ledger, while attempts write to it."""
        self.lost: set[int] = set()
        """Positions that a reader saw as done, and a later one did not."""

    def run(self) -> None:
        """Run it in both worlds and compare them."""
        self._array("calm", endpoint=self.rgw.endpoint)
        host, port = self.rgw.endpoint.removeprefix("http://").split(":")
        # Far away, so that there is time to be killed between an output and its record.
        with ExitStack() as world:
            disks = [self.folder / f"disk-{index}" for index in range(ARRAY_SIZE)]
            may_mount = self._mount(disks, world)
            proxy = world.enter_context(FaultProxy(host, int(port), round_trip_s=0.05))
            for n, (kind, probability) in enumerate(FAULTS.items()):
                proxy.faults.add(kind, probability=probability, seed=self.seed * 10 + n)
            is_over = threading.Event()
            weather = threading.Thread(
                target=self._weather, args=(proxy, disks if may_mount else [], is_over)
            )
            weather.start()
            reader = threading.Thread(target=self._read, args=(proxy.url, is_over))
            reader.start()
            with ThreadPoolExecutor(1) as pool:
                people = pool.submit(self._look, is_over)
                try:
                    self._array("chaos", endpoint=proxy.url, disks=disks)
                finally:
                    is_over.set()
                    weather.join()
                    reader.join()
            people.result()
            assert not self.lost, (
                f"a reader did not see {sorted(self.lost)}, which another one had seen before"
            )
            assert self.readings, "nobody could read the ledger"
            print(dict(proxy.struck), proxy.requests)
            assert proxy.struck, "storage never failed"
        calm, chaos = self._objects("calm"), self._objects("chaos")
        assert calm.keys() == chaos.keys(), calm.keys() ^ chaos.keys()
        assert calm == chaos, [key for key, data in calm.items() if chaos[key] != data]
        values = [
            {n: record.get("value") for n, record in self._done(task).items()} for task in ("calm", "chaos")
        ]
        assert values[0].keys() == self.good.keys()
        assert self.is_loop or values[0] == values[1], values
        endings = dict(sorted(self.endings.items()))
        print(f"seed {self.seed}: {len(self.keys)} entries, {len(chaos)} outputs, ended {endings}")

    def _mount(self, disks: Sequence[Path], world: ExitStack) -> bool:
        """Make the disks small; where we may not, they are folders, and never full."""
        try:
            for disk in disks:
                world.enter_context(small_disk(disk, size_kb=self.disk_kb))
        except CannotMountError:
            if os.environ.get("HTCJOB_REQUIRE_MOUNT") == "1":
                raise
            for disk in disks:
                disk.mkdir(exist_ok=True)
            return False
        return True

    def _weather(self, proxy: FaultProxy, disks: Sequence[Path], is_over: threading.Event) -> None:
        """Storage goes away, or somebody else fills a disk; for a while."""
        luck = random.Random(f"weather {self.seed}")
        while not is_over.wait(luck.uniform(2, 6)):
            if not disks or luck.random() < 0.5:
                with proxy.refusing():
                    is_over.wait(luck.uniform(0.5, 3))
            else:
                ballast = luck.choice(disks) / "ballast"
                with ballast.open("wb", buffering=0) as file:
                    try:
                        while True:
                            file.write(bytes(4096))
                    except OSError:
                        pass  # it is full
                is_over.wait(luck.uniform(0.5, 3))
                ballast.unlink()

    def _read(self, endpoint: str, is_over: threading.Event) -> None:
        """Look at the ledger again and again, as `status` does: what was done once is always done."""
        store = self._store("chaos", endpoint)
        seen: set[int] = set()
        while not self.lost:
            is_last = is_over.wait(0.2)
            with suppress(HtcjobError), Transfers(RetryPolicy()) as transfers:  # an error is no wrong answer
                records = final_records(store, "default", transfers)
                done = {record["position"] for record in records if record["result"] == "done"}
                self.lost |= seen - done
                seen |= done
                self.readings += 1
            if is_last:
                return

    def _look(self, is_over: threading.Event) -> None:
        """People look at the run while attempts work: whatever is committed, they see."""
        places = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            **self.rgw.environ(),
            "AWS_ENDPOINT_URL_S3": self.rgw.endpoint,
            "HTCJOB_PROJECT_STORE": f"s3://{self.bucket}/project",
            "HTCJOB_TASK_STORE": f"s3://{self.bucket}/chaos",
        }

        def read(*words: str) -> str:
            command = [sys.executable, "-m", "htcjob", *words]
            done = subprocess.run(
                command, env=places, capture_output=True, text=True, timeout=120, check=False, cwd=REPOSITORY
            )
            assert done.returncode == 0, (words, done.returncode, done.stderr)
            return done.stdout

        while not is_over.wait(LOOK_EVERY_S):
            known = self._done("chaos")
            if not known:
                continue
            found = {record["position"] for record in map(json.loads, read("collect").splitlines())}
            assert known.keys() <= found, ("collect", known.keys() - found)
            left = set(read("failed", "--manifest", "left").splitlines())
            assert not left & {self.keys[n] for n in known}, ("left", left)
            said = json.loads(read("status", "--json"))
            assert said["results"]["done"] >= len(known), ("status", said, len(known))

    def _array(self, task: str, *, endpoint: str, disks: Sequence[Path] = ()) -> None:
        with ThreadPoolExecutor(AT_A_TIME) as platform:
            jobs = [
                platform.submit(self._job, task, index, endpoint, disks[index] if disks else None)
                for index in range(ARRAY_SIZE)
            ]
        for job in jobs:
            job.result()

    def _job(self, task: str, index: int, endpoint: str, disk: Path | None) -> None:
        """Try one index until it ends with 0."""
        luck = random.Random(f"{self.seed} {task} {index}")
        kills = 2 + len(self.keys) // 16
        try:
            for attempt in range(1, MOST_ATTEMPTS):
                if self.has_failed.is_set():
                    return
                may_kill = disk is not None and (kills > 0 or luck.random() < 0.3)
                kill_after_s = luck.uniform(0.5, 3) if may_kill else None
                kills -= may_kill
                status = self._attempt(task, index, attempt, endpoint, disk, luck, kill_after_s)
                if self._check(task, index, status):
                    return
                assert disk is not None, (index, status)
            raise AssertionError(f"index {index} is never done")
        except BaseException:
            self.has_failed.set()
            raise

    def _attempt(
        self,
        task: str,
        index: int,
        attempt: int,
        endpoint: str,
        disk: Path | None,
        luck: random.Random,
        kill_after_s: float | None,
    ) -> int:
        name = f"{task}-{index}-{attempt}"
        work = (disk or self.folder) / f"work-{index}"
        work.mkdir(exist_ok=True)
        variables = {
            **self.rgw.environ(),
            "AWS_ENDPOINT_URL_S3": endpoint,
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(self.folder),
            "CHAOS_SEED": str(self.seed),
            "CHAOS_ATTEMPT": f"{self.folder} {name}",
            "HTCJOB_PROJECT_STORE": f"s3://{self.bucket}/project",
            "HTCJOB_TASK_STORE": f"s3://{self.bucket}/{task}",
            "HTCJOB_MANIFEST": "list.txt",
            "HTCJOB_ARRAY_INDEX": str(index),
            "HTCJOB_ARRAY_SIZE": str(ARRAY_SIZE),
            "HTCJOB_ATTEMPT": str(attempt),
            "HTCJOB_TERMINATION_LOG": str(self.folder / f"termination-log-{index}"),
            "HTCJOB_WORK_DIR": str(work),
            "HTCJOB_WORKERS": "2",
            "HTCJOB_GRACE": "3s",
        }
        tagger = "reference_app.face_tagger:tag_entry"
        if disk is not None:
            tagger = "tests.support.chaotic_tagger:tag"
            variables |= {"HTCJOB_RETRY_ENTRY": "1", "HTCJOB_PREFETCH": luck.choice(["0", "4", "16"])}
            variables |= {"HTCJOB_DISK_BUDGET": "300kB"} if luck.random() < 0.3 else {}
            variables |= {"HTCJOB_DEADLINE_IN": "6s"} if luck.random() < 0.1 else {}
            variables |= {"HTCJOB_TIMEOUT": "5s", "CHAOS_KILL": "1"}
        command = [sys.executable, "-m", self.program, "run"]
        variables["HTCJOB_CALL"] = tagger
        if self.is_loop and disk is not None:
            del variables["HTCJOB_TIMEOUT"]
            command = [sys.executable, "-m", "tests.support.chaotic_loop"]
        log_path = self.folder / f"log-{name}"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPOSITORY
            )
            if disk is not None and luck.random() < 0.4:
                self._warn(process, luck, f"CHAOS_ATTEMPT={variables['CHAOS_ATTEMPT']}")
            if kill_after_s is not None:
                try:
                    process.wait(kill_after_s)
                except subprocess.TimeoutExpired:
                    process.kill() if luck.random() < 0.7 else process.terminate()
            process.wait(300)
        status = process.returncode
        self.endings[f"{task} {status}"] += 1
        text = log_path.read_text(errors="replace")
        assert status != 70, text
        is_warned = -status in WARNINGS  # before it has begun, or behind its end
        assert not is_warned or " attempt_started " not in text or " attempt_ended " in text, text
        # Killed, by itself at the very end of its grace period too: then nobody tidies up.
        is_cut = is_warned or status in KILLED or " given_up " in text
        until = time.monotonic() + (30 if is_cut else 0)
        while left := commands_with(f"CHAOS_ATTEMPT={variables['CHAOS_ATTEMPT']}"):
            assert time.monotonic() < until, (status, left)
            time.sleep(0.05)
        if is_cut:
            shutil.rmtree(work)  # as a container's disk goes with it
        else:
            assert not list(work.iterdir()), (status, list(work.iterdir()), text)
        return status

    def _warn(self, process: subprocess.Popen[bytes], luck: random.Random, variable: str) -> None:
        """Send an attempt, or all of its processes, what a batch system sends ahead of the end."""
        signum, is_for_all = luck.choice(WARNINGS), luck.random() < 0.5
        with suppress(subprocess.TimeoutExpired):
            process.wait(luck.uniform(0.3, 2.5))
        if process.poll() is None:
            for pid in pids_with(variable) if is_for_all else [process.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signum)

    def _check(self, task: str, index: int, status: int) -> bool:
        """
        What must be true after every attempt: nothing is said to be done that is not.

        Whether the index is over: all that can be done of it is done, and its status says so.
        """
        done = self._done(task)
        sizes = {info.key: info.size_bytes for info in self._store(task).list()}
        for record in done.values():
            for output in record.get("outputs", ()):
                assert sizes.get(output["key"]) == output["size_bytes"], f"recorded, not there: {record}"
        chunk = chunk_bounds(array_index=index, array_size=ARRAY_SIZE, n_entries=len(self.keys))
        assert done.keys() <= self.good.keys()
        assert status != 0 or set(chunk) <= done.keys(), (status, sorted(done))
        is_all_done = set(chunk) & self.good.keys() <= done.keys()
        return is_all_done and status == (0 if set(chunk) <= self.good.keys() else 65)

    def _done(self, task: str) -> dict[int, dict]:
        """Give the records of what is done, by position; none has two."""
        store = self._store(task)
        while True:
            done: dict[int, dict] = {}
            try:
                for info in store.list(".htcjob/default/done/"):
                    for line in store.read_range(info.key, 0).splitlines():
                        record = json.loads(line)
                        said = record.get("message", "")
                        assert record["result"] != "failed" or "SIGUSR" not in said, record
                        assert record["result"] != "failed" or "SIGXCPU" not in said, record
                        if record["result"] == "done":
                            # Parts are copied before they are removed: the same record may be there twice.
                            assert done.setdefault(record["position"], record) == record, "committed twice"
            except AbsentError:
                continue  # another attempt has put parts together meanwhile
            return done

    def _objects(self, task: str) -> dict[str, bytes]:
        """Give what is in task storage besides the ledger, by key."""
        store = self._store(task)
        return {
            info.key: store.read_range(info.key, 0)
            for info in store.list()
            if not info.key.startswith(".htcjob/")
        }

    def _store(self, name: str, endpoint: str | None = None) -> Store:
        access = Access(environ=self.rgw.environ(), endpoint=endpoint or self.rgw.endpoint)
        return open_store(f"s3://{self.bucket}/{name}", access)


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    folder = Path(sys.argv[2] if sys.argv[2:3] > [""] else REPOSITORY.parent / "shared" / "images" / "dev")
    is_cheap = seeds > MOST_LONG_SEEDS
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
    if is_cheap:
        paths = sorted(paths, key=lambda path: path.stat().st_size)[:CHEAP_ENTRIES]
    again = islice(enumerate(cycle(paths)), len(paths) if is_cheap else max(ENTRIES, len(paths)))
    photos = {f"{n // len(paths)}/{path.name}": path for n, path in again}
    with tempfile.TemporaryDirectory() as directory, running_rgw(Path(directory, "rgw")) as rgw:

        def run(seed: int) -> None:
            if has_failed.is_set():
                return
            work = Path(directory, str(seed))
            work.mkdir()
            started = time.monotonic()
            try:
                Chaos(rgw, photos, work, seed=seed).run()
            except BaseException:
                has_failed.set()
                print(f"seed {seed}: failed", flush=True)
                raise
            print(f"seed {seed}: {time.monotonic() - started:.0f} s", flush=True)

        has_failed = threading.Event()
        with ThreadPoolExecutor(CHEAP_AT_A_TIME if is_cheap else 1) as pool:
            for _ in pool.map(run, range(seeds)):
                pass


if __name__ == "__main__":
    main()
