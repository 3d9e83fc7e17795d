"""Why an attempt ends: the words of the exit record, the numbers of the exit status, and their table."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from enum import Enum


class TerminationReason(str, Enum):
    """Why an attempt ended. The reason is the truth, the exit status a hint."""

    SUCCEEDED = "succeeded"
    """Every entry of the chunk is committed, or its failures are inside the budget."""
    EMPTY_CHUNK = "empty_chunk"
    """There are fewer entries than jobs, and none was left for this one."""
    COMMAND_FAILED = "command_failed"
    """The command ended with a non-zero status of its own."""
    COMMAND_KILLED = "command_killed"
    """The command was ended by a signal that was not ours."""
    OUT_OF_MEMORY = "out_of_memory"
    """The command was ended because it needed more memory than there is."""
    COMMAND_NOT_EXECUTABLE = "command_not_executable"
    """The command exists and cannot be executed."""
    COMMAND_NOT_FOUND = "command_not_found"
    """There is no such command."""
    ENTRIES_FAILED = "entries_failed"
    """More entries failed for good than the budget allows."""
    TIMED_OUT = "timed_out"
    """The timeout ended the command, or every failed entry."""
    WORK_LEFT = "work_left"
    """Some entries met transient trouble; what is done is committed."""
    STORAGE_UNAVAILABLE = "storage_unavailable"
    """Transient storage trouble outlasted the retries."""
    PREEMPTED = "preempted"
    """A signal asked this attempt to stop while work was left."""
    INPUT_ABSENT = "input_absent"
    """The manifest is not there."""
    STAGING_FAILED = "staging_failed"
    """Files cannot be staged, for good: disk full, read-only, refused."""
    DENIED = "denied"
    """Storage denied access, or the bearer token is invalid or expired."""
    BAD_CONFIGURATION = "bad_configuration"
    """The injected environment is wrong, or the task holds another run."""
    BAD_USAGE = "bad_usage"
    """The command line is wrong."""
    INTERNAL_ERROR = "internal_error"
    """A bug in htcjob."""


class StopCause(Enum):
    """Why an attempt was asked to stop."""

    SIGNAL = "signal"
    """A signal from outside."""
    DEADLINE = "deadline"
    """Its own deadline."""
    NOTICE = "notice"
    """A notice of the cloud, which takes the machine away."""


EXIT_STATUS: Mapping[TerminationReason, int] = {
    TerminationReason.SUCCEEDED: 0,
    TerminationReason.EMPTY_CHUNK: 0,
    TerminationReason.BAD_USAGE: 64,
    TerminationReason.ENTRIES_FAILED: 65,
    TerminationReason.INPUT_ABSENT: 66,
    TerminationReason.INTERNAL_ERROR: 70,
    TerminationReason.STAGING_FAILED: 74,
    TerminationReason.STORAGE_UNAVAILABLE: 75,
    TerminationReason.WORK_LEFT: 75,
    TerminationReason.DENIED: 77,
    TerminationReason.BAD_CONFIGURATION: 78,
    TerminationReason.TIMED_OUT: 124,
    TerminationReason.COMMAND_NOT_EXECUTABLE: 126,
    TerminationReason.COMMAND_NOT_FOUND: 127,
    TerminationReason.OUT_OF_MEMORY: 128 + signal.SIGKILL,
}
"""Numbers of sysexits.h, GNU timeout and the shell. A reason not listed takes the command's or signal's."""

EXIT_TABLE = (
    ("0", "everything committed, or failures inside the budget, or an empty chunk", ""),
    ("the command's own", "whole-chunk mode: passed on", "up to your program"),
    ("64", "usage", "no"),
    ("65", "entries failed for good, beyond the budget", "no"),
    ("66", "manifest absent (an absent input is a failed entry: 65)", "no"),
    ("70", "a bug in htcjob", "no"),
    ("74", "staging impossible for good (disk full, refused, checksum never right)", "no"),
    ("75", "transient trouble outlasted the retries, or work is left", "yes"),
    ("77", "denied, or token invalid or expired and not renewable", "no"),
    ("78", "injected environment wrong, or run mismatch", "no"),
    ("124", "timeout, nothing left to try", "no"),
    ("126 / 127", "command not executable / not found", "no"),
    ("137", "out of memory (a command of a whole chunk, or a plain one), or killed", "killed: yes"),
    ("128+n", "ended by signal n (143 preempted or cancelled)", "yes"),
)
"""Status, meaning, whether to try again: the rows that `--help` and the documentation show."""
