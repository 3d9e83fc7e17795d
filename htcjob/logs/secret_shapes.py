"""
The shapes of credentials in URLs, headers and assignments, and the spellings of a known secret.

Pure. A reference (`$TOKEN`, `"$(command)"`, `{token}`) is no credential, nor is a number of a few digits as a
token or signature: `--token=5` and `sig=5` stay what they are.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LONG_LINE = 20
"""Characters from which a line is a secret by itself; the lines of a private key have 64."""

_SHORTEST_BASE64 = 8
"""Characters of base64 that are enough to know a secret by."""

_NAME = (
    r"(?:password|passwd|passphrase|secret|secret[_-]?(?:access[_-]?)?key|(?:api|private|sas)[_-]?key"
    r"|(?:account|master|storage|storage[_-]?access)[_-]?key|token"
    r"|shared[_-]?access[_-]?signature|connection[_-]?string|(?<![a-z])(?:pass|bearer|jwt)|(?<=[_-])pwd)"
)
"""The end of a credential's name. An access key by itself is an id."""
_WORDS = ("pass", "secret", "key", "token", "signature", "string", "bearer", "jwt", "pwd")
"""One of them is in every such name."""

# \0 stands between the words of a command; a value in quotes keeps them.
_VALUE = r"(\"(?:[^\"\\\0]|\\[^\0])*\"|'[^'\0]*'|[^\s\0\"'&;|)<>`\\]+)"
_NO_COMMAND = r"(?![\"']?(?:\$\(|`))"
_BEGIN = r"(?:\A|(?<=\0))"
_SIGNATURES = r"(?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|Signature|sig)"

_ASSIGNED = (
    # As a word of a command: --name=ALL OF IT, NAME=VALUE.
    rf"({_BEGIN}--?[\w.-]*?{_NAME}=){_NO_COMMAND}([^\0]+)",
    rf"({_BEGIN}[\w.-]*?{_NAME}=){_NO_COMMAND}([^\s\0;|&]+)(?=\0|\Z)",
    # Anywhere: NAME=VALUE, --name VALUE, the header X-Name: VALUE, the member "name": "value".
    rf"((?<![\w.-])[\w.-]*?{_NAME}\s?=\s?){_NO_COMMAND}{_VALUE}",
    rf"((?<![\w-])--[\w.-]*?{_NAME}[\s\0]+)(?!-){_NO_COMMAND}{_VALUE}",
    rf"((?<![\w-])(?:\w+-)+(?:token|key|secret|password):\s*){_NO_COMMAND}{_VALUE}",
    rf"([\"'][\w.-]*?{_NAME}\\?[\"']\s*:\s*\\?[\"'])((?:[^\"'\\\0]|\\[^\"'\0])+)",
)
_AUTHORIZATION = (
    r"(Authorization\\?[\"']?\s*[:=,]\s*\\?[\"']?(?:(?:Bearer|Basic|Token|Refresh|Digest|Negotiate|SharedKey\w*)\s+)?)"
    rf"{_NO_COMMAND}([^\s\0\"',\\]+)",
    r"(\bBearer[\s\0]+)((?=\S*\d)[\w.~+/=-]{8,})",
    rf"((?:\A|[\s\0])(?:-u|--user|--proxy-user)[\s\0=][\"']?[^\s\0:\"']+:)(?!\d+(?:[\s\0]|\Z)){_NO_COMMAND}([^\s\0\"']+)",
)
_SIGNED = (
    rf"((?:[?&]|&amp;|\\u0026|%3F|%26){_SIGNATURES}(?:=|%3D))((?:(?!%26)[^&\s\0\"'<>\\#])+)",
    r"((?<![\w-])sig=)([\w%/+-]{40,}(?:%3D|=))",  # of a SAS by itself: base64 of 32 bytes
    r"(\bSignature=)([0-9a-f]{64})",  # in AWS's header
)
_USER = (r"(\w://)([^/?#\s\0\"'<>\\`]+)(?=@)",)
_PRIVATE_KEY = (r"(-----BEGIN [A-Z ]*PRIVATE KEY-----)(.+?)(?=-----END|\Z)",)
# Header and claims of a JSON web token are base64 of JSON, so they begin with `{"`.
_JSON_WEB_TOKEN = (r"(?<![\w-])()([\w-]+(?:\.[\w-]{8,}){1,3}(?:\.[\w-]*)?)",)

# Of a shell or of ours; a mark such as <redacted> or <pad>; or a word that is no value.
_REFERENCE = r"\$\w+|\$\{\w+\}|\$\(.*|`.*|\{\w*\}|<[^>]*>|true|false|yes|no|none|null"
_NUMBER = r"\d{1,7}(?:\.\d+)?"
# Tokens of language models: they change what a program does.
_OF_MODELS = (
    r"(?:.*[_-])?(?:pad|eos|bos|unk|mask|sep|cls|stop|start|end|special|image|next|last|first|per|lang)"
    r"[_-]?token"
)


def without_credentials(text: str, mark: str) -> str:
    """Return *text* with *mark* in place of everything that looks like a credential."""
    small = text.lower()
    if "eyJ" in text:
        text = _replaced(_JSON_WEB_TOKEN, text, mark, lambda _, value: "eyJ" in value.partition(".")[0])
    if "://" in small and "@" in small:
        text = _replaced(_USER, text, mark, lambda _name, value: not _is_reference(value.split(":")[-1]))
    if "private key" in small:
        text = _replaced(_PRIVATE_KEY, text, mark, lambda _name, _value: True)
    if "sig" in small or "-credential" in small or "security-token" in small:
        text = _replaced(_SIGNED, text, mark, _is_secret)
    if "authorization" in small or "bearer" in small or "-u" in small or "-user" in small:
        text = _replaced(_AUTHORIZATION, text, mark, _is_secret)
    if any(word in small for word in _WORDS):
        text = _replaced(_ASSIGNED, text, mark, _is_secret)
    return text


def _replaced(patterns: tuple[str, ...], text: str, mark: str, is_secret: Callable[[str, str], bool]) -> str:
    """Return *text* with *mark* for the second group of each match, where the two groups are secret."""

    def replace(found: re.Match[str]) -> str:
        name, value = found[1], found[2]
        quote = value[0] if value[0] in "\"'" and value[-1] == value[0] else ""
        return f"{name}{quote}{mark}{quote}" if is_secret(name, value.strip("\"'")) else found[0]

    for pattern in patterns:
        text = _compiled(pattern).sub(replace, text)
    return text


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Compile at the first use: many jobs need none of the patterns."""
    return re.compile(pattern, re.IGNORECASE | re.DOTALL)


def _is_secret(name: str, value: str) -> bool:
    name = name.rstrip("=:\"' \t\0\\").lower()
    if not value or _is_reference(value) or (name.endswith("token") and re.fullmatch(_OF_MODELS, name)):
        return False
    return not (name.endswith(("token", "sig", "signature", "pass")) and re.fullmatch(_NUMBER, value))


def _is_reference(value: str) -> bool:
    return re.fullmatch(_REFERENCE, value, re.IGNORECASE | re.DOTALL) is not None


def secret_parts(value: str) -> Iterator[str]:
    """
    Yield the parts of a value that are secrets by themselves.

    The signature of a SAS, the keys of a connection string or of the JSON of a service account, the lines of
    a private key, the password in a URL: SDKs take such values apart, and may quote the parts.
    """
    for found in re.finditer(r"(?i)(?:\bsig|AccountKey|SharedAccessSignature)=([^&;\s]+)", value):
        yield found[1]
        yield _unquoted(found[1])
    for found in re.finditer(r"\w://[^/?#\s]*:([^/?#\s]+)@", value):
        yield found[1]
        yield _unquoted(found[1])
    if value.startswith("{"):
        yield from _members(value)
    lines = value.splitlines()
    if len(lines) > 1:
        yield from (line.strip() for line in lines if len(line) >= _LONG_LINE and " " not in line.strip())


def _members(text: str) -> Iterator[str]:
    import json

    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        return
    for name, value in members.items():
        if isinstance(value, str) and re.search(rf"{_NAME}\Z", name, re.IGNORECASE):
            yield value
            yield from (line for line in value.splitlines() if len(line) >= _LONG_LINE and " " not in line)


def spellings(value: str) -> Iterator[str]:
    """Yield *value* as messages of other programs write it: quoted, escaped, encoded, on one line."""
    import json
    from binascii import b2a_base64

    data = value.encode(errors="surrogatepass")
    yield from (value, " ".join(value.split()), repr(value)[1:-1], ascii(value)[1:-1], repr(data)[2:-1])
    for is_ascii in (True, False):
        escaped = json.dumps(value, ensure_ascii=is_ascii)[1:-1]
        yield from (escaped, json.dumps(escaped, ensure_ascii=is_ascii)[1:-1])  # and JSON in JSON
    yield value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for kept in ("-._~", "-._~/"):  # with and without an escaped slash
        quoted = "".join(_quoted(byte, kept) for byte in data)
        yield from (quoted, quoted.replace("%20", "+"), re.sub("%..", lambda code: code[0].lower(), quoted))
    for before in range(3):  # bytes of something else, `user:`, in the same group of three
        encoded = b2a_base64(bytes(before) + data, newline=False).decode()
        # Only those characters in which all bits are from *value*.
        inner = encoded[(0, 2, 3)[before] : (before + len(data)) * 8 // 6]
        if len(inner) >= _SHORTEST_BASE64:
            yield from (inner, inner.replace("+", "-").replace("/", "_"))


def _quoted(byte: int, kept: str) -> str:
    character = chr(byte)
    return character if (character.isascii() and character.isalnum()) or character in kept else f"%{byte:02X}"


def _unquoted(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)
