"""Tasks of one command: each is tried, and what became of it is told."""

from htcjob.transfer.locations import parse
from htcjob.transfer.tasks import removals, run_tasks


def test_removals(stores, transfers):
    """What a location means, and nothing else; a name that is not there is an error."""
    for key in ("a", "a/b", "ab", "c/1", "c/2"):
        stores.task.put_bytes(b"x", key)

    def remove(text, *, is_recursive=False):
        tasks = removals(parse(text, stores), transfers, is_recursive=is_recursive)
        return [(outcome.key, outcome.action) for outcome in run_tasks(tasks, transfers)]

    assert remove("task:a") == [("a", "removed")]
    assert remove("task:c", is_recursive=True) == [("c/1", "removed"), ("c/2", "removed")]
    assert remove("task:nix") == [("task:nix", "failed")]
    assert {info.key for info in stores.task.list()} == {"a/b", "ab"}
