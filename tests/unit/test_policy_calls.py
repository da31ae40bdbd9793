"""What the calls of one attempt say, and what is remembered of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from gym_ray.agents.policy_calls import Policy, PolicyCalls
from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.chat import ChatAnswer, ChatRequest
from gym_ray.policies.engine import GenerationRequest
from gym_ray.policies.weights import StalenessLimit
from gym_ray.renderers.messages import AssistantMessage
from gym_ray.sampling import Sampling, turn_seed
from gym_ray.turn import Generation, VersionSpan

PROMPT = np.arange(6, dtype=np.int32)


class Seen:
    """A policy that keeps its requests."""

    def __init__(self, *, versions: tuple[int, ...] = (3,), stop_reason: Any = "stop") -> None:
        self.tokens: list[GenerationRequest] = []
        self.messages: list[ChatRequest] = []
        self._versions = versions
        self._stop_reason = stop_reason

    async def generate(self, request: GenerationRequest) -> Generation:
        self.tokens.append(request)
        version = self._versions[min(len(self.tokens), len(self._versions)) - 1]
        return Generation(
            token_ids=np.array([1], np.int32),
            logprobs=np.zeros(1, np.float32),
            stop_reason=self._stop_reason,
            version_spans=(VersionSpan(version, 0, 1),),
            queued_seconds=0.0,
            generation_seconds=0.0,
        )

    async def chat(self, request: ChatRequest) -> ChatAnswer:
        self.messages.append(request)
        return ChatAnswer(AssistantMessage("Hi."), self._stop_reason, None, None)


def with_calls(
    use: Callable[[PolicyCalls], Awaitable[Any]],
    policy: Policy,
    sampling: Sampling | None = None,
    *,
    seconds: float = 100.0,
    **given: Any,
) -> PolicyCalls:
    async def scenario() -> PolicyCalls:
        calls = PolicyCalls(
            policy,
            sampling or Sampling(max_output_tokens=50),
            rollout_id="r",
            attempt=2,
            ends_at=asyncio.get_running_loop().time() + seconds,
            **given,
        )
        await use(calls)
        return calls

    return asyncio.run(scenario())


def test_calls_are_numbered_and_seeded_whatever_they_carry() -> None:
    seen = Seen()
    policy = Policy(seen.generate, seen.chat, stop_token_ids=(9,), priority=4)

    async def use(calls: PolicyCalls) -> None:
        await calls.sample(PROMPT)
        await calls.converse(
            ({"role": "user", "content": "?"},), (),
            tool_choice="auto", parallel_tool_calls=True, used_tokens=0,
        )  # fmt: skip

    calls = with_calls(use, policy, Sampling(seed=5), traceparent="00-a-b-01")

    first, second = seen.tokens[0].call, seen.messages[0].call
    assert (first.request_id, second.request_id) == ("r/2/0", "r/2/1")
    assert (first.seed, second.seed) == (turn_seed(5, "r", 0, 2), turn_seed(5, "r", 1, 2))
    assert (first.stop_token_ids, second.stop_token_ids) == ((9,), ())
    assert first.priority == second.priority == 4
    assert first.traceparent == second.traceparent == "00-a-b-01"
    assert calls.samplings == [Sampling(seed=5)]


def test_a_call_has_the_time_of_a_turn_or_what_is_left_of_the_attempt() -> None:
    for seconds, longest in ((100.0, 7.0), (2.0, 2.0), (-1.0, 0.0)):
        seen = Seen()
        policy = Policy(seen.generate, turn_timeout_seconds=7.0)
        with_calls(lambda calls: calls.sample(PROMPT), policy, seconds=seconds)
        left = seen.tokens[0].call.timeout_seconds
        assert 0.0 <= left <= longest
        assert left == 7.0 or seconds < 7.0


def test_the_oldest_version_of_the_earlier_turns_bounds_the_next() -> None:
    seen = Seen(versions=(4, 3, 5))

    async def use(calls: PolicyCalls) -> None:
        for _ in range(4):
            await calls.sample(PROMPT)

    def limit(oldest: int | None) -> StalenessLimit | None:
        return StalenessLimit(1, oldest, "drop")

    with_calls(use, Policy(seen.generate), staleness=limit)

    limits = [request.staleness for request in seen.tokens]
    assert limits == [StalenessLimit(1, oldest, "drop") for oldest in (None, 4, 3, 3)]


def test_the_context_left_bounds_a_turn_and_is_not_what_the_row_says() -> None:
    seen = Seen()
    policy = Policy(seen.generate, max_context_tokens=10)
    own = Sampling(max_output_tokens=30)

    calls = with_calls(lambda calls: calls.sample(PROMPT, own), policy)

    assert seen.tokens[0].call.sampling.max_output_tokens == 4
    assert calls.samplings == [own]


def test_a_prompt_that_fills_the_context_is_no_call() -> None:
    seen = Seen()

    with pytest.raises(RolloutFailure, match="max_context_tokens is 6") as caught:
        with_calls(lambda calls: calls.sample(PROMPT), Policy(seen.generate, max_context_tokens=6))

    assert caught.value.kind is FailureKind.POLICY_REJECTED
    assert seen.tokens == []


def test_an_aborted_generation_fails_and_is_no_turn() -> None:
    seen = Seen(stop_reason="abort")
    kept: list[PolicyCalls] = []

    async def use(calls: PolicyCalls) -> None:
        kept.append(calls)
        await calls.sample(PROMPT)

    with pytest.raises(RolloutFailure, match="aborted") as caught:
        with_calls(use, Policy(seen.generate))

    assert caught.value.kind is FailureKind.POLICY_ERROR
    assert kept[0].samplings == []


@pytest.mark.parametrize(("vocabulary_size", "is_known"), [(2, True), (1, False)])
def test_tokens_outside_the_vocabulary_are_the_policys_error(
    vocabulary_size: int, is_known: bool
) -> None:
    seen = Seen()
    policy = Policy(seen.generate, vocabulary_size=vocabulary_size)

    async def use(calls: PolicyCalls) -> None:
        await calls.sample(PROMPT)

    if is_known:
        with_calls(use, policy)
        return
    with pytest.raises(RolloutFailure, match="token ID 1, and the vocabulary has 1") as failure:
        with_calls(use, policy)
    assert failure.value.kind is FailureKind.POLICY_ERROR
