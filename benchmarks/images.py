"""
The images: what they weigh, how fast a container of theirs starts, and how little memory a small job needs.

    python -m benchmarks.images [ROUNDS [PHOTOS]]

The base image is built as it is released, on the bottom image of the tests. A start is measured against the
start of a container that runs Python on the bottom image, in turns.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tabulate import tabulate

from benchmarks.measure import interleaved, print_machine
from benchmarks.throughput import make_project
from tests.support.servers.docker import Docker, bottom_image
from tests.support.servers.rgw import running_rgw

DOCKER = Path(__file__).parents[1] / "docker"
MB = 1e6
N_PHOTOS = 5
"""Of the tutorial's job."""
SIZES_MB = range(128, 32, -8)
"""Limits to try, from the tutorial's `maxMemory` downwards."""

_WEIGH = """
import collections, os
sizes = collections.Counter()
for folder, _, names in os.walk("/opt/htcjob"):
    inside = folder.partition("/site-packages/")[2].split("/")
    for name in names:
        kind = "bytecode" if name.endswith(".pyc") else "files"
        package = (inside[0] or name).removesuffix(".py").partition("-")[0].partition(".")[0]
        sizes[package, kind] += os.lstat(os.path.join(folder, name)).st_size
print({f"{package} {kind}": size for (package, kind), size in sizes.items()})
"""


def size_mb(docker: Docker, image: str) -> float:
    """Give what the engine says that it takes."""
    return int(docker("image", "inspect", "--format", "{{.Size}}", image).stdout) / MB


def print_sizes(docker: Docker, bottom: str, images: dict[str, str]) -> None:
    """Print each image's size over the bottom image, and what the largest of them consists of."""
    below = size_mb(docker, bottom)
    rows = [[name, f"{size_mb(docker, image) - below:.1f}"] for name, image in images.items()]
    print(
        tabulate(rows, headers=["image", f"MB over its bottom layer ({below:.0f} MB)"], disable_numparse=True)
    )
    whole = images["all stores"]
    weighed = docker("run", "--rm", "--entrypoint", "/opt/htcjob/bin/python", whole, "-c", _WEIGH).stdout
    parts: dict[str, dict[str, int]] = {}
    for name, size in json.loads(weighed.replace("'", '"')).items():
        package, kind = name.split()
        parts.setdefault(package, {})[kind] = size
    ordered = sorted(parts.items(), key=lambda part: -sum(part[1].values()))
    rest: dict[str, int] = {
        kind: sum(part.get(kind, 0) for _, part in ordered[12:]) for kind in ("files", "bytecode")
    }
    rows = [
        [package, *(f"{part.get(kind, 0) / MB:.1f}" for kind in ("files", "bytecode"))]
        for package, part in [*ordered[:12], (f"{len(ordered) - 12} others", rest)]
    ]
    print(f"\n{tabulate(rows, headers=['with all stores', 'MB', 'MB of bytecode'], disable_numparse=True)}")


def print_starts(bottom: str, image: str, rounds: int) -> None:
    """Print what a container costs from `docker run` to its end."""
    costs = interleaved(
        {
            "bottom: true": ["docker", "run", "--rm", bottom, "true"],
            "bottom: python3 -c pass": ["docker", "run", "--rm", bottom, "python3", "-c", "pass"],
            "base: htcjob run -- true": ["docker", "run", "--rm", image, "htcjob", "run", "--", "true"],
        },
        os.environ,
        rounds=rounds,
    )
    medians = {name: statistics.median(cost.wall_s for cost in found) for name, found in costs.items()}
    against = medians["bottom: python3 -c pass"]
    rows = [[name, f"{wall_s * 1000:.0f}", f"{wall_s / against:.2f}"] for name, wall_s in medians.items()]
    headers = ["docker run", "ms, median", "ratio to Python on the bottom image"]
    print(f"\n{tabulate(rows, headers=headers, disable_numparse=True)}")


def least_memory_mb(docker: Docker, image: str, stores: Iterator[list[str]]) -> int | None:
    """Give the smallest limit in which the tutorial's job ends well; None: not even the first."""
    least = None
    for limit_mb in SIZES_MB:
        memory = f"--memory={limit_mb}m", f"--memory-swap={limit_mb}m"
        job = ("--env", "AWS_BATCH_JOB_ARRAY_INDEX=0", "--env", "BATCH_JOB_ARRAY_SIZE=1")
        done = docker.run(*memory, *job, *next(stores), "--env", "IMG_OBJKEY_LIST=photos.txt", image)
        if done.returncode:
            break
        least = limit_mb
    return least


def local_stores(project: Path, folder: Path) -> Iterator[list[str]]:
    """Give options that mount the project and a task storage of its own for each job."""
    for n in range(len(SIZES_MB)):
        task = folder / f"task{n}"
        task.mkdir()
        task.chmod(0o777)
        mounts = ["--volume", f"{project}:/project:ro", "--volume", f"{task}:/task"]
        yield [*mounts, "--env", "HTCJOB_PROJECT_STORE=/project", "--env", "HTCJOB_TASK_STORE=/task"]


@contextlib.contextmanager
def s3_stores(project: Path, folder: Path) -> Iterator[Iterator[list[str]]]:
    """Give the same on a server that speaks S3."""
    with running_rgw(folder / "rgw") as server:
        bucket, client = server.new_bucket(), server.client()
        for path in project.iterdir():
            client.upload_file(str(path), bucket, f"project/{path.name}")
        variables = {**server.environ(), "HTCJOB_PROJECT_STORE": f"s3://{bucket}/project"}
        options = [option for name, value in variables.items() for option in ("--env", f"{name}={value}")]
        yield (
            ["--network", "host", *options, "--env", f"HTCJOB_TASK_STORE=s3://{bucket}/task{n}"]
            for n in range(len(SIZES_MB))
        )


def print_memory(docker: Docker, image: str, photos: str | None) -> None:
    """Print the least memory that a job over five photos runs in."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        folder.chmod(0o755)
        project = folder / "project"
        names = sorted(os.path.basename(path) for path in make_project(str(folder / "photos"), photos))
        project.mkdir()
        for name in names[:N_PHOTOS]:
            (project / name).write_bytes((folder / "photos" / name).read_bytes())
        (project / "photos.txt").write_text("".join(f"{name}\n" for name in names[:N_PHOTOS]))
        rows = [["local", least_memory_mb(docker, image, local_stores(project, folder))]]
        with s3_stores(project, folder) as stores:
            rows.append(["S3", least_memory_mb(docker, image, stores)])
    headers = [f"face tagger, {N_PHOTOS} photos", f"least of {SIZES_MB[0]}, {SIZES_MB[1]} … MiB it runs in"]
    print(f"\n{tabulate(rows, headers=headers, missingval=f'more than {SIZES_MB[0]}')}")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    photos = sys.argv[2] if sys.argv[2:3] > [""] else None
    docker, bottom = Docker(), bottom_image()
    images = {
        name: docker.build(
            DOCKER / "base.Dockerfile",
            f"htcjob-base:bench-{stores}",
            *("--build-arg", f"BASE_IMAGE={bottom}", "--build-arg", f"STORES={stores}"),
        )
        for name, stores in (("no stores", "none"), ("the fast lane", "fast"), ("all stores", "all"))
    }
    image = images["all stores"]
    tagger = docker.build(
        DOCKER / "face-tagger.Dockerfile", "htcjob-face-tagger:bench", "--build-arg", f"HTCJOB_IMAGE={image}"
    )
    print_machine()
    print_sizes(docker, bottom, images)
    print_starts(bottom, image, rounds)
    print_memory(docker, tagger, photos)


if __name__ == "__main__":
    main()
