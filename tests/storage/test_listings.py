"""A listing is whole and in order, or an error, whatever the server does; with both engines."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import datetime, timezone

import pytest

from htcjob.errors import DisorderError, PermanentError, StorageError, TransientError
from htcjob.ledger.layout import RESERVED_FOLDER
from htcjob.manifest.build import Source, build
from htcjob.retry import RetryPolicy
from htcjob.storage import bounds, ordering
from htcjob.storage.access import Access
from htcjob.storage.memory.store import MemoryStore
from htcjob.storage.urls import open_store
from htcjob.transfer.locations import Location
from htcjob.transfer.transfers import Transfers
from tests.storage.contract import keys_in
from tests.support.servers.listing_server import listing_server

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
VARIABLES = {
    "AWS_ACCESS_KEY_ID": "k",
    "AWS_SECRET_ACCESS_KEY": "s",
    "AWS_REGION": "us-east-1",
    "AZURE_STORAGE_KEY": "a2V5",
}
NAMES = sorted(["a", "a!", "a-b", "a-b/c", "a/b", "a/c", "a0", "b", "é", "\uff5e", "\U0001f600"])
MANY = [f"d/{n:05}" for n in range(2_300)]


@pytest.fixture
def server():
    with listing_server() as server:
        yield server


@pytest.fixture(params=["fast", "sdk"])
def store(request, server, monkeypatch):
    """Return a bucket of S3."""
    return opened("s3://b", request.param, server, monkeypatch)


@pytest.fixture(params=["fast", "sdk"])
def engine(request):
    return request.param


@pytest.fixture(params=["s3://b", "s3://b--use1-az4--x-s3", "gs://b", "az://account/c"])
def of_any_cloud(request, engine, server, monkeypatch):
    """Return a bucket or container of each kind."""
    return opened(request.param, engine, server, monkeypatch)


def opened(url, engine, server, monkeypatch):
    variables = {**VARIABLES, "STORAGE_EMULATOR_HOST": server.url}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    endpoint = None if url.startswith("gs:") else server.url  # which needs no token then
    return open_store(url, Access(engine=engine, endpoint=endpoint, environ=variables))


def by_folder(keys: list[str]) -> list[str]:
    return sorted(keys, key=lambda key: key.split("/"))


def shuffled(keys: list[str]) -> list[str]:
    return random.Random(5).sample(keys, len(keys))


@pytest.mark.parametrize("order", [shuffled, by_folder, lambda keys: keys[::-1], sorted])
@pytest.mark.parametrize("page_keys", [2, 1000])
def test_another_order_than_the_promised_one(server, of_any_cloud, order, page_keys):
    """As S3 Express, disks or Azure list: every key once, in order, from everywhere."""
    server.keys, server.page_keys, store = order(NAMES), page_keys, of_any_cloud
    assert keys_in(store) == NAMES
    for prefix in ("a", "a/", "a-", "b"):
        assert keys_in(store, prefix) == [name for name in NAMES if name.startswith(prefix)]
    for start_after in ("a", "a-b", "a-b/", "a/b", "zz"):
        assert keys_in(store, start_after=start_after) == [name for name in NAMES if name > start_after]


def test_many_keys_in_no_order(server, of_any_cloud, monkeypatch):
    """More than are held in memory go through files."""
    monkeypatch.setattr("htcjob.machine.sorted_lines.IN_MEMORY", 100)
    server.keys, store = shuffled(MANY), of_any_cloud
    assert keys_in(store) == MANY
    assert keys_in(store, start_after=MANY[2000]) == MANY[2001:]


def test_disorder_that_is_seen_late(server, store):
    """When keys have been given already it is an error; begun again, the listing is whole."""
    server.keys = [*MANY, "c"]
    with pytest.raises(DisorderError, match="'d/02299', then 'c'"):
        keys_in(store)
    assert keys_in(store) == ["c", *MANY]


@pytest.mark.parametrize("order", [shuffled, lambda keys: [*keys[5:], *keys[:5]]])
def test_a_manifest_of_a_server_without_order_has_every_key(server, store, order, tmp_path, monkeypatch):
    """However many ranges it would be listed in."""
    monkeypatch.setattr("htcjob.transfer.key_ranges.WORTHWHILE", 20)
    monkeypatch.setattr("htcjob.storage.ordering.HELD_KEYS", 10)
    keys = MANY[::3]
    server.keys, server.page_keys = order(keys), 7
    made, target = MemoryStore("made"), "list.txt"
    with Transfers(RetryPolicy(sleep=lambda _: False)) as transfers:
        source = Source(Location("x", store, ""), is_project=True, reserved_folder=RESERVED_FOLDER)
        build(source, Location("list.txt", made, target), transfers=transfers, folder=str(tmp_path))
    assert made.read_range(target, 0).decode().split() == keys


def test_a_listing_that_never_begins_in_the_middle(server, store):
    """A server that does not know `start-after` gives what comes before; nobody is told of that."""
    server.keys, server.knows_start_after, server.page_keys = NAMES, False, 3
    assert keys_in(store) == NAMES
    assert keys_in(store, start_after="a-b") == NAMES[NAMES.index("a-b") + 1 :]


def test_more_without_saying_where(server, store):
    """A page that is not the last one but has no token ends no listing: it goes on behind the last key."""
    server.keys, server.page_keys, server.gives_token = NAMES, 2, False
    assert keys_in(store) == NAMES


@pytest.mark.parametrize("order", [sorted, shuffled])
def test_more_that_cannot_be_had(server, store, order):
    """Where the server would begin again at the beginning, half a listing is an error."""
    server.keys, server.page_keys, server.gives_token = order(NAMES), 4, False
    server.knows_start_after = False
    with pytest.raises(PermanentError, match="there is more, and not where"):
        keys_in(store)


@pytest.mark.parametrize("circles_at", [0, 9, 10])
@pytest.mark.parametrize("order", [sorted, shuffled])
def test_pages_that_come_again(server, of_any_cloud, circles_at, order, monkeypatch):
    """A listing that goes in circles is an error, in order or not."""
    monkeypatch.setattr("htcjob.storage.fast.listing._PAGE_KEYS", 50)  # object_store asks until it has them
    server.keys, server.page_keys, server.circles_at = order(NAMES), 2, circles_at
    for _ in range(2):  # the first time, it can look like another order
        with pytest.raises((PermanentError, TransientError)):
            keys_in(of_any_cloud)


@pytest.mark.parametrize("same_token", [True, False])
def test_empty_pages_for_ever(server, of_any_cloud, same_token, monkeypatch):
    """Answers without keys that say that there is more are an error in the end."""
    monkeypatch.setattr(bounds, "LISTING_S", 0.3)
    monkeypatch.setattr(ordering, "MOST_EMPTY_PAGES", 20)
    server.keys, server.page_keys, server.empty_for_ever, server.same_token = NAMES, 2, True, same_token
    with pytest.raises(StorageError, match=r"for ever|no end"):
        keys_in(of_any_cloud)
    server.empty_for_ever = False  # which lets object_store go


def test_keys_that_come_twice(server, of_any_cloud):
    """Within a page or in two, each is given once."""
    server.keys, server.page_keys = sorted([*NAMES, *NAMES[::2], "b"]), 3
    assert keys_in(of_any_cloud) == NAMES


def test_names_outside_the_prefix(server, store):
    """They are never taken for what was asked for."""
    server.keys, server.knows_prefix = NAMES[1:], False
    found = []
    with suppress(PermanentError):
        found += keys_in(store, "a/")
    assert found in ([], ["a/b", "a/c"])


def test_an_error_instead_of_a_page(server, store):
    """An error that comes with status 200 does not end the listing."""
    server.keys, server.page_keys, server.ends_with_error = NAMES, 2, True
    with pytest.raises(StorageError):
        keys_in(store)


@pytest.mark.parametrize("odd", ["b", "c//d", "c/./d"])
def test_disorder_behind_a_name_for_the_sdk(server, store, odd):
    """What the fast lane leaves to the SDK in the middle of a listing loses nothing either."""
    server.keys = ["b", odd, "a", "d"]
    assert keys_in(store) == sorted({"a", "b", odd, "d"})
