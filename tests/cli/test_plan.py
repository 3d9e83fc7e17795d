"""`htcjob plan`: what it says, and that a run in batches comes out as it said."""

import json

import pytest

SIZES = ("--entries", "100", "--seconds-per-entry", "1")


def plan(htcjob, *arguments: str) -> dict:
    done = htcjob("plan", "--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_a_run_in_three_batches_does_every_entry_once(htcjob):
    """Twelve real jobs, four in each batch, with the offset that was planned for it."""
    htcjob.entries(*(f"{n:02}.txt" for n in range(35)))
    found = plan(
        htcjob,
        *("--entries", "35", "--seconds-per-entry", "1", "--start-seconds", "0.1"),
        *("--target-minutes", "0.053", "--batch", "4"),
    )
    assert found["array_size"] == 12
    assert found["batches"] == [{"size": 4, "array_offset": offset} for offset in (0, 4, 8)]
    for batch in found["batches"]:
        for index in range(batch["size"]):
            done = htcjob.run(
                *("--each", "--", "sh", "-c", 'cp "$1" "$2"', "sh", "{input}", "{output_dir}"),
                AWS_BATCH_JOB_ARRAY_INDEX=str(index),
                AWS_BATCH_JOB_ARRAY_SIZE=str(batch["size"]),
                HTCJOB_ARRAY_SIZE=str(found["array_size"]),
                HTCJOB_ARRAY_OFFSET=str(batch["array_offset"]),
            )
            assert done.returncode == 0, done.stderr
    records = htcjob.records()
    assert [record["position"] for record in records] == list(range(35))
    assert {record["array_index"] for record in records} == set(range(12))
    assert list(htcjob.outputs()) == [f"{n:02}.txt" for n in range(35)]


def test_the_start_up_is_measured_with_a_real_job(htcjob):
    """A whole one, whatever the environment around it says; and it leaves nothing anywhere."""
    htcjob.variables |= {"HTCJOB_ARRAY_INDEX": "7", "HTCJOB_MANIFEST": "absent", "HTCJOB_EACH": "1"}
    found = plan(htcjob, *SIZES, "--target-minutes", "1")
    assert found["start_s"] > 0.32
    for directory in (htcjob.project, htcjob.task, htcjob.work):
        assert list(directory.iterdir()) == []
    assert not htcjob.termination_log.exists()


def test_the_table_has_what_a_submission_needs(htcjob):
    """Size, batches and the variables of each; silence on standard error."""
    done = htcjob("plan", *SIZES, "--target-minutes", "0.1", "--start-seconds", "0.5", "--batch", "7")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[15:].strip() for line in done.stdout.splitlines()[2:5]] == [
        "2 × 7 jobs and 1 × 6",
        "HTCJOB_ARRAY_SIZE=20",
        "HTCJOB_ARRAY_OFFSET=0, 7, … 14 (one for each batch)",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target-minutes", "0.1", "--start-seconds", "3"), "start-up is 50% of what the jobs take"),
        (("--target-minutes", "0.01", "--start-seconds", "0"), "one entry alone takes longer than 0.01"),
    ],
)
def test_a_plan_that_wastes_time_gets_a_warning(htcjob, arguments, said):
    """One line that says what to do, and the plan all the same."""
    done = htcjob("plan", *SIZES, *arguments)
    assert done.returncode == 0
    assert done.stdout
    assert done.stderr.startswith("htcjob: warning: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", ["nan", "inf", "0", "-1", "1e300", "x"])
def test_a_number_that_makes_no_sense_is_a_usage_error(htcjob, number):
    """Never a traceback."""
    done = htcjob("plan", *SIZES, "--start-seconds", "1", "--target-minutes", number)
    assert (done.returncode, done.stdout) == (64, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--entries", "1" + "0" * 12, "--seconds-per-entry", "100"),
        ("--entries", "1" + "0" * 400, "--seconds-per-entry", "1"),
    ],
)
def test_a_plan_that_nobody_can_submit_is_a_usage_error(htcjob, arguments):
    """Of more batches than are worth a line, or of more entries than can be reckoned with."""
    htcjob.prefix = ("sh", "-c", 'ulimit -v 2000000; exec "$@"', "sh")  # it may not take the whole machine
    done = htcjob("plan", *arguments, "--target-minutes", "1", "--start-seconds", "1")
    assert (done.returncode, done.stdout) == (64, "")
    assert "Traceback" not in done.stderr
