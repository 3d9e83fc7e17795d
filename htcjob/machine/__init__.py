"""This machine as we may use it: limits, memory, processes, temporary files."""
