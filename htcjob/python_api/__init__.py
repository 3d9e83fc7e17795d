"""The same attempt for a loop of the user's own: `htcjob.Job`."""
