"""
What every job pays: the time of `htcjob run` before its work, and its memory while the command runs.

The time is measured against Python itself and against importing click.

    python -m benchmarks.startup [ROUNDS]
"""

from __future__ import annotations

import os
import sys
import tempfile

from benchmarks.measure import HTCJOB, WAITING, interleaved, print_machine, print_ratios, until_begun


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    with tempfile.TemporaryDirectory() as directory:
        with open(os.path.join(directory, "a"), "w") as file:
            file.write("a")
        environment = {
            "PATH": os.environ["PATH"],
            "TMPDIR": directory,
            "HTCJOB_LOG_LEVEL": "error",
        }
        # A task storage of its own each time, or there would be nothing left to do after the first.
        stores = f"--project-store {directory} --task-store {directory}/$$"
        one_entry = f"exec {HTCJOB} run --entry a --each {stores} -- true"
        costs = interleaved(
            {
                "python -c pass": [sys.executable, "-c", "pass"],
                "python -c 'import click'": [sys.executable, "-c", "import click"],
                "htcjob run -- true": [HTCJOB, "run", "--", "true"],
                "htcjob run --each, one entry, local stores": ["sh", "-c", one_entry],
            },
            environment,
            rounds=rounds,
        )
        ours = (HTCJOB, "run", "--grace", "0s")
        with_store = (
            "--entry",
            "a",
            "--each",
            "--project-store",
            directory,
            "--task-store",
            f"{directory}/t",
        )
        memory = {
            "htcjob run": until_begun((*ours, "--", *WAITING), environment),
            "htcjob run --each, local stores": until_begun((*ours, *with_store, "--", *WAITING), environment),
        }
    print_machine()
    print_ratios(costs, against=["python -c pass", "python -c 'import click'"])
    for name, begun in memory.items():
        print(f"{name}: {begun.memory_bytes / 2**20:.1f} MiB resident while the command runs")


if __name__ == "__main__":
    main()
