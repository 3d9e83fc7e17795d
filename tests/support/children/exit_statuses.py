"""
Prints the exit status of an installed program of htcjob for each shell command, as PID 1 of a namespace each time.

    python -I exit_statuses.py PROGRAM_AND_ARGUMENTS_IN_JSON COMMAND…

Its modules are imported once, before the processes fork: that takes far longer than all else that they do.
"""

import ctypes
import gc
import json
import os
import runpy
import shutil
import sys

import htcjob.attempt.attempt
import htcjob.cli.commands.run
import htcjob.cli.main
import htcjob.logs.secret_shapes
import htcjob.logs.standard_error  # noqa: F401

CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000
MS_PRIVATE_ALL = 0x44000

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments):
        sys.exit(f"{name}: {os.strerror(ctypes.get_errno())}")


def run(command: str) -> None:
    """Become what the program becomes, as PID 1, for this command."""
    call("mount", b"none", b"/", None, MS_PRIVATE_ALL, None)
    call("mount", b"proc", b"/proc", b"proc", 0, None)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    program, *arguments = json.loads(sys.argv[1])
    path = shutil.which(program)
    sys.argv = [path, *arguments, "sh", "-c", command]
    runpy.run_path(path, run_name="__main__")


gc.freeze()  # or each process would copy what it only looks through
for command in sys.argv[2:]:
    if os.fork() == 0:
        call("unshare", CLONE_NEWNS | CLONE_NEWPID)
        if (first := os.fork()) == 0:
            assert os.getpid() == 1
            run(command)
            sys.exit()
        print(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]), flush=True)
        os._exit(0)
    os.wait()
