"""Becomes a daemon that only SIGKILL ends: forked twice, in a session of its own; its pid goes to a file."""

import os
import signal
import sys
import time

if os.fork():
    os.wait()
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.01)
    sys.exit(0)
os.setsid()
if os.fork():
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in sys.argv else signal.SIG_DFL)
helper = os.fork()  # daemons have children, too
if not helper:
    os.setpgid(0, 0)
    time.sleep(100)
with open(f"{sys.argv[1]}.new", "w") as file:
    file.write(f"{os.getpid()} {helper}")
os.rename(f"{sys.argv[1]}.new", sys.argv[1])
time.sleep(100)
