"""Injected variables -> `JobContext`: what decides, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from htcjob.environment import context
from htcjob.environment.context import DEFAULT_API_URL, read_context
from htcjob.environment.variables import variables_of
from htcjob.errors import ConfigurationError
from tests.environment.injected import (
    AWS,
    GOOGLE,
    HTCONDOR,
    KUBERNETES,
    LSF_SINGLE,
    NOMAD,
    ORDINARY,
    OURS,
    PBS,
    RESCALE,
    SGE_SINGLE,
    SLURM,
    SLURM_SINGLE,
    refused,
    without,
)


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


class TestModule:
    def test_frozen(self):
        """A context cannot be changed after it was made."""
        with pytest.raises(AttributeError):
            read_context({}).attempt = 2  # type: ignore[misc]

    def test_import_is_cheap(self):
        """Importing the module pulls in none of the modules that are slow to import."""
        code = (
            "import sys; before = set(sys.modules); import htcjob.environment.context; "
            "print(*sorted(set(sys.modules) - before))"
        )
        root = os.path.dirname(os.path.dirname(os.path.dirname(context.__file__)))
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
            "htcjob.environment.values",
            "htcjob.environment.variables",
            "htcjob.logs.redact",
            "htcjob.trouble",
        }
