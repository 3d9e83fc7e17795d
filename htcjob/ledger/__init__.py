"""What is committed and what failed, in task storage."""
