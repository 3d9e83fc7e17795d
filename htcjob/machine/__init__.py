"""What this machine gives us: limits, memory, processes, temporary files."""
