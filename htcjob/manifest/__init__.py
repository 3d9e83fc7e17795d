"""The list of work: entries by position, chunk, index, build, check, split."""
