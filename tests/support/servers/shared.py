"""
Servers and other costly things that the workers of one run share; each is made when a test asks for it first.

With workers (`pytest -n 4`) they are the controller's, the process that hands out the tests: no worker's end, be it a
crash, ends a server that others still use, and none outlives the run. Without workers they are the one process's.
"""

from __future__ import annotations

import pickle
import shutil
import socket
import tempfile
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingMixIn, UnixStreamServer
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_ADDRESS = "htcjob-shared"
"""Name of the address among what xdist tells a worker."""


class Shared:
    """What has been made in this process; it ends with the context."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._end = Event()
        self._made: dict[tuple[Any, ...], Future[Any]] = {}
        self._threads: list[Thread] = []

    def __enter__(self) -> Shared:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def get(self, directory: Path, make: Callable[..., AbstractContextManager[T]], *arguments: object) -> T:
        """
        Return what the context `make(directory, *arguments)` gives, entered once and left at the end.

        Args:
            directory: For its files, if this is the first call with the same rest.
            make: A function of a module, as it may come from another process.
            arguments: Hashable, and able to be pickled, as the result must be.
        """
        key = (make, *arguments)
        with self._lock:
            if key not in self._made:
                self._made[key] = Future()
                context = make(directory, *arguments)
                # A thread that lives as long as what it starts: the kernel ends servers with the thread that made them.
                thread = Thread(target=self._keep, args=(self._made[key], context), daemon=True)
                self._threads.append(thread)
                thread.start()
        return self._made[key].result()

    def _keep(self, future: Future[T], context: AbstractContextManager[T]) -> None:
        try:
            with context as made:
                future.set_result(made)
                self._end.wait()
        except BaseException as error:
            if future.done():
                raise
            future.set_exception(error)


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    shared: Shared


class _Handler(StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        try:
            answer = True, self.server.shared.get(*pickle.load(self.rfile))
        except Exception as error:
            answer = False, error
        pickle.dump(answer, self.wfile)


@contextmanager
def _served() -> Iterator[str]:
    """Serve what is made here to other processes, at the socket whose path is given."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="htcjob-shared-"))
        server = stack.enter_context(_Server(f"{folder}/socket", _Handler))
        server.shared = stack.enter_context(Shared())
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield server.server_address


def _ask(address: str, *request: object) -> Any:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        with connection.makefile("rwb") as file:
            pickle.dump(request, file)
            file.flush()
            is_made, made = pickle.load(file)
    if not is_made:
        raise made
    return made


class SharedByWorkers:
    """The plugin of the controller: workers are told where to ask."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._address = ""

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        self._address = self._address or self._stack.enter_context(_served())
        node.workerinput[_ADDRESS] = self._address

    def pytest_unconfigure(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Any]]:
    """`Shared.get`, with a directory, for all workers of this run."""
    with ExitStack() as stack:
        address = getattr(request.config, "workerinput", {}).get(_ADDRESS)
        get = partial(_ask, address) if address else stack.enter_context(Shared()).get
        yield lambda make, *arguments: get(tmp_path_factory.mktemp(make.__name__), make, *arguments)


def tied(*command: str) -> list[str]:
    """Return a command that the kernel ends with the thread that starts it, should we be killed."""
    return [*(("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()), *command]
