"""Says `ready PID`, then the number of every signal it gets; ends when its standard input does, if asked to."""

import os
import signal
import sys
import time


def say(signum: int, _frame: object) -> None:
    os.write(1, f"{signum}\n".encode())


unseen = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
if "stops" in sys.argv:
    unseen |= {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
for number in signal.valid_signals() - unseen:
    signal.signal(number, say)
os.write(1, f"ready {os.getpid()}\n".encode())
if "reads" in sys.argv:
    while line := os.read(0, 1000):
        os.write(1, b"read " + line)
else:
    while True:
        time.sleep(1000)
