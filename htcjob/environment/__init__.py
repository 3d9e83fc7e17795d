"""From the variables that a platform injects to a `JobContext`."""
