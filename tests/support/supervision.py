"""What the tests of supervision share: how htcjob and its commands are started, and how they are watched."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import REPOSITORY, wait_until
from tests.support.skipping import skip_or_fail

SCRIPTS = Path(__file__).parent / "children"
HTCJOB = (sys.executable, "-m", "htcjob", "run", "--")
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
NEW_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")

UNSEEN = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
OF_OURS = {signal.SIGPIPE, signal.SIGXFSZ}
FAULTS = {getattr(signal, f"SIG{name}") for name in ("SEGV", "BUS", "FPE", "ILL", "TRAP", "ABRT", "SYS")}
PAUSING = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}


def need_namespaces() -> None:
    tried = subprocess.run([*NEW_NAMESPACE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        skip_or_fail(
            "HTCJOB_REQUIRE_MOUNT", f"no PID namespace, only root can make one: {tried.stderr.strip()}"
        )


def script(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-S", str(SCRIPTS / f"{name}.py"), *arguments)


@contextmanager
def started(*argv: str, as_pid_1: bool = False, **options):
    """Start *argv*, as PID 1 of a namespace of its own or not; whatever a failed test leaves is ended."""
    prefix = NEW_NAMESPACE if as_pid_1 else ()
    options = {"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True} | options
    with subprocess.Popen([*prefix, *argv], env=ENVIRONMENT, cwd=REPOSITORY, **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def output_of(*argv: str, as_pid_1: bool = False, **options) -> str:
    with started(*argv, as_pid_1=as_pid_1, stderr=subprocess.PIPE, **options) as process:
        out, err = process.communicate(timeout=50)
    assert process.returncode == 0, err
    return out


def python(code: str, *arguments: str) -> tuple[str, ...]:
    """Give the argv of Python code that may use run_command."""
    preamble = (
        "import os, resource, signal, subprocess, sys, threading, time\n"
        "from htcjob.supervise.command import run_command\n"
        "from htcjob.supervise.signals import Signals\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    )
    return (sys.executable, "-c", preamble + code, *arguments)


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            stat = path.read_text()
            if int(stat.rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def wrapper_of(process: subprocess.Popen, *, as_pid_1: bool) -> int:
    """Give the process id, as we see it, of htcjob."""
    if not as_pid_1:
        return process.pid
    wait_until(lambda: children_of(process.pid))
    return children_of(process.pid)[0]


def state_of(pid: int) -> str:
    """Give one letter; `-`: it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "-"


def is_alive(pid: int) -> bool:
    return state_of(pid) not in "Z-"


def ready(process: subprocess.Popen, *, as_pid_1: bool = False) -> tuple[int, int]:
    """Wait for `print_signals.py`, and give the process ids of htcjob and of it."""
    assert process.stdout.readline().startswith("ready ")
    wrapper = wrapper_of(process, as_pid_1=as_pid_1)
    wait_until(lambda: state_of(wrapper) == "S")  # it waits for its command
    return wrapper, children_of(wrapper)[0]
