"""A record is written as programs read it."""

import json

from htcjob.ledger.records import Output, Record
from htcjob.outcome.results import EntryResult


def test_a_record_is_one_json_line_with_its_facts():
    """What a program reads back is what was written."""
    line = Record(
        7,
        "e7",
        EntryResult.DONE,
        message="x" * 9000,
        outputs=(Output("o.dat", 3, "ab" * 32),),
        work_s=1.5,
        ended_at="2025-01-01T00:00:00.000Z",
    ).to_json()
    found = json.loads(line)
    assert "\n" not in line
    assert found["position"] == 7
    assert found["result"] == "done"
    assert found["outputs"] == [{"key": "o.dat", "size_bytes": 3, "sha256": "ab" * 32}]
    assert len(found["message"]) == 500
