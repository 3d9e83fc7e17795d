"""What we may use, not what the machine has."""

import os

import pytest

from htcjob.machine import available_memory, cpus


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
