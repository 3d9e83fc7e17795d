"""Commands and their processes, from start to the last orphan."""
