"""What is said, and what must not be."""
