"""Asking judges: what it costs, how often and how fast, and what comes of one that is silent."""

import asyncio
import dataclasses
from typing import Any

import pytest

from gym_ray.environment import Environment, Outcome
from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.judging import Judge, JudgeReply, accounting, ask_for, judge_parameters, time_limit
from gym_ray.policies import judging
from gym_ray.policies.chat import ChatAnswer, ChatRequest
from gym_ray.policies.judging import JudgeLimits, PolicyJudge, RateLimit
from gym_ray.sampling import Sampling
from gym_ray.task import Task
from gym_ray.verdict import Verdict
from tests.judges import CannedJudge, chat_that_says, judge_that_says, scripted_judge, verdict_of

ASKED = [{"role": "user", "content": "7 of 10?"}]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "BACKOFF_SECONDS", 0.0)


def number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def failure_of(question: Any) -> RolloutFailure:
    with pytest.raises(RolloutFailure) as caught:
        asyncio.run(question)
    return caught.value


class Asks(Environment):
    """Reward: the number the judge says."""

    async def verify(self, outcome: Outcome) -> Any:
        messages = [{"role": "user", "content": outcome.text}]
        return Verdict(await ask_for(self.judges["grader"], messages, number), metrics={"own": 1})


def asking(judge: Judge) -> Environment:
    environment = Asks()
    environment.judges = {"grader": judge}
    return environment


def test_what_a_judge_costs_stands_apart_in_the_metrics() -> None:
    verdict = verdict_of(asking(judge_that_says(lambda _: "3")), Task("t", {}), "?")

    assert verdict.reward == 3
    assert verdict.metrics == {
        "own": 1,
        "judge_calls": 1,
        "judge_prompt_tokens": 10,
        "judge_output_tokens": 3,
        "judge_unparsed": 0,
    }


def test_a_verdict_without_a_judge_has_no_such_metrics() -> None:
    class Plain(Environment):
        async def verify(self, outcome: Outcome) -> float:
            return 1.0

    assert verdict_of(Plain(), Task("t", {}), "?").metrics == {}


def test_verifications_at_once_have_accounts_of_their_own() -> None:
    environment = asking(judge_that_says(lambda text: "1" if text == "easy" else "?"))

    async def both() -> list[Any]:
        from tests.verification import on_loop

        verification = on_loop(environment)
        outcomes = [Outcome(Task("t", {}), text, []) for text in ("easy", "hard", "easy")]
        return await asyncio.gather(*map(verification.verify, outcomes), return_exceptions=True)

    first, hard, second = asyncio.run(both())
    assert first.metrics["judge_calls"] == second.metrics["judge_calls"] == 1
    assert hard.kind is FailureKind.VERIFIER_ERROR


def test_a_reply_that_cannot_be_read_is_counted_and_asked_for_once_more() -> None:
    judge = CannedJudge("seven", "7")

    async def ask() -> tuple[int, int]:
        with accounting() as spent:
            return await ask_for(judge, ASKED, number), spent.unparsed

    assert asyncio.run(ask()) == (7, 1)
    roles = [message["role"] for message in judge.asked[1]]
    assert roles == ["user", "assistant", "user"]
    assert judge.asked[1][1]["content"] == "seven"


def test_a_second_reply_that_cannot_be_read_is_a_verifier_error() -> None:
    failure = failure_of(ask_for(CannedJudge("seven", "about seven"), ASKED, number))

    assert failure.kind is FailureKind.VERIFIER_ERROR
    assert failure.message == (
        "judge 'grader': 2 replies that cannot be read, the last one 'about seven'"
    )


def test_a_reply_that_was_cut_short_is_counted_and_asked_for_once_more() -> None:
    class CutFirst(CannedJudge):
        async def ask(self, *arguments: Any, **options: Any) -> JudgeReply:
            reply = await super().ask(*arguments, **options)
            return dataclasses.replace(reply, is_complete=len(self.asked) > 1)

    async def ask() -> tuple[int, int]:
        with accounting() as spent:
            return await ask_for(CutFirst("10", "7"), ASKED, number), spent.unparsed

    assert asyncio.run(ask()) == (7, 1)


def failing(kind: FailureKind, times: int, **limits: Any) -> tuple[PolicyJudge, list[str]]:
    """A judge whose first calls fail, and the ids of its calls."""
    calls: list[str] = []

    def say(request: ChatRequest) -> str:
        calls.append(request.call.request_id)
        if len(calls) <= times:
            raise RolloutFailure(kind, "not now")
        return "5"

    return PolicyJudge("grader", chat_that_says(say), Sampling(), JudgeLimits(**limits)), calls


def test_a_call_that_fails_is_tried_again_and_each_try_counts() -> None:
    judge, calls = failing(FailureKind.POLICY_UNAVAILABLE, 2)

    async def ask() -> tuple[str, int, int]:
        with accounting() as spent:
            reply = await judge.ask(ASKED)
            return reply.text, spent.calls, spent.prompt_tokens

    assert asyncio.run(ask()) == ("5", 3, 10)
    assert len(set(calls)) == 3


def test_a_judge_that_stays_down_is_a_verifier_error_that_says_why() -> None:
    judge, calls = failing(FailureKind.POLICY_UNAVAILABLE, 9, max_retries=2)

    failure = failure_of(judge.ask(ASKED))

    assert failure.kind is FailureKind.VERIFIER_ERROR
    assert failure.message == "judge 'grader': policy_unavailable: not now (after 3 tries)"
    assert len(calls) == 3


def test_what_another_try_would_not_cure_is_not_tried_again() -> None:
    judge, calls = failing(FailureKind.POLICY_REJECTED, 9)

    assert failure_of(judge.ask(ASKED)).kind is FailureKind.VERIFIER_ERROR
    assert len(calls) == 1


def test_a_judge_that_never_answers_is_a_verifier_error_before_the_deadline_strikes() -> None:
    async def never(request: ChatRequest) -> ChatAnswer:
        assert request.call.timeout_seconds < 3.0
        return await asyncio.get_running_loop().create_future()

    judge = PolicyJudge("grader", never, Sampling(), JudgeLimits())

    with pytest.raises(RolloutFailure) as caught:
        verdict_of(asking(judge), Task("t", {}), "?", timeout_seconds=3.0)

    assert caught.value.kind is FailureKind.VERIFIER_ERROR
    assert "while it waited for an answer" in caught.value.message
    assert "raise verification.timeout_seconds" in caught.value.message


def test_retries_end_with_the_time_of_the_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "BACKOFF_SECONDS", 60.0)
    judge, _ = failing(FailureKind.POLICY_UNAVAILABLE, 9)

    with pytest.raises(RolloutFailure) as caught:
        verdict_of(asking(judge), Task("t", {}), "?", timeout_seconds=3.0)

    assert caught.value.kind is FailureKind.VERIFIER_ERROR
    assert "last: policy_unavailable: not now" in caught.value.message


def test_no_more_calls_run_at_once_than_allowed() -> None:
    running = most = 0

    async def chat(request: ChatRequest) -> ChatAnswer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(3):
            await asyncio.sleep(0)
        running -= 1
        return await chat_that_says(lambda _: "1")(request)

    async def ask_ten() -> None:
        judge = PolicyJudge("grader", chat, Sampling(), JudgeLimits(max_concurrency=4))
        await asyncio.gather(*(judge.ask(ASKED) for _ in range(10)))

    asyncio.run(ask_ten())
    assert most == 4


def test_calls_of_a_minute_are_limited_in_every_window() -> None:
    rate = RateLimit(2)

    assert [rate.reserve(now, 1000) for now in (0, 1, 2, 3)] == [0, 1, 60, 61]
    assert rate.reserve(62, 100) is None  # not before 120
    assert rate.reserve(62, 120) == 120
    assert RateLimit(None).reserve(5, 0) == 5


def test_a_call_that_cannot_start_in_time_is_a_verifier_error_at_once() -> None:
    judge = judge_that_says(lambda _: "1", requests_per_minute=1)

    async def ask_twice() -> None:
        with time_limit(30):
            await judge.ask(ASKED)
            await judge.ask(ASKED)

    failure = failure_of(ask_twice())
    assert failure.kind is FailureKind.VERIFIER_ERROR
    assert "requests_per_minute are used up" in failure.message


def test_a_policy_in_tokens_judges_too() -> None:
    reply = asyncio.run(scripted_judge("four").ask(ASKED))

    assert reply.text == "four"
    assert reply.output_tokens == 5  # four bytes and the end of the turn
    assert reply.prompt_tokens > len("7 of 10?")


def test_parameters_annotated_judge_are_found() -> None:
    def asks(outcome: Outcome, *, judge: Judge, word: str) -> None: ...

    def quoted(outcome: "Nowhere", *, grader: "Judge") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert judge_parameters(asks) == ("judge",)
    assert judge_parameters(quoted) == ("grader",)
    assert judge_parameters(len) == ()
