"""Injected variables -> `JobContext`: tables of what platforms set, and of what goes wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htcjob.environment import context as env
from htcjob.environment.context import (
    DEFAULT_API_URL,
    JobContext,
    command_environment,
    injected,
    read_context,
    variables_of,
)
from htcjob.environment.platforms import CREDENTIAL_VARIABLES, PLATFORMS, whole_number
from htcjob.errors import ConfigurationError
from htcjob.logs import redact
from htcjob.logs.redact import REDACTED

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJqb2IifQ.planted-bearer-signature"
OPAQUE = "planted-opaque-token-0001"  # No pattern finds this one; it must be known.

ORDINARY = {"PATH": "/usr/bin:/bin", "HOME": "/", "LANG": "C.UTF-8", "HOSTNAME": "worker-0"}

RESCALE = {
    **ORDINARY,
    "RESCALE_HTC_PROJECT_ID": "9f2f5c9e-61a3-4a44-9a9e-0d9f3a6b1c11",
    "RESCALE_HTC_TASK_ID": "b7c6f7c2-32a5-4f5c-8a53-111111111111",
    "RESCALE_HTC_REGION": "AWS_US_EAST_2",
    "RESCALE_HTC_BEARER_TOKEN": TOKEN,
    "RESCALE_PROJECT_ID": "9f2f5c9e-61a3-4a44-9a9e-0d9f3a6b1c11",
    "RESCALE_TASK_ID": "b7c6f7c2-32a5-4f5c-8a53-111111111111",
    "RESCALE_JOB_ID": "0d1c2b3a-0000-4000-8000-123456789abc:12",
    "PROJECT_SHARED_FOLDER": "projects/9f2f5c9e/shared/",
    "TASK_SHARED_FOLDER": "projects/9f2f5c9e/tasks/b7c6f7c2/",
    "AWS_BATCH_JOB_ARRAY_INDEX": "12",
    "AWS_BATCH_JOB_ATTEMPT": "1",
    "AWS_BATCH_JOB_ID": "6c1f6d1a-aaaa-4bbb-8ccc-dddddddddddd:12",
    "AWS_BATCH_CE_NAME": "rescale-ce",
    "AWS_BATCH_JQ_NAME": "rescale-queue",
    "BATCH_JOB_ARRAY_SIZE": "1000",
}
AWS = {
    **ORDINARY,
    "AWS_BATCH_JOB_ARRAY_INDEX": "0",
    "AWS_BATCH_JOB_ARRAY_SIZE": "10",
    "AWS_BATCH_JOB_ATTEMPT": "3",
    "AWS_BATCH_JOB_ID": "6c1f6d1a-aaaa-4bbb-8ccc-dddddddddddd:0",
    "AWS_BATCH_CE_NAME": "ce",
    "AWS_BATCH_JQ_NAME": "queue",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/1234",
    "AWS_EXECUTION_ENV": "AWS_ECS_EC2",
}
GOOGLE = {
    **ORDINARY,
    "BATCH_TASK_INDEX": "7",
    "BATCH_TASK_COUNT": "8",
    "BATCH_TASK_RETRY_ATTEMPT": "2",
    "BATCH_JOB_ID": "faces",
    "BATCH_JOB_UID": "faces-12345678-0",
    "BATCH_NODE_INDEX": "3",
    "BATCH_NODE_COUNT": "4",
    "BATCH_HOSTS_FILE": "/etc/cloudbatch-taskgroup-hosts",
}
KUBERNETES = {
    **ORDINARY,
    "JOB_COMPLETION_INDEX": "3",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "HTCJOB_ARRAY_SIZE": "5",
}
SLURM = {
    **ORDINARY,
    "SLURM_JOB_ID": "189",
    "SLURM_ARRAY_JOB_ID": "187",
    "SLURM_ARRAY_TASK_ID": "16",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_MAX": "18",
    "SLURM_ARRAY_TASK_STEP": "2",
    "SLURM_ARRAY_TASK_COUNT": "5",
    "SLURM_RESTART_COUNT": "1",
    "SLURM_JOB_END_TIME": "1767225600",
    "SLURM_PROCID": "0",
    "SLURM_NTASKS": "1",
}
SLURM_SINGLE = {**ORDINARY, "SLURM_JOB_ID": "190", "SLURM_PROCID": "0", "SLURM_RESTART_COUNT": "2"}
SGE = {
    **ORDINARY,
    "JOB_ID": "4711",
    "JOB_NAME": "faces",
    "SGE_TASK_ID": "7",
    "SGE_TASK_FIRST": "1",
    "SGE_TASK_LAST": "9",  # -t 1-9:3 is 1, 4, 7
    "SGE_TASK_STEPSIZE": "3",
    "RESTARTED": "1",
    "NSLOTS": "1",
}
SGE_SINGLE = {
    **SGE,
    "SGE_TASK_ID": "undefined",
    "SGE_TASK_FIRST": "undefined",
    "SGE_TASK_LAST": "undefined",
    "SGE_TASK_STEPSIZE": "undefined",
    "RESTARTED": "0",
}
PBS = {
    **ORDINARY,
    "PBS_ARRAY_INDEX": "4",
    "PBS_ARRAY_ID": "1234[].server",
    "PBS_JOBID": "1234[4].server",
    "PBS_JOBNAME": "faces",
    "HTCJOB_ARRAY_SIZE": "5",
}
TORQUE = {**ORDINARY, "PBS_ARRAYID": "4", "PBS_JOBID": "98[4].host", "HTCJOB_ARRAY_SIZE": "5"}
LSF = {
    **ORDINARY,
    "LSB_JOBID": "555",
    "LSB_JOBINDEX": "10",
    "LSB_JOBINDEX_END": "10",
    "LSB_JOBINDEX_STEP": "1",
    "LSB_JOBNAME": "faces[10]",
    "HTCJOB_ARRAY_SIZE": "10",
}
LSF_SINGLE = {**ORDINARY, "LSB_JOBID": "556", "LSB_JOBINDEX": "0"}
FLUX = {
    **ORDINARY,
    "FLUX_JOB_CC": "2",
    "FLUX_JOB_ID": "ƒ3ETxsR9H",
    "FLUX_JOB_SIZE": "1",
    "FLUX_TASK_RANK": "0",
    "HTCJOB_ARRAY_SIZE": "3",
}
NOMAD = {
    **ORDINARY,
    "NOMAD_ALLOC_INDEX": "1",
    "NOMAD_ALLOC_ID": "5b9e2f0c-7c4e-7d43-8a0c-3f8d8c7b6a5e",
    "NOMAD_META_RUN": "a",
    "HTCJOB_ARRAY_SIZE": "2",
}
KUBERNETES_COUNTED = {
    **KUBERNETES,
    "JOB_INDEX_FAILURE_COUNT": "2",
    "JOB_INDEX_IGNORED_FAILURE_COUNT": "1",
}
HTCONDOR = {**ORDINARY, "HTC_INDEX": "0", "HTC_COUNT": "40", "_CONDOR_SLOT": "slot1"}
PJM = {**ORDINARY, "PJM_BULKNUM": "9", "PJM_JOBID": "77", "HTCJOB_ARRAY_SIZE": "10"}
OURS = {**ORDINARY, "HTCJOB_ARRAY_INDEX": "5", "HTCJOB_ARRAY_SIZE": "6", "HTCJOB_ATTEMPT": "4"}

SECRETS = {name: f"planted in {name}" for name in CREDENTIAL_VARIABLES}

FULL_SETS = [
    # variables, platform, index, size, attempt, job id
    pytest.param(ORDINARY, "none", 0, 1, 1, None, id="nothing"),
    pytest.param(OURS, "htcjob", 5, 6, 4, None, id="ours"),
    pytest.param(RESCALE, "rescale", 12, 1000, 1, RESCALE["RESCALE_JOB_ID"], id="rescale"),
    pytest.param(AWS, "aws-batch", 0, 10, 3, AWS["AWS_BATCH_JOB_ID"], id="aws"),
    pytest.param(GOOGLE, "google-batch", 7, 8, 3, "faces", id="google"),
    pytest.param(KUBERNETES, "kubernetes", 3, 5, 1, None, id="kubernetes"),
    pytest.param(KUBERNETES_COUNTED, "kubernetes", 3, 5, 4, None, id="kubernetes-counted"),
    pytest.param(SLURM, "slurm", 3, 5, 2, "189", id="slurm"),
    pytest.param(SLURM_SINGLE, "none", 0, 1, 3, "190", id="slurm-single"),
    pytest.param(SGE, "sge", 2, 3, 2, "4711", id="sge"),
    pytest.param(SGE_SINGLE, "none", 0, 1, 1, "4711", id="sge-single"),
    pytest.param(PBS, "pbs", 4, 5, 1, "1234[4].server", id="pbs"),
    pytest.param(TORQUE, "torque", 4, 5, 1, "98[4].host", id="torque"),
    pytest.param(LSF, "lsf", 9, 10, 1, "555", id="lsf"),
    pytest.param(LSF_SINGLE, "none", 0, 1, 1, "556", id="lsf-single"),
    pytest.param(FLUX, "flux", 2, 3, 1, "ƒ3ETxsR9H", id="flux"),
    pytest.param(NOMAD, "nomad", 1, 2, 1, NOMAD["NOMAD_ALLOC_ID"], id="nomad"),
    pytest.param(HTCONDOR, "htcondor", 0, 40, 1, None, id="htcondor"),
    pytest.param(PJM, "pjm", 9, 10, 1, "77", id="pjm"),
]


def without(variables, *names):
    return {name: value for name, value in variables.items() if name not in names}


def refused(variables, **flags):
    """Give the message with which these variables are refused; it must be one line."""
    with pytest.raises(ConfigurationError) as caught:
        read_context(variables, flags=flags)
    message = str(caught.value)
    assert message
    assert len(message.splitlines()) == 1
    assert message.isprintable()
    return message


class TestPlatforms:
    @pytest.mark.parametrize(("variables", "platform", "index", "size", "attempt", "job_id"), FULL_SETS)
    def test_full_set(self, variables, platform, index, size, attempt, job_id):
        """What a platform really sets gives its name, the index from 0, the size, the attempt from 1."""
        context = read_context(variables)
        assert (context.platform, context.array_index) == (platform, index)
        assert (context.array_size, context.attempt) == (size, attempt)
        assert context.job_id == job_id
        assert context.require_array_size() == size

    def test_every_row_has_a_full_set(self):
        """No platform is in the table without a realistic environment in these tests."""
        tested = {param.values[1] for param in FULL_SETS}
        assert tested == {row.name for row in PLATFORMS} | {"none", "htcjob"}

    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            ({"AWS_BATCH_JOB_ID": "6c1f6d1a:7", "BATCH_JOB_ARRAY_SIZE": "8"}, ("aws-batch", 7, 8)),
            ({"AWS_BATCH_JOB_ID": "6c1f6d1a"}, ("none", 0, 1)),
            (
                {**without(RESCALE, "AWS_BATCH_JOB_ARRAY_INDEX"), "AWS_BATCH_JOB_ID": "a:b:999"},
                ("rescale", 999, 1000),
            ),
            # The index itself wins over the end of the id.
            ({**AWS, "AWS_BATCH_JOB_ID": "6c1f6d1a:9"}, ("aws-batch", 0, 10)),
        ],
    )
    def test_aws_job_id(self, variables, expected):
        """Where only AWS_BATCH_JOB_ID is set, the index is what follows its last colon."""
        context = read_context(variables)
        assert (context.platform, context.array_index, context.array_size) == expected

    def test_users_rescale_key_is_not_rescale(self):
        """A user's own RESCALE_API_KEY does not turn AWS Batch into Rescale."""
        assert read_context({**AWS, "RESCALE_API_KEY": "k"}).platform == "aws-batch"

    def test_rescale_batch_of_one(self):
        """Rescale's batch of one, for which AWS sets no index, is the job 0 of 1."""
        single = without(RESCALE, "AWS_BATCH_JOB_ARRAY_INDEX")
        single |= {"AWS_BATCH_JOB_ID": "6c1f6d1a", "BATCH_JOB_ARRAY_SIZE": "1"}
        context = read_context(single)
        assert (context.array_index, context.array_size, context.platform) == (0, 1, "none")

    def test_words_of_grid_engine_elsewhere(self):
        """JOB_ID and RESTARTED mean nothing where Grid Engine is not."""
        context = read_context({"JOB_ID": "mine", "RESTARTED": "maybe"})
        assert (context.job_id, context.attempt) == (None, 1)
        assert injected({"JOB_ID": "mine", "RESTARTED": "maybe"}) == []

    @given(
        first=st.integers(0, 10**6),
        step=st.integers(1, 1000),
        count=st.integers(1, 30),
        beyond=st.integers(0, 999),
        platform=st.sampled_from(["slurm", "sge"]),
    )
    def test_ranges_cover_the_array(self, first, step, count, beyond, platform):
        """Of any range and step, the jobs are 0..n-1 of n, each exactly once."""
        # Slurm's MAX is the last index in use, Grid Engine's LAST may lie beyond it.
        last = first + (count - 1) * step + (beyond % step if platform == "sge" else 0)
        indices = []
        for own in range(first, last + 1, step):
            names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX")
            names += ("SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_COUNT")
            if platform == "sge":
                names = ("SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE")
            values = map(str, (own, first, last, step, count))
            context = read_context(dict(zip(names, values, strict=False)))
            assert (context.platform, context.array_size) == (platform, count)
            indices.append(context.array_index)
        assert indices == list(range(count))

    @given(ids=st.sets(st.integers(0, 40), min_size=2, max_size=8))
    def test_slurm_lists_never_lose_an_index(self, ids):
        """Of a Slurm list either all indices 0..n-1 are there, or at least one job fails."""
        seen, failed = [], 0
        for own in ids:
            try:
                context = read_context(
                    {
                        "SLURM_ARRAY_TASK_ID": str(own),
                        "SLURM_ARRAY_TASK_MIN": str(min(ids)),
                        "SLURM_ARRAY_TASK_MAX": str(max(ids)),
                        "SLURM_ARRAY_TASK_STEP": "1",
                        "SLURM_ARRAY_TASK_COUNT": str(len(ids)),
                    }
                )
            except ConfigurationError:
                failed += 1
            else:
                assert context.array_size == len(ids)
                seen.append(context.array_index)
        assert failed or sorted(seen) == list(range(len(ids)))

    @given(first=st.integers(1, 12), count=st.integers(1, 12))
    def test_lsf_arrays_never_lose_an_index(self, first, count):
        """An LSF array that does not start at 1 is noticed, or its offset makes it 0..n-1."""
        own = range(first, first + count)
        size = {"HTCJOB_ARRAY_SIZE": str(count), "LSB_JOBINDEX_STEP": "1"}
        size["LSB_JOBINDEX_END"] = str(own[-1])
        if first > 1:
            assert "LSB_JOBINDEX" in refused({**size, "LSB_JOBINDEX": str(own[-1])})
            size["HTCJOB_ARRAY_OFFSET"] = str(1 - first)
        contexts = [read_context({**size, "LSB_JOBINDEX": str(index)}) for index in own]
        assert [context.array_index for context in contexts] == list(range(count))

    def test_lsf_size_is_not_guessed(self):
        """LSB_JOBINDEX_END alone gives no size, for `[5-10]` has the same one as `[1-10]`."""
        context = read_context(without(LSF, "HTCJOB_ARRAY_SIZE"))
        assert context.array_size is None

    @pytest.mark.parametrize(
        ("variables", "begins"),
        [
            (without(SLURM, "SLURM_ARRAY_TASK_MIN"), "SLURM_ARRAY_TASK_MIN is not set"),
            (without(SLURM, "SLURM_ARRAY_TASK_STEP"), "SLURM_ARRAY_TASK_STEP is not set"),
            ({**SLURM, "SLURM_ARRAY_TASK_STEP": "0"}, "SLURM_ARRAY_TASK_STEP holds '0'"),
            ({**SLURM, "SLURM_ARRAY_TASK_ID": "15"}, "SLURM_ARRAY_TASK_ID holds '15'"),
            ({**SLURM, "SLURM_ARRAY_TASK_ID": "8"}, "SLURM_ARRAY_TASK_ID holds '8'"),
            # Below the first one, with an offset that would hide it.
            (
                {**SLURM, "SLURM_ARRAY_TASK_ID": "8", "HTCJOB_ARRAY_OFFSET": "2"},
                "SLURM_ARRAY_TASK_ID holds '8'",
            ),
            ({**SLURM, "SLURM_ARRAY_TASK_ID": "20"}, "array index 5 (SLURM_ARRAY_TASK_ID='20')"),
            ({**SLURM, "SLURM_ARRAY_TASK_MAX": "9"}, "SLURM_ARRAY_TASK_MAX holds '9'"),
            ({**SLURM, "SLURM_ARRAY_TASK_COUNT": "4"}, "SLURM_ARRAY_TASK_COUNT='4', SLURM_ARRAY_"),
            # A declared size does not make a list (here 10, 16, 18) an even range.
            (
                {**SLURM, "SLURM_ARRAY_TASK_COUNT": "3", "HTCJOB_ARRAY_SIZE": "5"},
                "SLURM_ARRAY_TASK_COUNT='3', SLURM_ARRAY_TASK_MAX='18'",
            ),
            (without(SGE, "SGE_TASK_FIRST"), "SGE_TASK_FIRST is not set"),
            (without(SGE, "SGE_TASK_STEPSIZE"), "SGE_TASK_STEPSIZE is not set"),
            ({**SGE, "SGE_TASK_ID": "6"}, "SGE_TASK_ID holds '6'"),
            ({**SGE, "SGE_TASK_ID": "Undefined"}, "SGE_TASK_ID holds 'Undefined'"),
            (without(LSF, "LSB_JOBINDEX_STEP"), "LSB_JOBINDEX_STEP is not set"),
            ({**LSF, "LSB_JOBINDEX_STEP": "2"}, "LSB_JOBINDEX holds '10'"),
            ({"AWS_BATCH_JOB_ID": "6c1f6d1a:"}, "AWS_BATCH_JOB_ID holds '6c1f6d1a:'"),
            ({"AWS_BATCH_JOB_ID": "6c1f6d1a:x"}, "AWS_BATCH_JOB_ID holds '6c1f6d1a:x'"),
            ({"AWS_BATCH_JOB_ID": "6c1f6d1a: 1"}, "AWS_BATCH_JOB_ID holds '6c1f6d1a: 1'"),
        ],
    )
    def test_incomplete_or_uneven(self, variables, begins):
        """A platform's variable that lacks another, or is off the range, is refused by its name."""
        message = refused(variables)
        assert message.startswith(begins)
        assert "expected" in message


BAD_NUMBERS = [
    " 3 ",
    "3 ",
    "\t3",
    "3\n",
    "+3",
    "-1",
    "-0",
    "--1",
    "-",
    "٣",
    "²",
    "\uff13",  # full-width 3
    "1_000",
    "1.0",
    "1e3",
    "0x10",
    "three",
    "None",
    "1,000",
    "3\x00",
    "\udcff",
    "9" * 19,
    "9" * 5000,
    "x" * 5000,
    "a\nhtcjob: error: forged line",
    "\u2028",
]


class TestNumbers:
    @pytest.mark.parametrize("text", BAD_NUMBERS, ids=lambda text: ascii(text)[:24])
    @pytest.mark.parametrize(
        ("name", "others"),
        [
            ("HTCJOB_ARRAY_INDEX", {"HTCJOB_ARRAY_SIZE": "10"}),
            ("HTCJOB_ARRAY_SIZE", {"HTCJOB_ARRAY_INDEX": "0"}),
            ("HTCJOB_ATTEMPT", {}),
            ("AWS_BATCH_JOB_ARRAY_INDEX", {"BATCH_JOB_ARRAY_SIZE": "10"}),
            ("BATCH_JOB_ARRAY_SIZE", {"AWS_BATCH_JOB_ARRAY_INDEX": "0"}),
            ("AWS_BATCH_JOB_ATTEMPT", {}),
            ("BATCH_TASK_RETRY_ATTEMPT", {}),
            ("SLURM_ARRAY_TASK_ID", without(SLURM, "SLURM_ARRAY_TASK_ID")),
            ("SLURM_ARRAY_TASK_MIN", SLURM),
            ("SLURM_ARRAY_TASK_MAX", SLURM),
            ("SLURM_ARRAY_TASK_STEP", SLURM),
            ("SLURM_ARRAY_TASK_COUNT", SLURM),
            ("SLURM_RESTART_COUNT", SLURM),
            ("SLURM_JOB_END_TIME", SLURM),
            ("HTCJOB_ENDS_AT", {}),
            ("RESTARTED", SGE),
            ("JOB_INDEX_FAILURE_COUNT", KUBERNETES),
            ("JOB_INDEX_IGNORED_FAILURE_COUNT", KUBERNETES_COUNTED),
            ("PBS_ARRAY_INDEX", {"HTCJOB_ARRAY_SIZE": "10"}),
            ("LSB_JOBINDEX_STEP", LSF),
        ],
    )
    def test_malformed(self, name, others, text):
        """A number that is not plain digits, or too long, is refused: name, value and expectation."""
        message = refused({**others, name: text})
        assert message.startswith(f"{name} holds '")
        assert "expected a whole number" in message
        assert len(message) < 200
        if len(text) < 20:
            assert repr(text) in message

    @pytest.mark.parametrize("text", ["x", " 5", "+5", "5.0", "--5", "-", "1_0", "9" * 19, "-٣"])
    def test_malformed_offset(self, text):
        """The offset may be negative and nothing else that a number may not be."""
        assert refused({**AWS, "HTCJOB_ARRAY_OFFSET": text}).startswith("HTCJOB_ARRAY_OFFSET holds")

    @pytest.mark.parametrize(
        ("name", "others"),
        [
            ("HTCJOB_ARRAY_SIZE", {"HTCJOB_ARRAY_INDEX": "0"}),
            ("HTCJOB_ATTEMPT", {}),
            ("AWS_BATCH_JOB_ARRAY_SIZE", AWS),
            ("AWS_BATCH_JOB_ATTEMPT", AWS),
            ("SLURM_ARRAY_TASK_STEP", SLURM),
        ],
    )
    def test_zero_where_counting_starts_at_one(self, name, others):
        """Sizes, steps and attempts are 1 or more."""
        assert "1 or more" in refused({**others, name: "0"})

    @given(number=st.integers(0, 10**18 - 1))
    def test_every_plain_number(self, number):
        """Every number of up to 18 digits is read as itself, with leading zeros too."""
        assert whole_number("N", str(number)) == number
        assert whole_number("N", str(number).zfill(18)) == number
        assert whole_number("N", str(-number), lowest=None) == -number

    @given(text=st.text(max_size=30))
    def test_nothing_else_is_a_number(self, text):
        """What is not 1 to 18 ASCII digits is never taken for a number."""
        try:
            number = whole_number("N", text)
        except ConfigurationError:
            assert not (text.isascii() and text.isdigit()) or len(text) > 18
        else:
            assert set(text) <= set("0123456789")
            assert number == int(text)

    def test_empty_is_unset(self):
        """Variables that hold the empty string change nothing."""
        names = {name for row in PLATFORMS for name in (row.own_index, row.attempt, *row.size)}
        names |= {name for field in JobContext._fields for name in known(field)}
        empty = dict.fromkeys((names - {"", "HTCJOB_TERMINATION_LOG"}) | {"SGE_TASK_FIRST"}, "")
        assert len(empty) > 30
        assert read_context(empty) == read_context({})
        assert read_context({**empty, **SLURM}) == read_context(SLURM)


def known(field):
    try:
        return variables_of(field)
    except KeyError:
        return ()


class TestIndexAndSize:
    @pytest.mark.parametrize(
        ("variables", "index_variable"),
        [
            (without(KUBERNETES, "HTCJOB_ARRAY_SIZE"), "JOB_COMPLETION_INDEX"),
            (without(RESCALE, "BATCH_JOB_ARRAY_SIZE"), "AWS_BATCH_JOB_ARRAY_INDEX"),
            (without(PBS, "HTCJOB_ARRAY_SIZE"), "PBS_ARRAY_INDEX"),
            (without(NOMAD, "HTCJOB_ARRAY_SIZE"), "NOMAD_ALLOC_INDEX"),
            ({"HTCJOB_ARRAY_INDEX": "0"}, "HTCJOB_ARRAY_INDEX"),
            ({"AWS_BATCH_JOB_ID": "6c1f6d1a:0"}, "AWS_BATCH_JOB_ID"),
        ],
    )
    def test_index_without_size(self, variables, index_variable):
        """An index without a size is read, and refused where the size is needed, with both names."""
        context = read_context(variables)
        assert context.array_size is None
        assert context.index_variable == index_variable
        with pytest.raises(ConfigurationError) as caught:
            context.require_array_size()
        assert index_variable in str(caught.value)
        assert "HTCJOB_ARRAY_SIZE" in str(caught.value)

    @pytest.mark.parametrize(
        "variables",
        [
            {"HTCJOB_ARRAY_SIZE": "2"},
            {"BATCH_JOB_ARRAY_SIZE": "1000"},
            {"AWS_BATCH_JOB_ARRAY_SIZE": "1000"},
            {"BATCH_TASK_COUNT": "3"},
            without(SLURM, "SLURM_ARRAY_TASK_ID"),
            {**LSF_SINGLE, "HTCJOB_ARRAY_SIZE": "10"},
            {**SGE_SINGLE, "HTCJOB_ARRAY_SIZE": "10"},
        ],
    )
    def test_size_without_index(self, variables):
        """A size above 1 without an index is refused: every job would take the first chunk."""
        assert "no array index is set" in refused(variables)

    @pytest.mark.parametrize("name", ["HTCJOB_ARRAY_SIZE", "BATCH_JOB_ARRAY_SIZE"])
    def test_size_one_without_index(self, name):
        """A size of 1 needs no index."""
        context = read_context({name: "1"})
        assert (context.array_index, context.array_size) == (0, 1)

    @pytest.mark.parametrize(
        "variables",
        [
            {"HTCJOB_ARRAY_INDEX": "10", "HTCJOB_ARRAY_SIZE": "10"},
            {"AWS_BATCH_JOB_ARRAY_INDEX": "12", "BATCH_JOB_ARRAY_SIZE": "10"},
            {"PBS_ARRAY_INDEX": "10", "HTCJOB_ARRAY_SIZE": "10"},
            {"BATCH_TASK_INDEX": "1", "BATCH_TASK_COUNT": "1"},
        ],
    )
    def test_index_not_below_size(self, variables):
        """An index that is not below the size is refused, and the message has both variables."""
        message = refused(variables)
        for name, value in variables.items():
            assert f"{name}='{value}'" in message

    @pytest.mark.parametrize(
        ("variables", "offset", "expected"),
        [
            ({**AWS, "HTCJOB_ARRAY_SIZE": "20000"}, "10000", 10000),
            ({**PBS, "PBS_ARRAY_INDEX": "5"}, "-1", 4),
            ({**PBS, "PBS_ARRAY_INDEX": "1"}, "-1", 0),
            (SLURM, "0", 3),
            (SLURM, "", 3),
            ({**HTCONDOR}, "39", 39),
        ],
    )
    def test_offset(self, variables, offset, expected):
        """HTCJOB_ARRAY_OFFSET is added to the platform's index as it counts from 0."""
        context = read_context({**variables, "HTCJOB_ARRAY_OFFSET": offset})
        assert context.array_index == expected

    @pytest.mark.parametrize(
        ("variables", "offset"),
        [
            (AWS, "-1"),  # below 0
            (AWS, "10"),  # not below the platform's size
            (OURS, "1"),  # ours is final: is it added or not?
            (ORDINARY, "5"),  # nothing to add it to: all jobs would be number 5
            ({"HTCJOB_ARRAY_SIZE": "1"}, "5"),
        ],
    )
    def test_offset_that_cannot_be(self, variables, offset):
        """An offset that leads out of the array, or has no platform's index, is refused."""
        message = refused({**variables, "HTCJOB_ARRAY_OFFSET": offset})
        assert "HTCJOB_ARRAY_OFFSET" in message

    def test_offset_beside_a_flag(self):
        """An index from the command line beside an offset is refused like our variable."""
        message = refused({**AWS, "HTCJOB_ARRAY_OFFSET": "1"}, array_index=3)
        assert "--array-index" in message


class TestDisagreement:
    @pytest.mark.parametrize(
        ("variables", "named"),
        [
            ({**AWS, "JOB_COMPLETION_INDEX": "1"}, ("AWS_BATCH_JOB_ARRAY_INDEX='0'", "JOB_C")),
            ({**SLURM, "FLUX_JOB_CC": "16"}, ("SLURM_ARRAY_TASK_ID='16' means 3", "FLUX_JOB_CC")),
            ({**RESCALE, **GOOGLE}, ("AWS_BATCH_JOB_ARRAY_INDEX='12'", "BATCH_TASK_INDEX='7'")),
            (
                {**AWS, "BATCH_JOB_ARRAY_SIZE": "11"},
                ("BATCH_JOB_ARRAY_SIZE='11'", "AWS_BATCH_JOB_ARRAY_SIZE='10'"),
            ),
            ({**HTCONDOR, "BATCH_TASK_COUNT": "41"}, ("HTC_COUNT='40'", "BATCH_TASK_COUNT='41'")),
            (
                {**AWS, "SLURM_RESTART_COUNT": "1"},
                ("AWS_BATCH_JOB_ATTEMPT='3' means 3", "SLURM_RESTART_COUNT='1' means 2"),
            ),
            ({**PBS, "PBS_ARRAYID": "3"}, ("PBS_ARRAY_INDEX='4'", "PBS_ARRAYID='3'")),
        ],
    )
    def test_platforms_disagree(self, variables, named):
        """Two platforms that say different things are refused, and both variables are named once."""
        message = refused(variables)
        assert "expected them to agree; set HTCJOB_A" in message
        for name in named:
            assert message.count(name) == 1

    def test_platforms_agree(self):
        """Two platforms that say the same in their own counting are one job; the first names it."""
        context = read_context({**SLURM, "JOB_COMPLETION_INDEX": "3", "HTC_COUNT": "5"})
        assert (context.platform, context.array_index, context.array_size) == ("kubernetes", 3, 5)

    def test_ours_decide(self):
        """Where ours are set, the platforms' may disagree or even be malformed."""
        chaos = {
            **AWS,
            **GOOGLE,
            "JOB_COMPLETION_INDEX": "many",
            "BATCH_TASK_COUNT": "-3",
            "SLURM_RESTART_COUNT": "?",
        }
        refused(chaos)
        context = read_context({**chaos, **OURS})
        assert (context.array_index, context.array_size, context.attempt) == (5, 6, 4)
        assert context.platform == "htcjob"

    def test_ours_and_the_platforms_mix(self):
        """Index, size and attempt are decided one by one."""
        context = read_context({**SLURM, "HTCJOB_ARRAY_SIZE": "9", "HTCJOB_ATTEMPT": "7"})
        assert (context.platform, context.array_index) == ("slurm", 3)
        assert (context.array_size, context.attempt) == (9, 7)


class TestFlags:
    def test_flags_win(self):
        """A value from the command line beats our variable and the platform's."""
        flags = {
            "array_index": 1,
            "array_size": 2,
            "attempt": 9,
            "manifest": "m.txt",
            "project_store": "/p",
            "task_store": "memory:",
        }
        others = {"HTCJOB_MANIFEST": "x", "HTCJOB_PROJECT_STORE": "x", "HTCJOB_TASK_STORE": "x"}
        for variables in ({}, AWS, {**AWS, **OURS, **others}):
            context = read_context(variables, flags=flags)
            assert {name: getattr(context, name) for name in flags} == flags
            assert context.platform == "htcjob"

    @pytest.mark.parametrize("missing", [None, ""])
    def test_not_given(self, missing):
        """None and the empty string on the command line mean: not given."""
        flags = dict.fromkeys(["array_index", "array_size", "attempt", "manifest"], missing)
        assert read_context(OURS, flags=flags) == read_context(OURS)

    @pytest.mark.parametrize("value", [-1, "x", 1.5, True, 10**30])
    def test_malformed(self, value):
        """A malformed flag is refused by its name on the command line."""
        assert refused(OURS, array_index=value).startswith("--array-index holds ")

    def test_zero_is_given(self):
        """The index 0 on the command line is a value, not an absence."""
        assert read_context(OURS, flags={"array_index": 0}).array_index == 0

    def test_unknown(self):
        """A misspelt field is a mistake of ours, and does not pass unseen."""
        with pytest.raises(TypeError, match="array_indx"):
            read_context({}, flags={"array_indx": 1})


class TestEnd:
    def test_the_platforms_end_and_ours_before_it(self):
        """Seconds since the epoch, as Slurm injects them, in an array or not; else nobody knows."""
        assert read_context({}).ends_at is None
        assert read_context(SLURM).ends_at == 1767225600
        assert read_context({**SLURM_SINGLE, "SLURM_JOB_END_TIME": "5"}).ends_at == 5
        assert read_context({**SLURM, "HTCJOB_ENDS_AT": "1800000000"}).ends_at == 1800000000
        assert read_context({**SLURM, "SLURM_JOB_END_TIME": ""}).ends_at is None

    @pytest.mark.parametrize("name", ["SLURM_JOB_END_TIME", "HTCJOB_ENDS_AT"])
    def test_milliseconds_are_refused(self, name):
        """They would be a limit in fifty thousand years."""
        assert refused({name: "1767225600000"}).startswith(f"{name} holds '1767225600000'")


class TestTexts:
    @pytest.mark.parametrize(
        ("field", "ours", "theirs"),
        [
            ("project_id", "HTCJOB_PROJECT_ID", "RESCALE_HTC_PROJECT_ID"),
            ("task_id", "HTCJOB_TASK_ID", "RESCALE_HTC_TASK_ID"),
            ("job_id", "HTCJOB_JOB_ID", "RESCALE_JOB_ID"),
            ("job_id", "RESCALE_JOB_ID", "AWS_BATCH_JOB_ID"),
            ("region", "HTCJOB_REGION", "RESCALE_HTC_REGION"),
            ("manifest", "HTCJOB_MANIFEST", "IMG_OBJKEY_LIST"),
        ],
    )
    def test_ours_before_theirs(self, field, ours, theirs):
        """Each text is ours, or else the platform's, or else None."""
        assert getattr(read_context({}), field) is None
        assert getattr(read_context({theirs: "b"}), field) == "b"
        assert getattr(read_context({theirs: "b", ours: "a"}), field) == "a"
        assert variables_of(field).index(ours) < variables_of(field).index(theirs)

    @pytest.mark.parametrize(
        ("field", "ours", "theirs"),
        [
            ("project_store", "HTCJOB_PROJECT_STORE", "PROJECT_SHARED_FOLDER"),
            ("task_store", "HTCJOB_TASK_STORE", "TASK_SHARED_FOLDER"),
        ],
    )
    def test_shared_folders(self, tmp_path, field, ours, theirs):
        """A shared folder counts when it is a URL or an existing directory; ours count as given."""
        file = tmp_path / "file"
        file.touch()
        for usable in ("s3://bucket/prefix", str(tmp_path)):
            assert getattr(read_context({theirs: usable}), field) == usable
        for useless in ("projects/1/shared/", str(file), str(tmp_path / "absent"), "\0"):
            assert getattr(read_context({theirs: useless}), field) is None
        assert getattr(read_context({ours: "absent", theirs: "s3://b"}), field) == "absent"

    def test_api_url(self):
        """The API is production's unless HTCJOB_API_URL names another; no slash at the end."""
        assert read_context({}).api_url == DEFAULT_API_URL == "https://htc.rescale.com/api/v1"
        assert read_context({"HTCJOB_API_URL": "http://localhost:1/v1//"}).api_url.endswith("/v1")
        message = refused({"HTCJOB_API_URL": "htc.rescale.com"})
        assert message.startswith("HTCJOB_API_URL holds 'htc.rescale.com': expected a URL")

    def test_jwks(self):
        """HTCJOB_JWKS is handed on as given."""
        assert read_context({"HTCJOB_JWKS": "/etc/jwks.json"}).jwks == "/etc/jwks.json"

    def test_termination_log(self, tmp_path, monkeypatch):
        """The copy goes where the variable says, else to the default that exists; empty: nowhere."""
        default = tmp_path / "termination-log"
        monkeypatch.setattr(env, "DEFAULT_TERMINATION_LOG", str(default))
        assert read_context({}).termination_log is None
        default.touch()
        assert read_context({}).termination_log == str(default)
        assert read_context({"HTCJOB_TERMINATION_LOG": ""}).termination_log is None
        assert read_context({"HTCJOB_TERMINATION_LOG": "/x"}).termination_log == "/x"
        assert env.termination_log({"HTCJOB_ARRAY_INDEX": "bad"}) == str(default)


class TestToken:
    @pytest.fixture(autouse=True)
    def no_secret_is_known(self, monkeypatch):
        monkeypatch.setattr(redact, "_known", set())

    def test_from_variable(self):
        """The platform's tokens are read, without white space around them."""
        context = read_context(
            {"RESCALE_HTC_BEARER_TOKEN": f" {TOKEN}\n", "RESCALE_HTC_REFRESH_TOKEN": OPAQUE}
        )
        assert context.token is not None
        assert context.refresh_token is not None
        assert (context.token.reveal(), context.refresh_token.reveal()) == (TOKEN, OPAQUE)
        assert read_context({}).token is None

    def test_from_file(self, tmp_path):
        """HTCJOB_TOKEN_FILE wins over the platform's variable, even over a malformed one."""
        file = tmp_path / "token"
        file.write_text(f"\n  {OPAQUE}\r\n")
        for theirs in (TOKEN, "not a token"):
            context = read_context({"HTCJOB_TOKEN_FILE": str(file), "RESCALE_HTC_BEARER_TOKEN": theirs})
            assert context.token is not None
            assert context.token.reveal() == OPAQUE

    def test_largest_file(self, tmp_path):
        """A token file of 64 KiB is read, one byte more is refused."""
        file = tmp_path / "token"
        file.write_text("t" * 65536)
        context = read_context({"HTCJOB_TOKEN_FILE": str(file)})
        assert context.token is not None
        assert len(context.token.reveal()) == 65536
        file.write_text("t" * 65537)
        assert "65536 bytes" in refused({"HTCJOB_TOKEN_FILE": str(file)})

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"", "blank"),
            (b" \n\t ", "blank"),
            (b"\xff\xfe" + OPAQUE.encode(), "printable ASCII"),
            ("ключ-planted".encode(), "printable ASCII"),
            (f"Bearer {OPAQUE}".encode(), "without spaces"),
            (f"{OPAQUE}\nX-Injected: 1".encode(), "printable ASCII"),
            (OPAQUE.encode() + b"\0", "printable ASCII"),
            (b"\xef\xbb\xbf" + OPAQUE.encode(), "printable ASCII"),
        ],
    )
    def test_bad_file(self, tmp_path, content, expected):
        """A file that is blank, not UTF-8 or not just a token is refused, without its content."""
        file = tmp_path / "token"
        file.write_bytes(content)
        message = refused({"HTCJOB_TOKEN_FILE": str(file)})
        assert message.startswith("HTCJOB_TOKEN_FILE: the file ")
        assert expected in message
        assert "planted" not in message

    def test_unreadable_file(self, tmp_path):
        """A file that cannot be read is refused at once: absent, a directory, a pipe nobody writes."""
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "absent", tmp_path, tmp_path / "pipe"):
            assert "HTCJOB_TOKEN_FILE: " in refused({"HTCJOB_TOKEN_FILE": str(path)})

    def test_token_in_place_of_the_file(self):
        """A token put into HTCJOB_TOKEN_FILE by mistake is not in the message."""
        for text in (OPAQUE, "planted\0nul", "planted" * 5000):
            assert "planted" not in refused({"HTCJOB_TOKEN_FILE": text})

    @pytest.mark.parametrize("name", ["RESCALE_HTC_BEARER_TOKEN", "RESCALE_HTC_REFRESH_TOKEN"])
    @pytest.mark.parametrize("text", ["  ", f"Bearer {OPAQUE}", f"{OPAQUE}\r\nX: 1", "plantedé"])
    def test_bad_variable(self, name, text):
        """A token variable that is blank or holds more than a token is refused, without its value."""
        message = refused({name: text})
        assert message.startswith(name)
        assert "planted" not in message

    @pytest.mark.parametrize("token", [TOKEN, OPAQUE])
    @pytest.mark.parametrize(
        "name", ["HTCJOB_ARRAY_INDEX", "BATCH_TASK_COUNT", "SLURM_RESTART_COUNT", "HTCJOB_API_URL"]
    )
    @pytest.mark.parametrize("prefix", ["", "x" * 60])
    def test_token_in_the_wrong_variable(self, token, name, prefix):
        """The token is in no message, in whatever other variable it stands, cut or whole."""
        for source in ("RESCALE_HTC_BEARER_TOKEN", "RESCALE_HTC_REFRESH_TOKEN"):
            message = refused({source: token, name: prefix + token})
            assert name in message
            assert token[:12] not in message

    def test_unused_token_is_hidden_too(self, tmp_path):
        """The platform's token is hidden also where the file is what is used."""
        file = tmp_path / "token"
        file.write_text(TOKEN)
        other = "planted-unused-token-0002"
        message = refused(
            {
                "HTCJOB_TOKEN_FILE": str(file),
                "RESCALE_HTC_BEARER_TOKEN": other,
                "HTCJOB_ATTEMPT": other,
            }
        )
        assert other[:12] not in message

    def test_context_does_not_show_it(self, tmp_path):
        """A context's str, repr and fields show no token."""
        file = tmp_path / "token"
        file.write_text(OPAQUE)
        context = read_context(
            {
                **RESCALE,
                "RESCALE_HTC_REFRESH_TOKEN": TOKEN,
                "HTCJOB_TOKEN_FILE": str(file),
            }
        )
        for text in (str(context), repr(context), f"{context}", str([context.token])):
            assert "planted" not in text
            assert REDACTED in text


class TestCommandEnvironment:
    def test_credentials_are_removed(self):
        """Nothing secret reaches the command; all else does, and ours are added over it."""
        extra = {"HTCJOB_ENTRY": "a.jpg", "HOME": "/tmp"}
        result = command_environment({**RESCALE, **SECRETS}, extra=extra, pass_credentials=False)
        assert result == {**without(RESCALE, "RESCALE_HTC_BEARER_TOKEN"), **extra}

    def test_credentials_are_passed(self):
        """With pass_credentials nothing is removed."""
        before = {**RESCALE, **SECRETS}
        assert command_environment(before, extra={}, pass_credentials=True) == before

    @pytest.mark.parametrize(
        "name",
        [
            "HTCJOB_TOKEN_FILE",
            "RESCALE_HTC_BEARER_TOKEN",
            "RESCALE_HTC_REFRESH_TOKEN",
            "RESCALE_API_TOKEN",
            "RESCALE_API_KEY",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GCP_APPLICATION_CREDENTIALS",
            "AZURE_STORAGE_KEY",
            "AZURE_STORAGE_ACCOUNT_KEY",
            "AZURE_STORAGE_SAS_TOKEN",
            "AZURE_STORAGE_CONNECTION_STRING",
            "AZURE_CLIENT_SECRET",
            "AZURE_FEDERATED_TOKEN_FILE",
        ],
    )
    def test_named_credentials(self, name):
        """Each of these well-known names is among the credentials."""
        assert name in CREDENTIAL_VARIABLES

    def test_arguments_are_left_alone(self):
        """The caller's mappings are not changed, and os.environ is not handed out."""
        before, extra = dict(RESCALE), {"A": "b"}
        result = command_environment(before, extra=extra, pass_credentials=False)
        result["C"] = "d"
        assert (before, extra) == (RESCALE, {"A": "b"})

    def test_htcjob_in_the_command(self):
        """An htcjob inside the command sees the same index: the offset is not added twice."""
        outer = {**AWS, "HTCJOB_ARRAY_SIZE": "2000", "HTCJOB_ARRAY_OFFSET": "1000"}
        index = read_context(outer).array_index
        inner = command_environment(outer, extra={"HTCJOB_ARRAY_INDEX": str(index)}, pass_credentials=False)
        assert read_context(inner).array_index == index == 1000


class TestInjected:
    @pytest.fixture(autouse=True)
    def no_secret_is_known(self, monkeypatch):
        monkeypatch.setattr(redact, "_known", set())

    def test_what_is_shown(self):
        """Our and the platform's variables are shown sorted, the user's own are not."""
        shown = injected({**RESCALE, "HTCJOB_MANIFEST": "list.txt", "MY_PASSWORD": "hunter2"})
        names = [name for name, _ in shown]
        assert names == sorted(names)
        assert dict(shown).items() >= {
            ("AWS_BATCH_JOB_ARRAY_INDEX", "12"),
            ("BATCH_JOB_ARRAY_SIZE", "1000"),
            ("HTCJOB_MANIFEST", "list.txt"),
            ("PROJECT_SHARED_FOLDER", "projects/9f2f5c9e/shared/"),
            ("RESCALE_HTC_REGION", "AWS_US_EAST_2"),
            ("RESCALE_HTC_BEARER_TOKEN", REDACTED),
        }
        assert not {"MY_PASSWORD", "PATH", "HOME"} & set(names)

    @pytest.mark.parametrize("variables", [param.values[0] for param in FULL_SETS])
    def test_every_variable_used_is_shown(self, variables):
        """What gave the index, the size, the attempt or the job id is among the variables shown."""
        shown = dict(injected(variables))
        for field in ("array_index", "array_size", "attempt", "job_id"):
            used = set(variables_of(field)) & set(variables)
            if "SGE_TASK_ID" not in variables:
                used -= {"JOB_ID", "RESTARTED"}
            assert used <= set(shown)

    def test_credentials_are_hidden(self):
        """No credential is shown, only that it is set; an empty one is seen to be empty."""
        shown = injected({**SECRETS, "AWS_SESSION_TOKEN": ""})
        assert dict(shown) == {**dict.fromkeys(SECRETS, REDACTED), "AWS_SESSION_TOKEN": ""}

    def test_secrets_elsewhere_are_hidden(self):
        """A token or signature inside another variable's value is cut out of it."""
        fresh = "planted-opaque-token-0003"
        shown = dict(
            injected(
                {
                    "RESCALE_HTC_BEARER_TOKEN": f"{fresh}\n",
                    "HTCJOB_MANIFEST": f"https://example.org/list?t={fresh}",
                    "HTCJOB_PROJECT_STORE": "https://user:planted@example.org/p?sig=planted&x=1",
                    "HTCJOB_JWKS": TOKEN,
                }
            )
        )
        assert "planted" not in str(shown)
        assert shown["HTCJOB_MANIFEST"] == f"https://example.org/list?t={REDACTED}"
        assert shown["HTCJOB_PROJECT_STORE"].endswith("&x=1")


class TestModule:
    def test_variables_of_every_field(self):
        """Every field that a variable can give has its variables, ours first."""
        derived = {"platform", "index_variable"}
        for field in JobContext._fields:
            if field in derived:
                with pytest.raises(KeyError):
                    variables_of(field)
            else:
                first, *rest = variables_of(field)
                assert first.startswith("HTCJOB_") or field == "refresh_token"
                assert len({first, *rest}) == len(rest) + 1
        assert variables_of("array_index")[:2] == (
            "HTCJOB_ARRAY_INDEX",
            "AWS_BATCH_JOB_ARRAY_INDEX",
        )
        assert variables_of("array_offset") == ("HTCJOB_ARRAY_OFFSET",)

    def test_index_variables(self):
        """What gave the index is always one of `variables_of`."""
        for param in FULL_SETS:
            context = read_context(param.values[0])
            if context.platform != "none":
                assert context.index_variable in variables_of("array_index")

    def test_current(self, monkeypatch):
        """`current` is this process's environment, live."""
        monkeypatch.setenv("HTCJOB_ATTEMPT", "77")
        assert read_context(env.current()).attempt == 77

    def test_frozen(self):
        """A context cannot be changed after it was made."""
        with pytest.raises(AttributeError):
            read_context({}).attempt = 2  # type: ignore[misc]

    def test_only_reader(self):
        """No other module of htcjob reads the process's environment."""
        package = os.path.dirname(os.path.dirname(env.__file__))
        readers = set()
        for folder, _, files in os.walk(package):
            for name in files:
                path = os.path.join(folder, name)
                if name.endswith(".py"):
                    with open(path, encoding="utf-8") as file:
                        if re.search(r"\bos\.(environb?|getenvb?)\b", file.read()):
                            readers.add(os.path.relpath(path, package))
        assert readers == {"environment/context.py"}

    def test_import_is_cheap(self):
        """Importing the module pulls in none of the modules that are slow to import."""
        code = (
            "import sys; before = set(sys.modules); import htcjob.environment.context; "
            "print(*sorted(set(sys.modules) - before))"
        )
        root = os.path.dirname(os.path.dirname(os.path.dirname(env.__file__)))
        result = subprocess.run(
            [sys.executable, "-S", "-c", code],
            env={"PYTHONPATH": root},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        imported = set(result.stdout.split())
        assert "htcjob.environment.context" in imported
        slow = {"subprocess", "logging", "pathlib", "urllib", "json", "click", "jwt", "asyncio"}
        assert not imported & slow
        ours = {name for name in imported if name.startswith("htcjob")}
        assert ours == {
            "htcjob",
            "htcjob.environment",
            "htcjob.environment.context",
            "htcjob.logs",
            "htcjob.errors",
            "htcjob.environment.platforms",
            "htcjob.logs.redact",
            "htcjob.trouble",
        }
