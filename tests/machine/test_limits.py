"""What we may use, not what the machine has."""

import os

import pytest

from htcjob.machine.cgroup_memory import CgroupMemory, MemoryUse
from htcjob.machine.limits import available_memory, cpus, has_memory_limit


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "25000 100000\n",
            },
            0.25,
        ),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/0123\n1:name=systemd:/y\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "75000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            0.75,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "nonsense\n", "sys/fs/cgroup/cpu.max": "nonsense\n"}, None),
    ],
)
def test_the_smallest_quota_and_the_affinity_count(tmp_path, files, expected):
    """cgroup v1 and v2, ours and those above; without a quota it is the affinity."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert cpus(str(tmp_path)) == (expected or len(os.sched_getaffinity(0)))


V2 = {"proc/self/cgroup": "0::/a/b\n"}
V1 = {"proc/self/cgroup": "5:cpu:/x\n4:memory:/docker/0123\n0::/\n"}
UNLIMITED = "9223372036854771712\n"


def group(base: str, limit: str, used: str, *, stat: str = "", kills: int | None = None) -> dict[str, str]:
    """Give the files of a control group; the version is told from the folder."""
    limits, usage, events = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control")
        if base.startswith("memory")
        else ("memory.max", "memory.current", "memory.events")
    )
    folder = f"sys/fs/cgroup/{base}".rstrip("/")
    files = {f"{folder}/{limits}": limit, f"{folder}/{usage}": used, f"{folder}/memory.stat": stat}
    if kills is not None:
        files[f"{folder}/{events}"] = f"oom_kill_disable 0\noom 9\noom_kill {kills}\n"
    return files


def make(root, *parts: dict[str, str]) -> str:
    for files in parts:
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([V2], None),
        ([V2, group("a/b", "max\n", "5\n"), group("a", "max\n", "7\n")], None),
        ([V1, group("memory", UNLIMITED, "5\n")], None),
        ([V2, group("a/b", "1000\n", "500\n")], MemoryUse(500, 1000)),
        # A group above ours counts, when it has less room; one that has more does not.
        ([V2, group("a/b", "1000\n", "500\n"), group("a", "2000\n", "1890\n")], MemoryUse(1890, 2000)),
        ([V2, group("a/b", "1000\n", "500\n"), group("a", "2000\n", "1000\n")], MemoryUse(500, 1000)),
        # Page cache is taken back before anything is ended; a tmpfs is not.
        (
            [
                V2,
                group(
                    "a/b",
                    "1000\n",
                    "990\n",
                    stat="anon 10\nactive_file 300\ninactive_file 100\nslab_reclaimable 50\nshmem 40\n",
                ),
            ],
            MemoryUse(540, 1000, 40),
        ),
        # Version 1 in a container: the path is the host's. What groups below use is in the totals.
        (
            [
                V1,
                group(
                    "memory",
                    "1000\n",
                    "990\n",
                    stat="active_file 1\ninactive_file 1\ntotal_active_file 300\n"
                    "total_inactive_file 100\ntotal_shmem 40\n",
                ),
            ],
            MemoryUse(590, 1000, 40),
        ),
    ],
)
def test_the_memory_limit_with_the_least_room_counts(tmp_path, parts, expected):
    """cgroup v1 and v2, ours and those above; page cache does not count as used."""
    root = make(tmp_path, *parts)
    assert has_memory_limit(root) == (expected is not None)
    memory = CgroupMemory(root)
    assert memory.use() == expected
    memory.close()


def test_a_limit_that_changes_is_seen(tmp_path):
    """`docker update --memory` raises it, or takes it away."""
    root = make(tmp_path, V2, group("a/b", "1000\n", "500\n"))
    memory = CgroupMemory(root)
    (tmp_path / "sys/fs/cgroup/a/b/memory.max").write_text("5000\n")
    assert memory.use() == MemoryUse(500, 5000)
    (tmp_path / "sys/fs/cgroup/a/b/memory.max").write_text("max\n")
    assert memory.use() is None
    memory.close()


@pytest.mark.parametrize(
    "parts", [[V2, group("a/b", "9\n", "5\n", kills=3)], [V1, group("memory", "9\n", "5\n", kills=3)]]
)
def test_the_kernels_kills_are_counted(tmp_path, parts):
    """In our own group, from the line of that name."""
    memory = CgroupMemory(make(tmp_path, *parts))
    assert memory.oom_kills() == 3
    memory.close()


def test_a_kernel_that_counts_no_kills_is_one_without_any(tmp_path):
    """Version 1 before Linux 4.13."""
    memory = CgroupMemory(make(tmp_path, V1, group("memory", "9\n", "5\n")))
    assert memory.oom_kills() == 0
    memory.close()


def test_files_that_cannot_be_read_are_an_error(tmp_path):
    """The guard says so, and does not take a group that is gone for an empty one."""
    root = make(tmp_path, V2, {"sys/fs/cgroup/a/b/memory.max": "9\n"})
    assert has_memory_limit(root)
    with pytest.raises(OSError, match=r"memory\.current"):
        CgroupMemory(root)


@pytest.mark.parametrize(
    ("meminfo", "expected"),
    [
        ("MemTotal:  2048 kB\nMemAvailable:    1024 kB\n", 1 << 20),
        ("MemTotal:  2048 kB\n", None),
        (None, None),
    ],
)
def test_the_memory_that_is_free(tmp_path, meminfo, expected):
    """What the kernel could give without swapping, not what nobody uses."""
    if meminfo is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / "meminfo").write_text(meminfo)
    assert available_memory(root=str(tmp_path)) == expected
