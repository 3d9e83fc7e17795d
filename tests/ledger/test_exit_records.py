"""Exit records: no attempt's takes the place of another's, on whatever platform."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter

import pytest

from htcjob.environment.context import read_context
from htcjob.errors import TransientError
from htcjob.ledger.exit_records import exit_record_json
from htcjob.ledger.ledger import Ledger
from htcjob.outcome.reasons import TerminationReason
from htcjob.retry import RetryPolicy
from htcjob.simulate.array import _exit_record
from htcjob.storage.memory.store import MemoryStore

QUICK = RetryPolicy(sleep=lambda _: False)
FOLDER = ".htcjob/default/attempts/"
ARRAY = {"HTCJOB_ARRAY_SIZE": "9"}


class Counting(MemoryStore):
    def __init__(self) -> None:
        super().__init__("attempts")
        self.requests: Counter[str] = Counter()

    def put_bytes(self, data, key, *, if_absent=False):
        self.requests["put"] += 1
        return super().put_bytes(data, key, if_absent=if_absent)

    def read_range(self, *arguments):
        self.requests["read"] += 1
        return super().read_range(*arguments)

    def list(self, *arguments, **options):
        self.requests["list"] += 1
        return super().list(*arguments, **options)


@pytest.fixture
def store():
    return Counting()


def end(store, environ, *, started_at: str) -> dict[str, object]:
    """End an attempt in that environment."""
    context = read_context(environ)
    record = {
        "array_index": context.array_index,
        "attempt": context.attempt,
        "attempt_from": context.attempt_variable or None,
        "started_at": started_at,
        "message": "m" * 6000,
    }
    return dict(Ledger(store, "default", QUICK).write_exit_record(record))


def written(store) -> dict[str, dict[str, object]]:
    return {
        info.key.removeprefix(FOLDER): json.loads(MemoryStore.read_range(store, info.key, 0))
        for info in MemoryStore.list(store, FOLDER)
    }


NOBODY_TELLS = {
    "kubernetes": {"JOB_COMPLETION_INDEX": "3", **ARRAY},
    "kubernetes without the annotations": {"JOB_COMPLETION_INDEX": "3", "JOB_INDEX_FAILURE_COUNT": "", **ARRAY},
    "htcondor": {"HTC_INDEX": "3", "HTC_COUNT": "9"},
    "htcondor in a container": {"HTC_INDEX": "3", "HTC_COUNT": "9", "_CONDOR_JOB_AD": "/nowhere/.job.ad"},
    "pbs": {"PBS_ARRAY_INDEX": "3", **ARRAY},
    "torque": {"PBS_ARRAYID": "3", **ARRAY},
    "lsf": {"LSB_JOBINDEX": "4", "LSB_JOBINDEX_STEP": "1", **ARRAY},
    "flux": {"FLUX_JOB_CC": "3", **ARRAY},
    "nomad": {"NOMAD_ALLOC_INDEX": "3", **ARRAY},
    "fujitsu": {"PJM_BULKNUM": "3", **ARRAY},
    "ours": {"HTCJOB_ARRAY_INDEX": "3", **ARRAY},
    "slurm at first": {
        "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "8", "SLURM_ARRAY_TASK_STEP": "1",
    },
}  # fmt: skip


@pytest.mark.parametrize("environ", NOBODY_TELLS.values(), ids=NOBODY_TELLS)
def test_where_nobody_tells_the_attempt_all_records_stay(store, environ):
    """The first to end has the documented name, each later one its own, at the price of one request."""
    costs = []
    for n in range(4):
        before = store.requests.total()
        record = end(store, environ, started_at=f"at {n}")
        assert (record["attempt"], record["attempt_from"]) == (1 if n == 0 else 2, None)
        costs.append(store.requests.total() - before)
    assert costs == [1, 2, 2, 2]
    assert set(store.requests) == {"put"}
    assert {record["started_at"] for record in written(store).values()} == {f"at {n}" for n in range(4)}
    assert written(store)["3-1.json"]["started_at"] == "at 0"
    assert all(len(json.dumps(record, separators=(",", ":"))) <= 4096 for record in written(store).values())


def counted(**variables: str) -> list[dict[str, str]]:
    """Return the environments of attempts whose variables are the words of each."""
    words = [value.split() for value in variables.values()]
    return [dict(zip(variables, values, strict=True)) for values in zip(*words, strict=True)]


TOLD = {
    "rescale": counted(
        RESCALE_JOB_ID="j j j", AWS_BATCH_JOB_ARRAY_INDEX="3 3 3", AWS_BATCH_JOB_ATTEMPT="1 2 3"
    ),
    "google": counted(BATCH_TASK_INDEX="3 3 3", BATCH_TASK_RETRY_ATTEMPT="0 1 2"),
    "kubernetes": counted(
        JOB_COMPLETION_INDEX="3 3 3", JOB_INDEX_FAILURE_COUNT="0 1 1", JOB_INDEX_IGNORED_FAILURE_COUNT="0 0 1"
    ),
    "ours": counted(HTCJOB_ARRAY_INDEX="3 3 3", HTCJOB_ATTEMPT="1 2 3"),
}


@pytest.mark.parametrize("attempts", TOLD.values(), ids=TOLD)
def test_where_the_platform_tells_the_attempt_it_names_the_record(store, attempts):
    """One request each, and the name that `docs/exit-status.md` gives; the record names its source."""
    for n, environ in enumerate(attempts, 1):
        record = end(store, environ | ARRAY, started_at=f"at {n}")
        assert record["attempt"] == n
        assert record["attempt_from"] in environ
    assert store.requests == {"put": 3}
    assert sorted(written(store)) == ["3-1.json", "3-2.json", "3-3.json"]


def test_grid_engine_tells_the_first_attempt_from_the_others(store):
    """RESTARTED is 1 for the third attempt, too: that is no number to name a record by."""
    sge = {"SGE_TASK_ID": "4", "SGE_TASK_FIRST": "1", "SGE_TASK_STEPSIZE": "1", "SGE_TASK_LAST": "9"}
    for n, restarted in enumerate("0111"):
        record = end(store, {**sge, "RESTARTED": restarted}, started_at=f"at {n}")
        assert (record["attempt"], record["attempt_from"]) == (1 if n == 0 else 2, None)
    assert len(written(store)) == 4
    assert written(store).keys() > {"3-1.json", "3-2.json"}


ADS = {
    "as it is": ('Cmd = "/bin/sh"\nNumJobStarts = 2\nNumShadowStarts = 3\nProcId = 3\n', 3),
    "first": ("NumJobStarts = 0\n", 1),
    "case and blanks": ("numjobstarts=7 \r\n", 8),
    "absent": ("NumShadowStarts = 3\n", 1),
    "undefined": ("NumJobStarts = undefined\n", 1),
    "within a text": ('Args = "NumJobStarts = 5"\nOther_NumJobStarts = 4\n', 1),
    "binary": ("\0\1\2", 1),
    "empty": ("", 1),
}


@pytest.mark.parametrize(("text", "attempt"), ADS.values(), ids=ADS)
def test_htcondor_tells_the_attempt_in_the_description_of_the_job(tmp_path, text, attempt):
    """A file without anything of use counts as absent; our variable wins over it."""
    (tmp_path / ".job.ad").write_text(text)
    environ = {"HTC_INDEX": "3", "HTC_COUNT": "9", "_CONDOR_JOB_AD": str(tmp_path / ".job.ad")}
    context = read_context(environ)
    assert context.attempt == attempt
    assert bool(context.attempt_variable) == text.lower().startswith(
        ("numjobstarts = 0", "numjobstarts=7", "cmd")
    )
    assert read_context(environ | {"HTCJOB_ATTEMPT": "5"})[3:4] == (5,)


def test_a_description_that_is_no_file_is_as_none(tmp_path):
    """Nobody waits for a pipe, and a folder is no error."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "\udcff/x", tmp_path / "n\n"):
        assert read_context({"_CONDOR_JOB_AD": str(path)}).attempt == 1


def test_an_answer_that_was_lost_makes_no_second_record(store):
    """The write is repeated, finds its own record there, and that is that."""
    store.faults.add(verb="put_bytes", nth=1, after_effect=True)
    record = end(store, NOBODY_TELLS["kubernetes"], started_at="at 0")
    assert record["attempt"] == 1
    assert list(written(store)) == ["3-1.json"]
    store.faults.add(verb="put_bytes", nth=1, after_effect=True)
    end(store, NOBODY_TELLS["kubernetes"], started_at="at 1")
    assert {found["started_at"] for found in written(store).values()} == {"at 0", "at 1"}
    assert len(written(store)) == 2


def test_storage_that_is_down_is_an_error_as_ever(store):
    """No name is tried after another."""
    store.faults.add(verb="put_bytes")
    with pytest.raises(TransientError):
        end(store, NOBODY_TELLS["pbs"], started_at="at 0")
    store.faults.clear()
    assert written(store) == {}


@pytest.mark.parametrize("is_plain", [True, False])
def test_attempts_of_one_index_that_overlap_keep_their_records(htcjob, is_plain):
    """As after a lost node that is not dead: four at a time, as entrypoints and with entries."""
    htcjob.entries("a")
    words = ["--", "sh", "-c", "exit 3"] if is_plain else ["--each", "--", "true"]
    if is_plain:
        del htcjob.variables["HTCJOB_MANIFEST"]
    variables = {
        **htcjob.variables,
        "JOB_COMPLETION_INDEX": "0",
        "HTCJOB_ARRAY_SIZE": "1",
        "HTCJOB_TERMINATION_LOG": "",
    }
    attempts = [
        subprocess.Popen(["htcjob", "run", *words], env=variables, stderr=subprocess.DEVNULL)
        for _ in range(4)
    ]
    assert {attempt.wait() for attempt in attempts} == {3 if is_plain else 0}
    records = [json.loads(path.read_text()) for path in (htcjob.task / FOLDER).iterdir()]
    assert sorted(record["attempt"] for record in records) == [1, 2, 2, 2]
    assert (htcjob.task / FOLDER / "0-1.json").exists()


def test_the_termination_log_says_what_the_record_says(htcjob):
    """Also when it is not the first one."""
    htcjob.entries("a")
    for attempt in (1, 2):
        assert htcjob.run("--each", "--", "true").returncode == 0
        log = json.loads(htcjob.termination_log.read_text())
        assert log["attempt"] == attempt
        assert log in [json.loads(path.read_text()) for path in (htcjob.task / FOLDER).iterdir()]


GOOD = {
    "htcjob": "0.1.0", "termination_reason": TerminationReason.SUCCEEDED.value, "message": "", "run": None,
    "staged_out": 0, "entries": {"done": 1},
}  # fmt: skip
WRONG = {
    "not ours": {"htcjob": None, "run": 5}, "reason": {"termination_reason": ["x"]}, "message": {"message": None},
    "run": {"run": {}}, "outputs": {"staged_out": "1"}, "entries": {"entries": []}, "counts": {"entries": {"done": -1}},
    "no numbers": {"entries": {"done": "1"}}, "huge": {"message": "x" * 5000},
}  # fmt: skip


@pytest.mark.parametrize("changed", WRONG.values(), ids=WRONG)
def test_what_a_command_writes_to_the_termination_log_is_not_believed(tmp_path, changed):
    """The table of a simulation counts only what has the form of an exit record."""
    log = tmp_path / "log"
    log.write_text(json.dumps(GOOD))
    assert _exit_record(str(log)) == GOOD
    log.write_text(json.dumps(GOOD | changed))
    assert _exit_record(str(log)) == {}
    for junk in (b"", b"\xff", b"[1]", b"null", b"[" * 100_000, b'{"htcjob":' + b"[" * 3000, b"9" * 4096):
        log.write_bytes(junk)
        assert _exit_record(str(log)) == {}


@pytest.mark.parametrize("message", ["", "short", "x" * 10_000, "é€😀" * 5000, '"\\\n' * 4000])
def test_an_exit_record_fits_a_termination_message(message):
    """At most 4,096 bytes of valid JSON, and only the message is shortened."""
    data = exit_record_json({"array_index": 1, "exit_status": 75, "message": message})
    assert len(data) <= 4096
    found = json.loads(data)
    assert found["exit_status"] == 75
    assert message.startswith(found["message"])
    if len(message) > 5000:
        assert len(data) > 3900
