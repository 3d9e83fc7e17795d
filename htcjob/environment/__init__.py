"""What the platform injected, as a `JobContext`."""
