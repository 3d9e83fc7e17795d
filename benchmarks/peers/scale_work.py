"""A user's program that takes a known time and no CPU: all CPU time is ours. See `benchmarks.scale`."""

from __future__ import annotations

import os
import time

WORK_S = 0.05
"""Of each entry; the face tagger takes 13 to 120 ms for a photo."""
OUTPUT_BYTES = 60_000
"""Of each output; a tagged photo is about as large."""


def work(input: str, output_dir: str, key: str) -> None:  # noqa: A002, ARG001 - the runtime's words
    """Write an output for the entry *key*."""
    time.sleep(WORK_S)
    with open(os.path.join(output_dir, key), "wb") as file:
        file.write(b"x" * OUTPUT_BYTES)
