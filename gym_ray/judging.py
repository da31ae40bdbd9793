"""Judges: models that verifiers ask, and what asking them costs.

Owned here: what a verifier sees of a judge, the time it has, and the account of what was spent,
which is kept apart from the rollout's own tokens. Not owned here: reaching a model
(`policies/judging.py`), and what is asked and how the reply is read (`verifiers/judge.py`).

A verifier asks like this:

    >>> async def verify(self, outcome):                                  # doctest: +SKIP
    ...     question = [{"role": "user", "content": f"Is this polite? {outcome.text}"}]
    ...     return await ask_for(self.judges["grader"], question, yes_or_no)
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.sampling import Sampling

T = TypeVar("T")

#: Replies one question may get: a second try where the first could not be read.
_REPLIES = 2

#: Share of the time that is left for saying why there is no verdict, before the deadline says so.
_ANSWERING_SHARE = 0.02

_REMINDER = (
    "Your reply could not be read. Answer again, with nothing but the verdict, in exactly the "
    "form that was asked for."
)


@dataclasses.dataclass(frozen=True, slots=True)
class JudgeReply:
    """What a judge said.

    Attributes:
        text: without its reasoning, where the model keeps that apart.
        prompt_tokens, output_tokens: how many there were, as far as its server says.
        is_complete: whether it ended by itself. One that was cut short may name scores that it
            was not going to give.
    """

    text: str
    prompt_tokens: int
    output_tokens: int
    is_complete: bool = True


class Judge(Protocol):
    """A model to ask. Concurrency, rate and retries are its own affair."""

    name: str

    async def ask(
        self, messages: Sequence[dict[str, Any]], *, sampling: Sampling | None = None
    ) -> JudgeReply:
        """Its reply to a conversation.

        Args:
            messages: `role` and `content`, as in chat completions.
            sampling: instead of the one the judge's config gives.

        Raises:
            RolloutFailure: `verifier_error`, when no reply can be had in the time there is.
        """
        ...


@dataclasses.dataclass(slots=True)
class Account:
    """What the judges of one verification were asked and said.

    Attributes:
        calls: tries that were sent, failed ones too.
        prompt_tokens, output_tokens: of those that were answered.
        unparsed: replies that could not be read.
    """

    calls: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    unparsed: int = 0

    def metrics(self) -> dict[str, float]:
        """For the verdict; nothing where no judge was asked."""
        if not self.calls:
            return {}
        return {
            f"judge_{field.name}": float(getattr(self, field.name))
            for field in dataclasses.fields(self)
        }


_account: ContextVar[Account | None] = ContextVar("judge_account", default=None)
_ends_at: ContextVar[float] = ContextVar("judge_ends_at", default=math.inf)


@contextlib.contextmanager
def accounting() -> Iterator[Account]:
    """Book on one account what is asked in this context, tasks started in it included."""
    account = Account()
    token = _account.set(account)
    try:
        yield account
    finally:
        _account.reset(token)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Have judges asked in this context answer, or fail, within so many seconds."""
    now = asyncio.get_running_loop().time()
    token = _ends_at.set(now + seconds * (1 - _ANSWERING_SHARE))
    try:
        yield
    finally:
        _ends_at.reset(token)


def time_left() -> float:
    """Seconds a judge asked now has; infinite outside `time_limit`."""
    return _ends_at.get() - asyncio.get_running_loop().time()


def account() -> Account:
    """The account in force; one that nobody reads where none was opened."""
    return _account.get() or Account()


async def ask_for(
    judge: Judge,
    messages: Sequence[dict[str, Any]],
    read: Callable[[str], T | None],
    *,
    sampling: Sampling | None = None,
) -> T:
    """What a judge's reply says; a reply that cannot be read is counted, and asked for once more.
    One that was cut short is not read.

    Args:
        judge: whom to ask.
        messages: the conversation so far.
        read: what a reply says; None when it cannot be read.
        sampling: instead of the judge's own.

    Raises:
        RolloutFailure: `verifier_error`, when there is no reply, or none that can be read.
    """
    asked = list(messages)
    for _ in range(_REPLIES):
        reply = await judge.ask(asked, sampling=sampling)
        said = read(reply.text) if reply.is_complete else None
        if said is not None:
            return said
        account().unparsed += 1
        # At temperature 0 the same question would get the same answer.
        asked += [
            {"role": "assistant", "content": reply.text},
            {"role": "user", "content": _REMINDER},
        ]
    cut = "" if reply.is_complete else ", cut short by its max_output_tokens"
    raise RolloutFailure(
        FailureKind.VERIFIER_ERROR,
        f"judge {judge.name!r}: {_REPLIES} replies that cannot be read, the last one "
        f"{_shown(reply.text)}{cut}",
    )


def judge_parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Parameters of a function that are annotated `Judge`: a config gives a judge's name there."""
    try:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
    except Exception:  # an annotation that cannot be evaluated, as of a name only checkers import
        parameters = inspect.signature(function).parameters.values()
    return tuple(
        parameter.name
        for parameter in parameters
        if parameter.annotation is Judge
        or (
            isinstance(parameter.annotation, str) and parameter.annotation.split(".")[-1] == "Judge"
        )
    )


def _shown(text: str, limit: int = 120) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= limit else f"…{text[-limit:]}")
