"""
Starts `htcjob` again and again, in forks of one process that has imported it: what a walk of thousands pays.

A request is a JSON line on standard input: `argv` or `script`, `environment`, `folder`, `out` and `err`, and
`limits`. The answer is a line: the exit status, -n for signal n, or null where it did not end.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import select
import signal
import sys

import htcjob.cli.main

LONGEST_S = 40.0
"""No step takes so long: what is there still hangs."""


def serve() -> dict | None:
    """Answer requests until there are no more; in a fork, give its request."""
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            return request
        ended = os.pidfd_open(pid)
        poller = select.poll()
        poller.register(ended, select.POLLIN)
        has_ended = bool(poller.poll(LONGEST_S * 1000))
        if not has_ended:
            os.killpg(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(ended)
        print(json.dumps(code if has_ended else None), flush=True)
    return None


def become(request: dict) -> None:
    """Be the process that was asked for, up to where its own code begins."""
    os.setsid()
    os.chdir(request["folder"])
    for number, path in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
        flags = os.O_RDWR | (os.O_CREAT | os.O_TRUNC if number else 0)
        file = os.open(path, flags, 0o666)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    if request.get("user"):
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    for name, value in request.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (value, value))


def main() -> None:
    request = serve()
    if request is None:
        return
    become(request)
    if "FAULT_MARK" not in os.environ and "script" not in request:
        try:
            os.stat("//faults/begin")
        except OSError:
            pass
    if "script" in request:
        sys.argv[:] = [request["script"]]
        runpy.run_path(request["script"], run_name="__main__")
    else:
        sys.argv[:] = ["htcjob", *request["argv"]]
        htcjob.cli.main.main()


if __name__ == "__main__":
    main()
