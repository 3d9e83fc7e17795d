"""Which variables are known, shown, and handed to the command."""

from __future__ import annotations

import os
import re

import pytest

from htcjob.environment import variables
from htcjob.environment.context import JobContext, read_context
from htcjob.environment.platforms import PLATFORMS
from htcjob.environment.variables import (
    CREDENTIAL_VARIABLES,
    command_environment,
    current_environ,
    injected,
    termination_log,
    variables_of,
    without_injected,
)
from htcjob.logs import redact
from htcjob.logs.redact import REDACTED
from tests.environment.injected import AWS, FULL_SETS, ORDINARY, RESCALE, SECRETS, SLURM, TOKEN, without


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


class TestNames:
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
        assert read_context(current_environ()).attempt == 77

    def test_only_reader(self):
        """No other module of htcjob reads the process's environment."""
        package = os.path.dirname(os.path.dirname(variables.__file__))
        readers = set()
        for folder, _, files in os.walk(package):
            for name in files:
                path = os.path.join(folder, name)
                if name.endswith(".py"):
                    with open(path, encoding="utf-8") as file:
                        if re.search(r"\bos\.(environb?|getenvb?)\b", file.read()):
                            readers.add(os.path.relpath(path, package))
        assert readers == {"environment/variables.py"}

    def test_names_stand_in_one_table(self):
        """No string of the other modules is one of our names: a name is changed in one place."""
        folder = os.path.dirname(variables.__file__)
        for name in ("context.py", "tokens.py", "values.py", "job_ad.py"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                assert not re.search(r"[\"'](HTCJOB|RESCALE)_", file.read()), name

    def test_inside_of_a_job(self):
        """A simulation gets nothing of what tells the job around it which one it is, and all the rest."""
        shared = {
            "HTCJOB_ENDS_AT": "1800000000",
            "SLURM_JOB_END_TIME": "1800000000",
            "HTCJOB_API_URL": "http://localhost/",
            "HTCJOB_STORAGE_ENGINE": "sdk",
            "HTCJOB_DOCKER": "podman",
            "IMG_OBJKEY_LIST": "list.txt",
            "AWS_SECRET_ACCESS_KEY": "planted",
        }
        told = {name: "x" for field in JobContext._fields for name in known(field)} | {
            "HTCJOB_ARRAY_OFFSET": "1",
            "HTCJOB_TERMINATION_LOG": "",
        }
        del told["HTCJOB_MANIFEST"]
        assert without_injected({**ORDINARY, **told, **shared}) == {**ORDINARY, **shared}

    def test_empty_is_unset(self):
        """Variables that hold the empty string change nothing."""
        names = {name for row in PLATFORMS for name in (row.own_index, row.attempt, *row.size)}
        names |= {name for field in JobContext._fields for name in known(field)}
        empty = dict.fromkeys((names - {"", "HTCJOB_TERMINATION_LOG"}) | {"SGE_TASK_FIRST"}, "")
        assert len(empty) > 30
        assert read_context(empty) == read_context({})
        assert read_context({**empty, **SLURM}) == read_context(SLURM)

    def test_termination_log(self, tmp_path, monkeypatch):
        """The copy goes where the variable says, else to the default that exists; empty: nowhere."""
        default = tmp_path / "termination-log"
        monkeypatch.setattr(variables, "DEFAULT_TERMINATION_LOG", str(default))
        assert read_context({}).termination_log is None
        default.touch()
        assert read_context({}).termination_log == str(default)
        assert read_context({"HTCJOB_TERMINATION_LOG": ""}).termination_log is None
        assert read_context({"HTCJOB_TERMINATION_LOG": "/x"}).termination_log == "/x"
        assert termination_log({"HTCJOB_ARRAY_INDEX": "bad"}) == str(default)


def known(field):
    try:
        return variables_of(field)
    except KeyError:
        return ()
