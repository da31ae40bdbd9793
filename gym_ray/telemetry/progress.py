"""Live progress: a bar and one changing line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import dataclasses
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from gym_ray.rollout import Rollout
    from gym_ray.store.log_file import LogFile

#: Seconds between plain lines when not on a terminal, and in a log.
_PLAIN_SECONDS = 10.0
_LOGGED_SECONDS = 60.0


class Progress:
    """Says what a command is doing, on standard error and in its log.

    Args:
        quiet: say nothing on standard error.
        log: told as well, if there is one.
    """

    def __init__(self, *, quiet: bool = False, log: LogFile | None = None) -> None:
        # Not at the top: the actors that only count import this module too.
        from rich.console import Console

        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._bar: Bar | None = None
        self._last_plain = 0.0
        self._log = log
        self._last_logged = time.monotonic()
        self._started: float | None = None

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            from rich.progress import BarColumn, SpinnerColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = SpinnerColumn(), BarColumn(20), TextColumn("{task.description}", markup=False)
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._bar.add_task("starting", total=None)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, line: str) -> None:
        """A line that stays."""
        self._console.print(line, markup=False)
        if self._log is not None:
            self._log.write(line)

    def show(self, counts: Counts, *, before: int, expected: int) -> None:
        """The state of a running collection.

        Args:
            counts: what this command's stages did.
            before: rollouts done by earlier commands.
            expected: rollouts of the run.
        """
        now = time.monotonic()
        if self._started is None:
            self._started = now
        text = describe(counts, before=before, expected=expected, seconds=now - self._started)
        self.update(text, share=(before + counts.finished + counts.failed) / max(1, expected))

    def update(self, text: str, *, share: float | None = None) -> None:
        """How far the command is: on a terminal one line that changes, else a line now and then.

        Args:
            text: the line.
            share: of the work that is done, where that is known.
        """
        now = time.monotonic()
        if self._bar is not None:
            (task,) = self._bar.task_ids
            self._bar.update(
                task, description=text, completed=share or 0, total=None if share is None else 1
            )
        elif now - self._last_plain >= _PLAIN_SECONDS:
            self._last_plain = now
            self._console.print(text, markup=False)
        if self._log is not None:
            self._log.trim()
            if now - self._last_logged >= _LOGGED_SECONDS:
                self._last_logged = now
                self._log.write(text)


def describe(counts: Counts, *, before: int, expected: int, seconds: float) -> str:
    """One line: done / failed / in flight, tokens per second, reward with coverage, time left."""
    here = counts.finished + counts.failed
    done = before + here
    parts = [
        f"{done}/{expected} rollouts",
        f"{counts.failed} failed",
        f"{counts.running} in flight",
    ]
    if counts.retried:
        parts.append(f"{counts.retried} retried")
    tokens = max(counts.sampled_tokens, counts.tokens_so_far)
    if seconds > 0 and tokens:
        parts.append(f"{tokens / seconds:,.0f} tokens/s")
    if counts.rewarded:
        mean = counts.reward_sum / counts.rewarded
        parts.append(f"mean reward {mean:.3f} (coverage {counts.rewarded}/{max(here, 1)})")
    if here and done < expected:
        # Where tokens in flight are known, they are so many more rollouts' worth.
        worth = here * tokens / counts.sampled_tokens if counts.sampled_tokens else here
        left = max(0.0, expected - done - (worth - here))
        parts.append(f"{duration(seconds / worth * left)} left")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s`, `2 h 7 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@dataclasses.dataclass(slots=True)
class Counts:
    """What stages have done so far, in rollouts unless said otherwise.

    Attributes:
        running: started and not finished.
        unwritten: finished and not durable yet.
        finished: completed or truncated.
        failed: failed for good.
        retried: attempts that failed and were tried again.
        rewarded: with a reward.
        reward_sum: sum of those rewards.
        sampled_tokens: tokens sampled by finished rollouts.
        tokens_so_far: tokens sampled, those of rollouts in flight included; 0 where nobody tells.
    """

    running: int = 0
    unwritten: int = 0
    finished: int = 0
    failed: int = 0
    retried: int = 0
    rewarded: int = 0
    reward_sum: float = 0.0
    sampled_tokens: int = 0
    tokens_so_far: int = 0

    def ended(self, rollout: Rollout) -> None:
        """A rollout ended for good."""
        if rollout.status == "failed":
            self.failed += 1
        else:
            self.finished += 1
        if rollout.reward is not None:
            self.rewarded += 1
            self.reward_sum += rollout.reward
        self.sampled_tokens += rollout.sampled_tokens

    def add(self, other: Counts) -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
