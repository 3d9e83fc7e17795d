"""
What an array asks of storage, and how much of its time is not the user's program: a simulation of scale.

    python -m benchmarks.scale [JOBS [ENTRIES [PICTURE]]]

The costs of a job's steps are measured first, on this machine: real jobs of htcjob with an index of the
manifest, against the design of the HTC tutorial, in which every job downloads the whole list and starts a
process for each transfer (`htcctl`; ours, which starts fast). Then arrays of 1,000 up to JOBS jobs (default
1,000,000) over ENTRIES entries (5,000,000), 1,000 jobs at a time, are simulated with these costs. PICTURE.png
and PICTURE.svg are drawn from the result.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from benchmarks.measure import print_machine
from benchmarks.peers.scale_work import WORK_S
from benchmarks.scale_costs import ROUND_TRIP_S, Step, measure, server
from benchmarks.scale_model import BIN_S, Design, Outcome, simulate
from htcjob.transfer.progress import size_in_words

PLACES = 1000
"""Jobs that run at the same time."""
SPREAD = 0.5
"""Standard deviation of what the user's program takes for an entry, as a share of the average."""
FEWEST = 1000
"""Jobs of the smallest array."""

Results = Mapping[str, Mapping[int, Outcome]]
"""By design, then by number of jobs."""


def print_inputs(steps: Sequence[Step]) -> None:
    """Print what was measured."""
    rows = [
        [step.name, f"{step.seconds * 1000:.1f}", f"{step.requests:.1f}", size_in_words(step.moved_bytes)]
        for step in steps
    ]
    print(f"\nmeasured, storage {ROUND_TRIP_S * 1000:.0f} ms away, least of several rounds")
    print(tabulate(rows, headers=["step", "ms", "requests", "moved"], disable_numparse=True))


def print_results(results: Results, entries: int) -> None:
    """Print a line for each array."""
    rows = []
    for name, outcomes in results.items():
        for jobs, outcome in outcomes.items():
            rows.append(
                [
                    name,
                    f"{jobs:,}",
                    f"{outcome.elapsed_s / 60:.1f}",
                    f"{outcome.requests / 1e6:.1f}",
                    f"{outcome.mean:,.0f}",
                    f"{outcome.peak:,.0f}",
                    size_in_words(outcome.moved_bytes),
                    f"{outcome.overhead:.1%}",
                ]
            )
    print(
        f"\nsimulated: {entries:,} entries of {WORK_S * 1000:.0f} ms (standard deviation {SPREAD:.0%}), "
        f"{PLACES:,} jobs at a time"
    )
    headers = [
        *("design", "jobs", "minutes", "million requests", "requests/s", f"in the busiest {BIN_S:.0f} s"),
        *("moved", "not the user's program"),
    ]
    print(tabulate(rows, headers=headers, disable_numparse=True, colalign=["left", *["right"] * 7]))
    ours, others = list(results.values())
    for jobs, outcome in ours.items():
        other = others[jobs]
        print(
            f"{jobs:,} jobs: {outcome.moved_bytes / other.moved_bytes:.2g} of the bytes, "
            f"{outcome.elapsed_s / other.elapsed_s:.2g} of the time, "
            f"{outcome.requests / other.requests:.2g} of the requests"
        )


def draw(results: Results, entries: int, picture: Path) -> None:
    """Draw the results as *picture*.png and *picture*.svg."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import PercentFormatter, StrMethodFormatter

    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "htcjob", "font.size": 10}
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), sharex=True, layout="constrained")
    panels = (
        (axes[0][0], "bytes moved (TB)", lambda found: found.moved_bytes / 1e12),
        (axes[1][0], "the whole run (minutes)", lambda found: found.elapsed_s / 60),
        (axes[0][1], "requests to storage per second, in the busiest one", lambda found: found.peak),
        (axes[1][1], "time that is not the user's program", lambda found: found.overhead),
    )
    for axis, title, value in panels:
        for (name, outcomes), colour, marker in zip(
            results.items(), ("#0b6fa4", "#c8501e"), ("o", "s"), strict=True
        ):
            values = [value(found) for found in outcomes.values()]
            axis.plot(list(outcomes), values, marker=marker, color=colour, label=name)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xscale("log")
        axis.grid(visible=True, which="major", color="#dddddd")
        axis.spines[["top", "right"]].set_visible(False)
    in_full = StrMethodFormatter("{x:,.0f}")
    axes[0][0].set_yscale("log")
    for axis, _, _ in panels[:3]:
        axis.yaxis.set_major_formatter(in_full)
    for axis, _, _ in panels[1:3]:
        axis.set_ylim(bottom=0)
    panels[3][0].set_ylim(0, 1)
    panels[3][0].yaxis.set_major_formatter(PercentFormatter(1))
    for axis in axes[1]:
        axis.set_xlabel("jobs in the array")
        axis.xaxis.set_major_formatter(in_full)
    axes[0][0].legend(frameon=False)
    figure.suptitle(
        f"{entries:,} entries of {WORK_S * 1000:.0f} ms, {PLACES:,} jobs at a time: a simulation",
        fontsize=11,
    )
    picture.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".png", ".svg"):
        figure.savefig(
            picture.with_suffix(suffix), dpi=120, metadata={"Date": None} if suffix == ".svg" else {}
        )
    print(f"\n{picture}.png and .svg")


def arrays(designs: Sequence[Design], most_jobs: int, entries: int) -> Results:
    """Simulate every design with 1,000 jobs, ten times as many, and so on."""
    results: dict[str, dict[int, Outcome]] = {}
    for design in designs:
        results[design.name], jobs = {}, FEWEST
        while jobs <= most_jobs:
            results[design.name][jobs] = simulate(
                design, jobs=jobs, entries=entries, work_s=WORK_S, spread=SPREAD, places=PLACES
            )
            jobs *= 10
    return results


def main() -> None:
    started = time.monotonic()
    most_jobs, entries = (
        int(sys.argv[n]) if len(sys.argv) > n else default for n, default in ((1, 10**6), (2, 5 * 10**6))
    )
    with server() as rgw:
        costs = measure(rgw)
    print_machine()
    print_inputs(costs.steps)
    results = arrays(costs.designs, most_jobs, entries)
    print_results(results, entries)
    if len(sys.argv) > 3:
        draw(results, entries, Path(sys.argv[3]))
    print(f"{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
