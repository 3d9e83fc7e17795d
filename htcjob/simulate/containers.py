"""
Runs attempts in containers of one image, with the limits of a job definition.

The stores' directories are mounted under the path they have here, so that containers can continue what
processes began. The token comes as a file, so that neither a command line nor `docker inspect` shows it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from htcjob.errors import EngineError, UsageError
from htcjob.simulate.engine import Engine, State, kill
from htcjob.simulate.leftovers import SIMULATION, Lock, remove_leftovers
from htcjob.simulate.runner import Ended, Launch

TOKEN_FILE = "/run/htcjob/token"  # noqa: S105 - where it lies in the container
KEY_SET = "/run/htcjob/jwks.json"
TERMINATION_LOG = "/dev/termination-log"

_PASSED_ON = (
    "HTCJOB_",
    # How storage is reached, and with what credentials.
    *("AWS_", "AZURE_", "GOOGLE_", "GCP_", "CLOUDSDK_", "STORAGE_EMULATOR_HOST", "NO_GCE_CHECK"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"),
)
"""How the names of those of our own variables begin that attempts get; all others come with the image."""
_OF_THIS_MACHINE = ("HTCJOB_DOCKER", "HTCJOB_WORK_DIR")
"""Variables that make sense on this machine only."""
_NOT_FOUND = 127
_SIGNAL_EVERY_S = 0.1
"""Seconds between two tries to signal a container that may not run yet."""


@dataclass(frozen=True, slots=True)
class Box:
    """Image, limits and options of the containers."""

    image: str
    """Name or id; it must be there already, and have htcjob on its PATH."""
    memory_bytes: int | None = None
    """Limit of memory, without swap; None: no limit."""
    cpus: float | None = None
    """Limit of CPU time per time; None: no limit."""
    platform: str | None = None
    """Platform such as `linux/arm64`; None: the image's."""
    options: Sequence[str] = ()
    """Further options of `docker run`; they override ours, except for `--rm`: we ask how it ended."""

    def arguments(self) -> list[str]:
        """Return the options of `docker run`."""
        given = ["--pull=never", f"--user={os.getuid()}:{os.getgid()}"]
        if self.memory_bytes is not None:
            given += [f"--memory={self.memory_bytes}", f"--memory-swap={self.memory_bytes}"]
        if self.cpus is not None:
            given.append(f"--cpus={self.cpus:g}")
        if self.platform is not None:
            given.append(f"--platform={self.platform}")
        return [*given, *self.options, "--rm=false"]


class Containers:
    """
    Runs attempts in containers.

    Args:
        engine: The container engine.
        box: Image, limits and options of the containers.
        arguments: Arguments of `htcjob run`.
        directories: Directories to mount, under the path they have here.
        environ: Variables of this process, some of which are passed on.
        directory: Where tokens and a lock file go.
    """

    def __init__(
        self,
        engine: Engine,
        box: Box,
        *,
        arguments: Sequence[str],
        directories: Iterable[str],
        environ: Mapping[str, str],
        directory: str,
    ) -> None:
        self._engine = engine
        self._box = box
        self._arguments = arguments
        self._directory = directory
        self._name = f"htcjob-{uuid.uuid4().hex[:12]}"
        self._passed_on = [
            name for name in environ if name.startswith(_PASSED_ON) and name not in _OF_THIS_MACHINE
        ]
        files = [
            path for name in self._passed_on if os.path.isabs(path := environ[name]) and os.path.isfile(path)
        ]
        self._mounts = [
            *(_mount(path, path) for path in dict.fromkeys(directories)),
            *(_mount(path, path, is_readonly=True) for path in dict.fromkeys(files)),
        ]
        self._lock: Lock | None = None

    async def open(self) -> None:
        """
        Remove what dead simulations left, and check that an attempt can run, before a thousand cannot.

        Raises:
            EngineError: the engine cannot be used.
            UsageError: the image is not there, or not usable, or the options are refused.
        """
        engine, image = self._engine, self._box.image
        await remove_leftovers(engine)
        if (await engine.ask("image", "inspect", "--", image)).status != 0:
            raise UsageError(
                f"--docker {image}: no such image here: build it, or run {engine.program} pull {image}"
            )
        self._lock = Lock(os.path.join(self._directory, f"{self._name}.lock"))
        answer = await engine.ask(*self._argv("run", f"{self._name}-check", self._mounts, [], ["--version"]))
        await engine.remove(f"{self._name}-check")
        if answer.status == _NOT_FOUND:
            raise UsageError(f"--docker {image}: it has no htcjob: build it from htcjob's base image")
        if answer.status != 0:
            raise UsageError(f"--docker {image}: {answer.cause or f'htcjob ended with {answer.status}'}")

    async def start(self, launch: Launch, output: int | None) -> _Container:
        """Start an attempt."""
        name = f"{self._name}-{launch.array_index}-{launch.attempt}"
        token_file = os.path.join(self._directory, f"{name}.token")
        for path, content in ((token_file, launch.token.reveal()), (launch.termination_log, "")):
            with open(path, "w", encoding="ascii", opener=_open_private) as file:
                file.write(content)
        variables = {
            **launch.variables,
            "HTCJOB_TOKEN_FILE": TOKEN_FILE,
            "HTCJOB_JWKS": KEY_SET,
            "HTCJOB_TERMINATION_LOG": TERMINATION_LOG,
        }
        mounts = [
            *self._mounts,
            _mount(token_file, TOKEN_FILE, is_readonly=True),
            _mount(launch.key_set, KEY_SET, is_readonly=True),
            _mount(launch.termination_log, TERMINATION_LOG),
        ]
        argv = self._argv("create", name, mounts, [*self._passed_on, *variables], ["run", *self._arguments])
        return _Container(self._engine, name, list(argv), variables, output=output, token_file=token_file)

    async def close(self) -> None:
        """Remove all containers that are left, including those whose start was interrupted."""
        if self._lock is None:
            return
        for container in await self._engine.containers(f"{SIMULATION}={self._lock.path}"):
            await self._engine.remove(container)
        self._lock.release()

    def _argv(
        self,
        verb: str,
        name: str,
        mounts: Iterable[str],
        variables: Iterable[str],
        arguments: Iterable[str],
    ) -> Iterator[str]:
        """Yield docker's arguments; variables by name only, as their values are in its environment."""
        yield from (verb, f"--name={name}", *mounts, *(f"--env={variable}" for variable in variables))
        yield from (f"--label={label}" for label in (self._lock.labels() if self._lock else ()))
        yield from (*self._box.arguments(), "--entrypoint=htcjob", self._box.image, *arguments)


class _Container:
    """One attempt in its container, which is removed when it has ended."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        argv: Sequence[str],
        variables: Mapping[str, str],
        *,
        output: int | None,
        token_file: str,
    ) -> None:
        self._engine = engine
        self._name = name
        self._argv = argv
        self._variables = variables
        # A descriptor of our own: the caller may close its own before we have started anything.
        self._output = None if output is None else os.dup(output)
        self._token_file = token_file
        self._attached: asyncio.subprocess.Process | None = None
        self._signalling: set[asyncio.Task[None]] = set()
        self.ended = asyncio.create_task(self._run())

    def send_signal(self, signum: int) -> None:
        task = asyncio.create_task(self._signal(signal.Signals(signum).name))
        self._signalling.add(task)  # or it would be garbage-collected before it is done
        task.add_done_callback(self._signalling.discard)

    async def _signal(self, name: str) -> None:
        while not self.ended.done():
            try:
                if (await self._engine.ask("kill", f"--signal={name}", self._name)).status == 0:
                    return
            except EngineError:
                if self._attached is not None and name == "SIGKILL":
                    kill(self._attached)  # an engine that hangs would never tell of the end
            await asyncio.sleep(_SIGNAL_EVERY_S)  # it has not begun yet, or has just ended

    async def _run(self) -> Ended:
        try:
            state = await self._run_to_its_end()
        except EngineError as error:
            raise EngineError(f"{error}; finished work is kept: run the same command again") from error
        finally:
            if self._output is not None:
                os.close(self._output)
            with suppress(FileNotFoundError):
                os.unlink(self._token_file)
            await self._engine.remove(self._name)
        return Ended(state.exit_status, is_out_of_memory=state.is_out_of_memory)

    async def _run_to_its_end(self) -> State:
        # In two steps, so that the engine's own messages do not mix with the attempt's output.
        engine = self._engine
        answer = await engine.ask(*self._argv, environ=self._variables)
        if answer.status != 0:
            raise EngineError(f"{engine.program} create: {answer.cause}")
        self._attached = await engine.start(
            "start", "--attach", self._name, output=self._output, errors=self._output
        )
        status = await self._attached.wait()
        try:
            return await engine.state(self._name)
        except EngineError as error:
            raise EngineError(f"{engine.program} start ended with {status}: {error}") from error


def _mount(source: str, target: str, *, is_readonly: bool = False) -> str:
    fields = ["type=bind", f"source={source}", f"target={target}", *(["readonly"] if is_readonly else [])]
    return f"--mount={','.join(map(_csv_field, fields))}"


def _csv_field(text: str) -> str:
    return '"{}"'.format(text.replace('"', '""')) if set(text) & set(',"\r\n') else text


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
