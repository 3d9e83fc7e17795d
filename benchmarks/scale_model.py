"""
A discrete simulation of an array: jobs in a bounded number of places, and what storage hears of them.

Every job takes the next free place, starts, finds its entries and works on them; how long its entries take is
drawn at random, from a fixed seed. Storage answers all of them as fast as one: what is simulated is what the
jobs ask for, not what a store would make of it.
"""

from __future__ import annotations

import heapq
import math
import random
from typing import NamedTuple

import numpy as np

from htcjob.ledger.layout import BLOCK_ENTRIES
from htcjob.ledger.ledger import FIRST_FLUSH_S, FULL_BUFFER, LONGEST_FLUSH_S
from htcjob.manifest.chunk import chunk_bounds

BIN_S = 1.0
"""Of the requests per second, whose largest is the peak."""


class Design(NamedTuple):
    """What one way to run a job costs, besides the user's program."""

    name: str
    start_s: float
    """From the start of the container to the first entry, and from the last one to the end."""
    start_requests: float
    """To storage, in that time."""
    start_bytes: float
    """Moved in that time."""
    listed_s: float
    """For each entry of the whole manifest: reading a list that is not indexed."""
    listed_bytes: float
    """Moved for each entry of the whole manifest."""
    entry_s: float
    """For each entry of the chunk, in which the user's program does not run."""
    entry_requests: float
    entry_bytes: float
    has_ledger: bool
    """It writes records of what is done, now and then."""


class Outcome(NamedTuple):
    """What became of an array."""

    elapsed_s: float
    """From the first start to the last end."""
    requests: float
    """To storage, of all jobs."""
    peak: float
    """Requests of the busiest second."""
    moved_bytes: float
    overhead: float
    """Share of all jobs' time in which no user's program runs, 0 to 1."""

    @property
    def mean(self) -> float:
        """Requests per second, on average."""
        return self.requests / self.elapsed_s


def simulate(
    design: Design, *, jobs: int, entries: int, work_s: float, spread: float, places: int, seed: int = 1
) -> Outcome:
    """
    Run an array.

    Args:
        design: What a job costs.
        jobs: The array size, 1 or more.
        entries: Of the manifest.
        work_s: What the user's program takes for an entry, on average.
        spread: Its standard deviation, as a share of *work_s*; above 0.
        places: Jobs that run at the same time.
        seed: Of the random numbers.
    """
    luck = random.Random(seed)
    free_at = [0.0] * min(places, jobs)
    shape, scale = 1 / spread**2, work_s * spread**2
    began, first, ended, asked = (np.empty(jobs) for _ in range(4))
    busy_s = 0.0
    start_s = design.start_s + design.listed_s * entries
    for index in range(jobs):
        n = len(chunk_bounds(array_index=index, array_size=jobs, n_entries=entries))
        # The sum of n draws of a gamma distribution is one of n times the shape.
        program_s = luck.gammavariate(n * shape, scale) if n else 0.0
        entries_s = program_s + n * design.entry_s
        start = free_at[0]
        heapq.heapreplace(free_at, start + start_s + entries_s)
        began[index], first[index], ended[index] = start, start + start_s, start + start_s + entries_s
        asked[index] = n * design.entry_requests + (parts(entries_s, n) if design.has_ledger else 0)
        busy_s += program_s
    started = np.full(jobs, design.start_requests)
    elapsed_s = float(ended.max())
    in_bins = requests_in_bins(
        np.concatenate((began, first)), np.concatenate((first, ended)), np.concatenate((started, asked))
    )
    each = design.start_bytes + design.listed_bytes * entries
    return Outcome(
        elapsed_s=elapsed_s,
        requests=float(started.sum() + asked.sum()),
        peak=float(in_bins.max()) / BIN_S,
        moved_bytes=jobs * each + entries * design.entry_bytes,
        overhead=1 - busy_s / float((ended - began).sum()),
    )


def requests_in_bins(began: np.ndarray, ended: np.ndarray, requests: np.ndarray) -> np.ndarray:
    """
    Give how many requests fall into each `BIN_S` seconds, where every interval has its own, evenly spread.

    Args:
        began: When each interval begins, in seconds from 0.
        ended: When it ends, not before.
        requests: How many it has.
    """
    ended = np.maximum(ended, began + 1e-6)
    rates = requests / (ended - began)
    times = np.concatenate((began, ended))
    order = np.argsort(times, kind="stable")
    times, changes = times[order], np.concatenate((rates, -rates))[order]
    so_far = np.concatenate(([0.0], np.cumsum(np.cumsum(changes)[:-1] * np.diff(times))))
    edges = np.arange(0.0, math.floor(times[-1] / BIN_S) + 2) * BIN_S
    return np.diff(np.interp(edges, times, so_far))


def parts(seconds: float, n_entries: int) -> int:
    """
    Give how many parts of the ledger a job writes, as `ledger.py` does.

    Args:
        seconds: That the job works on its entries.
        n_entries: Of its chunk; 0 are no part.
    """
    flushes, flush_s, at_s = 1, FIRST_FLUSH_S, FIRST_FLUSH_S
    while at_s < seconds and flush_s < LONGEST_FLUSH_S:
        flushes += 1
        flush_s = min(flush_s * 2, LONGEST_FLUSH_S)
        at_s += flush_s
    if at_s < seconds:
        flushes += math.ceil((seconds - at_s) / LONGEST_FLUSH_S)
    # A flush with records of two blocks writes two parts: about once for each block that a chunk ends in.
    return min(n_entries, max(flushes, n_entries // FULL_BUFFER) + n_entries // BLOCK_ENTRIES)
