"""The exit record of an attempt: its JSON, and where it goes in task storage."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from htcjob.ledger.layout import exit_record_key, later_exit_record_key
from htcjob.logs.json_object import json_line
from htcjob.logs.redact import redact

if TYPE_CHECKING:
    from htcjob.retry import RetryPolicy
    from htcjob.storage.contract import Store

LONGEST_EXIT_RECORD_BYTES = 4096
"""Kubernetes keeps this much of a container's termination message."""


def exit_record_json(record: Mapping[str, object]) -> bytes:
    """Return the exit record as JSON of at most 4,096 bytes; only its message is ever shortened."""
    message = redact(str(record.get("message", "")))[:LONGEST_EXIT_RECORD_BYTES]
    while True:
        members = {**record, "message": message}
        data = json_line(members).encode()
        excess = len(data) - LONGEST_EXIT_RECORD_BYTES
        if excess <= 0 or not message:
            return data
        # One character is at most 6 bytes of JSON, as a control character is, so this never cuts too much.
        message = message[: -max(excess // 6, 1)]


def write_exit_record(
    record: Mapping[str, object], *, store: Store, run: str, retry: RetryPolicy, writer: str
) -> Mapping[str, object]:
    """
    Write an exit record, and return it as it was written.

    Where the platform does not tell the number of the attempt (`attempt_from` is empty), the first one to end
    is attempt 1. All others are attempt 2, under keys of their own: none replaces another.

    Args:
        record: Its members.
        store: Task storage.
        run: Name of the run.
        retry: How a transient failure is met.
        writer: A name that no other attempt has.

    Raises:
        HtcjobError: it cannot be written.
    """

    def put(record: Mapping[str, object], key: str) -> None:
        retry.call(partial(store.put_bytes, exit_record_json(record), key))

    key = exit_record_key(run, record["array_index"], record["attempt"])
    if record.get("attempt_from"):
        put(record, key)
    elif not _put_new(exit_record_json(record), key, store, retry):
        record = {**record, "attempt": 2}
        put(record, later_exit_record_key(run, record["array_index"], writer))
    retry.call(store.sync)
    return record


def _put_new(data: bytes, key: str, store: Store, retry: RetryPolicy) -> bool:
    """Write *data* where there is no object yet; return False where another attempt was first."""
    tries = 0

    def put() -> bool:
        nonlocal tries
        tries += 1
        return store.put_bytes(data, key, if_absent=True)

    if retry.call(put):
        return True
    # After an answer that was lost, the object may be our own.
    return tries > 1 and retry.call(partial(store.read_range, key, 0)) == data
