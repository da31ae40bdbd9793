"""Judges for tests: they say what a function of the question says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from gym_ray.environment import Environment, Outcome
from gym_ray.judging import JudgeReply
from gym_ray.policies.chat import Chat, ChatAnswer, ChatRequest
from gym_ray.policies.judging import JudgeLimits, PolicyJudge, chat_in_tokens
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.renderers import load_renderer
from gym_ray.renderers.messages import AssistantMessage
from gym_ray.sampling import Sampling
from gym_ray.task import Task
from gym_ray.verdict import Verdict
from tests.verification import on_loop


def chat_that_says(say: Callable[[ChatRequest], str]) -> Chat:
    """A policy in messages: 10 prompt tokens and 3 output tokens a call."""

    async def chat(request: ChatRequest) -> ChatAnswer:
        await asyncio.sleep(0)
        return ChatAnswer(AssistantMessage(say(request)), "stop", None, None, 10, 3)

    return chat


def judge_that_says(say: Callable[[str], str], **limits: Any) -> PolicyJudge:
    """A judge whose reply depends on the text of the last message."""
    chat = chat_that_says(lambda request: say(request.messages[-1]["content"]))
    return PolicyJudge("grader", chat, Sampling(temperature=0), JudgeLimits(**limits))


def scripted_judge(
    reply: str, *, sampling: Sampling | None = None, **engine_args: Any
) -> PolicyJudge:
    """A judge in tokens, over the scripted policy."""
    engine = ScriptedEngine(model="m", engine_args={"reply": reply, **engine_args})
    chat = chat_in_tokens(load_renderer(None), engine.generate)
    return PolicyJudge("grader", chat, sampling or Sampling(), JudgeLimits())


class CannedJudge:
    """Replies one after the other; keeps what it was asked."""

    name = "grader"

    def __init__(self, *replies: str) -> None:
        self._replies = list(replies)
        self.asked: list[list[dict[str, Any]]] = []

    async def ask(
        self, messages: Sequence[dict[str, Any]], *, sampling: Sampling | None = None
    ) -> JudgeReply:
        self.asked.append(list(messages))
        return JudgeReply(self._replies.pop(0), 10, 3)


def verdict_of(
    environment: Environment, task: Task, reply: str, timeout_seconds: float = 10
) -> Verdict:
    """The verdict of an environment whose verifiers are coroutines."""

    async def verify() -> Verdict:
        outcome = Outcome(task=task, text=reply, items=[])
        async with on_loop(environment, timeout_seconds) as verification:
            return await verification.verify(outcome)

    return asyncio.run(verify())
