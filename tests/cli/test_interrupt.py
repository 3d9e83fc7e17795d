"""A person's Ctrl-C ends every command, whatever hangs."""

import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.support.full_pipe import fill
from tests.support.supervision import NEW_NAMESPACE, need_namespaces

READERS = (
    ("status",),
    ("failed",),
    ("collect",),
    ("chunk", "--array-size", "2", "--array-index", "0", "--manifest", "list"),
    ("check", "--manifest", "list"),
    ("manifest", "build", "project:"),
    ("manifest", "split", "--array-size", "2", "list"),
    ("manifest", "index", "list"),
    ("storage", "cat", "project:x"),
)


def test_ctrl_c_ends_what_waits_for_a_server_that_says_nothing(htcjob):
    """All commands that only look or copy, each while it waits for storage."""
    with ExitStack() as stack:
        started = []
        for reader in READERS:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            variables = {
                "AWS_ACCESS_KEY_ID": "k",
                "AWS_SECRET_ACCESS_KEY": "s",
                "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{server.getsockname()[1]}",
                "HTCJOB_PROJECT_STORE": "s3://bucket/project",
                "HTCJOB_TASK_STORE": "s3://bucket/task",
            }
            process = stack.enter_context(htcjob.start(*reader, **variables))
            stack.callback(process.kill)
            started.append((reader, server, process))
        for reader, server, process in started:
            assert select.select([server], [], [], 60)[0], reader
            process.send_signal(signal.SIGINT)
        for reader, _, process in started:
            process.communicate(timeout=60)
            assert process.returncode == 130, reader


def test_ctrl_c_ends_what_waits_for_a_reader_that_does_not_read(htcjob, wait_until):
    """The table at the end of a simulation has no room in a pipe."""
    htcjob.entries("a")
    reader, writer = os.pipe()
    fill(writer)
    stores = ("--project-store", str(htcjob.project), "--task-store", str(htcjob.task))
    arguments = (
        "simulate",
        "--array-size",
        "1",
        *stores,
        "--",
        "--manifest",
        "list.txt",
        "--each",
        "--",
        "true",
    )
    with subprocess.Popen(
        [sys.executable, "-m", "htcjob", *arguments],
        env=htcjob.variables, stdout=writer, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            wait_until(lambda: list(htcjob.task.glob(".htcjob/*/attempts/*")))
            for _ in range(30):  # the first one may only stop the simulation, before its table
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(1)
                    break
            assert process.returncode == 130
        finally:
            process.kill()
    os.close(reader)
    os.close(writer)


def test_sigterm_ends_a_command_that_is_pid_1(htcjob):
    """Of a container, say: the kernel keeps from it what it has no handler for."""
    need_namespaces()
    htcjob.prefix = NEW_NAMESPACE
    with socket.create_server(("127.0.0.1", 0)) as server:
        variables = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        with htcjob.start("storage", "cat", "s3://b/x", AWS_ENDPOINT_URL_S3=endpoint, **variables) as process:
            assert select.select([server], [], [], 60)[0]
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            try:
                os.kill(int(children[0]), signal.SIGTERM)
                process.communicate(timeout=60)
            finally:
                process.kill()
    assert process.returncode == 143
