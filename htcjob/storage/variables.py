"""The variables that hold credentials and endpoints of the clouds, checked before an engine reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from htcjob.errors import ConfigurationError
from htcjob.logs.redact import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

_CREDENTIALS = {
    "s3": (
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
        *("AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_ROLE_ARN"),
    ),
    "gs": (),
    "az": (
        *("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"),
        *("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING"),
    ),
}
"""Variables that are used where no credentials are vended."""
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "gs": ("STORAGE_EMULATOR_HOST",),
    "az": ("AZURE_STORAGE_ENDPOINT",),
}
_REGIONS = {"s3": ("AWS_REGION", "AWS_DEFAULT_REGION"), "gs": (), "az": ()}
_NAMES = {
    "s3": (
        *("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"),
        *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
    ),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS",),
    "az": (),
}
"""Names of files and profiles, which may have any letters."""
_TOKEN_FILES = {"s3": ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",), "gs": (), "az": ()}
"""Files whose content becomes a header."""


def check_variables(scheme: str, environ: Mapping[str, str], *, are_vended: bool) -> None:
    """
    Refuse a value that no engine could send, such as a key with a line break behind it.

    Args:
        scheme: `s3`, `gs` or `az`.
        environ: The variables.
        are_vended: The credentials come from the HTC API.

    Raises:
        ConfigurationError: names the variable, not its value.
    """
    for name in _REGIONS[scheme] if are_vended else (*_REGIONS[scheme], *_CREDENTIALS[scheme]):
        _check(name, environ.get(name, ""))
    for name in _ENDPOINTS[scheme]:
        if name in environ:
            text = environ[name]
            check_url(name, f"http://{text}" if scheme == "gs" and "://" not in text else text)
    for name in () if are_vended else _NAMES[scheme]:
        _check_ends(name, environ.get(name, ""))
    for name in () if are_vended else _TOKEN_FILES[scheme]:
        if path := environ.get(name):
            try:
                with open(path, encoding="utf-8") as file:
                    text = file.read(1 << 16)
            except (OSError, ValueError):
                continue  # the engine says what is wrong with it
            _check(f"the file that {name} names", text)


def check_url(name: str, text: str) -> None:
    """Refuse what is no URL of a server; object_store does not survive every text."""
    from urllib.parse import urlsplit

    try:
        url = urlsplit(text)
        is_good = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:
        is_good = False
    if not is_good or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigurationError(f"{name} holds {redact(text)!r}: expected a URL such as https://host:port")


def is_true(text: str | None) -> bool:
    """Whether a switch is on, as object_store and botocore understand it."""
    return (text or "").lower() in ("1", "true", "on", "yes", "y")


def _check(name: str, value: str) -> None:
    _check_ends(name, value)
    if not value.isascii() or not value.isprintable():
        raise ConfigurationError(f"{name} holds a line break or another character that cannot be sent")


def _check_ends(name: str, value: str) -> None:
    if value != value.strip():
        raise ConfigurationError(f"{name} holds a space or a line break before or after its value: remove it")
