"""The API's answers about storage -> URLs of stores, and credentials for them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, cast

from htcjob.errors import PermanentError, TransientError
from htcjob.logs.json_object import parse_object
from htcjob.logs.redact import Secret, one_line
from htcjob.storage.access import CloudCredentials

if TYPE_CHECKING:
    from htcjob.htc_api.client import ApiAnswer

Provider = Literal["AWS", "GCP", "AZURE"]

CLOCK_SLACK_S = 5.0
"""Clocks that differ by no more count as equal: the Date header is in whole seconds."""

_PROVIDER_OF = {"s3": "AWS", "gs": "GCP", "az": "AZURE"}
_ENDPOINTS = {
    "AWS": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "GCP": ("STORAGE_EMULATOR_HOST",),
    "AZURE": ("AZURE_STORAGE_ENDPOINT",),
}
"""Keys of the credentials, as the clouds' own tools call such variables (for Azure, object_store)."""
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_ACCOUNTS = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
_NO_SECRETS = {*(name for names in _ENDPOINTS.values() for name in names), *_REGIONS, *_ACCOUNTS}
_AZURE_HOST = re.compile(r"([a-z0-9]+)\.(?:blob|dfs)\.([a-z0-9.-]+)")
_REGION = re.compile(r"[A-Za-z0-9._-]{1,60}")
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class Grant:
    """Storage that the API lets a job use for a while."""

    credentials: CloudCredentials
    """Good for both URLs; their end is by our clock."""
    project_url: str | None
    """Project storage, as `open_store` takes it, ending in `/`; None: not in this answer."""
    task_url: str | None
    """Task storage, likewise."""
    region: str | None = None
    """The cloud's own name of the region, where the store must be told."""
    endpoint: str | None = None
    """A compatible server; None: the cloud's own."""


def grant_of_token(answer: ApiAnswer, *, now: float) -> Grant:
    """
    Return what a StorageAccessToken grants: the answer to `storage/token` of a project or a task.

    `storagePath` is the task's where there is a `taskId`, else the project's.

    Raises:
        PermanentError: the answer has another form than the API promises.
        TransientError: its credentials have expired already.
    """
    paths = dict(answer.body)
    paths.setdefault("taskPath" if "taskId" in paths else "projectPath", paths.get("storagePath"))
    return _Reader(answer.url).grant(paths, answer, now=now)


def grant_of_regions(answer: ApiAnswer, region: str | None, *, now: float) -> Grant:
    """
    Return what the answer to `storage/regional-storage` grants in the job's region.

    Where there is no storage in that region, the default region's counts; else the only one's there is.

    Raises:
        PermanentError: the answer has another form, or it does not tell which region to take.
        TransientError: the credentials have expired already.
    """
    reader = _Reader(answer.url)
    stores = answer.body.get("regionalStores", answer.body.get("regionStores"))
    if not isinstance(stores, list) or not all(isinstance(store, Mapping) for store in stores):
        raise reader.refuse("no list regionalStores")
    names = [store.get("region") for store in stores]
    by_region = {
        _plain(name): store for name, store in zip(names, stores, strict=True) if isinstance(name, str)
    }
    for wanted in (region, answer.body.get("rescaleRegion"), answer.body.get("defaultRegion")):
        if isinstance(wanted, str) and _plain(wanted) in by_region:
            return reader.grant(by_region[_plain(wanted)], answer, now=now)
    if len(stores) != 1:
        said = ", ".join(sorted(name for name in names if isinstance(name, str))) or "no region"
        raise reader.refuse(
            f"storage in {one_line(said)} and not in the job's region, {region or 'which is not known'}"
        )
    return reader.grant(stores[0], answer, now=now)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one answer; its errors name the answer's URL, and no value of it that may be secret."""

    url: str

    def refuse(self, what: str) -> PermanentError:
        return PermanentError("GET", self.url, f"the answer cannot be used, it has {what}")

    def grant(self, token: Mapping[str, object], answer: ApiAnswer, *, now: float) -> Grant:
        values, plain = self._values(token.get("credentials"))
        project_path = token.get("projectSharedStoragePath") or token.get("projectPath")
        project_url, project_endpoint = self._store_url(project_path, plain)
        task_url, task_endpoint = self._store_url(token.get("taskPath"), plain)
        providers = {_PROVIDER_OF[url.partition(":")[0]] for url in (project_url, task_url) if url}
        if len(providers) != 1:
            raise self.refuse("no storage path" if not providers else "storage of two clouds in one")
        provider = cast("Provider", providers.pop())
        said = token.get("provider")
        if isinstance(said, str) and said in _ENDPOINTS and said != provider:
            raise self.refuse(f"provider {said} with the storage path of {provider}")
        override = next((plain[name] for name in _ENDPOINTS[provider] if plain.get(name)), None)
        if override is not None and not _is_endpoint(override):
            raise self.refuse("an endpoint that is no http(s):// URL")
        return Grant(
            CloudCredentials(provider, self._needed(provider, values), self._end(token, answer, now)),
            project_url,
            task_url,
            region=_region(provider, token.get("region"), plain),
            endpoint=override or project_endpoint or task_endpoint,
        )

    def _values(self, credentials: object) -> tuple[dict[str, Secret], dict[str, str]]:
        """Divide the map of credentials into secrets, from now on hidden, and settings."""
        if not isinstance(credentials, Mapping):
            raise self.refuse("no credentials")
        secrets, plain = {}, {}
        for name, value in credentials.items():
            if not isinstance(value, str):
                if value is not None:
                    raise self.refuse("credentials that are no text")
            elif name in _NO_SECRETS:
                plain[name] = value
            elif value:
                secrets[name] = Secret(value)
                # Else it would break the header or the request that it is for.
                if not _is_account(value) and not (value.isascii() and value.isprintable()):
                    raise self.refuse("credentials that are no plain text")
        return secrets, plain

    def _needed(self, provider: Provider, values: Mapping[str, Secret]) -> dict[str, Secret]:
        """
        Return the credentials under the names of `CloudCredentials`.

        The API's names for AWS are documented; for the other clouds the content tells which credential it is.
        """
        if provider == "AWS":
            names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
            if not values.keys() >= set(names[:2]):
                raise self.refuse(f"credentials without {' and '.join(names[:2])}")
            return {name: values[name] for name in names if name in values}
        for name, secret in values.items():
            text = secret.reveal()
            if name.startswith("AWS_"):
                continue
            if provider == "AZURE" and "sig=" in text:
                # With its `?`, or at the end of a URL.
                return {"AZURE_STORAGE_SAS_TOKEN": Secret(text.rpartition("?")[2])}
            if provider == "GCP" and _is_account(text):
                return {"GCP_APPLICATION_CREDENTIALS": secret}
            if provider == "GCP" and "token" in name.lower() and not text.lstrip().startswith("{"):
                return {"GCP_ACCESS_TOKEN": secret}
        wanted = "a SAS" if provider == "AZURE" else "an access token or a service account"
        raise self.refuse(f"credentials without {wanted}")

    def _end(self, token: Mapping[str, object], answer: ApiAnswer, now: float) -> float | None:
        """Return when the credentials end, by our clock."""
        expires_at = _instant(token.get("expiration", answer.body.get("expiration")))
        if expires_at is None:
            return None
        if abs(answer.clock_ahead_s) > CLOCK_SLACK_S:
            expires_at -= answer.clock_ahead_s
        if expires_at <= now:
            raise TransientError(
                "GET",
                self.url,
                "the storage credentials have expired already (or is this machine's clock wrong?)",
            )
        return expires_at

    def _store_url(self, path: object, plain: Mapping[str, str]) -> tuple[str | None, str | None]:
        """Return a storage path, where there is one, as `open_store` takes it, and the endpoint in it."""
        if not isinstance(path, str) or not path:
            return None, None
        scheme, colon, rest = path.partition("://")
        if not colon or not rest or any(c in path for c in "?#") or not path.isprintable():
            raise self.refuse("a storage path that is no URL, or one with a query")
        rest += "" if rest.endswith("/") else "/"
        endpoint = None
        if scheme in ("https", "http"):
            host, _, rest = rest.partition("/")
            if azure := _AZURE_HOST.fullmatch(host):
                rest = f"{azure[1]}/{rest}"
                if azure[2] != "core.windows.net":
                    endpoint = f"{scheme}://{azure[1]}.blob.{azure[2]}"
            else:  # a server that has the account as the first part of the path, as Azurite
                endpoint = f"{scheme}://{host}/{rest.partition('/')[0]}"
            if "@" in host:
                raise self.refuse("a storage path with a user")
            scheme = "az"
        elif scheme in ("abfs", "abfss", "wasb", "wasbs"):
            place, _, prefix = rest.partition("/")
            container, _, host = place.partition("@")
            rest, scheme = f"{host.partition('.')[0]}/{container}/{prefix}", "az"
        elif scheme == "az":
            account = next((plain[name] for name in _ACCOUNTS if plain.get(name)), None)
            if account is not None and not rest.startswith(f"{account}/"):
                rest = f"{account}/{rest}"
        if scheme not in _PROVIDER_OF:
            raise self.refuse(f"a storage path that begins with {scheme[:20]}://")
        parts = rest.split("/")[: 2 if scheme == "az" else 1]
        if not all(parts) or "@" in rest.partition("/")[0]:
            raise self.refuse("a storage path without bucket or container")
        return f"{scheme}://{rest}", endpoint


def _plain(region: str) -> str:
    """Return a region's name for comparison: `AWS_EU_WEST_1` and `eu-west-1` are one."""
    return region.upper().replace("-", "_").removeprefix("AWS_")


def _region(provider: Provider, name: object, plain: Mapping[str, str]) -> str | None:
    """Return AWS's own name of the region; the other clouds' stores do not ask for one."""
    if provider != "AWS":
        return None
    said = next((plain[variable] for variable in _REGIONS if plain.get(variable)), None)
    if said is None and isinstance(name, str) and name.startswith("AWS_"):
        said = name.removeprefix("AWS_").lower().replace("_", "-")
    return said if said is not None and _REGION.fullmatch(said) else None


def _is_endpoint(url: str) -> bool:
    scheme, _, rest = url.partition("://")
    return scheme in ("http", "https") and bool(rest) and url.isprintable() and not set(rest) & set("?#@ ")


def _is_account(text: str) -> bool:
    """Whether *text* is Google's JSON of an account; the secrets in it are hidden one by one, too."""
    try:
        account = parse_object(text.encode())
    except ValueError:  # a lone surrogate is one too
        return False
    if not isinstance(account.get("type"), str):
        return False
    for name in ("private_key", "private_key_id", "refresh_token", "client_secret"):
        Secret(str(account.get(name, "")))
    return True


def _instant(text: object) -> float | None:
    """Return an RFC 3339 instant in seconds since the epoch; None where *text* is none."""
    found = _INSTANT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        return None
    zone = "+00:00" if found[3] == "Z" else found[3]
    try:
        return datetime.fromisoformat(found[1] + zone).timestamp() + float(found[2] or 0)
    except (ValueError, OverflowError):
        return None
