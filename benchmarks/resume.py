"""
A chunk of 100,000 entries of which 99 % are committed: what it takes until the first new one begins.

    python -m benchmarks.resume [ROUNDS]

The new ones are the last of the manifest, so that all others are passed over first. The time is set against
that of reading the same records with Python's `json`, the memory against that of a run that has no records.
"""

from __future__ import annotations

import os
import sys
import tempfile

from benchmarks.measure import HTCJOB, WAITING, cost_of, print_machine, until_begun
from htcjob.ledger.ledger import Ledger
from htcjob.ledger.records import Output, Record
from htcjob.ledger.run_identity import RunIdentity
from htcjob.manifest.manifest import Manifest
from htcjob.outcome.results import EntryResult
from htcjob.retry import RetryPolicy
from htcjob.storage.local.store import LocalStore

ENTRIES = 100_000
COMMITTED = 99_000

_PLAIN_JSON = """
import json, os, sys
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        if name.endswith(".jsonl"):
            with open(os.path.join(folder, name), "rb") as file:
                for line in file:
                    json.loads(line)
"""


def commit(project: str, task: str) -> None:
    """Make the manifest, and the records that an attempt of before would have left."""
    os.mkdir(project)
    names = [f"photo_{n:06d}.jpg" for n in range(ENTRIES)]
    for name in (names[0], names[COMMITTED]):
        with open(os.path.join(project, name), "w") as file:
            file.write(name)
    with open(os.path.join(project, "list.txt"), "w") as file:
        file.writelines(f"{name}\n" for name in names)
    ledger = Ledger(LocalStore(task), "default", RetryPolicy())
    ledger.open_run(RunIdentity.of(Manifest(LocalStore(project), "list.txt", RetryPolicy())), WAITING)
    ledger.commit(
        [
            Record(
                n,
                name,
                EntryResult.DONE,
                exit_status=0,
                outputs=(Output(f"{name}_tagged.jpg", 100_000 + n, f"{n:064x}"),),
                stage_in_s=0.01,
                work_s=0.1,
                stage_out_s=0.01,
                cpu_s=0.1,
                peak_memory_bytes=50_000_000,
                ended_at="2026-01-01T00:00:00.000Z",
            )
            for n, name in enumerate(names[:COMMITTED])
        ]
    )
    ledger.close()


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as directory:
        project, task = os.path.join(directory, "project"), os.path.join(directory, "task")
        commit(project, task)
        environment = {"PATH": os.environ["PATH"], "TMPDIR": directory, "HTCJOB_LOG_LEVEL": "error"}
        ours = (
            HTCJOB,
            "run",
            "--grace",
            "0s",
            "--project-store",
            project,
            "--manifest",
            "list.txt",
            "--each",
        )
        plain = (sys.executable, "-c", _PLAIN_JSON, task)
        begun, fresh, read = [], [], []
        for n in range(rounds):
            begun.append(until_begun((*ours, "--task-store", task, "--", *WAITING), environment))
            fresh.append(
                until_begun(
                    (*ours, "--task-store", os.path.join(directory, f"{n}"), "--", *WAITING), environment
                )
            )
            read.append(cost_of(plain, environment).wall_s)
    begins_s, json_s = min(one.wall_s for one in begun), min(read)
    peak, usual = (min(one.peak_memory_bytes for one in found) / 2**20 for found in (begun, fresh))
    print_machine()
    print(f"{COMMITTED} of {ENTRIES} entries committed: the first new one begins after {begins_s:.2f} s,")
    print(f"{begins_s / json_s:.2f} times the {json_s:.2f} s that Python takes to read the records as JSON,")
    print(f"with at most {peak:.1f} MiB, {peak - usual:.1f} MiB more than a run without records")


if __name__ == "__main__":
    main()
