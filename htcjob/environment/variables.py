"""
Names of variables, and the one reader of `os.environ`.

Our names, and those that only Rescale has, are spelled in `NAMES`; the names of other platforms are in
`platforms.py`. A variable that holds the empty string counts as not set.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from htcjob.environment.platforms import PLATFORMS
from htcjob.logs.redact import REDACTED, hide, redact
from htcjob.trouble import is_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT_TERMINATION_LOG = "/dev/termination-log"
"""Kubernetes' `terminationMessagePath`, unless a pod sets another."""

DEFAULT_CONTAINER_PROGRAM = "docker"

NAMES = {
    "array_index": ("HTCJOB_ARRAY_INDEX",),
    "array_offset": ("HTCJOB_ARRAY_OFFSET",),
    "array_size": ("HTCJOB_ARRAY_SIZE",),
    "attempt": ("HTCJOB_ATTEMPT",),
    "ends_at": ("HTCJOB_ENDS_AT",),
    "project_id": ("HTCJOB_PROJECT_ID", "RESCALE_HTC_PROJECT_ID"),
    "task_id": ("HTCJOB_TASK_ID", "RESCALE_HTC_TASK_ID"),
    "job_id": ("HTCJOB_JOB_ID",),
    "region": ("HTCJOB_REGION", "RESCALE_HTC_REGION"),
    "token": ("HTCJOB_TOKEN_FILE", "RESCALE_HTC_BEARER_TOKEN"),
    "refresh_token": ("RESCALE_HTC_REFRESH_TOKEN",),
    "api_url": ("HTCJOB_API_URL",),
    "storage_engine": ("HTCJOB_STORAGE_ENGINE",),
    "jwks": ("HTCJOB_JWKS",),
    "project_store": ("HTCJOB_PROJECT_STORE", "PROJECT_SHARED_FOLDER"),
    "task_store": ("HTCJOB_TASK_STORE", "TASK_SHARED_FOLDER"),
    "manifest": ("HTCJOB_MANIFEST", "IMG_OBJKEY_LIST"),
    "termination_log": ("HTCJOB_TERMINATION_LOG",),
    "container_program": ("HTCJOB_DOCKER",),
}
"""The variables of each field of `JobContext` and of a few things besides, ours first."""
NAMES["attempt_variable"] = NAMES["attempt"]
NAMES["token_file"] = NAMES["token"][:1]

_FOLDERS = (NAMES["project_store"][1], NAMES["task_store"][1])
"""Their meaning is not documented: they count when they hold a URL or the path of a directory."""

_NOT_OF_A_JOB = frozenset({"ends_at", "api_url", "storage_engine", "manifest", "container_program"})
"""Fields that jobs started inside of this one share with it."""

_METADATA_SERVERS = {
    "aws": ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "", "http://169.254.169.254"),
    "google": ("GCE_METADATA_HOST", "http://", "http://metadata.google.internal"),
}
"""By cloud: the variable of its SDKs, how a URL with its value begins, and the URL where it is not set."""

WAYS_TO_CREDENTIALS = frozenset(
    {
        *(*NAMES["token_file"], "AWS_ACCESS_KEY_ID", "AWS_SHARED_CREDENTIALS_FILE"),
        *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH"),
        *("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE"),
        *("AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE"),
        *("IDENTITY_ENDPOINT", "MSI_ENDPOINT"),
    }
)
"""Those of `CREDENTIAL_VARIABLES` that hold a file's name, a URL or an id, none of them a secret itself."""

CREDENTIAL_VARIABLES = (
    # Rescale: the job's tokens, and a user's own key.
    *NAMES["token"],
    *NAMES["refresh_token"],
    "RESCALE_API_TOKEN",
    "RESCALE_API_KEY",
    # S3: keys, and everything that the SDKs and object_store turn into keys.
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_TOKEN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    # Google: files, their text, tokens.
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GCP_APPLICATION_CREDENTIALS",
    "GOOGLE_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_OAUTH_ACCESS_TOKEN",
    "CLOUDSDK_AUTH_ACCESS_TOKEN",
    "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE",
    "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE",
    # Azure: account keys and SAS, service principal, managed and workload identity.
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_MASTER_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_PASSWORD",
    "AZURE_FEDERATED_TOKEN",
    "AZURE_FEDERATED_TOKEN_FILE",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "MSI_ENDPOINT",
    "MSI_SECRET",
)
"""Neither shown nor handed to the command: secrets, files of secrets, and ways to obtain them."""


def current_environ() -> Mapping[str, str]:
    """Return this process's environment, live. Nothing else in htcjob reads it."""
    return os.environ


def name_of(field: str) -> str:
    """Return the variable that decides *field*: ours, or the platform's where there is none of ours."""
    return NAMES[field][0]


def hide_credentials(environ: Mapping[str, str]) -> None:
    """Make the credentials in *environ* known to `redact`, so that no message shows them."""
    for name in CREDENTIAL_VARIABLES:
        if name not in WAYS_TO_CREDENTIALS and (value := environ.get(name)):
            hide(value)


def metadata_server(environ: Mapping[str, str], cloud: str) -> tuple[str, str]:
    """
    Return the variable that may name a cloud's metadata server, and the server's base URL.

    Args:
        environ: The variables, which are those of the cloud's SDKs.
        cloud: `aws` or `google`.
    """
    name, before, default = _METADATA_SERVERS[cloud]
    value = environ.get(name)
    return name, before + value if value else default


def termination_log(environ: Mapping[str, str]) -> str | None:
    """
    Return the file for a copy of the exit record; None: no copy.

    Never fails, so that even an environment that is wrong in all else can be reported there. Unlike
    other variables, this one says something when it is empty: no copy.
    """
    path = environ.get(name_of("termination_log"))
    if path is None and os.path.exists(DEFAULT_TERMINATION_LOG):
        return DEFAULT_TERMINATION_LOG
    return path or None


def container_program(environ: Mapping[str, str]) -> str:
    """Return the program that simulated containers are run with."""
    return first_set(environ, NAMES["container_program"]) or DEFAULT_CONTAINER_PROGRAM


def command_environment(
    environ: Mapping[str, str], *, extra: Mapping[str, str], pass_credentials: bool
) -> dict[str, str]:
    """
    Return the environment of the user's command.

    This keeps secrets from being inherited, and printed, by accident. This is no security boundary: a
    program of the same user can read its parent's environment. Nor are the values of other variables
    searched for secrets (a signed URL, say).

    Args:
        environ: What we were started with.
        extra: Variables to add; they replace inherited ones.
        pass_credentials: Leave the `CREDENTIAL_VARIABLES` in.
    """
    removed = set() if pass_credentials else set(CREDENTIAL_VARIABLES)
    if name_of("array_index") in extra:
        removed.add(name_of("array_offset"))  # it is in that index already
    return {name: value for name, value in environ.items() if name not in removed} | {**extra}


def variables_of(field: str) -> tuple[str, ...]:
    """
    Return every variable that can give that field of `JobContext` its value, ours first.

    Other fields of `NAMES` are known as well. Variables that only say how an index is counted (the first
    one, the step) are not among them.

    Raises:
        KeyError: No variable gives such a field.
    """
    names = list(NAMES[field])
    for row in PLATFORMS:
        attempt = (row.attempt, row.attempt_also, row.job_ad)
        names += {
            "array_index": (row.own_index, row.index_ends),
            "array_size": (*row.size, row.last),
            "attempt": attempt,
            "attempt_variable": attempt,
            "ends_at": (row.ends_at,),
            "job_id": (row.job_id,),
        }.get(field, ())
    return tuple(dict.fromkeys(name for name in names if name))


def injected(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """
    Return the variables that are set and mean something to us, sorted, as (name, value).

    A credential is shown as `<redacted>`; from other values secrets and URL signatures are removed.
    Variables of a platform that is not there (`JOB_ID` without Grid Engine) are left out.
    """
    hide_credentials(environ)
    known = {*CREDENTIAL_VARIABLES, *_all_names()}
    for row in PLATFORMS:
        if row.is_here(environ):
            known.update((row.own_index, row.index_ends, row.first, row.step, row.last))
            known.update((*row.size, row.attempt, row.attempt_also, row.ends_at))
            known.update((row.job_ad, row.job_id, *row.only_with))
    return [
        (name, REDACTED if value and name in CREDENTIAL_VARIABLES else redact(value))
        for name, value in sorted(environ.items())
        if name in known
    ]


def unknown(environ: Mapping[str, str], options: Iterable[str]) -> list[tuple[str, str]]:
    """
    Return variables that are named almost like ours and are not read, sorted, as (name, the one it is like).

    Args:
        environ: The variables.
        options: Names of ours that are not `JobContext`'s: those of the options of `htcjob run`.
    """
    from difflib import get_close_matches

    known = {*options, *_all_names()}
    found = [name for name in sorted(environ) if name.startswith("HTCJOB_") and name not in known]
    likely = [(name, get_close_matches(name, known, n=1, cutoff=0.9)) for name in found]
    return [(name, names[0]) for name, names in likely if names]


def first_set(environ: Mapping[str, str], names: Iterable[str]) -> str | None:
    """Return the value of the first of *names* that is set and counts; None: none does."""
    for name in names:
        value = environ.get(name)
        if value and (name not in _FOLDERS or "://" in value or is_folder(value)):
            return value
    return None


def without_injected(environ: Mapping[str, str]) -> dict[str, str]:
    """Return *environ* without what a platform, or a simulation around us, told this job about itself."""
    removed = {name for field in NAMES.keys() - _NOT_OF_A_JOB for name in variables_of(field)}
    return {name: value for name, value in environ.items() if name not in removed}


def _all_names() -> set[str]:
    return {name for names in NAMES.values() for name in names}
