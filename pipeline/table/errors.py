"""Every error that Gristmill raises on purpose. One tree, so that a caller can catch one class.

The command line turns each into one line on stderr and an exit code: 2 for what is found before work begins, 1 for a
run that failed. Messages say what, the offending value, where (shard, doc_id, config key) and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GristmillError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UsageError(GristmillError):
    """Something is wrong before work begins: the command, the configuration, SQL, a missing file."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration cannot be used: unknown key, wrong type, impossible combination."""


class InputError(UsageError):
    """An input is missing, empty or not what its format says."""


class MissingDependencyError(UsageError):
    """A feature needs an extra or a file that is not installed; the message has the line that installs it."""


class RuleError(ConfigError):
    """An SQL expression of the configuration does not bind: unknown column, wrong types, not a predicate."""


class QueryError(UsageError):
    """A user's SQL cannot be run."""


class WorkspaceError(UsageError):
    """The workspace is unreadable, locked by another run, or lacks what was asked for."""


class ReplacedError(WorkspaceError):
    """A run replaced parts while they were read: whoever reads may begin again, with the index of now."""


class SchemaError(GristmillError):
    """A table lacks a column or has one of another type than the schema says."""


class ConservationError(GristmillError):
    """A stage's rows do not add up: something vanished or was counted twice."""


class ShardError(GristmillError):
    """A shard could not be read, computed or written; the message names it."""


class UnreadableInputError(ShardError):
    """One input cannot be opened, and that will not pass by itself; the others are read."""


class GuardrailError(GristmillError):
    """A guardrail stopped the run (for example `dedup.max_removed`)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (nearest: 'x')` for the known name closest to `name`, or an empty string when none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (nearest: {matches[0]!r})" if matches else ""
