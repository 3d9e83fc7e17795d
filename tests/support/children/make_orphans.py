"""Makes orphans that end at once, and says `clean` when none is a zombie any more, with itself still running."""

import os
import sys
import time


def zombies() -> int:
    found = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        found += state == "Z" and int(parent) == os.getppid()
    return found


for n in range(int(sys.argv[1])):
    if not os.fork():
        if "sessions" in sys.argv and n % 2:
            os.setsid()
        os.fork()  # some of these end before their parent, some after it
        os._exit(0)
    os.wait()
until = time.monotonic() + 30
while zombies():
    if time.monotonic() > until:
        sys.exit(f"{zombies()} zombies")
    time.sleep(0.01)
print("clean", flush=True)
