"""What a LOCATION means: grammar, globs, folders, exact names."""

import pytest

from htcjob.errors import AbsentError, DeniedError, UsageError
from htcjob.transfer.globs import GLOB
from htcjob.transfer.locations import Location, browse, find, is_local, parse
from tests.transfer.stores import KEYS


@pytest.fixture
def found(stores, transfers):
    """Return (key, own name) of all that a location means, in order."""

    def find_all(text, *, is_recursive=False, is_checked=True):
        place = parse(text, stores)
        found = find(place, is_recursive=is_recursive, transfers=transfers, is_checked=is_checked)
        return [(one.key, one.name) for one in found]

    return find_all


@pytest.mark.parametrize(
    ("text", "url", "key"),
    [
        ("project:", "memory:project/", ""),
        ("project:a/b", "memory:project/", "a/b"),
        ("task:a/", "memory:task/", "a/"),
        ("memory:m/a/*.jpg", "memory:m/", "a/*.jpg"),
        ("memory:m", "memory:m/", ""),
        ("file:///data/in", "file:///data/", "in"),
        ("file:///data/in/", "file:///data/in/", ""),
        ("file:///data/*/x%20y/*.jpg", "file:///data/", "*/x y/*.jpg"),
        ("file:///data/100%25/a%23.jpg", "file:///data/100%25/", "a#.jpg"),
    ],
)
def test_a_location_is_a_store_and_a_key(stores, text, url, key):
    """Job storage by a short name, all else by URL; a store of files begins above the first glob."""
    place = parse(text, stores)
    assert (place.store.url, place.key) == (url, key)


def test_cloud_urls_are_whole_buckets(stores, monkeypatch):
    """The key of a cloud's URL is the complete object name; a store is opened for what all names begin with."""
    opened = []
    monkeypatch.setattr(stores, "open", lambda *place: opened.append(place) or stores.task)
    assert parse("s3://bucket", stores).key == ""
    assert parse("s3://bucket/", stores).key == ""
    assert parse("gs://bucket/a/b?.jpg", stores).key == "a/b?.jpg"
    assert parse("az://account/container/a/", stores).key == "a/"
    assert [url for url, _ in opened] == [
        *("s3://bucket", "s3://bucket/", "gs://bucket/", "az://account/container/")
    ]
    assert [key for _, key in opened] == ["", "", "a/b", "a/"]


@pytest.mark.parametrize(
    "text",
    [
        "photos",
        "./task:a",
        "project:/a",
        "task:../a",
        "project:a/../b",
        "s3://",
        "ftp://x/y",
        "s3://b/k?X-Sig=planted",
    ],
)
def test_what_is_no_location_is_a_usage_error(stores, text):
    """Local paths, keys that escape and unknown or signed URLs are refused; a signature is not repeated."""
    with pytest.raises(UsageError) as caught:
        parse(text, stores)
    assert "planted" not in str(caught.value)


def test_local_paths_are_known(stores):
    """A file named like a location can still be meant."""
    assert is_local("photos")
    assert is_local("./task:a")
    assert not is_local("task:a")
    assert not is_local("s3://b/k")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("project:photos/1.jpg", [("photos/1.jpg", "1.jpg")]),
        ("project:photos/*.jpg", [("photos/1.jpg", "1.jpg"), ("photos/2.jpg", "2.jpg")]),
        ("project:*/1.jpg", [("photos/1.jpg", "photos/1.jpg")]),
        ("project:x[1].jpg", [("x[1].jpg", "x[1].jpg")]),
        ("project:x[1]*", [("x1.jpg", "x1.jpg")]),
        ("project:a", [("a", "a")]),
        ("project:ü/*", [("ü/é.jpg", "é.jpg")]),
        ("project:a b#1+2%20.jpg", [("a b#1+2%20.jpg", "a b#1+2%20.jpg")]),
    ],
)
def test_names_and_globs_find_objects(found, text, expected):
    """An object keeps the name behind the last slash before a glob; a name that exists is no glob."""
    assert found(text) == expected


def test_folders_are_found_with_all_in_them(found):
    """Without a slash the folder keeps its own name, with one only what is in it counts; neighbours do not."""
    assert [name for _, name in found("project:photos", is_recursive=True)] == [
        "photos/.hidden.jpg", "photos/1.jpg", "photos/2.jpg", "photos/2.png", "photos/more/3.jpg",
    ]  # fmt: skip
    assert [name for _, name in found("project:photos/", is_recursive=True)] == [
        ".hidden.jpg", "1.jpg", "2.jpg", "2.png", "more/3.jpg",
    ]  # fmt: skip
    assert found("project:a", is_recursive=True) == [("a", "a"), ("a/b", "a/b"), ("a/c/d.jpg", "a/c/d.jpg")]
    assert [name for _, name in found("project:ph*", is_recursive=True)] == [
        "photos/.hidden.jpg", "photos/1.jpg", "photos/2.jpg", "photos/2.png", "photos/more/3.jpg", "photos2/4.jpg",
    ]  # fmt: skip
    assert [key for key, _ in found("project:", is_recursive=True)] == sorted(KEYS, key=str.encode)
    assert found("task:", is_recursive=True) == []


@pytest.mark.parametrize("text", ["project:nix", "project:nix*", "project:photos/more/*.png"])
def test_nothing_is_an_error(found, text):
    """A name or glob without an object is absent, not a success."""
    with pytest.raises(AbsentError):
        found(text)


@pytest.mark.parametrize("text", ["project:photos", "project:photos/", "project:"])
def test_a_folder_wants_to_be_asked_for(found, text):
    """The message has the next step."""
    with pytest.raises(UsageError, match="is a folder: add -r"):
        found(text)


def test_a_plain_name_costs_no_request(stores, found):
    """Whether it exists is found out by whoever fetches it."""
    stores.project.faults.add(error=DeniedError)
    assert found("project:nix", is_checked=False) == [("nix", "nix")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("project:", [".htcjob/", "a", "a b#1+2%20.jpg", "a/", "ab", "photos/", "photos2/", "x1.jpg", "x[1].jpg", "ü/"]),
        ("project:photos/", ["photos/.hidden.jpg", "photos/1.jpg", "photos/2.jpg", "photos/2.png", "photos/more/"]),
        ("project:photos", ["photos/.hidden.jpg", "photos/1.jpg", "photos/2.jpg", "photos/2.png", "photos/more/"]),
        ("project:a", ["a", "a/b", "a/c/"]),
        ("project:ph*", ["photos/", "photos2/"]),
        ("project:*/more", ["photos/more/"]),
        ("project:x[1].jpg", ["x[1].jpg"]),
    ],
)  # fmt: skip
def test_a_look_shows_objects_and_folders(stores, transfers, text, expected):
    """As `ls` does; the object `a` and the folder `a/` are both there."""
    shown = browse(parse(text, stores), is_recursive=False, transfers=transfers)
    assert [entry if isinstance(entry, str) else entry.key for entry in shown] == expected


def test_the_url_of_a_location_is_for_messages(stores):
    """Of a store, and of a key in it."""
    assert Location("task:", stores.task, "").url == "memory:task/"
    assert Location("task:a", stores.task, "a").url == "memory:task/a"
    assert GLOB.search("a[b")
