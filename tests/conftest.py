"""What every test gets: a clean environment, and ways to run the real `htcjob`."""

from __future__ import annotations

import csv
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.disk import CannotMountError, small_disk
from tests.support.servers.docker import base_image, bottom, docker, face_tagger_image  # noqa: F401
from tests.support.servers.htc_api import htc_api_fixture  # noqa: F401
from tests.support.servers.rgw import rgw  # noqa: F401
from tests.support.servers.shared import SharedByWorkers, shared  # noqa: F401
from tests.support.skipping import skip_or_fail

REPOSITORY = Path(__file__).parents[1]

settings.register_profile("htcjob", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("htcjob")

# What the developer's shell or a platform around the tests may have set.
_OF_PLATFORMS = ("HTCJOB_", "RESCALE_", "AWS_", "BATCH_", "SLURM_", "IMG_OBJKEY")
_OF_TESTS = ("HTCJOB_REQUIRE_", "HTCJOB_SHARED", "HTCJOB_TEST_SERVERS")
for _name in list(os.environ):
    if _name.startswith(_OF_PLATFORMS) and not _name.startswith(_OF_TESTS):
        del os.environ[_name]


def pytest_configure(config: pytest.Config) -> None:
    """Let the workers share what is costly."""
    config.pluginmanager.register(SharedByWorkers())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long ones: at the end each would leave the other workers idle."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Set thousands of tests aside from the search for garbage, and search less often: it took 6 % of the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


class Htcjob:
    """Runs the real command in a process of its own."""

    def __init__(self, tmp_path: Path) -> None:
        self.project = tmp_path / "project"
        self.task = tmp_path / "task"
        self.work = tmp_path / "work"
        self.termination_log = tmp_path / "termination-log"
        self.prefix: tuple[str, ...] = ()  # a program that takes the place of itself by `htcjob`
        for directory in (self.project, self.task, self.work):
            directory.mkdir()
        self.variables = {
            "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "TMPDIR": str(self.work),
            "HTCJOB_PROJECT_STORE": str(self.project),
            "HTCJOB_TASK_STORE": str(self.task),
            "HTCJOB_TERMINATION_LOG": str(self.termination_log),
        }

    def manifest(self, *lines: str | bytes, name: str = "list.txt") -> str:
        """Write a manifest and set it."""
        data = b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines)
        (self.project / name).write_bytes(data)
        self.variables["HTCJOB_MANIFEST"] = name
        return name

    def entries(self, *names: str) -> None:
        """Write an input with its own name as content for each entry, and a manifest of them."""
        for name in names:
            path = self.project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        self.manifest(*names)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "htcjob", *arguments],
            env={**self.variables, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )

    def __call__(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments, **variables) as process:
            try:
                out, err = process.communicate(timeout=120)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self("run", *arguments, **variables)

    def exit_record(self) -> dict:
        return json.loads(self.termination_log.read_text())

    def records(self, run: str = "default") -> list[dict]:
        """All commit records, by position."""
        parts = sorted((self.task / ".htcjob" / run / "done").rglob("*.jsonl"))
        records = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
        return sorted(records, key=lambda record: record["position"])

    def results(self) -> dict[int, str]:
        return {record["position"]: record["result"] for record in self.records()}

    def outputs(self) -> dict[str, bytes]:
        """What is in task storage besides the ledger, by key."""
        return {
            str(path.relative_to(self.task)): path.read_bytes()
            for path in sorted(self.task.rglob("*"))
            if path.is_file() and ".htcjob" not in path.relative_to(self.task).parts
        }


@pytest.fixture
def htcjob(tmp_path: Path) -> Htcjob:
    return Htcjob(tmp_path)


def some_of(photos: dict[str, tuple[Path, int]], number: int) -> dict[str, tuple[Path, int]]:
    """Return the smallest files among *photos*: to look for faces in a large one takes seconds."""
    return dict(sorted(photos.items(), key=lambda photo: photo[1][0].stat().st_size)[:number])


def wait_until(is_true, *, within_s: float = 30.0) -> None:
    """Wait for a fact, with a bound."""
    until = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.01)


@pytest.fixture(name="skip_or_fail", scope="session")
def _skip_or_fail():
    return skip_or_fail


@pytest.fixture(name="wait_until")
def _wait_until():
    return wait_until


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    with ExitStack() as resources:
        try:
            folder = resources.enter_context(small_disk(tmp_path / "disk", size_kb=256))
        except CannotMountError as error:
            skip_or_fail("HTCJOB_REQUIRE_MOUNT", str(error))
        yield folder


@pytest.fixture
def limited_memory() -> Iterator[Callable[[int], tuple[str, ...]]]:
    """Give what makes a control group of so many bytes, and the words that start a program in it."""
    version_1, version_2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    is_1 = (version_1 / "memory.usage_in_bytes").exists()
    groups = []

    def make(limit_bytes: int) -> tuple[str, ...]:
        group = (version_1 if is_1 else version_2) / f"htcjob-test-{os.getpid()}-{len(groups)}"
        try:
            group.mkdir()
            groups.append(group)
            (group / ("memory.limit_in_bytes" if is_1 else "memory.max")).write_text(str(limit_bytes))
        except OSError as error:
            skip_or_fail("HTCJOB_REQUIRE_CGROUP", f"no control group, only root can make one: {error}")
        return ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh")

    yield make
    for group in groups:
        wait_until(lambda group=group: not (group / "cgroup.procs").read_text())
        group.rmdir()


@pytest.fixture(scope="session")
def shared_images() -> Path:
    """The folder of real and hostile images; tests that need it are skipped where it is absent."""
    images = Path(os.environ.get("HTCJOB_SHARED") or REPOSITORY.parent / "shared") / "images"
    if not (images / "dev" / "expected.csv").exists():
        skip_or_fail("HTCJOB_REQUIRE_IMAGES", f"no test images at {images}: set HTCJOB_SHARED")
    return images


@pytest.fixture(scope="session")
def photos(shared_images: Path) -> dict[str, tuple[Path, int]]:
    """Photos by name, with their path and the number of faces in them."""
    with (shared_images / "dev" / "expected.csv").open() as file:
        return {
            row["image"]: (shared_images / "dev" / row["image"], int(row["faces_cv4140_1thread"]))
            for row in csv.DictReader(file)
        }
