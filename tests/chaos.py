"""
An array of the face tagger in the worst of worlds, until it is done: `make chaos SEEDS=5`.

    python -m tests.chaos SEEDS [PHOTOS]

Storage fails, goes away and comes back; the disk is small; workers crash and hang; attempts are stopped and
killed at any moment, and tried again as a platform would. At the end each entry has one result, and the outputs
are those of a run that nothing disturbed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from htcjob.chunk import chunk_bounds
from htcjob.storage.access import Access
from htcjob.storage.contract import Store
from htcjob.storage.urls import open_store
from tests.support.rgw import Rgw, running_rgw
from tests.support.wire import FaultProxy

ARRAY_SIZE = 3
MOST_ATTEMPTS = 60
"""Of one index; a platform's limit is lower, its world better."""
REPOSITORY = Path(__file__).parents[1]
FAULTS = {"answer": 0.08, "reset": 0.04, "lose": 0.03, "truncate": 0.03, "drop": 0.02}
"""Of all requests, one in five in all."""


class Chaos:
    """One array, over one bucket of *rgw*; *folder* is for work directories."""

    def __init__(self, rgw: Rgw, photos: Sequence[Path], folder: Path, *, seed: int) -> None:
        self.luck = random.Random(seed)
        self.seed = seed
        self.rgw = rgw
        self.folder = folder
        self.names = [photo.name for photo in photos]
        self.bucket = rgw.new_bucket()
        self.project = self._store("project")
        for photo in photos:
            self.project.put(str(photo), photo.name)
        self.project.put_bytes("".join(f"{name}\n" for name in self.names).encode(), "list.txt")
        self.endings: Counter[str] = Counter()
        self.kills_left = 6 + len(photos) // 8
        """At least so many, as long as there is anything to kill."""

    def run(self) -> None:
        """Run it in both worlds and compare them."""
        self._array("calm", endpoint=self.rgw.endpoint, function="reference_app.face_tagger:tag_entry")
        host, port = self.rgw.endpoint.removeprefix("http://").split(":")
        # Far away, so that there is time to be killed between an output and its record.
        with FaultProxy(host, int(port), round_trip_s=0.05) as proxy:
            for n, (kind, probability) in enumerate(FAULTS.items()):
                proxy.faults.add(kind, probability=probability, seed=self.seed * 10 + n)
            is_over = threading.Event()
            weather = threading.Thread(target=self._weather, args=(proxy, is_over))
            weather.start()
            try:
                self._array(
                    "chaos", endpoint=proxy.url, function="tests.support.chaotic_tagger:tag", is_bad=True
                )
            finally:
                is_over.set()
                weather.join()
            assert sum(proxy.struck.values()) > 10, "storage hardly failed"
        calm, chaos = self._objects("calm"), self._objects("chaos")
        assert calm.keys() == chaos.keys(), calm.keys() ^ chaos.keys()
        assert calm == chaos, [key for key, data in calm.items() if chaos[key] != data]
        print(
            f"seed {self.seed}: {len(self.names)} entries, {len(chaos)} outputs, ended {dict(self.endings)}"
        )

    def _weather(self, proxy: FaultProxy, is_over: threading.Event) -> None:
        luck = random.Random(f"weather {self.seed}")
        while not is_over.wait(luck.uniform(3, 8)):
            with proxy.refusing():
                is_over.wait(luck.uniform(0.5, 3))

    def _array(self, task: str, *, endpoint: str, function: str, is_bad: bool = False) -> None:
        left = dict.fromkeys(range(ARRAY_SIZE), 1)
        while left:
            index = self.luck.choice(sorted(left))
            status = self._attempt(task, index, left[index], endpoint, function, is_bad=is_bad)
            self._check(task, index, status)
            if status == 0:
                del left[index]
            else:
                left[index] += 1
                assert left[index] < MOST_ATTEMPTS, f"index {index} is never done"

    def _attempt(
        self, task: str, index: int, attempt: int, endpoint: str, function: str, *, is_bad: bool
    ) -> int:
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        environment = {
            **self.rgw.environ(),
            "AWS_ENDPOINT_URL_S3": endpoint,
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(self.folder),
            "CHAOS_SEED": str(self.seed),
            "HTCJOB_PROJECT_STORE": f"s3://{self.bucket}/project",
            "HTCJOB_TASK_STORE": f"s3://{self.bucket}/{task}",
            "HTCJOB_MANIFEST": "list.txt",
            "HTCJOB_ARRAY_INDEX": str(index),
            "HTCJOB_ARRAY_SIZE": str(ARRAY_SIZE),
            "HTCJOB_ATTEMPT": str(attempt),
            "HTCJOB_TERMINATION_LOG": str(self.folder / "termination-log"),
        }
        options = ["--workers", "2", "--work-dir", str(work), "--timeout", "5s", "--grace", "3s"]
        if is_bad:
            options += ["--retry-entry", "1", "--prefetch", self.luck.choice(["0", "4", "16"])]
            if self.luck.random() < 0.3:
                options += ["--disk-budget", "300kB"]
            if self.luck.random() < 0.1:
                options += ["--deadline", "6s"]
        log_path = self.folder / "log"
        with log_path.open("wb") as log:
            command = [sys.executable, "-m", "htcjob", "run", *options, "--call", function]
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPOSITORY
            )
            if is_bad and (self.kills_left > 0 or self.luck.random() < 0.3):
                try:
                    process.wait(self.luck.uniform(0.5, 3))
                except subprocess.TimeoutExpired:
                    self.kills_left -= 1
                    process.kill() if self.luck.random() < 0.7 else process.terminate()
            process.wait(300)
        status = process.returncode
        self.endings[f"{task} {status}"] += 1
        text = log_path.read_text(errors="replace")
        assert status != 70, text
        assert is_bad or status == 0, text
        if status == -9:
            shutil.rmtree(work)  # as a container's disk goes with it
        else:
            assert not list(work.iterdir()), (status, list(work.iterdir()))
        return status

    def _check(self, task: str, index: int, status: int) -> None:
        """What must be true after every attempt: nothing is said to be done that is not."""
        objects = self._objects(task)
        done = self._done(task)
        for record in done.values():
            for output in record.get("outputs", ()):
                assert len(objects[output["key"]]) == output["size_bytes"], record
        chunk = chunk_bounds(array_index=index, array_size=ARRAY_SIZE, n_entries=len(self.names))
        assert status != 0 or set(chunk) <= done.keys(), (status, sorted(done))
        assert not _processes_with(f"CHAOS_SEED={self.seed}", str(self.folder))

    def _done(self, task: str) -> dict[int, dict]:
        """Give the records of what is done, by position; none has two."""
        store = self._store(task)
        done: dict[int, dict] = {}
        for info in store.list(".htcjob/default/done/"):
            for line in store.read_range(info.key, 0).splitlines():
                record = json.loads(line)
                if record["result"] == "done":
                    # Parts are copied before they are removed: the same record may be there twice.
                    assert done.setdefault(record["position"], record) == record, "committed twice"
        return done

    def _objects(self, task: str) -> dict[str, bytes]:
        store = self._store(task)
        return {
            info.key: store.read_range(info.key, 0)
            for info in store.list()
            if not info.key.startswith(".htcjob/")
        }

    def _store(self, name: str) -> Store:
        access = Access(environ=self.rgw.environ(), endpoint=self.rgw.endpoint)
        return open_store(f"s3://{self.bucket}/{name}", access)


def _processes_with(variable: str, home: str) -> list[str]:
    """Give the processes that have *variable* in their environment, and that home: an attempt's, or its children."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                variables = Path("/proc", name, "environ").read_bytes().split(b"\0")
                if {variable.encode(), f"HOME={home}".encode()} <= set(variables):
                    found.append(Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
    return found


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    photos = Path(sys.argv[2] if sys.argv[2:3] > [""] else REPOSITORY.parent / "shared" / "images" / "dev")
    paths = sorted(path for path in photos.iterdir() if path.suffix in (".jpg", ".png"))
    with tempfile.TemporaryDirectory() as directory, running_rgw(Path(directory, "rgw")) as rgw:
        for seed in range(seeds):
            folder = Path(directory, str(seed))
            folder.mkdir()
            started = time.monotonic()
            Chaos(rgw, paths, folder, seed=seed).run()
            print(f"seed {seed}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
