"""
The face tagger's array against what the CPUs could do at best: pure `detectMultiScale`, nothing else.

    python -m benchmarks.throughput [PHOTOS]

The limit is the summed detection time of the same photos, one thread each, divided by the CPUs. It is
measured before and after the array, in as many processes as there are CPUs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

from benchmarks.measure import HTCJOB, print_machine

ARRAY_SIZE = 8


def detection_s(paths: list[str]) -> float:
    """Give the seconds that detection alone takes for the photos, decoded beforehand."""
    from reference_app.face_tagger import find_faces
    from reference_app.images import read_image

    pictures = [read_image(path) for path in paths]
    find_faces(pictures[0])  # loads the classifier
    started = time.perf_counter()
    for picture in pictures:
        find_faces(picture)
    return time.perf_counter() - started


def limit_s(paths: list[str], cpus: int) -> float:
    """Give the seconds that all CPUs together need for detection alone."""
    with ProcessPoolExecutor(cpus) as pool:
        return sum(pool.map(detection_s, [paths[n::cpus] for n in range(cpus)])) / cpus


def array_s(project: str, task: str) -> float:
    """Give the wall time of the simulated array."""
    started = time.perf_counter()
    done = subprocess.run(
        [
            *(HTCJOB, "simulate", "--array-size", str(ARRAY_SIZE), "--json"),
            *("--project-store", project, "--task-store", task),
            *("--", "--manifest", "photos.txt", "--", sys.executable, "-m", "reference_app.face_tagger"),
        ],
        stdout=subprocess.PIPE,
        check=True,
    )
    elapsed_s = time.perf_counter() - started
    summary = json.loads(done.stdout)
    if summary["failed"] or summary["entries_failed"]:
        raise RuntimeError(f"the array did not succeed: {summary}")
    return elapsed_s


def make_project(project: str, photos: str | None) -> list[str]:
    """Put photos and their manifest into *project*; without a folder of photos, some are drawn."""
    if photos is None:
        subprocess.run([sys.executable, "-m", "reference_app.synthetic", project], check=True)
    else:
        shutil.copytree(photos, project)
    names = sorted(name for name in os.listdir(project) if name.endswith((".jpg", ".png")))
    with open(os.path.join(project, "photos.txt"), "w") as file:
        file.writelines(f"{name}\n" for name in names)
    return [os.path.join(project, name) for name in names]


def main() -> None:
    cpus = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as directory:
        project = os.path.join(directory, "project")
        paths = make_project(project, sys.argv[1] if sys.argv[1:2] > [""] else None)
        limits, arrays = [limit_s(paths, cpus)], []
        for n in range(3):
            arrays.append(array_s(project, os.path.join(directory, f"task{n}")))
            limits.append(limit_s(paths, cpus))
    limit, array = min(limits), min(arrays)
    print_machine()
    for what, seconds in (
        (f"pure detection, limit of {cpus} CPUs", limit),
        (f"array of {ARRAY_SIZE} jobs, start-up included", array),
    ):
        print(f"{what}: {seconds:.2f} s for {len(paths)} photos, {len(paths) / seconds:.1f} photos/s")
    print(f"ratio of the throughputs: {limit / array:.2f}")


if __name__ == "__main__":
    main()
