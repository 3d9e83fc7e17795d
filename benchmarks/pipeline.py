"""
What overlap costs and gains: small commands against xargs and GNU parallel, photos against pure detection.

    python -m benchmarks.pipeline [PHOTOS] [ROUNDS]

The store of the photos is a directory that answers 50 ms later, so that no server takes part of the CPUs that
are measured. Everything is run in turn, several times, and the best of each is compared: the machine is busy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from benchmarks.measure import HTCJOB, print_machine
from benchmarks.throughput import limit_s, make_project

WORKERS = 2
COMMANDS = 1000
PHOTOS = 200

_FAR = """
import time
from htcjob.storage.local.store import LocalStore
def far(verb):
    def later(*arguments, **options):
        time.sleep(0.05)
        return verb(*arguments, **options)
    return later
for name in ("get", "put", "put_bytes", "head", "read_range"):
    setattr(LocalStore, name, far(getattr(LocalStore, name)))
"""
"""Makes every request of a local store 50 ms longer."""


def tag_s(paths: list[str], folder: str) -> float:
    """Give the seconds that the tagger's function takes for local photos, one after the other."""
    from reference_app.face_tagger import tag_entry

    tag_entry(paths[0], folder, f"{os.getpid()}-0")  # loads the classifier
    started = time.perf_counter()
    for n, path in enumerate(paths):
        tag_entry(path, folder, f"{os.getpid()}-{n}")
    return time.perf_counter() - started


def function_s(paths: list[str], cpus: int) -> float:
    """Give the seconds that all CPUs together need for the function alone: reading, detection, writing."""
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(cpus) as pool:
        return sum(pool.map(tag_s, [paths[n::cpus] for n in range(cpus)], [folder] * cpus)) / cpus


def wall_s(*argv: str, environment: dict[str, str], stdin: str = os.devnull) -> float:
    with open(stdin) as file:
        started = time.perf_counter()
        subprocess.run(argv, env=environment, stdin=file, check=True)
        return time.perf_counter() - started


def best(rounds: int, measured: dict[str, Callable[[int], float]]) -> dict[str, float]:
    """Measure everything once a round, and give the least of each."""
    found: dict[str, list[float]] = {name: [] for name in measured}
    for n in range(rounds):
        for name, measure in measured.items():
            found[name].append(measure(n))
    for name, seconds in found.items():
        print(f"{name}: " + " ".join(f"{one:.2f}" for one in seconds) + " s")
    return {name: min(seconds) for name, seconds in found.items()}


def small_commands(directory: str, rounds: int) -> None:
    project = os.path.join(directory, "small")
    os.mkdir(project)
    names = [f"e{n}" for n in range(COMMANDS)]
    for name in names:
        with open(os.path.join(project, name), "w") as file:
            file.write(name)
    manifest = os.path.join(project, "list.txt")
    with open(manifest, "w") as file:
        file.writelines(f"{name}\n" for name in names)
    environment = {"PATH": os.environ["PATH"], "TMPDIR": directory, "HOME": directory}
    ours = (HTCJOB, "run", "--log-level", "error", "--workers", str(WORKERS), "--project-store", project)

    def htcjob(n: int) -> float:
        task = os.path.join(directory, f"small-task{n}")
        argv = (*ours, "--task-store", task, "--manifest", "list.txt", "--each", "--", "true")
        return wall_s(*argv, environment=environment)

    def xargs(_: int) -> float:
        return wall_s("xargs", f"-P{WORKERS}", "-n1", "true", environment=environment, stdin=manifest)

    def parallel(_: int) -> float:
        return wall_s("parallel", f"-j{WORKERS}", "true", environment=environment, stdin=manifest)

    measured = {"htcjob": htcjob, "xargs": xargs}
    if shutil.which("parallel"):
        measured["GNU parallel"] = parallel
    seconds = best(rounds, measured)
    for other in list(measured)[1:]:
        print(
            f"{COMMANDS} entries of true: {seconds['htcjob'] / seconds[other]:.2f} times the wall of {other}"
        )


def photos(directory: str, folder: str | None, rounds: int) -> None:
    project = os.path.join(directory, "project")
    paths = make_project(project, folder)
    originals = len(paths)
    while len(paths) < PHOTOS:
        source = paths[len(paths) - originals]
        copy = os.path.join(project, f"again-{len(paths)}-{os.path.basename(source)}")
        shutil.copy(source, copy)
        paths.append(copy)
    paths = paths[:PHOTOS]
    with open(os.path.join(project, "photos.txt"), "w") as file:
        file.writelines(f"{os.path.basename(path)}\n" for path in paths)
    far = os.path.join(directory, "far")
    os.mkdir(far)
    with open(os.path.join(far, "sitecustomize.py"), "w") as file:
        file.write(_FAR)
    environment = {"PATH": os.environ["PATH"], "TMPDIR": directory, "HOME": directory}
    ours = (HTCJOB, "run", "--log-level", "error", "--workers", str(WORKERS), "--project-store", project)

    def run(n: int, name: str, variables: dict[str, str]) -> float:
        task = os.path.join(directory, f"{name}{n}")
        argv = (*ours, "--task-store", task, "--manifest", "photos.txt")
        argv += ("--call", "reference_app.face_tagger:tag_entry")
        return wall_s(*argv, environment={**environment, **variables})

    seconds = best(
        rounds,
        {
            "pure detection": lambda _: limit_s(paths, WORKERS),
            "the function alone": lambda _: function_s(paths, WORKERS),
            "htcjob, store 50 ms away": lambda n: run(n, "far-task", {"PYTHONPATH": far}),
            "htcjob, store here": lambda n: run(n, "near-task", {}),
        },
    )
    for name in ("htcjob, store 50 ms away", "htcjob, store here"):
        for limit in ("pure detection", "the function alone"):
            print(
                f"{PHOTOS} photos: {name}: {seconds[limit] / seconds[name]:.2f} of the throughput of {limit}"
            )


def main() -> None:
    folder = sys.argv[1] if sys.argv[1:2] > [""] else None
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        small_commands(directory, rounds * 2)
        photos(directory, folder, rounds)
    print_machine()


if __name__ == "__main__":
    main()
