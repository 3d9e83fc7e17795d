"""Numbers in variables: plain digits, or a message that names the variable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htcjob.environment.values import whole_number
from htcjob.errors import ConfigurationError
from tests.environment.injected import AWS, KUBERNETES, KUBERNETES_COUNTED, LSF, SGE, SLURM, refused, without

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
