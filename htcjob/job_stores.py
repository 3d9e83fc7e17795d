"""
The stores of one job: project storage, task storage, and those that full URLs in a manifest name.

A store that HTCJOB_PROJECT_STORE, HTCJOB_TASK_STORE or a flag names is reached with the SDK's own
credentials. One that nobody names is vended by the HTC API, when there are a bearer token and the ids to ask
for it.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from htcjob.environment.variables import current_environ, hide_credentials, variables_of
from htcjob.errors import AbsentError, ConfigurationError
from htcjob.storage.urls import open_store

if TYPE_CHECKING:
    from htcjob.environment.context import JobContext
    from htcjob.htc_api.vended_storage import VendedCredentials, VendedStorage, VendedStorages
    from htcjob.retry import RetryPolicy
    from htcjob.storage.access import Access
    from htcjob.storage.contract import Store


class JobStores:
    """Project and task storage, and the stores of full URLs; any thread may ask."""

    project: Store
    """Where entries are."""
    task: Store
    """Where results go."""

    def __init__(self, project: Store, task: Store, opener: _Opener) -> None:
        self.project = project
        self.task = task
        self._opener = opener

    def open(self, url: str, key: str = "") -> Store:
        """
        Give the store *url*, opened once, with the credentials for the object *key* in it.

        Vended credentials are used for what lies in the storage they are vended for, and for nothing else:
        other objects, also of the same bucket, are reached with the SDK's own.

        Args:
            url: A store, as `split_object_url` gives it.
            key: The object that is wanted there. Empty: all of the store.

        Raises:
            ConfigurationError: as `open_store`.
        """
        return self._opener.open_for(url, key)


def open_job_stores(context: JobContext, retry: RetryPolicy) -> JobStores:
    """
    Open project and task storage.

    Args:
        context: The job.
        retry: For the API's transient failures, and for the parts of large objects.

    Raises:
        ConfigurationError: one of them is not known, not to be opened, unknown to the API, or both are one.
        StorageError: the API gives no storage: denied, refused, or unavailable for too long.
        TokenError: the bearer token has ended and cannot be renewed.
    """
    opener = _Opener(context, retry)
    _check_known(context)
    stores = JobStores(opener.project(), opener.task(), opener)
    if stores.project.url == stores.task.url:
        raise ConfigurationError(
            f"project and task storage are the same, {stores.task.url}: an output could replace an input; "
            "use another task storage"
        )
    return stores


def open_project_store(context: JobContext, retry: RetryPolicy) -> Store:
    """
    Open project storage only; it can be vended without a task's id.

    Raises:
        ConfigurationError: it is not known, or not to be opened.
        StorageError: the API gives none.
        TokenError: the bearer token has ended and cannot be renewed.
    """
    if context.project_store is None and not _can_vend(context, needs_task=False):
        raise _unknown(context, "project", needs_task=False)
    return _Opener(context, retry).project()


def open_task_store(context: JobContext, retry: RetryPolicy, *, may_vend: bool = False) -> Store | None:
    """
    Open task storage only; None when it is not known.

    Without *may_vend* the API is not asked: a plain command, of a million perhaps, is not to cost it a
    request each, nor to fail with it, for a copy of its exit record.

    Raises:
        ConfigurationError: it is not to be opened.
        StorageError: the API gives none.
        TokenError: the bearer token has ended and cannot be renewed.
    """
    if context.task_store is None and not (may_vend and _can_vend(context)):
        return None
    return _Opener(context, retry).task()


def require_task_store(context: JobContext, retry: RetryPolicy) -> Store:
    """
    Open task storage only, by its name or vended, for commands that cannot do without.

    Raises:
        ConfigurationError: it is not known, or not to be opened.
        StorageError: the API gives none.
        TokenError: the bearer token has ended and cannot be renewed.
    """
    store = open_task_store(context, retry, may_vend=True)
    if store is None:
        raise _unknown(context, "task", needs_task=True)
    return store


def open_with_own_credentials(url: str) -> Store:
    """Return the store of a URL, reached with the SDK's own credentials."""
    return open_store(url, access_of_environment())


@cache
def access_of_environment() -> Access:
    """Return the one `Access` of this process without vended credentials, as its environment says."""
    from htcjob.storage.access import Access

    environ = current_environ()
    hide_credentials(environ)
    return Access(engine=environ.get("HTCJOB_STORAGE_ENGINE") or "auto", environ=environ)


class _Opener:
    """Opens stores, each with the credentials that are for it."""

    def __init__(self, context: JobContext, retry: RetryPolicy) -> None:
        self._context = context
        self._retry = retry
        self._vending: VendedStorages | None = None
        self._vended: list[VendedStorage] = []
        self._lock = threading.Lock()
        # Below: only with that lock, once the job has threads.
        self._accesses: dict[VendedCredentials | None, Access] = {}
        self._stores: dict[tuple[str, VendedCredentials | None], Store] = {}

    def project(self) -> Store:
        if self._context.project_store is not None:
            return self._open(self._context.project_store, None)
        return self._open_vended(self._vend("project"))

    def task(self) -> Store:
        if self._context.task_store is not None:
            return self._open(self._context.task_store, None)
        return self._open_vended(self._vend("task"))

    def open_for(self, url: str, key: str) -> Store:
        whole = url.rstrip("/") + "/" + key
        inside = [storage for storage in self._vended if whole.startswith(storage.url)]
        vended = max(inside, key=lambda storage: len(storage.url), default=None)
        with self._lock:
            place = (url, vended.credentials if vended else None)
            store = self._stores.get(place)
            if store is None:
                store = self._stores[place] = self._open(url, vended)
        return store

    def _vend(self, name: str) -> VendedStorage:
        from htcjob.htc_api.vended_storage import VendedStorages

        context = self._context
        vending = self._vending = self._vending or VendedStorages(context)
        try:
            storage = self._retry.call(vending.project if name == "project" else vending.task)
        except AbsentError as error:
            task = f" and task {context.task_id}" if context.task_id else ""
            raise ConfigurationError(
                f"the HTC API knows no {name} storage for project {context.project_id}{task}: {error}; "
                "are the ids and HTCJOB_API_URL right?"
            ) from error
        self._vended.append(storage)
        return storage

    def _open_vended(self, storage: VendedStorage) -> Store:
        return self._open(storage.url, storage)

    def _open(self, url: str, vended: VendedStorage | None) -> Store:
        """Open *url*; what is local needs no access, and does not import what has to do with one."""
        if url.partition(":")[0].lower() not in ("s3", "gs", "az"):
            return open_store(url)
        return open_store(url, self._access(vended))

    def _access(self, vended: VendedStorage | None) -> Access:
        """Give the one access for these credentials, so that their stores share connections."""
        credentials = vended.credentials if vended else None
        access = self._accesses.get(credentials)
        if access is None:
            access = replace(access_of_environment(), retry=self._retry, buckets={})
            if vended is not None:
                endpoint = vended.endpoint
                access = replace(access, credentials=credentials, region=vended.region, endpoint=endpoint)
            self._accesses[credentials] = access
        return access


def _can_vend(context: JobContext, *, needs_task: bool = True) -> bool:
    return not _missing(context, needs_task=needs_task)


def _missing(context: JobContext, *, needs_task: bool) -> list[str]:
    """Give the variables without which the API cannot be asked."""
    found = {
        "token": context.token or context.refresh_token,
        "project_id": context.project_id,
        "task_id": context.task_id or not needs_task,
    }
    return [variables_of(name)[-1] for name, value in found.items() if not value]


def _check_known(context: JobContext) -> None:
    for name, store in (("project", context.project_store), ("task", context.task_store)):
        if store is None and not _can_vend(context):
            raise _unknown(context, name, needs_task=True)


def _unknown(context: JobContext, name: str, *, needs_task: bool) -> ConfigurationError:
    missing = " and ".join(_missing(context, needs_task=needs_task))
    return ConfigurationError(
        f"no {name} storage is known: "
        f"set --{name}-store or HTCJOB_{name.upper()}_STORE to its URL or directory "
        f"(or {missing}, for which the HTC API gives storage)"
    )
