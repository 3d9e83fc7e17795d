"""Rescale's API as a job needs it: token, renewal, vended storage."""
