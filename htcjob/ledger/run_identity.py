"""
Which manifest and which command a run is of: recorded when it begins, compared whenever it goes on.

Five plain values stand for the manifest, so the ledger knows nothing of manifests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from htcjob.errors import AbsentError, PermanentError, RunMismatchError
from htcjob.ledger.layout import run_key
from htcjob.logs.json_object import json_line, parse_object
from htcjob.logs.redact import REDACTED, redact_words

if TYPE_CHECKING:
    from typing import Protocol

    from htcjob.retry import RetryPolicy
    from htcjob.storage.contract import Store

    class Listed(Protocol):
        """A manifest, or entries that were given in its place."""

        url: str
        tag: str
        size_bytes: int
        n_entries: int
        sha256: str


class RunIdentity(NamedTuple):
    """The manifest of a run."""

    url: str
    """URL of the manifest; for entries of a command line, a name made of their digest."""
    tag: str
    """Tag of its version in storage (`ObjectInfo.tag`)."""
    size_bytes: int
    n_entries: int
    sha256: str
    """Digest of its bytes, in hexadecimal: another tag may stand for the same content."""

    @classmethod
    def of(cls, listed: Listed) -> RunIdentity:
        """Return the identity of a run of *listed*."""
        return cls(listed.url, listed.tag, listed.size_bytes, listed.n_entries, listed.sha256)


def open_run(
    store: Store, run: str, identity: RunIdentity, command: Sequence[str], *, retry: RetryPolicy
) -> None:
    """
    Make *run* the run of that manifest and *command*, or check that it already is.

    Raises:
        PermanentError: the record of what the run is of is damaged.
        RunMismatchError: the task storage holds a run of this name of another manifest or command.
    """
    before = _read_run(store, run, retry)
    if before is None:
        data = _as_json(identity, command)
        if retry.call(partial(store.put_bytes, data, run_key(run), if_absent=True)):
            return
        before = _read_run(store, run, retry)  # another job of the array was first
        if before is None:  # an empty one: a kill left it, where there are no hard links
            retry.call(partial(store.put_bytes, data, run_key(run)))
            before = _read_run(store, run, retry) or {}
    differences = "; ".join(_differences(before, identity, command))
    if differences:
        raise RunMismatchError(
            f"run {run!r} in {store.url} belongs to another manifest or command ({differences}): "
            "use another task storage, or another name with --run"
        )


def _as_json(identity: RunIdentity, command: Sequence[str]) -> bytes:
    members = {
        "manifest": identity.url,
        "etag": identity.tag,
        "size_bytes": identity.size_bytes,
        "entries": identity.n_entries,
        "sha256": identity.sha256,
        "command": redact_words(command),
    }
    return json_line(members).encode()


def _read_run(store: Store, run: str, retry: RetryPolicy) -> dict[str, object] | None:
    """Return the record of a run; None: there is none, or nothing in it."""
    try:
        data = retry.call(partial(store.read_range, run_key(run), 0))
        return parse_object(data) if data else None
    except AbsentError:
        return None
    except ValueError as error:
        raise PermanentError(
            "get",
            store.url_of(run_key(run)),
            f"{error}; the record of this run is damaged: use another name with --run",
        ) from None


def _differences(
    before: Mapping[str, object], identity: RunIdentity, command: Sequence[str]
) -> Iterator[str]:
    """Yield in words each difference between a run's identity then and now."""
    if not _is_as_written(before.get("manifest"), identity.url):
        yield f"manifest {before.get('manifest')}, now {identity.url}"
    elif before.get("size_bytes") != identity.size_bytes or (
        # A manifest that was written again with the same content has another ETag in some stores.
        before.get("etag") != identity.tag and before.get("sha256") != identity.sha256
    ):
        yield f"manifest {identity.url} has changed since"
    if not _is_same_command(before.get("command"), command):
        yield f"command {_in_words(before.get('command'))}, now {redact_words(command)}"


def _is_same_command(written: object, command: Sequence[str]) -> bool:
    """
    Whether a run was recorded with *command*; another credential in it is no difference.

    The record of an older version may show the credential.
    """
    if not isinstance(written, list) or len(written) != len(command):
        return False
    if not all(isinstance(word, str) for word in written):
        return False
    pairs = zip(redact_words(written), redact_words(command), written, command, strict=True)
    return all(then == now or _is_as_written(old, word) for then, now, old, word in pairs)


def _in_words(written: object) -> object:
    """Return a recorded command as a message shows it."""
    return redact_words(list(map(str, written))) if isinstance(written, list) else written


def _is_as_written(written: object, now: str) -> bool:
    """Whether a recorded text means *now*; version 0.1.0 put `<redacted>` for more than credentials."""
    if not isinstance(written, str) or REDACTED not in written:
        return written == now
    return re.fullmatch(r"\S+".join(map(re.escape, written.split(REDACTED))), now) is not None
