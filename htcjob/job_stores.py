"""
The one door to stores: project storage, task storage, and the stores of full URLs, for every command.

A store that HTCJOB_PROJECT_STORE, HTCJOB_TASK_STORE or a flag of `htcjob run` names is reached with the
SDK's own credentials. One that is not named is vended by the HTC API, given a bearer token and the ids to ask
for it. A full URL inside vended storage is reached with the vended credentials, any other with the SDK's own.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Literal

from htcjob.environment.context import read_context
from htcjob.environment.variables import current_environ, hide_credentials, variables_of
from htcjob.errors import AbsentError, ConfigurationError, HtcjobError, TransientError
from htcjob.storage.urls import is_cloud, open_store

if TYPE_CHECKING:
    from htcjob.environment.context import JobContext
    from htcjob.htc_api.vended_storage import VendedCredentials, VendedStorage, VendedStorages
    from htcjob.retry import RetryPolicy
    from htcjob.storage.access import Access
    from htcjob.storage.contract import Store

    Name = Literal["project", "task"]


class JobStores:
    """The stores of one job, each opened when it is first asked for; any thread may ask."""

    def __init__(self, context: JobContext | None, retry: RetryPolicy) -> None:
        """
        Open nothing yet.

        Args:
            context: The job. None: the one that this process's environment describes, read when it is needed.
            retry: For the API's transient failures, and for the parts of large objects.
        """
        self._given = context
        self._retry = retry
        self._lock = threading.RLock()
        # Below: only with that lock, once the job has threads.
        self._named: dict[Name, Store] = {}
        self._vending: VendedStorages | None = None
        self._vended: dict[Name, VendedStorage] = {}
        self._has_asked = False
        self._accesses: dict[VendedCredentials | None, Access] = {}
        self._stores: dict[tuple[str, VendedCredentials | None], Store] = {}

    @property
    def project(self) -> Store:
        """
        Project storage, where entries are; it can be vended without a task's id.

        Raises:
            ConfigurationError: it is not known, cannot be opened, or is unknown to the API.
            StorageError: the API gives none: denied, refused, or unavailable for too long.
            TokenError: the bearer token has ended and cannot be renewed.
        """
        return self._storage("project")

    @property
    def task(self) -> Store:
        """
        Task storage, where results go.

        Raises:
            ConfigurationError: it is not known, cannot be opened, or is unknown to the API.
            StorageError: the API gives none: denied, refused, or unavailable for too long.
            TokenError: the bearer token has ended and cannot be renewed.
        """
        return self._storage("task")

    @property
    def has_task(self) -> bool:
        """Whether task storage is named, or the API could be asked for it."""
        return self._context.task_store is not None or not _missing(self._context, needs_task=True)

    def open(self, url: str, key: str = "") -> Store:
        """
        Return the store *url*, opened once, with the credentials for the object *key* in it.

        Vended credentials are used for what lies in the storage they are vended for, and for nothing else:
        other objects, also of the same bucket, are reached with the SDK's own. Where the API should vend
        storage and does not, a warning says why, and the SDK's own are used.

        Args:
            url: A store, as `split_object_url` gives it, or a directory.
            key: The object that is wanted there, or the beginning of the names of several. Empty: all of the
                store.

        Raises:
            ConfigurationError: as `open_store`.
        """
        with self._lock:
            vended = self._vended_around(url, key) if is_cloud(url) else None
            of = (url, vended.credentials if vended else None)
            store = self._stores.get(of)
            if store is None:
                store = self._stores[of] = self._open(url, vended)
            return store

    @property
    def _context(self) -> JobContext:
        with self._lock:
            if self._given is None:
                self._given = read_context(current_environ())
            return self._given

    def _storage(self, name: Name) -> Store:
        with self._lock:
            store = self._named.get(name)
            if store is None:
                url: str | None = getattr(self._context, f"{name}_store")
                vended = self._vend(name) if url is None else None
                store = self._named[name] = self._open(vended.url if vended else url or "", vended)
            return store

    def _vended_around(self, url: str, key: str) -> VendedStorage | None:
        """Return the vended storage that an object lies in, the innermost one; None: it lies in none."""
        if not self._has_asked:
            self._has_asked = True
            self._vend_what_is_not_named()
        whole = url.rstrip("/") + "/" + key
        inside = [vended for vended in self._vended.values() if whole.startswith(vended.url)]
        return max(inside, key=lambda vended: len(vended.url), default=None)

    def _vend_what_is_not_named(self) -> None:
        """Ask for both storages, one after the other: a token may be good for one of them alone."""
        names: tuple[Name, ...] = ("project", "task")
        told = ""
        for name in names:
            try:
                is_named = getattr(self._context, f"{name}_store") is not None
                if not is_named and not _missing(self._context, needs_task=name == "task"):
                    self._vend(name)
            except HtcjobError as error:
                # The URL may lie elsewhere, and need nothing of the API.
                from htcjob.logs.events import WARNING, event

                if str(error) != told:
                    event(__name__, WARNING, "no_vended_storage", cause=str(error))
                told = str(error)
                if isinstance(error, TransientError):
                    return  # the API is out of order, which has been waited for

    def _vend(self, name: Name) -> VendedStorage:
        if name in self._vended:
            return self._vended[name]
        context, needs_task = self._context, name == "task"
        if missing := _missing(context, needs_task=needs_task):
            raise _unknown(name, missing)
        from htcjob.htc_api.vended_storage import VendedStorages

        vending = self._vending = self._vending or VendedStorages(context)
        try:
            vended = self._retry.call(vending.task if needs_task else vending.project)
        except AbsentError as error:
            task = f" and task {context.task_id}" if context.task_id else ""
            raise ConfigurationError(
                f"the HTC API knows no {name} storage for project {context.project_id}{task}: {error}; "
                "are the ids and HTCJOB_API_URL right?"
            ) from error
        self._vended[name] = vended
        return vended

    def _open(self, url: str, vended: VendedStorage | None) -> Store:
        """Open *url*; what is local needs no access, and does not import what has to do with one."""
        return open_store(url, self._access(vended)) if is_cloud(url) else open_store(url)

    def _access(self, vended: VendedStorage | None) -> Access:
        """Return the one access for these credentials, so that their stores share connections."""
        credentials = vended.credentials if vended else None
        access = self._accesses.get(credentials)
        if access is None:
            access = replace(access_of_environment(), retry=self._retry, buckets={})
            if vended is not None:
                endpoint = vended.endpoint
                access = replace(access, credentials=credentials, region=vended.region, endpoint=endpoint)
            self._accesses[credentials] = access
        return access


def open_job_stores(context: JobContext, retry: RetryPolicy) -> JobStores:
    """
    Open project and task storage, both of which an attempt needs.

    Raises:
        ConfigurationError: one is not known, cannot be opened, is unknown to the API, or both are the same.
        StorageError: the API gives no storage: denied, refused, or unavailable for too long.
        TokenError: the bearer token has ended and cannot be renewed.
    """
    missing = _missing(context, needs_task=context.task_store is None)
    for name, store in (("project", context.project_store), ("task", context.task_store)):
        if store is None and missing:
            raise _unknown(name, missing)
    stores = JobStores(context, retry)
    if stores.project.url == stores.task.url:
        raise ConfigurationError(
            f"project and task storage are the same, {stores.project.url}: an output could replace an input; "
            "use another task storage"
        )
    return stores


@cache
def access_of_environment() -> Access:
    """Return this process's one `Access` without vended credentials; hides its secrets in messages."""
    from htcjob.storage.access import Access

    environ = current_environ()
    hide_credentials(environ)
    return Access(engine=environ.get("HTCJOB_STORAGE_ENGINE") or "auto", environ=environ)


def _missing(context: JobContext, *, needs_task: bool) -> list[str]:
    """Return the variables without which the API cannot be asked."""
    found = {
        "token": context.token or context.refresh_token,
        "project_id": context.project_id,
        "task_id": context.task_id or not needs_task,
    }
    return [variables_of(name)[-1] for name, value in found.items() if not value]


def _unknown(name: str, missing: list[str]) -> ConfigurationError:
    return ConfigurationError(
        f"no {name} storage is known: "
        f"set --{name}-store or HTCJOB_{name.upper()}_STORE to its URL or directory "
        f"(or {' and '.join(missing)}, for which the HTC API gives storage)"
    )
