"""SIGKILL at any moment: no half file under a final name, no record without its outputs, nothing lost."""

import json
import random
import time
from pathlib import Path

import pytest

SIZE = 400_000


def outputs_of(record: dict, task: Path) -> None:
    for output in record.get("outputs", ()):
        path = task / output["key"]
        assert path.exists(), f"{record['entry']} is recorded as done without {output['key']}"
        assert path.stat().st_size == output["size_bytes"] == SIZE


@pytest.mark.parametrize("seed", range(3))
def test_random_kills_lose_nothing_and_leave_nothing_half(htcjob, seed, wait_until):
    """Attempts are killed at random moments until one comes through; then all is done, nothing twice."""
    luck = random.Random(seed)
    names = [f"entry-{n:02d}" for n in range(24)]
    for name in names:
        (htcjob.project / name).write_bytes(name.encode() * (SIZE // len(name)) + b"." * (SIZE % len(name)))
    htcjob.manifest(*names)
    script = 'sleep 0.05; cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/$HTCJOB_ENTRY"'
    command = ("run", "--each", "--", "sh", "-c", script)
    kills = 0
    for _ in range(60):
        with htcjob.start(*command) as process:
            if kills < 6:
                # Every third is killed at once; the others when they are at work, where a command of 50 ms
                # per entry lets none of them come far, however fast the machine is.
                if luck.random() > 0.3:
                    before = len(list(htcjob.work.iterdir()))
                    wait_until(
                        lambda n=before: len(list(htcjob.work.iterdir())) > n or process.poll() is not None
                    )
                time.sleep(luck.uniform(0, 0.15))
                process.kill()
            process.communicate(timeout=120)
        kills += process.returncode == -9
        for record in htcjob.records():
            assert record["result"] == "done"
            outputs_of(record, htcjob.task)
        for key, data in htcjob.outputs().items():
            if not key.split("/")[-1].startswith("."):  # temporary names are hidden from every listing
                assert len(data) == SIZE, f"{key} is half"
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert kills >= 3, "this test killed almost nothing"
    records = htcjob.records()
    assert sorted(record["position"] for record in records) == list(range(24)), "done twice, or lost"
    for name in names:
        assert (htcjob.task / name).read_bytes() == (htcjob.project / name).read_bytes()


def test_a_kill_between_outputs_and_record_does_the_entry_again(htcjob):
    """Outputs without a record are not believed."""
    htcjob.entries("a")
    (htcjob.task / "a.out").write_text("from an attempt that was killed")
    done = htcjob.run("--each", "--", "sh", "-c", 'cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/a.out"')
    assert done.returncode == 0
    assert htcjob.outputs() == {"a.out": b"a"}


def test_the_record_is_written_after_the_outputs(htcjob):
    """Seen from storage, in order of time: every output is older than its record."""
    htcjob.entries("a", "b")
    htcjob.run("--each", "--", "sh", "-c", 'cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/$HTCJOB_ENTRY"')
    for part in (htcjob.task / ".htcjob/default/done").rglob("*.jsonl"):
        for line in part.read_text().splitlines():
            for output in json.loads(line)["outputs"]:
                assert (htcjob.task / output["key"]).stat().st_mtime_ns <= part.stat().st_mtime_ns
