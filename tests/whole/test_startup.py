"""Start-up is part of every job's price: nothing is imported that this job does not need."""

import os
import subprocess
import sys

import pytest

HEAVY = (
    "jwt",
    "cryptography",
    "tenacity",
    "tabulate",
    "cv2",
    "numpy",
    "boto3",
    "botocore",
    "google",
    "azure",
)
HEAVY += ("asyncio", "concurrent.futures", "urllib.request", "http", "ssl", "subprocess", "tempfile")


MOST_MODULES = 42
"""Of htcjob, for a plain entrypoint: each costs 0.15 ms, and a millionfold start has a budget of 3 ms for them."""


def imported(environment: dict[str, str], *arguments: str) -> set[str]:
    """Give the modules that a run of `htcjob` has imported at its end."""
    code = (
        "import sys\nfrom htcjob.cli.main import main\ntry: main(sys.argv[1:])\n"
        "except SystemExit as e: assert e.code == 0, e.code\nprint(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def heavy(modules: set[str]) -> set[str]:
    """Give the heavy modules, without those that click itself brings in this version of Python."""
    code = "import sys, click; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name for name in HEAVY if name in modules} - set(done.stdout.split())


def test_a_plain_entrypoint_imports_nothing_heavy(htcjob):
    """Nor the rooms that only a manifest needs."""
    modules = imported(htcjob.variables, "run", "--", "true")
    assert heavy(modules) == set()
    assert not {name for name in modules if name.startswith("htcjob.")} & {
        "htcjob.entries.pipeline",
        "htcjob.entries.staging",
        "htcjob.manifest.manifest",
        "htcjob.htc_api.bearer_token",
        "htcjob.simulate",
    }


def test_a_plain_entrypoint_without_a_store_imports_little_besides_click():
    """It shows no line and writes no record, so it needs nothing of what does."""
    modules = imported({"PATH": os.environ["PATH"]}, "run", "--", "true")
    assert not modules & {"logging", "json", "traceback", "dataclasses", "shutil"}
    ours = {name for name in modules if name.startswith("htcjob.")}
    assert {name.split(".")[1] for name in ours} == {
        *(
            "attempt",
            "cli",
            "environment",
            "errors",
            "logs",
            "machine",
            "outcome",
            "run_options",
            "supervise",
        ),
        "trouble",
    }
    assert len(ours) <= MOST_MODULES, sorted(ours)


def test_a_job_with_a_local_store_imports_nothing_heavy(htcjob):
    """No storage SDK, no cryptography, no thread pool for one file at a time."""
    htcjob.entries("a", "b")
    assert heavy(imported(htcjob.variables, "run", "--each", "--", "true")) == set()


@pytest.mark.parametrize("module", ["htcjob", "htcjob.storage", "htcjob.cli.main"])
def test_importing_alone_changes_and_reads_nothing(module):
    """No folder is made and no variable is written at import."""
    code = f"import os; before = dict(os.environ); import {module}; assert dict(os.environ) == before"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
