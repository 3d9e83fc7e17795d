"""The records of a run in task storage: what is committed, what failed, how attempts ended."""
