"""Long listings: cut into ranges that have every key once, in order."""

import os
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from htcjob.retry import RetryPolicy
from htcjob.storage.access import Access
from htcjob.storage.keys import LAST_CHARACTER
from htcjob.storage.memory.store import MemoryStore
from htcjob.storage.urls import open_store
from htcjob.transfer import key_ranges as listing
from htcjob.transfer.key_ranges import KeyRange, cut, in_range, just_before
from htcjob.transfer.transfers import Transfers

NAMES = st.text(
    st.sampled_from("ab01/- ~\x7fé\ud7ff\ue000\uffff\U0001f600\U0010ffff"), min_size=1, max_size=5
)


@pytest.fixture
def transfers():
    with Transfers(RetryPolicy(sleep=lambda _: False)) as transfers:
        yield transfers


def read_apart(store, prefix, transfers) -> tuple[list[KeyRange], list[str]]:
    ranges = cut(store, prefix, transfers)
    return ranges, [info.key for keys in ranges for info in in_range(store, keys, transfers)]


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    keys=st.sets(NAMES.filter(lambda name: name[0] != "/"), min_size=1, max_size=60),
    prefix=st.sampled_from(["", "a", "ab", "0/"]),
    enough=st.integers(1, 40),
    most_groups=st.integers(2, 10),
)
def test_the_ranges_have_every_key_once_in_order(keys, prefix, enough, most_groups):
    """Whatever the keys are, and wherever they differ."""
    store = MemoryStore("listed")
    for key in keys:
        store.put_bytes(b"", prefix + key)
    store.put_bytes(b"", "~behind")
    with (
        Transfers(RetryPolicy(sleep=lambda _: False)) as transfers,
        patch.multiple(listing, WORTHWHILE=2, ENOUGH=enough, MOST_GROUPS=most_groups),
        patch.object(listing, "is_cut", lambda _: True),
    ):
        _, found = read_apart(store, prefix, transfers)
        assert found == [info.key for info in store.list(prefix)]


@given(key=NAMES)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_just_before_a_key_is_no_place_behind_it(key):
    """And nothing that begins like the key lies before that place, but shorter names."""
    place = just_before(key)
    assert place.encode() < key.encode()
    assert place.encode() < (key + LAST_CHARACTER).encode()


@pytest.mark.parametrize("engine", ["fast", "sdk"])
def test_on_a_real_server_a_long_listing_is_cut_where_its_keys_differ(rgw, transfers, monkeypatch, engine):
    """Numbers in folders, as they are in practice: a range for each digit in each folder."""
    for name, value in rgw.environ().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(listing, "WORTHWHILE", 40)
    monkeypatch.setattr(listing, "is_cut", lambda _: True)  # it is no cloud, but keeps the order
    store = open_store(
        f"s3://{rgw.new_bucket()}/in/{os.urandom(3).hex()}", Access(engine=engine, environ=rgw.environ())
    )
    keys = [f"photos/part-{n % 4}/photo-{n:03}.jpg" for n in range(120)]
    for put in transfers.each(lambda key: store.put_bytes(b"x", key), [*keys, "a", "z"]):
        assert put is True
    ranges, found = read_apart(store, "photos/", transfers)
    assert found == sorted(keys)
    # What was listed first, then for each folder the digits 0 and 1, as far as they are left.
    assert [len(list(in_range(store, keys, transfers))) for keys in ranges] == [40, 15, 5, 25, 5, 25, 5]


def test_a_short_listing_and_a_folder_of_files_stay_whole(tmp_path, transfers, monkeypatch):
    """To look where to cut them would take longer than to list them."""
    monkeypatch.setattr(listing, "WORTHWHILE", 3)
    short = MemoryStore("short")
    for key in ("a", "b", "c", "d"):
        short.put_bytes(b"", key)
        (tmp_path / key).write_bytes(b"")
    assert cut(open_store(str(tmp_path)), "", transfers) == [KeyRange("")]
    with patch.object(listing, "is_cut", lambda _: True):
        assert len(cut(short, "", transfers)) > 1
        monkeypatch.setattr(listing, "WORTHWHILE", 5)
        (whole,) = cut(short, "", transfers)
        assert [info.key for info in whole.known] == ["a", "b", "c", "d"]
