"""Entries flow stage-in -> work -> stage-out -> commit, overlapped, within bounds."""
