"""
The tutorial's job: its variables, translated into one `htcjob run` command.

    HTC_INPUT_IMAGE=true, KEY given    that one object of project storage
    KEY given                          that local file
    IMG_OBJKEY_LIST                    this job's chunk of the list, by the array variables

The translated command replaces this process, so that htcjob is the one that gets the signals.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Literal, NoReturn

import click

from reference_app.console import CommandError, run
from reference_app.show_env import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

_TAGGER = (sys.executable, "-m", "reference_app.face_tagger")

Fate = Literal["work", "raise", "hang"]

# 1 in 9 jobs raises and 2 in 9 hang: the rates measured on the original, which throws dice.
_FATES: dict[int, Fate] = {2: "hang", 4: "raise", 7: "hang"}
_CYCLE = 9


def is_on(environment: Mapping[str, str], name: str) -> bool:
    """
    Say whether the variable *name* is switched on.

    Raises:
        CommandError: It holds neither of 1/true/yes/on and 0/false/no/off (78); empty is off.
    """
    value = environment.get(name, "").strip()
    if value.lower() in {"1", "true", "yes", "on"}:
        return True
    if value.lower() in {"", "0", "false", "no", "off"}:
        return False
    raise CommandError(os.EX_CONFIG, f"{name} is {value!r}: expected true or false")


def fate(*, array_index: int, attempt: int) -> Fate:
    """
    Give what `SIMULATE_FAILURES` makes of a job.

    Array indices 2 and 7 of every nine hang, 4 raises. Each further attempt takes the place of the
    next index, so the second attempt of a job that failed always works; index 0, which people try
    first, works at once.

    Args:
        array_index: From 0.
        attempt: From 1.
    """
    return _FATES.get((array_index + attempt - 1) % _CYCLE, "work")


def translate(key: str | None, environment: Mapping[str, str]) -> list[str]:
    """
    Give the argv that does the job.

    Args:
        key: The command's argument: an object key, or a local path; None when absent.
        environment: The job's variables.

    Raises:
        CommandError: They name no work (78).
        click.UsageError: `HTC_INPUT_IMAGE` is on, and there is no key.
    """
    if is_on(environment, "HTC_INPUT_IMAGE"):
        if key is None:
            raise click.UsageError("HTC_INPUT_IMAGE is on: give the KEY of an image as argument")
        return ["htcjob", "run", "--each", "--entry", key, "--", *_TAGGER, "{input}"]
    if key is not None:
        return [*_TAGGER, "--", key]
    if environment.get("HTCJOB_ENTRIES_FILE"):
        # htcjob runs us already, and the chunk is staged in.
        return [*_TAGGER]
    if environment.get("IMG_OBJKEY_LIST") or environment.get("HTCJOB_MANIFEST"):
        return ["htcjob", "run", "--", *_TAGGER]
    raise CommandError(
        os.EX_CONFIG, "no KEY given, and IMG_OBJKEY_LIST is not set: it names the list of images"
    )


@click.command(
    "tutorial",
    # A key may begin with a dash.
    context_settings={"ignore_unknown_options": True},
    epilog="""
    \b
    Variables:
      HTC_INPUT_IMAGE    on: KEY is an object of project storage
      IMG_OBJKEY_LIST    the list of images, an object of project storage; without KEY
      SIMULATE_FAILURES  on: of each nine jobs one fails and two hang, by array index
      SHOW_ENV           on: print the environment first, secrets redacted
    On is 1, true, yes or on; off is 0, false, no, off or empty.

    \b
    Exit status: that of htcjob or of the face tagger, and
      1    simulated failure
      64   usage
      78   a variable is wrong, or names no work
      127  htcjob is not installed
      143  stopped while hanging

    \b
    Example:
      HTC_INPUT_IMAGE=true python -m reference_app.tutorial photos/0001.jpg
    """,
)
@click.argument("key", required=False, type=click.UNPROCESSED)
def tutorial(key: str | None) -> NoReturn:
    """Tag the faces of one image (KEY), or of this job's chunk of a list."""
    environment = os.environ
    shows, simulates = is_on(environment, "SHOW_ENV"), is_on(environment, "SIMULATE_FAILURES")
    argv = translate(key, environment)
    if shows:
        for line in printable(environment):
            click.echo(line)
    if simulates:
        _simulate_failure(environment)
    _become(argv)


def _simulate_failure(environment: Mapping[str, str]) -> None:
    array_index = _number(environment, "HTCJOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX", default=0)
    attempt = _number(environment, "HTCJOB_ATTEMPT", "AWS_BATCH_JOB_ATTEMPT", default=1)
    fated = fate(array_index=array_index, attempt=attempt)
    which = f"of array index {array_index}, attempt {attempt} (SIMULATE_FAILURES is on)"
    if fated == "raise":
        raise CommandError(1, f"simulated failure {which}")
    if fated == "hang":
        # The kernel shields PID 1 from signals that it does not handle itself.
        signal.signal(signal.SIGTERM, _stop)
        click.echo(f"tutorial: simulated hang {which}", err=True)
        while True:
            signal.pause()


def _stop(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)


def _number(environment: Mapping[str, str], *names: str, default: int) -> int:
    """Give the first of the variables that is set."""
    for name in names:
        value = environment.get(name)
        if value:
            if not value.isdecimal():
                raise CommandError(os.EX_CONFIG, f"{name} is {value!r}: expected a number")
            return int(value)
    return default


def _become(argv: list[str]) -> NoReturn:
    """Replace this process by *argv*; htcjob may be on PATH or beside our interpreter."""
    program = shutil.which(argv[0]) or shutil.which(argv[0], path=os.path.dirname(sys.executable))
    if program is None:
        raise CommandError(127, f"{argv[0]} is not on PATH: pip install . in the clone")
    os.execv(program, argv)  # noqa: S606  no shell is wanted


if __name__ == "__main__":
    run(tutorial)
