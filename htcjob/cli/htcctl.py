"""
`htcctl`: the platform's own storage command, for scripts that were written for it.

One process per file is how such scripts work, so the start is all that counts: no click, and nothing that
this call does not need.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from getopt import GetoptError, gnu_getopt
from typing import TYPE_CHECKING, NoReturn, TextIO

from htcjob.cli.output import OutputError, finish, take_standard_output, write
from htcjob.environment.context import read_context
from htcjob.environment.variables import current_environ
from htcjob.errors import AbsentError, BadKeyError, ConfigurationError, HtcjobError, UsageError
from htcjob.ledger.layout import RESERVED_PREFIX
from htcjob.logs import events as logs
from htcjob.logs.redact import Secret, redact
from htcjob.outcome.endings import ending_of_error
from htcjob.outcome.reasons import EXIT_STATUS, TerminationReason
from htcjob.retry import RetryPolicy
from htcjob.supervise.last_resort import end_promptly
from htcjob.transfer.transfers import Transfers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from htcjob.environment.context import JobContext
    from htcjob.storage.contract import Store

HELP = f"""\
Usage: htcctl [-s] [--project-id ID] [--task-id ID] upload FILE...
       htcctl [-s] [--project-id ID] [--task-id ID] download KEY... [-d DIR]
       htcctl [-s] [--project-id ID] [--task-id ID] list

Copy files to and from the storage of an HTC task, or (-s) of its project.

upload: the key is the path as typed, without a leading ./ or /; a path with .. is refused.
download: the file is DIR/KEY, with the key's folders; an existing file is replaced.
list: one key per line; htcjob's own records ({RESERVED_PREFIX}) are left out.

Several files are copied side by side, each whole or not at all, and retried when storage fails.

Options:
  -s, --project-shared  The project's shared storage instead of the task's.
  --project-id ID       [env var: RESCALE_HTC_PROJECT_ID]
  --task-id ID          [env var: RESCALE_HTC_TASK_ID]
  -d, --directory DIR   Where to download to.  [default: .]
  -h, --help            Show this message.

Token: RESCALE_HTC_BEARER_TOKEN or HTCJOB_TOKEN_FILE, renewed with RESCALE_HTC_REFRESH_TOKEN; without these,
RESCALE_API_TOKEN, an API key. RESCALE_HTC_REGION chooses among several stores. Where HTCJOB_PROJECT_STORE and
HTCJOB_TASK_STORE are set, they are used, and no token is needed.

Example:
  htcctl -s download photos/0001.jpg

Exit status: 0, or as htcjob's: 64 usage, 66 absent, 74 impossible, 75 try again, 77 denied, 78 environment.
"""

FAILURES_SHOWN = 5
"""Failures that one call shows; the others are counted."""

_OPTIONS = ("project-shared", "project-id=", "task-id=", "directory=", "help")


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line *args* (default: this process's) and exit with its status."""
    try:
        take_standard_output()
        status = _run(sys.argv[1:] if args is None else args)
        if error := finish():
            raise error
    except OutputError as error:
        status = _status_of_output(error)
    except HtcjobError as error:
        status = _say(error)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except Exception as error:
        status = _report_bug(error)
    sys.exit(status)


def _status_of_output(error: OutputError) -> int:
    if error.errno == errno.EPIPE:  # the reader of a list has gone
        return 128 + signal.SIGPIPE
    _complain(f"standard output: {error.strerror}")
    return os.EX_IOERR


def _report_bug(error: Exception) -> int:
    from htcjob.cli.messages import report_bug

    report_bug(error)
    return EXIT_STATUS[TerminationReason.INTERNAL_ERROR]


def _run(args: list[str]) -> int:
    try:
        options, words = gnu_getopt(args, "sd:h", list(_OPTIONS))
    except GetoptError as error:
        raise UsageError(f"{error}; see htcctl --help") from None
    given = {name.lstrip("-"): value for name, value in options}
    if "h" in given or "help" in given:
        write(HELP.rstrip())
        return 0
    verb, *names = words or [""]
    directory = given.get("d", given.get("directory"))
    if verb not in ("upload", "download", "list") or bool(names) == (verb == "list"):
        raise UsageError("expected upload FILE..., download KEY... [-d DIR] or list; see htcctl --help")
    if directory is not None and verb != "download":
        raise UsageError(f"-d is for download only, not for {verb}")
    logs.set_up(log_format="text", level="warning")
    end_promptly()
    retry = RetryPolicy()
    store = _open(given, retry)
    with Transfers(retry) as transfers:
        if verb == "list":
            from htcjob.transfer.listing import listed

            for info in listed(store, "", transfers):
                if not info.key.startswith(RESERVED_PREFIX):
                    key = info.key
                    write(key if key.isprintable() else json.dumps(key))
            return 0
        if verb == "upload":
            return _report(transfers.each(lambda path: transfers.put(store, path, _key(path)), names))
        from htcjob.storage.keys import path_of_copy, real_path

        root = real_path(directory or ".")

        def download(name: str) -> object:
            key = name.removeprefix("./").lstrip("/")
            try:
                path = path_of_copy(root, key)
            except BadKeyError as error:
                raise UsageError(str(error)) from None
            return transfers.get(store, key, path)

        return _report(transfers.each(download, names))


def _open(given: Mapping[str, str], retry: RetryPolicy) -> Store:
    """Open the store that the options mean."""
    from htcjob.job_stores import JobStores

    environ = current_environ()
    context = read_context(environ)
    context = context._replace(
        project_id=given.get("project-id") or context.project_id,
        task_id=given.get("task-id") or context.task_id,
    )
    is_shared = "s" in given or "project-shared" in given
    if (context.project_store if is_shared else context.task_store) is None:
        context = _with_token(context, environ, retry)
    stores = JobStores(context, retry)
    if is_shared:
        return stores.project
    if not stores.has_task:
        raise ConfigurationError(
            "no task storage is known: give --project-id and --task-id (RESCALE_HTC_PROJECT_ID, "
            "RESCALE_HTC_TASK_ID) and a token (RESCALE_HTC_BEARER_TOKEN), or set HTCJOB_TASK_STORE"
        )
    return stores.task


def _with_token(context: JobContext, environ: Mapping[str, str], retry: RetryPolicy) -> JobContext:
    """Exchange an API key for a bearer token, where there is no token: on a person's own machine."""
    key = environ.get("RESCALE_API_TOKEN", "").strip()
    if not key or context.token is not None or context.refresh_token is not None:
        return context
    from htcjob.htc_api.client import HtcApi, token_in

    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError("RESCALE_API_TOKEN holds more than an API key")
    api, secret = HtcApi(context.api_url), Secret(key)
    answer = retry.call(lambda: api.get("auth", "token", scheme="Token", secret=secret))
    token = token_in(answer)
    if token is None:
        raise ConfigurationError(f"{answer.url}: the answer has no tokenValue; is HTCJOB_API_URL right?")
    return context._replace(token=token)


def _key(path: str) -> str:
    """Return the key for a file: the path as typed, without `.` and empty parts."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UsageError(f"{path}: a key cannot contain '..': change to its folder first")
    if not os.path.lexists(path):
        raise AbsentError("put", path, "no such file")
    return "/".join(parts)


def _report(results: Iterable[object]) -> int:
    """Show the first failures; return the exit status of the first one."""
    done, failed, status = 0, 0, 0
    for result in results:
        if not isinstance(result, HtcjobError):
            done += 1
            continue
        failed += 1
        ending = ending_of_error(result)
        status = status or ending.exit_status
        if failed <= FAILURES_SHOWN:
            _say(result)
    if failed > 1:
        _complain(f"{failed} of {done + failed} failed")
    return status


def _say(error: HtcjobError) -> int:
    """Write one line that says what went wrong; return the exit status."""
    ending = ending_of_error(error)
    text = redact(" ".join(ending.message.split()))
    _complain(text if text.isprintable() else ascii(text))
    return ending.exit_status


def _complain(text: str) -> None:
    from htcjob.logs.standard_error import may_wait, standard_error

    stream = standard_error()
    may_wait(stream)
    _write(stream, f"htcctl: error: {text}")


def _write(stream: TextIO | None, line: str) -> None:
    if stream is not None:  # Python has none when it was started with that closed
        stream.write(f"{line}\n")


if __name__ == "__main__":
    main()
