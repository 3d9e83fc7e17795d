"""
Injected variables of every platform -> one `JobContext`.

Flags win over our own variables, ours win over the platform's, and a variable that holds the empty
string counts as not set. Our names are in `variables.py`, those of the platforms in `platforms.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from htcjob.environment.platforms import PLATFORMS, Platform
from htcjob.environment.values import Found, moment, shown, whole_number
from htcjob.environment.variables import NAMES, first_set, hide_credentials, name_of, termination_log
from htcjob.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from htcjob.logs.redact import Secret

DEFAULT_API_URL = "https://htc.rescale.com/api/v1"
"""The production API; no platform injects it."""

_FLAGS = {"array_index", "array_size", "attempt", "manifest", "project_store", "task_store"}


class JobContext(NamedTuple):
    """The facts that the platform told this attempt about itself; made by `read_context`."""

    platform: str
    """Where the array index is from: a name in `platforms.py`, `htcjob` (ours, or a flag) or `none`."""
    array_index: int
    """This job's number in the array, from 0, with HTCJOB_ARRAY_OFFSET added."""
    array_size: int | None
    """Jobs in the array, 1 or more; None: there is an index, but no size is known."""
    attempt: int
    """Runs of this index by the platform, this one included: the first is 1, also where it is not told."""
    ends_at: int | None = None
    """When the platform ends this job, in seconds since the epoch; None: it is not told."""
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
    """The token that renews the bearer token."""
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
    """Variable or flag that tells the attempt; empty: it is not told."""

    def require_array_size(self) -> int:
        """
        Return the number of jobs in the array, 1 or more.

        Raises:
            ConfigurationError: An index was injected and no size.
        """
        if self.array_size is None:
            raise ConfigurationError(
                f"{self.index_variable or 'the array index'} is set but no array size is: "
                f"set {name_of('array_size')} (--array-size) to the number of jobs in the array"
            )
        return self.array_size


def read_context(
    environ: Mapping[str, str],
    *,
    flags: Mapping[str, object] = {},
) -> JobContext:
    """
    Return the job's context from its environment.

    No index and no size at all is a single job, 0 of 1. All platforms' variables must agree on the
    index, the size and the attempt; where a flag or ours gives one of these, theirs are not asked.

    Args:
        environ: The variables; `current_environ()` in a real job.
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
    token, refresh_token = _tokens(environ)
    rows = [row for row in PLATFORMS if row.is_here(environ)]
    platform, index = _index(environ, flags, rows)
    size = _size(environ, flags, rows, index)
    attempt = _ours(environ, flags, "attempt", lowest=1) or _told_attempt(environ, rows)
    ends_at = _end(environ, rows)
    return JobContext(
        platform=platform,
        array_index=index.number if index else 0,
        array_size=size.number if size else None if index else 1,
        attempt=attempt.number if attempt else 1,
        attempt_variable=attempt.name if attempt else "",
        ends_at=ends_at.number if ends_at else None,
        project_id=_text(environ, flags, "project_id"),
        task_id=_text(environ, flags, "task_id"),
        job_id=first_set(environ, [*NAMES["job_id"], *(row.job_id for row in rows)]),
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


def _tokens(environ: Mapping[str, str]) -> tuple[Secret | None, Secret | None]:
    """Return the bearer token and the one that renews it; off Rescale, most jobs have neither."""
    if not any(environ.get(name) for name in (*NAMES["token"], *NAMES["refresh_token"])):
        return None, None
    from htcjob.environment import tokens

    return tokens.bearer_token(environ), tokens.refresh_token(environ)


def _index(
    environ: Mapping[str, str], flags: Mapping[str, object], rows: list[Platform]
) -> tuple[str, Found | None]:
    """Return the platform's name and the array index, from 0, with the offset added."""
    added = name_of("array_offset")
    text = environ.get(added)
    offset = whole_number(added, text, lowest=None) if text else 0
    if ours := _ours(environ, flags, "array_index", lowest=0):
        if offset:
            # Whether added or not, a wrong guess gives one chunk to two jobs and others to none.
            raise ConfigurationError(
                f"{added}={offset} beside {ours.held}: expected one of them, "
                "for the offset is added to a platform's index only"
            )
        return "htcjob", ours
    told = [(row.name, found) for row in rows if (found := row.read_index(environ))]
    index = _agreed("array_index", [found for _, found in told])
    if index and index.number + offset >= 0:
        return told[0][0], index._replace(number=index.number + offset)
    if index:
        raise ConfigurationError(
            f"{added}={offset} beside {index.held} makes array index {index.number + offset}: "
            "expected 0 or more"
        )
    if offset:
        raise ConfigurationError(
            f"{added}={offset} but no array index is set: expected a platform's to add it to, "
            f"or the sum in {name_of('array_index')}"
        )
    return "none", None


def _size(
    environ: Mapping[str, str], flags: Mapping[str, object], rows: list[Platform], index: Found | None
) -> Found | None:
    """Return the size of the array, which *index* is below; None where it is not told."""
    size = _ours(environ, flags, "array_size", lowest=1) or _agreed(
        "array_size", [found for row in rows for found in row.read_sizes(environ)]
    )
    if size and not index and size.number != 1:
        raise ConfigurationError(
            f"{size.held} but no array index is set: "
            f"expected {name_of('array_index')} (--array-index), a platform's, or size 1"
        )
    if size and index and index.number >= size.number:
        raise ConfigurationError(
            f"array index {index.number} ({index.held}) but array size {size.number} "
            f"({size.held}): expected an index below the size, counted from 0 "
            f"({name_of('array_offset')} is added to a platform's)"
        )
    return size


def _end(environ: Mapping[str, str], rows: list[Platform]) -> Found | None:
    """Return when the platform ends the job; None where it is not told."""
    ours = name_of("ends_at")
    if text := environ.get(ours):
        return moment(ours, text)
    return _agreed("ends_at", [found for row in rows if (found := row.read_end(environ))])


def _ours(
    environ: Mapping[str, str], flags: Mapping[str, object], field: str, *, lowest: int
) -> Found | None:
    """Return the number from the flag, or else from our own variable."""
    flag, variable = "--" + field.replace("_", "-"), name_of(field)
    for name, given in ((flag, flags.get(field)), (variable, environ.get(variable))):
        if given is not None and given != "":
            text = str(given)
            return Found(whole_number(name, text, lowest=lowest), name, f"{name}={shown(text)}")
    return None


def _told_attempt(environ: Mapping[str, str], rows: list[Platform]) -> Found | None:
    """Return the attempt that the platforms tell; without a name where they do not say which one it is."""
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
    """Return the number that all platforms' variables tell; None when there are none."""
    if any(found.number != told[0].number for found in told):
        said = dict.fromkeys(f"{found.held} means {found.number}" for found in told)
        raise ConfigurationError(
            f"{field.replace('_', ' ')}: {', '.join(said)}: expected them to agree; "
            f"set {name_of(field)} to decide"
        )
    return told[0] if told else None


def _text(environ: Mapping[str, str], flags: Mapping[str, object], field: str) -> str | None:
    flag = flags.get(field)
    return str(flag) if flag else first_set(environ, NAMES[field])


def _api_url(environ: Mapping[str, str]) -> str:
    name = name_of("api_url")
    url = environ.get(name) or DEFAULT_API_URL
    if not url.startswith(("https://", "http://")):
        raise ConfigurationError(f"{name} holds {shown(url)}: expected a URL that begins with https://")
    return url.rstrip("/")
