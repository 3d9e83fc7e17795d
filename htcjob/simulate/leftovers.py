"""
Containers that a simulation left when it was killed: the next one removes them.

Every container is labelled with the file that its simulation holds a lock on. The kernel releases the lock
however a simulation ends, and a reused process number deceives nobody.
"""

from __future__ import annotations

import fcntl
import json
import os

from htcjob.simulate.engine import Engine

SIMULATION = "htcjob.simulation"
"""Label: the lock file of the simulation."""
_CALLER = "htcjob.caller"
"""Label: machine and user; the locks of others cannot be asked."""


class Lock:
    """Held while this simulation lives, whatever ends it."""

    def __init__(self, path: str) -> None:
        """Make and lock the file *path*, which no other simulation has."""
        self.path = path
        self._file = open(path, "x", encoding="utf-8")  # noqa: SIM115 - open for as long as we live
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def labels(self) -> list[str]:
        """Return the labels of this simulation's containers."""
        return [f"{SIMULATION}={self.path}", _caller_label()]

    def release(self) -> None:
        """Release the lock, once the simulation has no containers any more."""
        os.unlink(self.path)
        self._file.close()


async def remove_leftovers(engine: Engine) -> int:
    """
    Remove the containers of this user's dead simulations, and return their number.

    Raises:
        EngineError: the engine cannot be asked.
    """
    found = await engine.containers(_caller_label())
    if not found:
        return 0
    # Some may have gone meanwhile: then the status tells so, and the others are printed all the same.
    wanted = f'{{{{.Id}}}} {{{{json (index .Config.Labels "{SIMULATION}")}}}}'  # JSON: a path may have lines
    told = await engine.ask("container", "inspect", "--format", wanted, *found)
    dead = [
        container
        for container, _, lock in (line.partition(" ") for line in told.output.splitlines())
        if _is_free(lock)
    ]
    for container in dead:
        await engine.remove(container)
    return len(dead)


def _caller_label() -> str:
    return f"{_CALLER}={os.uname().nodename}:{os.getuid()}"


def _is_free(lock: str) -> bool:
    """Whether nobody holds a lock, whose path is given in JSON."""
    try:
        with open(json.loads(lock), encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):  # it is held, or not ours to look at, or no path
        return False
    return True
