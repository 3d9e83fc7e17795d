"""The tokens of a job, from their variables or from the file that the platform keeps fresh."""

from __future__ import annotations

from typing import TYPE_CHECKING

from htcjob.environment.variables import NAMES, name_of
from htcjob.errors import ConfigurationError, TransientError
from htcjob.logs.redact import Secret
from htcjob.trouble import is_passing, read_at_once

if TYPE_CHECKING:
    from collections.abc import Mapping

_LARGEST_FILE_BYTES = 64 * 1024
"""A bearer token has a few thousand."""

_FILE = name_of("token_file")


def bearer_token(environ: Mapping[str, str]) -> Secret | None:
    """
    Return the bearer token: from the file that our variable names, else the platform's, else None.

    Raises:
        ConfigurationError: the file cannot be read, or it or the variable holds something else.
        TransientError: the file cannot be read now.
    """
    if path := environ.get(_FILE):
        return read_token_file(path)
    _, theirs = NAMES["token"]
    return _token_in(environ, theirs)


def refresh_token(environ: Mapping[str, str]) -> Secret | None:
    """
    Return the token that renews the bearer token; None: there is none.

    Raises:
        ConfigurationError: the variable holds something else.
    """
    return _token_in(environ, name_of("refresh_token"))


def read_token_file(path: str) -> Secret:
    """
    Return the bearer token in the file that HTCJOB_TOKEN_FILE names.

    Raises:
        ConfigurationError: it cannot be read, or holds something else.
        TransientError: it cannot be read now.
    """
    try:
        content = read_at_once(path, _LARGEST_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        # Without the path: it happens that the variable holds the token itself.
        cause = getattr(error, "strerror", None) or "not a path"
        if is_passing(error):
            raise TransientError("read", f"the file of {_FILE}", cause) from None
        raise ConfigurationError(
            f"{_FILE}: cannot read the file: {cause}; expected a file with a bearer token"
        ) from None
    if len(content) > _LARGEST_FILE_BYTES:
        raise ConfigurationError(
            f"{_FILE}: the file is larger than {_LARGEST_FILE_BYTES} bytes: "
            "expected a bearer token and nothing else"
        )
    return _checked(f"{_FILE}: the file", content.decode(errors="replace"))


def _token_in(environ: Mapping[str, str], name: str) -> Secret | None:
    text = environ.get(name)
    return _checked(name, text) if text else None


def _checked(what: str, text: str) -> Secret:
    """Return the token without the white space around it."""
    token = text.strip()
    if not token:
        raise ConfigurationError(f"{what} is blank: expected a token")
    if not token.isascii() or not token.isprintable() or " " in token:
        # It would break the HTTP header, and the HTTP client's complaint would show it.
        raise ConfigurationError(f"{what} holds more than a token: expected printable ASCII without spaces")
    return Secret(token)
