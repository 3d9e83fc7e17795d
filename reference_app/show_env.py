"""The environment as lines that may be printed in a log: sorted, secrets redacted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from reference_app.console import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

REDACTED = "<redacted>"

_SECRET_NAME = re.compile(
    r"TOKEN|KEY|SECRET|PASS|PWD|SIG|SAS|CONNECTION|CONN_?STR|CRED|AUTH|PRIVATE|JWT|BEARER|COOKIE"
    r"|SESSION|DSN|CERT",
    re.IGNORECASE,
)
_HARMLESS_NAMES = frozenset({"PWD", "OLDPWD", "IMG_OBJKEY_LIST"})
"""Their names match by chance; their values are still looked at."""

_SECRET_VALUE = re.compile(
    r"eyJ[\w-]{5,}\."  # a JSON web token: base64 of `{"`
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bgh[a-z]_\w{20,}|\bxox[a-z]-|\bsk-\w{8,}|\bAIza[\w-]{20,}"
    r"|-----BEGIN"
    r"|\b(?:Bearer|Basic)\s+\S"
    r"|://[^/@\s]*@"  # user and password in a URL
    # A member of a query, a connection string or JSON.
    r"|(?:sig|signature|credential|token|key|secret|passw(?:or)?d|pwd|sas)[\"']?\s*[=:]\s*[^\s;&]"
    r"|(?<![0-9A-Fa-f])[0-9A-Fa-f]{32,}(?![0-9A-Fa-f])",
    re.IGNORECASE,
)
_OPAQUE = re.compile(
    # 20 or more characters as in base64, with a small letter, a capital and a digit among them.
    r"(?<![\w+=-])(?=[\w+=-]*[a-z])(?=[\w+=-]*[A-Z])(?=[\w+=-]*[0-9])[\w+=-]{20,}"
)
_SHORTEST_TRACED = 6
"""Characters. A hidden value of this length or more is also looked for inside the other values."""


def printable(environment: Mapping[str, str]) -> list[str]:
    """
    Give `NAME=value` for each variable, sorted by name, one line each.

    A value is replaced by `<redacted>` when its name or its look suggests a secret, or when it
    holds the value of such a variable. In doubt it is replaced.
    """
    hidden = {
        name
        for name, value in environment.items()
        if (_SECRET_NAME.search(name) and name not in _HARMLESS_NAMES)
        or _SECRET_VALUE.search(value)
        or _OPAQUE.search(value)
    }
    secrets = {environment[name] for name in hidden}
    secrets = {secret for secret in secrets if len(secret) >= _SHORTEST_TRACED}
    return [
        f"{shown(name)}={REDACTED}"
        if name in hidden or any(secret in value for secret in secrets)
        else f"{shown(name)}={shown(value)}"
        for name, value in sorted(environment.items())
    ]
