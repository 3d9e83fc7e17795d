"""Directories as stores, and how their files are written, named and fail."""
