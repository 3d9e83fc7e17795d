"""Option types and options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from htcjob.environment.variables import variables_of
from htcjob.logs.events import LEVELS
from htcjob.outcome.endings import FailureBudget
from htcjob.outcome.reasons import EXIT_TABLE
from htcjob.run_options import Multiple

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


MOST_JOBS = 10_000_000
"""The largest array that is shown or simulated job by job."""


class FloatRange(click.FloatRange):
    """A number in a range; `nan` is in no range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if number != number:
            self.fail("not a number.", param, ctx)
        return number


class Duration(click.ParamType["float"]):
    """`90s`, `1.5h`, `500ms`; a bare number is seconds. Converted to seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        if isinstance(value, (int, float)):
            return float(value)
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)?", value.strip(), re.ASCII)
        if match is None:
            self.fail(f"{value!r} is not a duration such as 90s, 5m or 2h.", param, ctx)
        return float(match[1]) * _SECONDS[match[2] or "s"]


class TimeLimit(click.ParamType["float | Multiple"]):
    """A duration, or `5x`: that many times the median of others. Converted to seconds, or to a Multiple."""

    name = "duration|Nx"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | Multiple:
        """Return the limit."""
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)x", str(value).strip(), re.ASCII)
        if match is None:
            return DURATION.convert(value, param, ctx)
        if float(match[1]) < 1:
            self.fail(f"{value!r} is not a multiple of at least 1x.", param, ctx)
        return Multiple(float(match[1]))


class Function(click.ParamType["str"]):
    """`module:function`, both possibly dotted."""

    name = "function"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text unchanged."""
        parts = str(value).split(":")
        if len(parts) != 2 or not all(name.isidentifier() for part in parts for name in part.split(".")):
            self.fail(f"{value!r} is not a function such as package.module:function.", param, ctx)
        return str(value)


class Size(click.ParamType["int"]):
    """`500MB`, `1.5GB` (powers of 1,000); a bare number is bytes. Converted to bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s?(B|kB|MB|GB|TB)?", value.strip(), re.ASCII)
        if match is None:
            self.fail(f"{value!r} is not a size such as 500MB or 20GB.", param, ctx)
        return int(float(match[1]) * _BYTES[match[2] or "B"])


class Memory(click.ParamType["int"]):
    """`128m`, `2g`, as for container engines (of 1,024); a bare number is bytes. Converted to bytes."""

    name = "memory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes."""
        match = re.fullmatch(r"(\d{1,15})([kmgt]?)(?:i?b)?", str(value).strip().lower(), re.ASCII)
        if match is None:
            self.fail(f"{value!r} is not a memory limit such as 128m or 2g.", param, ctx)
        return int(match[1]) << 10 * " kmgt".index(match[2] or " ")


class Budget(click.ParamType["FailureBudget"]):
    """`3` entries or `5%` of the chunk."""

    name = "N|P%"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> FailureBudget:
        """Return the budget."""
        if isinstance(value, FailureBudget):
            return value
        match = re.fullmatch(r"(\d{1,9})|(\d{1,3}(?:\.\d{1,3})?)%", value.strip(), re.ASCII)
        if match is None or (match[2] and float(match[2]) > 100):
            self.fail(f"{value!r} is not a number of entries such as 3, nor a share such as 5%.", param, ctx)
        return FailureBudget(float(match[1] or match[2]), is_percent=match[2] is not None)


class Line(click.ParamType["str"]):
    """Any text; a variable holds several of them one per line, and blank lines are none, as in manifests."""

    name = "text"

    def split_envvar_value(self, rv: str) -> list[str]:
        """Return the lines of a variable."""
        # Not `splitlines`: it would divide names at characters that no manifest is divided at.
        return [line.removesuffix("\r") for line in rv.split("\n") if line.strip()]


class InjectedOption(click.Option):
    """
    An option whose value the platform may inject.

    `environment/` reads the variables (they may contradict each other, which click cannot know); the help
    shows them.
    """

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Return what help shows in brackets, with the variables."""
        extra = super().get_help_extra(ctx)
        extra["envvars"] = variables_of(self.name or "")
        return extra


DURATION = Duration()
BUDGET = Budget()
FUNCTION = Function()
LINE = Line()
MEMORY = Memory()
SIZE = Size()
TIME_LIMIT = TimeLimit()


def ours(*names: str, variable: str | None = None, **attributes: Any) -> Callable[[Decorated], Decorated]:
    """Return an option that our variable HTCJOB_<NAME> can set too."""
    variable = variable or "HTCJOB_" + names[0].lstrip("-").replace("-", "_").upper()
    return click.option(*names, envvar=variable, show_envvar=True, **attributes)


def injected(name: str, **attributes: Any) -> Callable[[Decorated], Decorated]:
    """Return an option whose variables `environment/` reads."""
    return click.option(name, cls=InjectedOption, **attributes)


def job_options(command: Decorated) -> Decorated:
    """Add the options that say which job of which array this is, and where its storage is."""
    for option in reversed(
        (
            injected(
                "--array-index", type=click.IntRange(min=0), help="This job's number in the array, from 0."
            ),
            injected("--array-size", type=click.IntRange(min=1), help="Jobs in the array."),
            injected(
                "--manifest", metavar="KEY|URL", help="List of entries: a key of project storage, or a URL."
            ),
            injected("--project-store", metavar="URL|DIR", help="Project storage: manifest and inputs."),
            injected("--task-store", metavar="URL|DIR", help="Task storage: outputs and records."),
        )
    ):
        command = option(command)
    return command


def balance_option(command: Decorated) -> Decorated:
    """Add the option that says what is shared out equally among the chunks."""
    option = ours(
        "--balance",
        type=click.Choice(["entries", "bytes"]),
        default="entries",
        show_default=True,
        help="What to share out equally among the jobs: entries, or bytes of input "
        "(needs the index of htcjob manifest build).",
    )
    return option(command)


def log_options(command: Decorated) -> Decorated:
    """Add the options for htcjob's own lines on standard error."""
    for option in reversed(
        (
            ours(
                "--log-format",
                type=click.Choice(["text", "json"]),
                default="text",
                show_default=True,
                help="Format of htcjob's own lines on standard error.",
            ),
            ours(
                "--log-level",
                type=click.Choice(list(LEVELS)),
                default="info",
                show_default=True,
                help="The least severe of those lines to show.",
            ),
        )
    ):
        command = option(command)
    return command


_OTHER_MEANINGS = {
    0: "all is done",
    66: "nothing is there",
    74: "impossible for good (disk full, refused)",
    75: "transient trouble outlasted the retries: try again",
    77: "denied, or token or credentials refused",
    78: "injected environment wrong, or an extra is missing",
    130: "interrupted",
}
"""By exit status: its meaning for a command that is no attempt; EXIT_TABLE has those for an attempt."""


def exit_rows(*statuses: int, meanings: Mapping[int, str] = {}) -> str:
    """
    Return the exit table of a command that is no attempt, for its help.

    Args:
        statuses: The exit statuses that it has.
        meanings: The words for some of them, where the usual ones would not say enough.
    """
    usual = {status: meaning for status, meaning, _ in EXIT_TABLE}
    rows = (
        f"  {status:<3}  {meanings.get(status) or _OTHER_MEANINGS.get(status) or usual[str(status)]}"
        for status in statuses
    )
    return "\b\nExit status:\n" + "\n".join(rows)


def look_rows() -> str:
    """Return the exit table of the commands that only look, for their help."""
    meanings = {
        0: "shown",
        66: "manifest, run or task storage absent",
        74: "standard output did not take the results, or storage refused for good",
    }
    return exit_rows(0, 64, 66, 74, 75, 77, 78, meanings=meanings)


def exit_table() -> str:
    """Return the exit table of an attempt, for the help of a command that makes one."""
    width = max(len(status) for status, _, _ in EXIT_TABLE)
    rows = (f"  {status:<{width}}  {meaning}" for status, meaning, _ in EXIT_TABLE)
    return "\b\nExit status:\n" + "\n".join(rows)
