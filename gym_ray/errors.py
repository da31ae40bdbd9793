"""The failure vocabulary: what can go wrong with a rollout, and with a command; which of it
another try may cure (`RETRYABLE`), and how long to wait before that (`pauses`).

Two families, deliberately apart:

* `RolloutFailure` is *data*: one rollout failed, the run goes on, and the kind and
  message end up in that rollout's row. Kinds are named `<boundary>_<condition>`.
* `GymRayError` ends a command: the user must change something. Its message says what.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from enum import StrEnum


class FailureKind(StrEnum):
    """Where a rollout failed and how; stored in the row's `error_kind` column."""

    POLICY_TIMEOUT = "policy_timeout"
    """A turn took longer than `policy.request_timeout_seconds`, or than its rollout had left."""
    POLICY_UNAVAILABLE = "policy_unavailable"
    """No policy replica, and no server of a remote policy, could be reached."""
    POLICY_ERROR = "policy_error"
    """The engine or the remote server failed on a turn, or aborted it."""
    POLICY_REJECTED = "policy_rejected"
    """The policy cannot take the turn: its prompt leaves no room in the context, for example."""
    POLICY_STALE = "policy_stale"
    """The rollout's tokens are of weights older than `collect.max_staleness` allows."""
    ENVIRONMENT_ERROR = "environment_error"
    """The environment raised in `reset`, `observe` or `step`, or the agent's program failed."""
    ENVIRONMENT_UNAVAILABLE = "environment_unavailable"
    """The environment replica, or an MCP server it uses, was lost or could not be reached."""
    TOOL_TIMEOUT = "tool_timeout"
    """A tool raised it: it could not go on in time. A slow call alone is an error to the policy."""
    VERIFIER_ERROR = "verifier_error"
    """The verifier raised or crashed, or a judge it asked gave no usable answer."""
    VERIFIER_TIMEOUT = "verifier_timeout"
    """The verifier took longer than `verification.timeout_seconds`."""
    SANDBOX_ERROR = "sandbox_error"
    """The sandbox failed, whatever the program in it did."""
    ROLLOUT_TIMEOUT = "rollout_timeout"
    """The attempt took longer than `collect.rollout_timeout_seconds`."""
    TASK_INVALID = "task_invalid"
    """The row is not a legal task, or belongs to no configured environment."""
    CANCELLED = "cancelled"
    """The rollout was given up before its end, such as a session that was deleted."""


#: Transport and provider failures, and tokens of old weights: another attempt with a fresh
#: environment may succeed.
#: Everything else is deterministic for a given rollout, and retrying it only burns tokens.
RETRYABLE: frozenset[FailureKind] = frozenset(
    {
        FailureKind.POLICY_TIMEOUT,
        FailureKind.POLICY_UNAVAILABLE,
        FailureKind.POLICY_ERROR,
        FailureKind.POLICY_STALE,
        FailureKind.ENVIRONMENT_UNAVAILABLE,
        FailureKind.SANDBOX_ERROR,
        FailureKind.CANCELLED,
    }
)


def pauses(first: float, most: float) -> Iterator[float]:
    """Seconds to wait before the second try, the third, and so on: exponential backoff.

    The pause begins at `first` and doubles up to `most`. Each is drawn evenly from half to one and
    a half times that, so that many callers who fail together do not return together. It never
    ends: how often to try, and until when, is the caller's; docs/retries.md has every caller.

    Args:
        first: the first pause.
        most: the longest one, before it is drawn.
    """
    pause = min(first, most)
    while True:
        yield pause * random.uniform(0.5, 1.5)
        pause = min(2 * pause, most)


#: How engines word that a prompt fills the context. Failures cross processes as kind and
#: message, so the message is all there is to tell it by.
_OVERFLOW_WORDS = ("the context holds", "maximum context length")


class RolloutFailure(Exception):
    """One rollout failed. Picklable: both arguments travel in `args`.

    Args:
        kind: where and how it failed.
        message: one line for a person, stored in the row's `error` column.
    """

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"

    @property
    def is_overflow(self) -> bool:
        """Whether a prompt was refused because it leaves no room in the context."""
        return self.kind == FailureKind.POLICY_REJECTED and any(
            words in self.message for words in _OVERFLOW_WORDS
        )


class GymRayError(Exception):
    """A command cannot go on. The message names the cause and what to change."""

    exit_code = 1


class ConfigError(GymRayError):
    """The configuration, the arguments or the input as a whole are wrong."""

    exit_code = 2


class StoredFileError(ConfigError):
    """A file of a stored run does not tell what it should; nothing is concluded from it."""


class FileAbsent(StoredFileError):
    """It is not there. Commands that can do without say so; the others end."""


class FileUnreadable(StoredFileError):
    """It is there and cannot be read: no permission, a folder in its place, no text."""


class FileTorn(StoredFileError):
    """Only part of it is there, or it holds something else."""


class FailedShareExceeded(GymRayError):
    """More rollouts failed than `collect.max_failed_share` allows."""

    exit_code = 3


class Interrupted(GymRayError):
    """Stopped by a signal or a deadline; what was collected is kept and resumable."""

    exit_code = 130


def one_line(error: BaseException, limit: int = 500) -> str:
    """`Type: message` on one line, at most `limit` characters, for a row or a terminal.

    It goes to whoever reads the row or asked for the rollout, so what surely is a secret is left
    out: what stands before the host in an address, and the values of environment variables that
    are called like one.
    """
    text = without_secrets(" ".join(f"{type(error).__name__}: {error}".split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"


_USER_IN_ADDRESS = re.compile(r"(\b[a-zA-Z][\w+.-]*://)[^\s/@]+@")
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
#: Shorter values are found in texts by chance.
_SHORTEST_SECRET = 8


def without_secrets(text: str) -> str:
    """A text without what surely is a secret; see `one_line`."""
    text = _USER_IN_ADDRESS.sub(r"\1***@", text)
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and value in text and _SECRET_VARIABLE.search(name):
            text = text.replace(value, "***")
    return text
