"""Measuring processes: wall and CPU time, interleaved, so that a busy machine disturbs all alike."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tabulate import tabulate

HTCJOB = os.path.join(os.path.dirname(sys.executable), "htcjob")
"""The command of the environment that the benchmark runs in."""


class Cost(NamedTuple):
    """What one run of a process cost."""

    wall_s: float
    cpu_s: float
    """User and system time, of its children too."""
    peak_memory_bytes: int
    """Of its largest process."""


def cost_of(argv: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run *argv* and give what it cost; raises when it fails."""
    report, end = os.pipe()
    os.set_inheritable(end, True)
    launcher = [sys.executable, "-ISc", _LAUNCHER, str(end), *argv]
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)]
    pid = os.posix_spawn(launcher[0], launcher, environment, file_actions=quiet)
    os.close(end)
    with open(report) as file:
        facts = file.read().split()
    os.waitpid(pid, 0)
    status, wall_s, cpu_s, peak = int(facts[0]), float(facts[1]), float(facts[2]), int(facts[3])
    if status != 0:
        raise RuntimeError(f"{argv} ended with {os.waitstatus_to_exitcode(status)}")
    return Cost(wall_s, cpu_s, peak)


_LAUNCHER = """
import os, sys, time
os.set_inheritable(int(sys.argv[1]), False)
started = time.perf_counter()
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
wall_s = time.perf_counter() - started
facts = status, wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024
os.write(int(sys.argv[1]), " ".join(map(str, facts)).encode())
"""
"""A small process between us and what is measured: the kernel counts the starter's memory as the child's
peak (`ru_maxrss` outlives exec), and this one has a few megabytes."""


class Begun(NamedTuple):
    """What it took until a process's command began."""

    wall_s: float
    memory_bytes: int
    """The resident memory of the process itself, then."""
    peak_memory_bytes: int
    """The most that it had until then."""


WAITING = ("sh", "-c", "echo; exec sleep 86400")
"""A command that says that it has begun, and goes on until it is stopped."""


def until_begun(argv: Sequence[str], environment: Mapping[str, str]) -> Begun:
    """Run *argv*, which runs `WAITING`, until that has begun; give what it took, and stop it."""
    started = time.perf_counter()
    with subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError(f"{argv} began nothing")
        wall_s = time.perf_counter() - started
        with open(f"/proc/{process.pid}/status") as file:
            status = dict(line.split(":", 1) for line in file)
        process.terminate()
        process.stdout.read()
    memory, peak = (int(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return Begun(wall_s, memory, peak)


def interleaved(
    commands: Mapping[str, Sequence[str]], environment: Mapping[str, str], *, rounds: int
) -> dict[str, list[Cost]]:
    """Run every command once a round, and give the costs by name."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, argv in commands.items():
            costs[name].append(cost_of(argv, environment))
    return {name: found[1:] for name, found in costs.items()}  # the first round warms the caches


def print_ratios(costs: Mapping[str, Sequence[Cost]], *, against: Sequence[str]) -> None:
    """Print wall and CPU time of each command, and its ratio to those it is measured against."""
    wall = {name: statistics.median(cost.wall_s for cost in found) for name, found in costs.items()}
    cpu = {name: statistics.median(cost.cpu_s for cost in found) for name, found in costs.items()}
    rows = [
        [
            name,
            f"{wall[name] * 1000:.1f}",
            f"{cpu[name] * 1000:.1f}",
            *(f"{wall[name] / wall[other]:.2f} / {cpu[name] / cpu[other]:.2f}" for other in against),
        ]
        for name in costs
    ]
    headers = ["median of each", "wall ms", "CPU ms", *(f"wall / CPU ratio to {name}" for name in against)]
    print(tabulate(rows, headers=headers, disable_numparse=True))


def print_machine() -> None:
    """Print what machine this is, and the date, for whoever copies a figure."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    date = time.strftime("%Y-%m-%d", time.gmtime())
    print(f"\n{date}, {cpus} CPUs, {system}, load {os.getloadavg()[0]:.1f}")
