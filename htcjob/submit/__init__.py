"""The same array on an engine that exists."""
