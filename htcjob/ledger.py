"""
What is committed and what failed, in task storage; and the exit record of an attempt.

    .htcjob/<run>/run.json                       which manifest and command this run is of
    .htcjob/<run>/done/<block>/<part>.jsonl      commit records; a block is 1,000 consecutive positions
    .htcjob/<run>/attempts/<index>-<attempt>.json    the exit record, written last

An entry is done when a record says so, and a record is written only after its outputs are in storage.
Attempts never write to the same part, so none can undo what another has committed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from htcjob.errors import AbsentError, ConfigurationError, PermanentError, RunMismatchError
from htcjob.outcome import EntryResult
from htcjob.redact import redact

if TYPE_CHECKING:
    from htcjob.manifest import EntryList, Manifest
    from htcjob.retry import RetryPolicy
    from htcjob.storage.contract import Store

BLOCK_ENTRIES = 1000
"""Consecutive positions whose records lie together, so that a job lists only what it overlaps."""

LONGEST_EXIT_RECORD_BYTES = 4096
"""What Kubernetes keeps of a container's termination message."""

LONGEST_MESSAGE = 500
"""Characters of a reason that are kept in a record."""


@dataclass(frozen=True, slots=True)
class Output:
    """One object that an entry put into task storage."""

    key: str
    """In task storage."""
    size_bytes: int
    sha256: str
    """Of its bytes, in hexadecimal."""


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one entry in one attempt."""

    position: int
    """In the manifest, from 0."""
    entry: str
    """The manifest line."""
    result: EntryResult
    message: str = ""
    """Why it is not done, for a person."""
    exit_status: int | None = None
    """Of its command; None when the command did not run."""
    array_index: int = 0
    attempt: int = 1
    outputs: Sequence[Output] = ()
    """What it put into task storage. A command of a whole chunk puts its outputs as one set; they are
    listed with the first entry of that set, and the others point to it with `outputs_at`."""
    outputs_at: int | None = None
    """Position of the entry whose record lists the outputs, where that is another one."""
    stage_in_s: float = 0.0
    work_s: float = 0.0
    stage_out_s: float = 0.0
    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    ended_at: str = ""
    """UTC."""

    def to_json(self) -> str:
        """Give the record as one JSON line, without the fields that say nothing."""
        members = {**asdict(self), "message": self.message[:LONGEST_MESSAGE]}
        return _json({name: value for name, value in members.items() if value not in ("", None, ())})


@dataclass(slots=True)
class Ledger:
    """The records of one run, as one attempt reads and writes them."""

    store: Store
    """Task storage."""
    run: str
    """Name of the run."""
    retry: RetryPolicy
    _writer: str = field(default_factory=lambda: os.urandom(8).hex())
    """Begins the name of every part this attempt writes; no other attempt has the same."""
    _parts: int = 0
    """Parts written so far."""

    def __post_init__(self) -> None:
        check_run_name(self.run)

    def open_run(self, manifest: Manifest | EntryList, command: Sequence[str]) -> None:
        """
        Make this run the run of *manifest* and *command*, or check that it already is.

        Raises:
            RunMismatchError: the task storage holds a run of this name of another manifest or command.
        """
        before = self._read_run()
        if before is None:
            identity = {
                "manifest": manifest.url,
                "etag": manifest.etag,
                "size_bytes": manifest.size_bytes,
                "sha256": manifest.sha256(),
                "command": _as_written(command),
            }
            data = _json(identity).encode()
            if self.retry.call(partial(self.store.put_bytes, data, self._run_key, if_absent=True)):
                return
            before = self._read_run() or {}  # another job of the array was first
        differences = "; ".join(_differences(before, manifest, command))
        if differences:
            raise RunMismatchError(
                f"run {self.run!r} in {self.store.url} is of something else ({differences}): "
                "use another task storage, or another name with --run"
            )

    def _read_run(self) -> dict[str, object] | None:
        try:
            data = self.retry.call(partial(self.store.read_range, self._run_key, 0))
            found = json.loads(data)
        except AbsentError:
            return None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise PermanentError("get", self.store.url_of(self._run_key), "not a JSON object; it is damaged")
        return found

    def done(self, positions: range) -> dict[int, list[str]]:
        """
        Give those of *positions* that are committed, with the keys of the outputs that each record lists.

        Lists only the blocks that they overlap.
        """
        found: dict[int, list[str]] = {}
        if not positions:
            return found
        for block in range(positions.start // BLOCK_ENTRIES, (positions.stop - 1) // BLOCK_ENTRIES + 1):
            prefix = f"{self._prefix}done/{block:08d}/"
            for key in self.retry.call(partial(self._parts_below, prefix)):
                with suppress(AbsentError):  # gone since it was listed: another attempt compacted it
                    part = self.retry.call(partial(self.store.read_range, key, 0))
                    found.update((pos, keys) for pos, keys in _done_in(part) if pos in positions)
        return found

    def _parts_below(self, prefix: str) -> list[str]:
        return [info.key for info in self.store.list(prefix)]

    def commit(self, records: Iterable[Record]) -> None:
        """Write *records*; their outputs must be in storage already."""
        blocks: dict[int, list[str]] = {}
        for record in records:
            blocks.setdefault(record.position // BLOCK_ENTRIES, []).append(record.to_json())
        for block, lines in blocks.items():
            key = f"{self._prefix}done/{block:08d}/{self._writer}-{self._parts:06d}.jsonl"
            self._parts += 1
            data = "".join(f"{line}\n" for line in lines).encode()
            self.retry.call(partial(self.store.put_bytes, data, key))

    def write_exit_record(self, record: Mapping[str, object]) -> None:
        """Write the exit record of this attempt: the last thing it does."""
        key = f"{self._prefix}attempts/{record['array_index']}-{record['attempt']}.json"
        data = exit_record_json(record)
        self.retry.call(lambda: self.store.put_bytes(data, key))

    @property
    def _run_key(self) -> str:
        return f"{self._prefix}run.json"

    @property
    def _prefix(self) -> str:
        return f".htcjob/{self.run}/"


def read_records(store: Store, run: str) -> Iterator[dict[str, Any]]:
    """
    Give every record of a run in task storage, streaming, block by block.

    An entry may have several: failures before it was done, or two attempts that overlapped.
    """
    for info in store.list(f".htcjob/{run}/done/"):
        with suppress(AbsentError):
            for line in store.read_range(info.key, 0).splitlines():
                with suppress(ValueError):
                    yield json.loads(line)


def check_run_name(name: str) -> None:
    """
    Refuse a run name that is not plain letters, digits, `.`, `_` and `-`.

    Raises:
        ConfigurationError: it is not.
    """
    plain = name.replace(".", "").replace("_", "").replace("-", "")
    if not (plain.isascii() and plain.isalnum() and len(name) <= 100 and not name.startswith(".")):
        raise ConfigurationError(
            f"run name {name!r}: it must be letters, digits, '.', '_' and '-', at most 100"
        )


def exit_record_json(record: Mapping[str, object]) -> bytes:
    """Give the exit record as JSON of at most 4,096 bytes; only its message is ever shortened."""
    message = str(record.get("message", ""))[:LONGEST_EXIT_RECORD_BYTES]
    while True:
        members = {**record, "message": message}
        data = _json(members).encode()
        excess = len(data) - LONGEST_EXIT_RECORD_BYTES
        if excess <= 0 or not message:
            return data
        # One character is at most 6 bytes of JSON, as a control character is, so this never cuts too much.
        message = message[: -max(excess // 6, 1)]


def _differences(
    before: Mapping[str, object], manifest: Manifest | EntryList, command: Sequence[str]
) -> Iterator[str]:
    """Say in words what of a run's identity is not what it was."""
    if before.get("manifest") != manifest.url:
        yield f"manifest {before.get('manifest')}, now {manifest.url}"
    elif before.get("size_bytes") != manifest.size_bytes or (
        # A manifest that was written again with the same content has another ETag in some stores.
        before.get("etag") != manifest.etag and before.get("sha256") != manifest.sha256()
    ):
        yield f"manifest {manifest.url} has changed since"
    if before.get("command") != _as_written(command):
        yield f"command {before.get('command')}, now {_as_written(command)}"


def _json(value: object) -> str:
    """
    Give *value* as JSON that can always be written: one line, no secret in it.

    Bytes of the environment or of a name that are not UTF-8 (lone surrogates in Python) stay as escapes.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return redact(text.encode(errors="backslashreplace").decode())


def _as_written(command: Sequence[str]) -> object:
    """Give *command* as a reader of `run.json` sees it; two jobs' tokens in it are no difference."""
    return json.loads(_json(list(command)))


def _done_in(part: bytes) -> Iterator[tuple[int, list[str]]]:
    """Give position and output keys of what *part* says is done; a line that cannot be read says nothing."""
    for line in part.splitlines():
        try:
            record = json.loads(line)
            if record["result"] == EntryResult.DONE.value:
                yield int(record["position"]), [output["key"] for output in record.get("outputs", ())]
        except (ValueError, KeyError, TypeError):
            continue
