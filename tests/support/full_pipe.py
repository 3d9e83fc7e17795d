"""A pipe that nobody reads."""

import os
from contextlib import suppress


def fill(descriptor: int) -> None:
    """Write until there is no room, with the file as blocking as before."""
    is_blocking = os.get_blocking(descriptor)
    os.set_blocking(descriptor, False)
    for size in (4096, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(descriptor, b"." * size)
    os.set_blocking(descriptor, is_blocking)
