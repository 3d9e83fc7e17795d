"""Supervision: real processes, their groups, signals, timeouts and exit statuses."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from htcjob.errors import ShortageError
from htcjob.supervise.command import check_program, run_command
from htcjob.supervise.signals import Signals

IMPORTS = "from htcjob.supervise.command import run_command\nfrom htcjob.supervise.signals import Signals\n"
ENVIRONMENT = {"PATH": os.environ["PATH"]}


def run(*argv: str, **options):
    with Signals() as signals:
        return run_command(argv, environment=ENVIRONMENT, signals=signals, **options)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def read_pid(path, wait_until) -> int:
    wait_until(lambda: path.exists() and path.read_text().strip())
    return int(path.read_text())


@pytest.mark.parametrize("status", [0, 1, 2, 64, 75, 126, 127, 128, 143, 254, 255])
def test_the_commands_own_exit_status_is_passed_on(status):
    """Whatever number it ends with."""
    result = run("sh", "-c", f"exit {status}")
    assert (result.exit_status, result.signal, result.timed_out) == (status, None, False)


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGUSR1, signal.SIGPIPE]
)
def test_a_signal_is_told_as_a_shell_would(signum):
    """128+n, and the signal's number beside it."""
    result = run("sh", "-c", f"kill -{signum.value} $$")
    assert (result.exit_status, result.signal) == (128 + signum, signum)


def test_not_found_and_not_executable_are_told_apart(tmp_path):
    """127 and 126, as in a shell, and the reason names the program."""
    plain = tmp_path / "plain"
    plain.write_text("x")
    bad_interpreter = tmp_path / "script"
    bad_interpreter.write_text("#!/no/such/interpreter\n")
    bad_interpreter.chmod(0o755)
    for program, status in (
        ("no-such-program", 127),
        (str(plain), 126),
        (str(tmp_path), 126),
        (str(bad_interpreter), 127),
    ):
        result = run(program)
        assert result.exit_status == status, program
        assert program in result.start_error
    assert "interpreter" in run(str(bad_interpreter)).start_error
    assert "interpreter" not in run("no-such-program").start_error
    assert "chmod" in run(str(plain)).start_error
    plain.chmod(0o755)
    assert "#!" in run(str(plain)).start_error


def test_a_program_is_looked_for_before_any_work(tmp_path):
    """The same statuses as when it is started, without starting it."""
    plain = tmp_path / "plain"
    plain.write_text("x")
    path = f"{tmp_path}:{os.environ['PATH']}"
    assert check_program("sh", path) is None
    assert check_program("/bin/sh", path) is None
    assert check_program("no-such-program", path).exit_status == 127
    assert check_program(str(tmp_path / "absent"), path).exit_status == 127
    assert check_program("plain", path).exit_status == 126
    assert check_program(str(plain), path).exit_status == 126
    plain.chmod(0o755)
    assert check_program("plain", path) is None


def test_a_nul_in_an_argument_is_not_a_bug():
    """The kernel cannot take it; that is the command's failure."""
    assert run("echo", "a\0b").start_error


def test_a_timeout_ends_the_whole_tree(tmp_path, wait_until):
    """The grandchild dies too, not only the shell in front of it."""
    pid_file = tmp_path / "pid"
    result = run("sh", "-c", f"sleep 1000 & echo $! > {pid_file}; wait", timeout_s=0.5, grace_s=5)
    assert result.timed_out
    assert result.signal == signal.SIGTERM
    wait_until(lambda: not is_alive(int(pid_file.read_text())))


def test_a_timeout_stays_a_timeout_when_the_command_then_exits_0():
    """A handler that ends tidily does not make it a success."""
    result = run("sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait", timeout_s=0.5, grace_s=5)
    assert (result.timed_out, result.exit_status) == (True, 0)


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace_period():
    """SIGTERM politely, then SIGKILL surely."""
    started = time.monotonic()
    result = run("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done", timeout_s=0.3, grace_s=0.5)
    assert result.timed_out
    assert result.signal == signal.SIGKILL
    assert time.monotonic() - started >= 0.8


def test_a_stopped_command_is_ended_too():
    """SIGTERM alone would wait for ever behind SIGSTOP."""
    result = run("sh", "-c", "kill -STOP $$", timeout_s=0.5, grace_s=10)
    assert result.timed_out
    assert result.signal == signal.SIGTERM


def test_a_grandchild_that_keeps_stdout_open_does_not_hold_the_job(tmp_path, wait_until):
    """We wait for the command, not for its output; what it leaves in its group is ended."""
    pid_file = tmp_path / "pid"
    result = run("sh", "-c", f"sleep 1000 & echo $! > {pid_file}")
    assert result.exit_status == 0
    wait_until(lambda: not is_alive(int(pid_file.read_text())))


def test_leftovers_that_ignore_sigterm_are_killed(tmp_path, wait_until):
    """Politely, then surely."""
    pid_file = tmp_path / "pid"
    script = (
        f"(trap '' TERM; echo ready > {tmp_path}/ready; while :; do sleep 0.05; done) & echo $! > {pid_file}"
    )
    run("sh", "-c", f"{script}; until [ -e {tmp_path}/ready ]; do sleep 0.01; done", grace_s=0.3)
    wait_until(lambda: not is_alive(int(pid_file.read_text())))


def test_the_command_has_its_own_session_and_default_signals():
    """Its group is its own, and Python's ignored SIGPIPE is not inherited."""
    code = "import os, signal; print(os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGPIPE))"
    # Asked of the kernel: Python sets its own SIGPIPE at start.
    code = "import os; ignored = int([l for l in open('/proc/self/status') if l.startswith('SigIgn')][0].split()[1], 16)"
    result = run("sh", "-c", "[ $(ps -o sid= -p $$) = $$ ] && grep -q 'SigIgn:.*0$' /proc/self/status")
    assert result.exit_status == 0, code


def test_resources_are_told():
    """CPU seconds and peak memory of the command."""
    result = run(sys.executable, "-c", "x = b'x' * 50_000_000; sum(range(1_000_000))")
    assert result.peak_memory_bytes > 50_000_000
    assert result.cpu_s > 0
    assert result.elapsed_s > 0


def test_a_command_that_may_finish_has_no_stdin():
    """One of many must not eat the input of all."""
    assert run("sh", "-c", 'read line; test -z "$line"', may_finish=True).exit_status == 0


def in_child(script: str, *arguments: str, **options) -> subprocess.Popen:
    """Run Python code that uses run_command in a process of its own, so that signals can be sent to it."""
    preamble = "import os, signal, sys, time\n" + IMPORTS
    return subprocess.Popen(
        [sys.executable, "-c", preamble + script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


SUPERVISE = """
with Signals() as signals:
    result = run_command(
        sys.argv[1:], environment=os.environ, signals=signals, grace_s=float(os.environ.get("GRACE", "10")),
        may_finish=os.environ.get("MAY_FINISH") == "1")
print(result.exit_status, result.signal, result.stopped_by, flush=True)
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_stop_signals_are_passed_on(signum, tmp_path, wait_until):
    """The command sees the very signal that we got."""
    ready = tmp_path / "ready"
    handler = "".join(f"trap 'exit {40 + s}' {s};" for s in (1, 2, 3, 15))
    with in_child(
        SUPERVISE, "sh", "-c", f"{handler} echo > {ready}; while :; do sleep 0.01; done"
    ) as process:
        wait_until(ready.exists)
        process.send_signal(signum)
        assert process.communicate(timeout=30)[0] == f"{40 + signum} None {signum.value}\n"


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH])
def test_other_signals_are_passed_on_and_stop_nothing(signum, tmp_path, wait_until):
    """They are the command's business."""
    ready = tmp_path / "ready"
    script = f"trap 'exit 9' {signum.value}; echo > {ready}; while :; do sleep 0.01; done"
    with in_child(SUPERVISE, "sh", "-c", script) as process:
        wait_until(ready.exists)
        process.send_signal(signum)
        assert process.communicate(timeout=30)[0] == "9 None None\n"


def test_a_stop_signal_is_followed_by_sigkill_after_the_grace_period(tmp_path, wait_until):
    """A command that ignores it does not outlive the grace."""
    ready = tmp_path / "ready"
    script = f"trap '' TERM; echo > {ready}; while :; do sleep 0.01; done"
    with in_child(SUPERVISE, "sh", "-c", script, env={**os.environ, "GRACE": "0.3"}) as process:
        wait_until(ready.exists)
        process.terminate()
        assert process.communicate(timeout=30)[0] == "137 9 15\n"


def test_a_command_that_may_finish_is_left_to_finish(tmp_path, wait_until):
    """SIGTERM is not passed on to it; its end is its own, and counts as such."""
    ready, go = tmp_path / "ready", tmp_path / "go"
    script = f"trap 'exit 9' TERM; echo > {ready}; until [ -e {go} ]; do sleep 0.01; done; exit 0"
    with in_child(SUPERVISE, "sh", "-c", script, env={**os.environ, "MAY_FINISH": "1"}) as process:
        wait_until(ready.exists)
        process.terminate()
        time.sleep(0.2)
        go.touch()
        assert process.communicate(timeout=30)[0] == "0 None None\n"


def test_a_command_that_may_finish_and_does_not_is_stopped_within_the_grace_period(tmp_path, wait_until):
    """Most of the grace is for finishing, the rest for SIGTERM, and then comes SIGKILL."""
    ready = tmp_path / "ready"
    script = f"trap '' TERM; echo > {ready}; while :; do sleep 0.01; done"
    environment = {**os.environ, "MAY_FINISH": "1", "GRACE": "0.5"}
    with in_child(SUPERVISE, "sh", "-c", script, env=environment) as process:
        wait_until(ready.exists)
        process.terminate()
        assert process.communicate(timeout=30)[0] == "137 9 15\n"


def test_a_persons_interrupt_reaches_a_command_that_may_finish_at_once(tmp_path, wait_until):
    """Ctrl-C does not wait for the grace period."""
    ready = tmp_path / "ready"
    script = f"trap 'exit 9' INT; echo > {ready}; while :; do sleep 0.01; done"
    with in_child(SUPERVISE, "sh", "-c", script, env={**os.environ, "MAY_FINISH": "1"}) as process:
        wait_until(ready.exists)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[0] == "9 None 2\n"


def test_an_interrupt_after_another_request_to_stop_is_no_failure_either():
    """The platform's SIGTERM leaves the command to finish, a person's Ctrl-C ends it: it has not failed."""
    with Signals() as signals:
        signals.ask_to_stop(signal.SIGTERM)
        assert signals.may_have_ended(-signal.SIGTERM)
        assert not signals.may_have_ended(-signal.SIGINT)
        signals.ask_to_stop(signal.SIGINT)
        assert signals.may_have_ended(-signal.SIGINT)


def test_a_signal_that_was_ignored_at_the_start_stays_ignored(tmp_path, wait_until):
    """`nohup htcjob run` survives the end of the terminal, and so does its command."""
    ready, go = tmp_path / "ready", tmp_path / "go"
    script = f"echo > {ready}; until [ -e {go} ]; do sleep 0.01; done; kill -HUP $$; exit 3"
    with in_child(
        SUPERVISE, "sh", "-c", script, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ) as process:
        wait_until(ready.exists)
        process.send_signal(signal.SIGHUP)
        go.touch()
        assert process.communicate(timeout=30)[0] == "3 None None\n"


def test_waiting_costs_no_cpu(tmp_path):
    """The wrapper sleeps while the command runs: no polling."""
    code = SUPERVISE + "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw, flush=True)"
    with in_child(code, "sleep", "1") as process:
        switches = int(process.communicate(timeout=30)[0].split()[-1])
    assert switches < 100


@pytest.mark.timeout(100)
def test_a_stop_signal_cuts_a_sleep_short():
    """Waiting for a retry does not use up the grace period."""
    with Signals() as signals:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert signals.sleep(200)  # longer than the test may take
        assert signals.sleep(200)
        assert signals.stop_signal == signal.SIGTERM


def test_without_pidfd_the_exit_is_seen_too(monkeypatch):
    """Kernels before 5.3 and strict seccomp profiles have none."""
    monkeypatch.delattr(os, "pidfd_open")
    assert run("sh", "-c", "exit 7").exit_status == 7
    assert run("sleep", "100", timeout_s=0.2, grace_s=5).timed_out


def test_a_timeout_of_a_month_is_no_overflow(tmp_path, wait_until):
    """poll(2) counts milliseconds in an int; longer waits are waits, too."""
    assert run("true", timeout_s=30 * 86400, grace_s=30 * 86400).exit_status == 0
    ready = tmp_path / "ready"
    script = f"trap 'exit 9' TERM; echo > {ready}; while :; do sleep 0.01; done"
    with in_child(SUPERVISE, "sh", "-c", script, env={**os.environ, "GRACE": str(30 * 86400)}) as process:
        wait_until(ready.exists)
        process.terminate()
        assert process.communicate(timeout=30)[0] == "9 None 15\n"


def test_a_signal_and_an_exit_at_once_are_a_stop(tmp_path, wait_until):
    """A batch system may signal every process of a job: a tidy exit 0 then is not the end of the work."""
    pid_file = tmp_path / "pid"
    script = f"trap 'exit 0' TERM; echo $$ > {pid_file}; while :; do sleep 0.01; done"
    with in_child(SUPERVISE, "sh", "-c", script) as process:
        command = read_pid(pid_file, wait_until)
        process.send_signal(signal.SIGSTOP)
        process.terminate()
        os.kill(command, signal.SIGTERM)
        wait_until(lambda: not is_alive(command))
        process.send_signal(signal.SIGCONT)
        assert process.communicate(timeout=30)[0] == "0 None 15\n"


def test_an_error_of_ours_does_not_leave_the_command_running(monkeypatch):
    """Whatever fails after the start, the command is ended."""
    started = []
    spawn = os.posix_spawnp
    monkeypatch.setattr(os, "posix_spawnp", lambda *a, **k: started.append(spawn(*a, **k)) or started[-1])
    monkeypatch.setattr("htcjob.supervise.command._await_exit", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("sleep", "1000")
    assert not is_alive(started[0])


def test_an_ignored_sigchld_does_not_lose_the_status():
    """Some starters leave it ignored; the kernel would then throw exit statuses away."""
    with in_child(
        SUPERVISE, "sh", "-c", "exit 3", preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    ) as process:
        assert process.communicate(timeout=30)[0] == "3 None None\n"


def test_a_machine_that_is_short_of_processes_asks_to_be_tried_again(monkeypatch):
    """EAGAIN says nothing about the command."""

    def refuse(*_args, **_options):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "posix_spawnp", refuse)
    with pytest.raises(ShortageError):
        run("true")


def test_a_command_that_has_stopped_itself_takes_the_stop_signal(htcjob, wait_until, tmp_path):
    """It goes on to do what it would do at SIGTERM, before the grace period is over."""
    begun = tmp_path / "begun"
    script = 'trap "exit 9" TERM; touch "$0"; kill -STOP $$; while :; do sleep 0.1; done'
    with htcjob.start("run", "--grace", "60s", "--", "sh", "-c", script, str(begun)) as process:
        wait_until(begun.exists)
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 9
