"""Counting words, as a Python function that htcjob calls once per file."""

from __future__ import annotations

import os


def count(input: str, output_dir: str, key: str) -> int:  # noqa: A002  htcjob fills it in by name
    """Count the words of the file *input*, and write their number to `<key>.count` in *output_dir*."""
    with open(input) as file:
        words = len(file.read().split())
    with open(os.path.join(output_dir, f"{key}.count"), "w") as file:
        file.write(f"{words}\n")
    return words
