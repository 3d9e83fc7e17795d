"""
One attempt's side of a run's ledger: it reads what is done, and commits what it has done.

An entry is done when a record says so, and a record is written only after its outputs are in storage.
Attempts never write to the same part, so none can undo what another has committed. Records of one attempt are
gathered in memory and written a block at a time, every 30 s or more often, and at its end: a kill between two
writes means that the entries finished since are done again, never that one is lost.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from htcjob.errors import HtcjobError, StorageError
from htcjob.ledger.exit_records import write_exit_record
from htcjob.ledger.layout import BLOCK_ENTRIES, block_of, check_run_name, part_key
from htcjob.ledger.parts import Parts
from htcjob.ledger.records import is_sound
from htcjob.logs.events import event
from htcjob.outcome.results import EntryResult

if TYPE_CHECKING:
    from htcjob.ledger.parts import Block
    from htcjob.ledger.records import Record
    from htcjob.ledger.run_identity import RunIdentity
    from htcjob.retry import RetryPolicy
    from htcjob.storage.contract import Store

log = logging.getLogger(__name__)

FIRST_FLUSH_S, LONGEST_FLUSH_S = 0.5, 30.0
"""Seconds between two writes of records: at first, and where the doubling ends. So a job of two seconds shows
what it has done, and one of two hours does not write a thousand parts."""

FULL_BUFFER = 1000
"""So many records are written at once, however early it is."""

SCATTERED_PARTS = 16
"""From this many parts of a block on, a later attempt puts them together."""


class Ledger:
    """
    The records of one run, as one attempt reads and writes them. May be used from any thread.

    Args:
        store: Task storage.
        run: Name of the run.
        retry: How a transient failure is met.
        on_committed: Called with records once they are in storage, maybe from another thread.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        retry: RetryPolicy,
        *,
        on_committed: Callable[[Sequence[Record]], None] = lambda _records: None,
    ) -> None:
        check_run_name(run)
        self.store = store
        self.run = run
        self.on_committed = on_committed
        self._retry = retry
        self._writer = os.urandom(8).hex()
        """Begins the name of every part this attempt writes; no other attempt has the same."""
        self._named = 0
        """Parts that have been given a name so far."""
        self._parts = Parts(store, run, retry)
        self._buffer: list[Record] = []
        """Records that are not in storage yet."""
        self._changed = threading.Condition()
        """Guards the buffer, the thread and whether the ledger is closed; notified when it is."""
        self._writing = threading.Lock()
        """Held while the buffer is written, so that `flush` returns only when all of it is in storage."""
        self._flush_s = FIRST_FLUSH_S
        self._flusher: threading.Thread | None = None
        self._is_closed = False
        self._error: HtcjobError | None = None
        """Why a write in the background failed; the next call raises it."""

    def open_run(self, identity: RunIdentity, command: Sequence[str]) -> None:
        """
        Make this run the run of that manifest and *command*, or check that it already is.

        Raises:
            RunMismatchError: the task storage holds a run of this name of another manifest or command.
        """
        from htcjob.ledger.run_identity import open_run  # a plain entrypoint opens none

        self._parts.n_entries = identity.n_entries
        open_run(self.store, self.run, identity, command, retry=self._retry)

    def done(self, positions: range) -> dict[int, list[str]]:
        """
        Return which of *positions* are committed, with the keys of the outputs in each record.

        Only the blocks that they overlap are listed. Where a block has many parts, they are put together.
        """
        done: dict[int, list[str]] = {}
        if not positions:
            return done
        parts, is_done = self._parts, EntryResult.DONE.value
        blocks = range(block_of(positions.start), block_of(positions.stop - 1) + 1)
        for block in parts.read(blocks):
            for position, record in parts.final(block).items():
                if position in positions and record["result"] == is_done:
                    done[position] = [output["key"] for output in record.get("outputs", ())]
            # Of all jobs that overlap a block, only the one that has its first entry tidies it up.
            if len(block.parts) >= SCATTERED_PARTS and block.number * BLOCK_ENTRIES in positions:
                self._put_together(block)
        if (unreadable := parts.unreadable).count:
            event(
                log,
                logging.WARNING,
                "records_unreadable",
                number=unreadable.count,
                first=str(unreadable.first[0]),
            )
        return done

    def _put_together(self, block: Block) -> None:
        """
        Replace parts by one that has all their lines: it is written first, then they are removed.

        A part that holds anything but records stays as it is. A failure changes nothing of what is committed,
        so it does not end this attempt.
        """
        sound = {key: part for key, part in block.parts.items() if is_sound(part, block.number)}
        generation = 1 + max(map(self._parts.generation, sound), default=0)
        new_key = part_key(self.run, block.number, self._next_name(), generation)
        replaced = {key: part for key, part in sound.items() if key < new_key}
        if len(replaced) < SCATTERED_PARTS:
            return
        lines = dict.fromkeys(line for part in replaced.values() for line in part.split(b"\n") if line)
        try:
            self._write(new_key, lines)
            for key in replaced:
                self._retry.call(partial(self.store.delete, key))
        except StorageError as error:
            event(log, logging.WARNING, "records_not_put_together", block=block.number, cause=str(error))

    def commit(self, records: Iterable[Record]) -> None:
        """
        Add *records*, to be written soon; their outputs must be in storage already.

        Raises:
            HtcjobError: earlier records could not be written; they are kept for `flush`.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            self._buffer += records
            is_full = len(self._buffer) >= FULL_BUFFER
            if self._flusher is None and not is_full:
                flusher = threading.Thread(target=self._flush_now_and_then, daemon=True)
                # Where no thread can be started now, the next commit tries again; the end writes all anyhow.
                with suppress(RuntimeError):
                    flusher.start()
                    self._flusher = flusher
        if is_full:
            self.flush()

    def flush(self) -> None:
        """
        Write all records added so far; when this returns they are committed.

        Raises:
            HtcjobError: some could not be written; they are kept.
        """
        with self._writing:
            with self._changed:
                records, self._buffer = self._buffer, []
            blocks: dict[int, list[Record]] = {}
            for record in records:
                blocks.setdefault(block_of(record.position), []).append(record)
            while blocks:
                block, of_block = next(iter(blocks.items()))
                try:
                    self._write_part(block, [record.to_json().encode() for record in of_block])
                except BaseException:
                    with self._changed:
                        self._buffer[:0] = [record for kept in blocks.values() for record in kept]
                    raise
                del blocks[block]
                self.on_committed(of_block)

    def close(self) -> None:
        """Write all records added so far, and end the thread that wrote them now and then."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self.flush()

    def _flush_now_and_then(self) -> None:
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._is_closed, timeout=self._flush_s):
                    return
            self._flush_s = min(self._flush_s * 2, LONGEST_FLUSH_S)
            try:
                self.flush()
            except HtcjobError as error:
                self._error = error
                return

    def _write_part(self, block: int, lines: Iterable[bytes]) -> None:
        self._write(part_key(self.run, block, self._next_name()), lines)

    def _next_name(self) -> str:
        """Return a name that no other part has."""
        self._named += 1
        return f"{self._writer}-{self._named - 1:06d}"

    def _write(self, key: str, lines: Iterable[bytes]) -> None:
        data = b"".join(line + b"\n" for line in lines)
        # A power cut must leave no record without its outputs, and must lose no record that others have read.
        self._retry.call(self.store.sync)
        self._retry.call(partial(self.store.put_bytes, data, key))
        self._retry.call(self.store.sync)

    def write_exit_record(self, record: Mapping[str, object]) -> Mapping[str, object]:
        """Write the exit record of this attempt, the last thing it does, and return it as written."""
        return write_exit_record(
            record, store=self.store, run=self.run, retry=self._retry, writer=self._writer
        )
