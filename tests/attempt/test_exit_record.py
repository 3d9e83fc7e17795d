"""How an attempt tells of its end."""

import os
import threading

from htcjob.attempt import exit_record
from htcjob.attempt.attempt import Attempt
from htcjob.run_options import RunOptions


def test_a_termination_log_that_takes_nothing_is_not_waited_for(htcjob, monkeypatch):
    """It may lie on a network file system that hangs."""
    says_nothing = threading.Event()
    monkeypatch.setattr(exit_record, "TERMINATION_LOG_S", 0.05)
    monkeypatch.setattr(
        exit_record, "open_at_once", lambda *_: says_nothing.wait() and os.open(os.devnull, os.O_WRONLY)
    )
    attempt = Attempt(RunOptions(("true",)), {"HTCJOB_TERMINATION_LOG": str(htcjob.termination_log)})
    said = []
    monkeypatch.setattr(exit_record, "event", lambda _logger, _level, name, **_fields: said.append(name))
    try:
        exit_record.write_termination_log(attempt, {"message": ""})
        assert said == ["termination_log_not_written"]
    finally:
        says_nothing.set()
