"""The way of a whole chunk: what is fetched, and what is recorded."""

import os
from types import SimpleNamespace

from htcjob.entries.pipeline import Pipeline
from htcjob.entries.whole_chunk import WholeChunk
from htcjob.entries.work_directories import WorkDirectory
from htcjob.manifest.entry import parse_entry


def test_a_stop_signal_ends_the_stage_in_of_a_chunk(staging, tmp_path):
    """No further input is fetched; those that are on their way arrive."""
    keys = [f"k{n:04d}" for n in range(2000)]
    for key in keys:
        staging.project.put_bytes(b"x", key)
    signals = SimpleNamespace(stop_signal=None)
    plain_get = staging.project.get

    def get(key, path):
        if key == "k0100":
            signals.stop_signal = 15
        return plain_get(key, path)

    staging.project.get = get
    members = dict.fromkeys(
        ("context", "options", "ledger", "facts", "environ", "variables", "patterns", "writers")
    )
    pipeline = Pipeline(**members, staging=staging, signals=signals, scratch=str(tmp_path))
    entries = [parse_entry(key.encode(), position=n, line_number=n) for n, key in enumerate(keys)]
    directory = WorkDirectory.make(str(tmp_path / "chunk"))
    inputs = WholeChunk(pipeline)._stage_in(entries, directory)
    assert sorted(map(os.path.basename, inputs.values())) == sorted(os.listdir(directory.inputs))
    assert 100 < len(inputs) < 500
