"""Reasons and exit statuses are explained."""

import itertools

from htcjob.outcome.reasons import EXIT_STATUS, EXIT_TABLE


def test_every_exit_status_has_a_row_in_the_table_that_help_shows():
    """A number that we exit with is explained."""
    shown = set(itertools.chain.from_iterable(status.split(" / ") for status, _, _ in EXIT_TABLE))
    assert {str(status) for status in EXIT_STATUS.values()} <= shown
