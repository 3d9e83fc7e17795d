"""A temporary directory: what is said where there is none."""

import tempfile

import pytest

from htcjob.errors import UnwritableError
from htcjob.machine.temporary import temporary_directory


def test_a_machine_without_a_place_for_it_is_told_apart_from_a_bug(tmp_path, monkeypatch):
    """As a container whose file systems are all read-only."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(UnwritableError, match=r"temporary directory.*TMPDIR"), temporary_directory():
        pass
