"""A listing comes whole, whatever happens on the way, and folders in it are not read."""

import pytest

from htcjob.errors import TransientError
from htcjob.retry import RetryPolicy
from htcjob.transfer.listing import SKIP_AFTER, listed
from htcjob.transfer.locations import browse, parse
from htcjob.transfer.transfers import Transfers
from tests.transfer.stores import KEYS


def test_a_listing_goes_on_where_it_broke(stores, transfers):
    """Nothing twice, nothing left out, whenever storage fails."""
    for every in (1, 3):
        stores.project.faults.clear()
        stores.project.faults.add(verb="list", nth=every, cut=4)
        stores.project.faults.add(verb="list", nth=every + 1)
        assert [info.key for info in listed(stores.project, "", transfers)] == sorted(KEYS, key=str.encode)


def test_a_listing_that_never_works_fails(stores):
    """After the retries the failure is the caller's."""
    stores.project.faults.add(verb="list")
    with Transfers(RetryPolicy(retries=2, sleep=lambda _: False)) as transfers, pytest.raises(TransientError):
        list(listed(stores.project, "", transfers))


def test_a_look_at_a_large_folder_does_not_read_it(stores, transfers):
    """Each folder costs two listings, however much is in it."""
    for folder in ("big", "huge"):
        for n in range(3 * SKIP_AFTER):
            stores.task.put_bytes(b"", f"{folder}/{n:05}")
    stores.task.put_bytes(b"", "z")
    read = []
    original = stores.task.list

    def counting(prefix="", *, start_after=None):
        for info in original(prefix, start_after=start_after):
            read.append(info.key)
            yield info

    stores.task.list = counting
    shown = list(browse(parse("task:", stores), is_recursive=False, transfers=transfers))
    assert [entry if isinstance(entry, str) else entry.key for entry in shown] == ["big/", "huge/", "z"]
    assert len(read) == 2 * SKIP_AFTER + 1
