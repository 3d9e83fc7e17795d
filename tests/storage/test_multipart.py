"""Parts of large objects: each byte moves once, failures stop the rest, and none is left at work."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from htcjob.errors import TransientError
from htcjob.storage import multipart
from htcjob.storage.multipart import FilePart, Part, file_to_send, in_parts, part_bytes_of, parts_of


@pytest.mark.parametrize("size_bytes", [1, 9, 10, 11, 95])
def test_every_byte_is_in_one_part(size_bytes: int) -> None:
    """Parts follow each other, are counted from 1, and only the last one is shorter."""
    cut = parts_of(size_bytes, 10)
    assert [part.number for part in cut] == list(range(1, len(cut) + 1))
    assert [position for part in cut for position in range(part.start, part.stop)] == list(range(size_bytes))
    assert {part.stop - part.start for part in cut[:-1]} <= {10}


def test_no_more_parts_than_a_cloud_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the usual parts would be too many, they are longer."""
    monkeypatch.setattr(multipart, "PART_BYTES", 10)
    assert part_bytes_of(100, most_parts=10) == 10
    assert part_bytes_of(101, most_parts=10) == 11
    assert len(parts_of(101, 11)) == 10


def test_results_and_notices_come_in_order() -> None:
    """Whichever part is ready first."""
    cut = parts_of(95, 10)
    turns = [threading.Event() for _ in cut]

    def move(part: Part, _is_over: threading.Event) -> int:
        if part.number % 2:  # waits for the one behind it
            turns[min(part.number, len(cut) - 1)].wait(30)
        turns[part.number - 1].set()
        return part.start

    noticed: list[Part] = []
    assert in_parts(cut, move, moved=noticed.append) == [part.start for part in cut]
    assert noticed == cut


@pytest.mark.parametrize("who", ["a part", "the notice"])
def test_after_a_failure_nothing_moves(who: str) -> None:
    """The rest is cancelled or told to stop, and has stopped when the failure is raised."""
    cut = parts_of(1000, 10)
    at_work: set[int] = set()
    begun: list[int] = []
    told: list[bool] = []

    def move(part: Part, is_over: threading.Event) -> None:
        at_work.add(part.number)
        begun.append(part.number)
        try:
            if part.number > 1:
                told.append(is_over.wait(30))
            elif who == "a part":
                raise TransientError("put", "s3://b/k", "planned")
        finally:
            at_work.remove(part.number)

    def fail(_part: Part) -> None:
        raise TransientError("put", "s3://b/k", "planned")

    with pytest.raises(TransientError, match="planned"):
        in_parts(cut, move, moved=fail)
    assert not at_work
    assert all(told)
    assert len(begun) < len(cut)


def test_a_part_of_a_file_is_a_file(tmp_path: Path) -> None:
    """It has the bytes of its range, can be read again, and knows its length."""
    (tmp_path / "in").write_bytes(bytes(range(100)))
    with file_to_send(str(tmp_path / "in"), "s3://b/k") as file:
        part = FilePart(file, Part(2, 10, 30))
        assert len(part) == 20
        assert part.read(7) == bytes(range(10, 17))
        assert part.tell() == 7
        assert part.read() == bytes(range(17, 30))
        assert part.read() == b""
        assert part.seek(-3, os.SEEK_END) == 17
        assert part.read() == bytes(range(27, 30))
        part.seek(0)
        assert part.read() == file.read(Part(2, 10, 30)) == bytes(range(10, 30))


def test_a_file_that_becomes_shorter_is_named(tmp_path: Path) -> None:
    """Whose failure it is does not depend on how the file was opened."""
    path = tmp_path / "in"
    path.write_bytes(bytes(100))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with file_to_send(f"/proc/self/fd/{descriptor}", "s3://b/k") as file:
            part = FilePart(file, Part(1, 0, 100))
            os.truncate(path, 50)
            with pytest.raises(TransientError, match=f"{path} changed while it was read"):
                part.read()
    finally:
        os.close(descriptor)
