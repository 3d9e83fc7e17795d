"""The settings in AWS's shared files, as far as the fast lane must know them: the SDK reads all of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FILES = (("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials"))
"""With the variable that names each; what the second says comes first."""


def profile_of(environ: Mapping[str, str]) -> dict[str, str]:
    """
    Return the settings of the profile in use, those below another as `s3.addressing_style`.

    As for the SDK, a file that cannot be read is none.

    https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html
    """
    name = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or "default"
    found: dict[str, str] = {}
    for path in paths_of(environ):
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, ValueError):
            continue
        found |= {key: value for section, key, value in _settings(text) if section == name}
    return found


def paths_of(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield where the files are, or would be."""
    home = environ.get("HOME") or os.path.expanduser("~")
    for variable, file_name in _FILES:
        path = environ.get(variable) or os.path.join(home, ".aws", file_name)
        yield home + path[1:] if path.startswith("~/") else path


def _settings(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield profile, name and value of each setting."""
    section = above = ""
    for line in text.splitlines():
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        if line.startswith("["):
            section = line[1:].partition("]")[0].strip()
            section = section.removeprefix("profile").strip(" \t\"'") if section != "profile" else section
            continue
        name, _, value = (part.strip() for part in line.partition("="))
        if line[0].isspace():
            name = f"{above}.{name}"
        else:
            above = name
        yield section, name.lower(), value
