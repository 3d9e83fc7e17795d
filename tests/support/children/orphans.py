"""Makes 20 orphans, says how many there are, ends them, and says `none left` once the last one was reaped."""

import os
import time


def orphans() -> list[str]:
    """Give the process ids of those that are there, zombies included."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as file:
                found += [pid] if file.read() == "orphan\n" else []
        except OSError:
            pass  # gone meanwhile
    return found


waits, lives = os.pipe()
for _ in range(20):
    if os.fork() == 0:
        if os.fork() == 0:
            os.close(lives)
            with open("/proc/self/comm", "w") as name:
                name.write("orphan")
            os.read(waits, 1)
        os._exit(0)
    os.wait()
while len(orphans()) < 20:
    time.sleep(0.01)
print("20 orphans", flush=True)
os.close(lives)
while orphans():
    time.sleep(0.01)
print("none left")
