"""How an index is made: of one version of a manifest, on any store."""

import pytest

from htcjob.errors import TransientError
from htcjob.manifest.chunk import Share
from htcjob.manifest.index_writer import make_index
from htcjob.manifest.opening import open_chunk
from htcjob.storage.local.store import LocalStore
from tests.support.manifests import INDEX, NO_WAIT, CountingStore


def test_no_index_is_made_of_a_manifest_that_changes_meanwhile():
    """Trying again is what helps; the old index stays."""
    store = CountingStore(b"a.jpg\n")
    read_part = store.read_part

    def replacing(key, start, stop):
        answer = read_part(key, start, stop)
        store.put_bytes(b"b.jpg\n", "list.txt")
        return answer

    store.read_part = replacing
    with pytest.raises(TransientError, match="changed while it was read"):
        make_index(store, "list.txt", NO_WAIT)
    assert [info.key for info in store.list()] == ["list.txt"]


def test_an_index_goes_with_a_file_too(tmp_path):
    """A directory as a store: made, used, and stale once the file is written again."""
    store = LocalStore(str(tmp_path))
    store.put_bytes(b"a.jpg\nb.jpg\n", "list.txt")
    made = make_index(store, "list.txt", NO_WAIT)
    assert (made.n_entries, made.manifest_bytes, made.weight) == (2, 12, None)
    assert made.index_bytes == (tmp_path / INDEX).stat().st_size
    found, chunk = open_chunk(store, "list.txt", Share(1, 2), retry=NO_WAIT)
    assert [entry.key for entry in found.entries(chunk)] == ["b.jpg"]
