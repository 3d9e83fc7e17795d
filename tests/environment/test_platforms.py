"""Each platform's variables, as it sets them, give the job's place in the array."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from htcjob.environment.context import read_context
from htcjob.environment.platforms import PLATFORMS
from htcjob.environment.variables import injected
from htcjob.errors import ConfigurationError
from tests.environment.injected import AWS, FULL_SETS, LSF, RESCALE, SGE, SLURM, refused, without


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
