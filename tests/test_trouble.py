"""What an errno means, on each side of an attempt: one table, in numbers of the exit-status table."""

import errno
import importlib
import os
import shutil
import sys

import pytest

from htcjob.environment.tokens import read_token_file
from htcjob.errors import CommandNotStartedError, ConfigurationError, HtcjobError, TransientError
from htcjob.outcome.endings import ending_of_error
from htcjob.outcome.results import EntryResult, judge_stage_in
from htcjob.storage.local.errors import Blame
from htcjob.supervise.command import _not_started, _started, check_program
from htcjob.supervise.signals import Signals
from htcjob.trouble import Trouble, of_errno, of_error, open_at_once, read_at_once

PASSING = (
    *("EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EIO", "ESTALE", "ETXTBSY", "EINTR", "EBUSY", "ENOLCK"),
    *("ETIMEDOUT", "ECONNRESET", "EHOSTDOWN", "ECHILD"),
)
OTHERS = {  # object of storage, start of a command, anything else
    "ENOSPC": (74, 126, 74),
    "EDQUOT": (74, 126, 74),
    "EROFS": (74, 126, 74),
    "EACCES": (77, 126, 74),
    "EPERM": (77, 126, 74),
    "ENOENT": (66, 127, 74),
    "ENOTDIR": (66, 127, 74),
    "ENAMETOOLONG": (66, 126, 74),
    "EBADF": (74, 126, 70),
    "EINVAL": (74, 126, 70),
}
TABLE = {**dict.fromkeys(PASSING, (75, 75, 75)), **OTHERS}


def of_start(error: OSError) -> int:
    try:
        return _not_started("program", error).exit_status
    except HtcjobError as shortage:
        return ending_of_error(shortage).exit_status


@pytest.mark.parametrize("name", TABLE)
def test_an_errno_ends_an_attempt_as_the_table_says(name):
    """For an object of storage, for the start of a command, and for any other call of ours."""
    error = OSError(getattr(errno, name), "words")
    reading = ending_of_error(Blame("get", "file:///a").error(error)).exit_status
    assert (reading, of_start(error), ending_of_error(error).exit_status) == TABLE[name]


@pytest.mark.parametrize("name", PASSING)
def test_an_entry_that_meets_passing_trouble_is_tried_again(name):
    """It is never failed for good: neither where its input is read nor where it is written."""
    error = OSError(getattr(errno, name), "words")
    for blame in (Blame("get", "file:///a"), Blame("get", "file:///a", file="/work/a")):
        assert judge_stage_in(blame.error(error)) is EntryResult.RETRY


def test_what_python_raises_for_the_machine_is_known():
    """No memory, no thread, an import that fails half-way, and a package that came without its own file."""
    hollow = type(sys)("hollow")
    hollow.__path__ = []
    with pytest.raises(AttributeError) as of_hollow:
        hollow.StreamHandler  # noqa: B018
    with pytest.raises(ImportError) as of_import:
        importlib.import_module("htcjob.not_there")
    passing = [MemoryError(), RuntimeError("can't start new thread"), of_import.value, of_hollow.value]
    assert [of_error(error) for error in passing] == [Trouble.PASSING] * len(passing)
    assert {ending_of_error(error).exit_status for error in passing} == {75}


@pytest.mark.parametrize("error", [ValueError("a"), RuntimeError("a"), AttributeError("a"), KeyError("a")])
def test_a_fault_of_the_program_stays_one(error):
    """70, with a traceback."""
    assert of_error(error) is None
    assert ending_of_error(error).exit_status == 70


def test_an_unknown_errno_is_no_passing_trouble():
    """What nobody knows is not tried again for ever."""
    assert of_errno(99999) is of_errno(None) is Trouble.PERMANENT


def test_a_token_file_that_cannot_be_read_now_is_no_wrong_configuration(monkeypatch, tmp_path):
    """EMFILE is 75; a file that is not there is 78."""
    path = tmp_path / "token"
    with pytest.raises(ConfigurationError):
        read_token_file(str(path))

    def no_descriptor(*_args, **_keywords):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("builtins.open", no_descriptor)
    with pytest.raises(TransientError):
        read_token_file(str(path))


@pytest.mark.parametrize("name", ["t", "./t"])
def test_a_program_that_cannot_be_looked_at_now_is_not_called_absent(monkeypatch, tmp_path, name):
    """127 would be a verdict for good."""

    def trouble(*_args, **_keywords):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.stat", trouble)
    with pytest.raises(HtcjobError) as raised:
        check_program(name, str(tmp_path))
    assert not isinstance(raised.value, CommandNotStartedError)
    assert ending_of_error(raised.value).exit_status == 75


def test_a_program_that_is_being_written_still_is_waited_for():
    """ETXTBSY for a moment (an installer, a copy that goes on) costs a moment."""
    answers = [OSError(errno.ETXTBSY, "Text file busy"), OSError(errno.EAGAIN, "no process"), 42]

    def start() -> int:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    with Signals() as signals:
        assert _started(start, signals) == 42


@pytest.mark.parametrize("way", [("--each",), ()])
def test_a_program_that_stays_busy_fails_no_entry(htcjob, tmp_path, way):
    """75 and nothing recorded as failed: when it is free, the same again does all."""
    program = tmp_path / "t"
    shutil.copy("/bin/true", program)
    htcjob.entries("a")
    with program.open("ab"):
        done = htcjob.run(*way, "--", str(program))
    assert (done.returncode, htcjob.results()) == (75, {}), done.stderr
    assert "busy" in done.stderr
    assert htcjob.run(*way, "--", str(program)).returncode == 0
    assert htcjob.results() == {0: "done"}


def test_a_stop_signal_ends_the_wait_for_a_busy_program():
    """Nobody waits for a start that is no longer wanted."""
    tries = []

    def busy() -> int:
        tries.append(1)
        raise OSError(errno.ETXTBSY, "Text file busy")

    with Signals() as signals:
        signals.ask_to_stop(15)
        with pytest.raises(OSError, match="busy"):
            _started(busy, signals)
    assert len(tries) == 1


def test_nobody_waits_for_the_other_side_of_a_named_pipe(tmp_path):
    """Without a writer it is empty, without a reader an error; a file is read as far as is asked for."""
    os.mkfifo(tmp_path / "pipe")
    assert read_at_once(str(tmp_path / "pipe"), 10) == b""
    with pytest.raises(OSError, match="No such device or address"):
        open_at_once(str(tmp_path / "pipe"), os.O_WRONLY)
    (tmp_path / "file").write_bytes(b"abc")
    assert (read_at_once(str(tmp_path / "file"), 2), read_at_once(str(tmp_path / "file"), 9)) == (
        b"ab",
        b"abc",
    )
    with pytest.raises(ValueError, match="null"):
        read_at_once("a\0b", 1)
