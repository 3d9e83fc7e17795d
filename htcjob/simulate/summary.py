"""Summary of a simulated array: counts, throughput, and the slowest entries."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from htcjob.outcome.results import FAILED_FOR_GOOD
from htcjob.simulate.array import AttemptEnd

SLOWEST = 5
"""Entries that the summary names."""


def summarise(
    ends: Sequence[AttemptEnd],
    *,
    jobs: int,
    elapsed_s: float,
    records: Iterable[Mapping[str, Any]],
    since: str,
) -> dict[str, Any]:
    """
    Return the summary of a simulation.

    Args:
        ends: Every attempt's end.
        jobs: Array indices that were to run.
        elapsed_s: Wall time of all of it.
        records: Commit records of their runs, those of earlier simulations too.
        since: When this simulation began, as in the records' `ended_at`.
    """
    writers: dict[str, set[int]] = {}
    new = []
    for record in records:
        if record.get("ended_at", "") >= since:
            new.append(record)
        for output in record.get("outputs", ()):
            writers.setdefault(output["key"], set()).add(record["position"])
    last = {end.array_index: end for end in ends}
    succeeded = [end for end in last.values() if end.exit_status == 0]
    failed = Counter(end.reason for end in last.values() if end.exit_status != 0)
    done = _entries(ends, "done")
    return {
        "jobs": jobs,
        "succeeded": len(succeeded),
        "failed": sum(failed.values()),
        "failed_by_reason": dict(sorted(failed.items())),
        "not_run": jobs - len(last),
        "out_of_memory": sum(end.is_out_of_memory for end in ends),
        "retried": sum(end.attempt > 1 for end in ends),
        "entries_done": done,
        "entries_done_before": _entries([end for end in ends if end.attempt == 1], "already_done"),
        "outputs": sum(end.record.get("staged_out", 0) for end in ends),
        "entries_failed": sum(_entries(last.values(), name) for name in FAILED_FOR_GOOD),
        "elapsed_s": round(elapsed_s, 2),
        "entries_per_s": round(done / elapsed_s, 1) if elapsed_s else None,
        "slowest_entries": _slowest(new),
        "collisions": [
            {"key": key, "positions": sorted(positions)}
            for key, positions in sorted(writers.items())
            if len(positions) > 1
        ],
    }


def rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the summary as rows of two columns, for people."""
    shown = [
        ("jobs", summary["jobs"]),
        ("succeeded", summary["succeeded"]),
        ("failed", summary["failed"]),
        *((f"  {reason}", count) for reason, count in summary["failed_by_reason"].items()),
        *([("not run", summary["not_run"])] if summary["not_run"] else []),
        *([("out of memory", summary["out_of_memory"])] if summary["out_of_memory"] else []),
        ("retried", summary["retried"]),
        ("entries done", summary["entries_done"]),
        *([("done before", summary["entries_done_before"])] if summary["entries_done_before"] else []),
        ("outputs", summary["outputs"]),
        ("entries failed", summary["entries_failed"]),
        ("elapsed", f"{summary['elapsed_s']:.1f} s"),
        ("throughput", f"{summary['entries_per_s'] or 0:.1f} entries/s"),
    ]
    for rank, slow in enumerate(summary["slowest_entries"]):
        together = f" and {slow['with_others']} more" if slow["with_others"] else ""
        shown.append(("" if rank else "slowest", f"{slow['work_s']:.2f} s  {slow['entry'][:60]}{together}"))
    return [(name, str(value)) for name, value in shown]


def _entries(ends: Iterable[AttemptEnd], name: str) -> int:
    return sum(end.record.get("entries", {}).get(name, 0) for end in ends)


def _slowest(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries with the longest work; those that one command did together are one row."""
    timed: list[tuple[float, int, str]] = []
    together: Counter[int] = Counter()
    for record in records:
        if "outputs_at" in record:
            together[record["outputs_at"]] += 1
        elif record.get("work_s"):
            timed.append((record["work_s"], record["position"], record["entry"]))
    return [
        {"work_s": round(work_s, 3), "entry": entry, "with_others": together[position]}
        for work_s, position, entry in heapq.nlargest(SLOWEST, timed)
    ]
