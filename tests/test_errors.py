"""Errors carry their facts."""

from htcjob.errors import TransientError


def test_a_failure_that_is_raised_again_has_its_facts_and_the_new_wait():
    """Another exception, with the same words, that says how long to wait from now on."""
    first = TransientError(
        "get", "s3://b/k", "HTTP 503", retry_after_s=9, is_throttled=True, is_replaced=True
    )
    again = first.again(retry_after_s=2.5)
    assert again is not first
    assert (str(again), again.retry_after_s) == ("get s3://b/k: HTTP 503", 2.5)
    assert (again.is_throttled, again.is_replaced) == (True, True)
