"""Policies behind the gateways of these tests: they say what the last message tells them to."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import threading
from collections.abc import Coroutine, Sequence
from typing import Any

from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.gateway.token_chat import TokenPolicy
from gym_ray.policies.chat import ChatAnswer, ChatRequest
from gym_ray.policies.engine import GenerationRequest, PolicyInfo
from gym_ray.policies.scripted import ScriptedEngine
from gym_ray.renderers.messages import AssistantMessage
from gym_ray.renderers.renderer import RolloutRenderer, load_renderer
from gym_ray.sampling import Sampling
from gym_ray.turn import Generation

MODEL = "scripted/echo"


def echo(prompt: str, request: GenerationRequest) -> str | Sequence[int]:
    """What follows `say: ` in the last message; a tool's result is told; else a greeting."""
    last = prompt.rsplit("<|im_start|>user\n", 1)[-1].split("<|im_end|>", 1)[0]
    results = re.findall(r"<tool_response>\n(.*?)\n</tool_response>", last, re.S)
    if results:
        return "The tools say " + " and ".join(results)
    return last.split("say: ", 1)[1] if "say: " in last else "Hello."


class WatchedEngine:
    """A scripted engine whose calls can be watched, held back and failed."""

    def __init__(self, *, reply: str, context_length: int) -> None:
        self._engine = ScriptedEngine(
            model=MODEL, engine_args={"reply": reply, "context_length": context_length}
        )
        self.requests: list[GenerationRequest] = []
        self.failure: RolloutFailure | Exception | None = None
        self.hold = False
        self.held = threading.Event()
        self.cancelled = threading.Event()

    async def start(self) -> PolicyInfo:
        return await self._engine.start()

    async def generate(self, request: GenerationRequest) -> Generation:
        self.requests.append(request)
        try:
            while self.hold:
                self.held.set()
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.failure is not None:
            raise self.failure
        return await self._engine.generate(request)


@dataclasses.dataclass(frozen=True, slots=True)
class ChatOnlyPolicy:
    """A policy that returns no token IDs."""

    info: PolicyInfo
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    renderer: RolloutRenderer | None = None

    async def chat(self, request: ChatRequest) -> ChatAnswer:
        said = AssistantMessage(f"You said: {request.messages[-1]['content']}")
        return ChatAnswer(said, "stop", None, None, prompt_tokens=7, output_tokens=3)

    def choices(self, requests: Sequence[ChatRequest]) -> Sequence[Coroutine[Any, Any, ChatAnswer]]:
        return [self.chat(request) for request in requests]

    async def generate(self, request: GenerationRequest) -> Generation:
        raise RolloutFailure(FailureKind.POLICY_REJECTED, "this policy speaks no tokens")


def token_policy(
    *, reply: str = "tests.gateway.policies:echo", context_length: int = 32768
) -> tuple[TokenPolicy, WatchedEngine]:
    """A policy over the byte tokenizer, and the engine to watch."""
    engine = WatchedEngine(reply=reply, context_length=context_length)
    info = asyncio.run(engine.start())
    renderer = load_renderer(None, "chatml")
    return TokenPolicy(info, renderer, Sampling(), engine.generate), engine
