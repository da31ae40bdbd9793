"""Judges over policies: a question becomes one policy call, in messages or in tokens.

Owned here: how many calls run at once, how many start in a minute, and which failures are worth
another try; all within the time the verification leaves. Not owned here: what it costs and what a
verifier sees (`judging.py`), and where the model runs (serving).
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import math
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gym_ray.errors import RETRYABLE, FailureKind, RolloutFailure, pauses
from gym_ray.judging import JudgeReply, account, time_left
from gym_ray.policies.call import Call
from gym_ray.policies.chat import Chat, ChatAnswer, ChatRequest
from gym_ray.policies.engine import GenerationRequest
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.sampling import Sampling, turn_seed
from gym_ray.turn import Generation

#: See `pauses`: before the second try, and at most.
BACKOFF_SECONDS = 0.5
_BACKOFF_MAXIMUM_SECONDS = 8.0

_MINUTE = 60.0

#: Below this many characters a prompt is tokenized in less time than a hop to a thread costs.
_INLINE_CHARACTERS = 16_384


@dataclasses.dataclass(frozen=True, slots=True)
class JudgeLimits:
    """What one replica may ask of a judge.

    Attributes:
        max_concurrency: calls at once.
        requests_per_minute: calls that may start in any 60 seconds; None for any number.
        max_retries: tries after the first one, at failures that another try may cure.
        call_seconds: how long one try may take.
    """

    max_concurrency: int = 64
    requests_per_minute: int | None = None
    max_retries: int = 3
    call_seconds: float = 300.0


class RateLimit:
    """At most so many starts in any 60 seconds. Knows no clock: the time is told.

    Args:
        per_minute: how many; None for any number.
    """

    def __init__(self, per_minute: int | None) -> None:
        self._per_minute = per_minute
        self._starts: collections.deque[float] = collections.deque(maxlen=per_minute or 1)

    def reserve(self, now: float, latest: float) -> float | None:
        """When the next call may start, which is then taken; None when that is after `latest`."""
        if self._per_minute is None:
            return now
        is_full = len(self._starts) == self._per_minute
        start = max(now, self._starts[0] + _MINUTE) if is_full else now
        if start > latest:
            return None
        self._starts.append(start)
        return start


class PolicyJudge:
    """A `Judge` that is a policy.

    Args:
        name: of the judge, for messages.
        chat: reaches the policy.
        sampling: of its replies, unless a question has its own.
        limits: see `JudgeLimits`.
    """

    def __init__(self, name: str, chat: Chat, sampling: Sampling, limits: JudgeLimits) -> None:
        self.name = name
        self._chat = chat
        self._sampling = sampling
        self._limits = limits
        self._free = asyncio.Semaphore(limits.max_concurrency)
        self._rate = RateLimit(limits.requests_per_minute)

    async def ask(
        self, messages: Sequence[dict[str, Any]], *, sampling: Sampling | None = None
    ) -> JudgeReply:
        """See `Judge.ask`."""
        waited_for = "one of its max_concurrency calls to end"
        failure: RolloutFailure | None = None
        tries = 0
        backoff = pauses(BACKOFF_SECONDS, _BACKOFF_MAXIMUM_SECONDS)
        ends_in = time_left()
        try:
            async with asyncio.timeout(None if math.isinf(ends_in) else ends_in) as deadline:
                while True:
                    async with self._free:
                        waited_for = "its requests_per_minute"
                        await self._turn()
                        waited_for = "an answer"
                        tries += 1
                        try:
                            return await self._call(messages, sampling or self._sampling)
                        except RolloutFailure as error:
                            failure = error
                    if failure.kind not in RETRYABLE or tries > self._limits.max_retries:
                        raise self._failed(f"{failure} (after {tries} tries)")
                    waited_for = "another try"
                    await asyncio.sleep(next(backoff))
        except TimeoutError:
            if not deadline.expired():
                raise
            last = "" if failure is None else f"; last: {failure}"
            raise self._failed(
                f"the time of the verification is over while it waited for {waited_for}{last}; "
                "raise verification.timeout_seconds"
            ) from None

    async def _turn(self) -> None:
        """Wait until a call may start.

        Raises:
            RolloutFailure: not before the verification's time is over.
        """
        now = asyncio.get_running_loop().time()
        start = self._rate.reserve(now, now + time_left())
        if start is None:
            raise self._failed(
                "its requests_per_minute are used up until the time of the verification is over; "
                "raise verification.timeout_seconds, or lower collect.max_in_flight"
            )
        await asyncio.sleep(start - now)

    async def _call(self, messages: Sequence[dict[str, Any]], sampling: Sampling) -> JudgeReply:
        spent = account()
        spent.calls += 1
        call_id = uuid.uuid4().hex
        seed = sampling.seed
        answer = await self._chat(
            ChatRequest(
                Call(
                    request_id=f"judge/{self.name}/{call_id}",
                    sampling=sampling,
                    seed=None if seed is None else turn_seed(seed, repr(list(messages)), 0, 0),
                    timeout_seconds=min(self._limits.call_seconds, time_left()),
                ),
                tuple(messages),
            )
        )
        spent.prompt_tokens += answer.prompt_tokens
        spent.output_tokens += answer.output_tokens
        if answer.stop_reason == "abort":
            raise RolloutFailure(FailureKind.POLICY_ERROR, "the generation was aborted")
        return JudgeReply(
            answer.message.content,
            answer.prompt_tokens,
            answer.output_tokens,
            is_complete=answer.stop_reason == "stop",
        )

    def _failed(self, reason: str) -> RolloutFailure:
        return RolloutFailure(FailureKind.VERIFIER_ERROR, f"judge {self.name!r}: {reason}")


def chat_in_tokens(
    renderer: RolloutRenderer, generate: Callable[[GenerationRequest], Awaitable[Generation]]
) -> Chat:
    """Single questions to a policy that speaks tokens: render, generate, parse.

    Args:
        renderer: of the policy's model.
        generate: samples one continuation.
    """

    async def chat(request: ChatRequest) -> ChatAnswer:
        characters = sum(len(message["content"]) for message in request.messages)
        prompt = (
            renderer.render(request.messages)
            if characters < _INLINE_CHARACTERS
            else await asyncio.to_thread(renderer.render, request.messages)
        )
        generation = await generate(
            GenerationRequest(
                dataclasses.replace(request.call, stop_token_ids=renderer.stop_token_ids), prompt
            )
        )
        return ChatAnswer(
            message=renderer.parse(generation.token_ids, prompt, ()),
            stop_reason=generation.stop_reason,
            prompt_token_ids=prompt,
            generation=generation,
            prompt_tokens=len(prompt),
            output_tokens=len(generation.token_ids),
        )

    return chat
