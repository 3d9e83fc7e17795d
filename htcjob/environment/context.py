"""
Injected variables of every platform -> one `JobContext`; the only reader of `os.environ`.

Flags win over our own variables, ours win over the platform's, and a variable that holds the empty
string counts as not set. What the platforms inject is the table in `platforms.py`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from htcjob.environment.platforms import (
    CREDENTIAL_VARIABLES,
    PLATFORMS,
    WAYS_TO_CREDENTIALS,
    Found,
    Platform,
    moment,
    shown,
    whole_number,
)
from htcjob.errors import ConfigurationError, TransientError
from htcjob.logs.redact import REDACTED, Secret, hide, redact
from htcjob.trouble import is_folder, is_passing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT_API_URL = "https://htc.rescale.com/api/v1"
"""The production API; no platform injects it."""

DEFAULT_TERMINATION_LOG = "/dev/termination-log"
"""Kubernetes' `terminationMessagePath`, unless a pod sets another."""

DEFAULT_CONTAINER_PROGRAM = "docker"

_OFFSET = "HTCJOB_ARRAY_OFFSET"
_FLAGS = {"array_index", "array_size", "attempt", "manifest", "project_store", "task_store"}
_NAMES = {
    "array_index": ("HTCJOB_ARRAY_INDEX",),
    "array_offset": (_OFFSET,),
    "array_size": ("HTCJOB_ARRAY_SIZE",),
    "attempt": ("HTCJOB_ATTEMPT",),
    "attempt_variable": ("HTCJOB_ATTEMPT",),
    "ends_at": ("HTCJOB_ENDS_AT",),
    "project_id": ("HTCJOB_PROJECT_ID", "RESCALE_HTC_PROJECT_ID"),
    "task_id": ("HTCJOB_TASK_ID", "RESCALE_HTC_TASK_ID"),
    "job_id": ("HTCJOB_JOB_ID",),
    "region": ("HTCJOB_REGION", "RESCALE_HTC_REGION"),
    "token": ("HTCJOB_TOKEN_FILE", "RESCALE_HTC_BEARER_TOKEN"),
    "token_file": ("HTCJOB_TOKEN_FILE",),
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
_FOLDERS = ("PROJECT_SHARED_FOLDER", "TASK_SHARED_FOLDER")
"""Their meaning is not documented: they count when they are URLs or mounted directories."""
_LARGEST_TOKEN_FILE = 64 * 1024
"""Bytes; a bearer token has a few thousand."""


class JobContext(NamedTuple):
    """What the platform told this attempt about itself; made by `read_context`."""

    platform: str
    """Whose array index it is: a name in `platforms.py`, `htcjob` (ours, or a flag) or `none`."""
    array_index: int
    """This job's number in the array, from 0, with HTCJOB_ARRAY_OFFSET added."""
    array_size: int | None
    """Jobs in the array, 1 or more; None: there is an index, and nobody says of how many."""
    attempt: int
    """Runs of this index by the platform, this one included: the first is 1, also where nobody tells."""
    ends_at: int | None = None
    """When the platform ends this job, in seconds since the epoch; None: nobody says."""
    project_id: str | None = None
    """The platform's project."""
    task_id: str | None = None
    """The platform's task."""
    job_id: str | None = None
    """The platform's name for this job, for people and logs."""
    region: str | None = None
    """Where the job computes."""
    token: Secret | None = None
    """The bearer token, not decoded."""
    refresh_token: Secret | None = None
    """What the bearer token is renewed with."""
    token_file: str | None = None
    """The file that the bearer token is from; the platform may put newer ones there."""
    api_url: str = DEFAULT_API_URL
    """Base URL of the HTC API, without a last slash."""
    jwks: str | None = None
    """File or URL with the keys that sign bearer tokens."""
    project_store: str | None = None
    """URL or directory of project storage, as given."""
    task_store: str | None = None
    """URL or directory of task storage, as given."""
    manifest: str | None = None
    """The manifest, as given."""
    termination_log: str | None = None
    """File for a copy of the exit record; None: no copy."""
    index_variable: str = ""
    """Variable or flag that gave the index; empty for a single job."""
    attempt_variable: str = ""
    """Variable or flag that tells the attempt; empty: nobody does."""

    def require_array_size(self) -> int:
        """
        Give the number of jobs in the array, 1 or more.

        Raises:
            ConfigurationError: An index was injected and no size.
        """
        if self.array_size is None:
            raise ConfigurationError(
                f"{self.index_variable or 'the array index'} is set but no array size is: "
                "set HTCJOB_ARRAY_SIZE (--array-size) to the number of jobs in the array"
            )
        return self.array_size


def current() -> Mapping[str, str]:
    """Give this process's environment. Nothing else in htcjob reads it."""
    return os.environ


def hide_credentials(environ: Mapping[str, str]) -> None:
    """Make the credentials in *environ* known to `redact`."""
    for name in CREDENTIAL_VARIABLES:
        if name not in WAYS_TO_CREDENTIALS and (value := environ.get(name)):
            hide(value)


def read_context(
    environ: Mapping[str, str],
    *,
    flags: Mapping[str, object] = {},
) -> JobContext:
    """
    Give the job's context from its environment.

    No index and no size at all is a single job, 0 of 1. All platforms' variables must agree on the
    index, the size and the attempt; where a flag or ours gives one of these, theirs are not asked.

    Args:
        environ: The variables; `current()` in a real job.
        flags: Values from the command line by field name: array_index, array_size, attempt,
            manifest, project_store, task_store. None and the empty string mean: not given.

    Raises:
        ConfigurationError: A value is malformed, contradicts another, or lacks another beside it;
            the message names the variable, what it holds (never a token) and what was expected.
        TypeError: *flags* has another name.
    """
    if unknown := flags.keys() - _FLAGS:
        raise TypeError(f"no such flag: {', '.join(sorted(unknown))}")
    # First, so that a token in the wrong variable is known, and hidden, in the messages below.
    hide_credentials(environ)
    token, refresh_token = _token(environ), _secret(environ, "RESCALE_HTC_REFRESH_TOKEN")
    rows = [row for row in PLATFORMS if row.is_here(environ)]
    platform, index = _index(environ, flags, rows)
    size = _ours(environ, flags, "array_size", lowest=1) or _agreed(
        "array_size", [found for row in rows for found in row.read_sizes(environ)]
    )
    if size and not index and size.number != 1:
        raise ConfigurationError(
            f"{size.held} but no array index is set: "
            "expected HTCJOB_ARRAY_INDEX (--array-index), a platform's, or size 1"
        )
    if size and index and index.number >= size.number:
        raise ConfigurationError(
            f"array index {index.number} ({index.held}) but array size {size.number} "
            f"({size.held}): expected an index below the size, counted from 0 "
            f"({_OFFSET} is added to a platform's)"
        )
    attempt = _ours(environ, flags, "attempt", lowest=1) or _told_attempt(environ, rows)
    ends_at = (
        moment(_NAMES["ends_at"][0], text)
        if (text := environ.get(_NAMES["ends_at"][0]))
        else _agreed("ends_at", [found for row in rows if (found := row.read_end(environ))])
    )
    return JobContext(
        platform=platform,
        array_index=index.number if index else 0,
        array_size=size.number if size else None if index else 1,
        attempt=attempt.number if attempt else 1,
        attempt_variable=attempt.name if attempt else "",
        ends_at=ends_at.number if ends_at else None,
        project_id=_text(environ, flags, "project_id"),
        task_id=_text(environ, flags, "task_id"),
        job_id=_first_set(environ, [*_NAMES["job_id"], *(row.job_id for row in rows)]),
        region=_text(environ, flags, "region"),
        token=token,
        refresh_token=refresh_token,
        token_file=_text(environ, flags, "token_file"),
        api_url=_api_url(environ),
        jwks=_text(environ, flags, "jwks"),
        project_store=_text(environ, flags, "project_store"),
        task_store=_text(environ, flags, "task_store"),
        manifest=_text(environ, flags, "manifest"),
        termination_log=termination_log(environ),
        index_variable=index.name if index else "",
    )


def metadata_server(environ: Mapping[str, str], cloud: str) -> tuple[str, str]:
    """
    Give the variable that may name a cloud's metadata server, and the server's base URL.

    Args:
        environ: The variables, which are those of the cloud's SDKs.
        cloud: `aws` or `google`.
    """
    if cloud == "aws":
        name = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
        return name, environ.get(name) or "http://169.254.169.254"
    name = "GCE_METADATA_HOST"
    return name, f"http://{environ.get(name) or 'metadata.google.internal'}"


def termination_log(environ: Mapping[str, str]) -> str | None:
    """
    Give the file for a copy of the exit record; None: no copy.

    Never fails, so that even an environment that is wrong in all else can be reported there. Unlike
    other variables, HTCJOB_TERMINATION_LOG says something when it is empty: no copy.
    """
    path = environ.get("HTCJOB_TERMINATION_LOG")
    if path is None and os.path.exists(DEFAULT_TERMINATION_LOG):
        return DEFAULT_TERMINATION_LOG
    return path or None


def container_program(environ: Mapping[str, str]) -> str:
    """Give the command that simulated containers are run with."""
    return _first_set(environ, _NAMES["container_program"]) or DEFAULT_CONTAINER_PROGRAM


def command_environment(
    environ: Mapping[str, str], *, extra: Mapping[str, str], pass_credentials: bool
) -> dict[str, str]:
    """
    Give the environment of the user's command.

    This keeps secrets from being inherited, and printed, by accident. It is no wall: a program of
    the same user can read its parent's environment. Nor is a secret looked for in the values of
    other variables (a signed URL, say).

    Args:
        environ: What we were started with.
        extra: Variables to add; they replace inherited ones.
        pass_credentials: Leave the `CREDENTIAL_VARIABLES` in.
    """
    removed = set() if pass_credentials else set(CREDENTIAL_VARIABLES)
    if "HTCJOB_ARRAY_INDEX" in extra:
        removed.add(_OFFSET)  # It is in that index already.
    return {name: value for name, value in environ.items() if name not in removed} | {**extra}


def variables_of(field: str) -> tuple[str, ...]:
    """
    Give every variable that can give that field of `JobContext` its value, ours first.

    `array_offset` is known as well. Variables that only say how an index is counted (the first one,
    the step) are not among them.

    Raises:
        KeyError: No variable gives such a field.
    """
    names = list(_NAMES[field])
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
    Give the variables that are set and mean something to us, sorted, as (name, value).

    A credential is shown as `<redacted>`; from other values secrets and URL signatures are removed.
    Variables of a platform that is not there (`JOB_ID` without Grid Engine) are left out.
    """
    hide_credentials(environ)
    known = {*CREDENTIAL_VARIABLES, *(name for names in _NAMES.values() for name in names)}
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
    Give variables that are named almost like ours and are not read, sorted, as (name, the one it is like).

    Args:
        environ: The variables.
        options: Names of ours that are not `JobContext`'s: those of the options of `htcjob run`.
    """
    from difflib import get_close_matches

    known = {*options, *(name for names in _NAMES.values() for name in names)}
    found = [name for name in sorted(environ) if name.startswith("HTCJOB_") and name not in known]
    likely = [(name, get_close_matches(name, known, n=1, cutoff=0.9)) for name in found]
    return [(name, names[0]) for name, names in likely if names]


def _index(
    environ: Mapping[str, str], flags: Mapping[str, object], rows: list[Platform]
) -> tuple[str, Found | None]:
    """Give the platform's name and the array index, from 0, with the offset added."""
    text = environ.get(_OFFSET)
    offset = whole_number(_OFFSET, text, lowest=None) if text else 0
    if ours := _ours(environ, flags, "array_index", lowest=0):
        if offset:
            # Whether added or not, a wrong guess gives one chunk to two jobs and others to none.
            raise ConfigurationError(
                f"{_OFFSET}={offset} beside {ours.held}: expected one of them, "
                "for the offset is added to a platform's index only"
            )
        return "htcjob", ours
    told = [(row.name, found) for row in rows if (found := row.read_index(environ))]
    index = _agreed("array_index", [found for _, found in told])
    if index and index.number + offset >= 0:
        return told[0][0], index._replace(number=index.number + offset)
    if index:
        raise ConfigurationError(
            f"{_OFFSET}={offset} beside {index.held} makes array index {index.number + offset}: "
            "expected 0 or more"
        )
    if offset:
        raise ConfigurationError(
            f"{_OFFSET}={offset} but no array index is set: expected a platform's to add it to, "
            "or the sum in HTCJOB_ARRAY_INDEX"
        )
    return "none", None


def _ours(
    environ: Mapping[str, str], flags: Mapping[str, object], field: str, *, lowest: int
) -> Found | None:
    """Give the number from the flag, or else from our own variable."""
    flag, variable = "--" + field.replace("_", "-"), _NAMES[field][0]
    for name, given in ((flag, flags.get(field)), (variable, environ.get(variable))):
        if given is not None and given != "":
            text = str(given)
            return Found(whole_number(name, text, lowest=lowest), name, f"{name}={shown(text)}")
    return None


def _told_attempt(environ: Mapping[str, str], rows: list[Platform]) -> Found | None:
    """Give what the platforms say of the attempt; without a name where they do not say which it is."""
    told = _agreed("attempt", [found for row in rows if (found := row.read_attempt(environ))])
    if told is not None:
        is_flag = any(row.tells_first_only for row in rows if row.attempt == told.name)
        return told._replace(name="") if is_flag else told
    for row in rows:
        if path := environ.get(row.job_ad):
            from htcjob.environment.job_ad import attempt_in

            if number := attempt_in(path):
                return Found(number, row.job_ad, f"the file of {row.job_ad}")
    return None


def _agreed(field: str, told: list[Found]) -> Found | None:
    """Give what all platforms' variables say; None when there are none."""
    if any(found.number != told[0].number for found in told):
        said = dict.fromkeys(f"{found.held} means {found.number}" for found in told)
        raise ConfigurationError(
            f"{field.replace('_', ' ')}: {', '.join(said)}: expected them to agree; "
            f"set {_NAMES[field][0]} to decide"
        )
    return told[0] if told else None


def _text(environ: Mapping[str, str], flags: Mapping[str, object], field: str) -> str | None:
    flag = flags.get(field)
    return str(flag) if flag else _first_set(environ, _NAMES[field])


def _first_set(environ: Mapping[str, str], names: Iterable[str]) -> str | None:
    for name in names:
        value = environ.get(name)
        if value and (name not in _FOLDERS or "://" in value or is_folder(value)):
            return value
    return None


def _api_url(environ: Mapping[str, str]) -> str:
    url = environ.get("HTCJOB_API_URL") or DEFAULT_API_URL
    if not url.startswith(("https://", "http://")):
        raise ConfigurationError(
            f"HTCJOB_API_URL holds {shown(url)}: expected a URL that begins with https://"
        )
    return url.rstrip("/")


def _token(environ: Mapping[str, str]) -> Secret | None:
    """Give the bearer token: from the file that ours names, or else the platform's."""
    path = environ.get("HTCJOB_TOKEN_FILE")
    if not path:
        return _secret(environ, "RESCALE_HTC_BEARER_TOKEN")
    return read_token_file(path)


def read_token_file(path: str) -> Secret:
    """
    Give the bearer token in the file that HTCJOB_TOKEN_FILE names.

    Raises:
        ConfigurationError: it cannot be read, or holds something else.
        TransientError: it cannot be read now.
    """
    try:
        # Should it be a named pipe, a writer is not waited for.
        with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as file:
            content = file.read(_LARGEST_TOKEN_FILE + 1) or b""
    except (OSError, ValueError) as error:
        # Without the path: it happens that the variable holds the token itself.
        cause = getattr(error, "strerror", None) or "not a path"
        if is_passing(error):
            raise TransientError("read", "the file of HTCJOB_TOKEN_FILE", cause) from None
        raise ConfigurationError(
            f"HTCJOB_TOKEN_FILE: cannot read the file: {cause}; expected a file with a bearer token"
        ) from None
    if len(content) > _LARGEST_TOKEN_FILE:
        raise ConfigurationError(
            f"HTCJOB_TOKEN_FILE: the file is larger than {_LARGEST_TOKEN_FILE} bytes: "
            "expected a bearer token and nothing else"
        )
    return _checked("HTCJOB_TOKEN_FILE: the file", content.decode(errors="replace"))


def _secret(environ: Mapping[str, str], name: str) -> Secret | None:
    text = environ.get(name)
    return _checked(name, text) if text else None


def _checked(what: str, text: str) -> Secret:
    """Give the token without the white space around it."""
    token = text.strip()
    if not token:
        raise ConfigurationError(f"{what} is blank: expected a token")
    if not token.isascii() or not token.isprintable() or " " in token:
        # It would break the HTTP header, and the HTTP client's complaint would show it.
        raise ConfigurationError(f"{what} holds more than a token: expected printable ASCII without spaces")
    return Secret(token)
