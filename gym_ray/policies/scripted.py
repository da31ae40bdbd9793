"""A scripted policy, for tests and load tests: it samples nothing and needs no model.

It speaks the engine protocol with the byte-level tokenizer: the reply, latency and failures
come from configuration, and are the same every time for the same request. Of the sampling
parameters it honours `max_output_tokens` and `stop`; it draws from no distribution, and so
neither `grammar` nor `structural_tag` changes what it says.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import hashlib
import importlib
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np
import pydantic
from pydantic import ConfigDict, Field

from gym_ray.errors import ConfigError, FailureKind, RolloutFailure, one_line
from gym_ray.policies.engine import EngineLoad, GenerationRequest, PolicyInfo
from gym_ray.renderers.tokenizers import ByteTokenizer
from gym_ray.turn import Generation, Logprobs, StopReason, Tokens, VersionSpan

#: Called with the decoded prompt and the request; returns text, or the very token ids.
Reply = Callable[[str, GenerationRequest], str | Sequence[int]]

#: An import path has a dot before its colon, so that replies such as "Answer:four" are text.
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)+:[A-Za-z_]\w*")


class ScriptedArgs(pydantic.BaseModel):
    """`policy.engine_args` of the scripted policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reply: str = "\\boxed{4}"
    """Text of every reply, or `package.module:function`, a callable of type `Reply`."""
    latency_seconds: float | tuple[float, float] = Field(0.0)
    """Time a request takes; a pair draws from that range, by the hash of the request."""
    failure_rate: float = Field(0.0, ge=0, le=1)
    """Share of requests that fail with `policy_error`, chosen by the hash of the request."""
    seed: int = 0
    """Varies logprobs, latencies and failures."""
    context_length: int = Field(32768, ge=1)
    """Most tokens of prompt plus generation."""
    slots: int | None = Field(None, ge=1)
    """Requests worked on at once, while the others wait as in an engine whose batch is full; null
    for all of them."""
    request_log: str | None = None
    """File to which every request's id is appended as it arrives, one JSON object a line; once
    more with `"aborted": true` when it is aborted."""


class ScriptedEngine:
    """The engine protocol without a model.

    Raises:
        ConfigError: an unknown argument, or a reply that cannot be imported.
    """

    def __init__(self, *, model: str, engine_args: dict[str, object]) -> None:
        try:
            self.args = ScriptedArgs.model_validate(engine_args)
        except pydantic.ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors()
            )
            raise ConfigError(
                f"policy.engine_args of the scripted policy: {problems}; "
                f"valid keys: {', '.join(ScriptedArgs.model_fields)}"
            ) from None
        self._model = model
        self._tokenizer = ByteTokenizer()
        self._reply = load_reply(self.args.reply)
        self._log: int | None = None
        self._running = 0
        self._waiting = 0
        self._slots = None if self.args.slots is None else asyncio.Semaphore(self.args.slots)

    async def start(self) -> PolicyInfo:
        if self.args.request_log is not None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._log = os.open(self.args.request_log, flags, 0o644)
        described = self.args.model_dump_json(exclude={"request_log"})
        return PolicyInfo(
            engine="scripted",
            engine_version="1",
            model=self._model,
            fingerprint=hashlib.sha256(described.encode()).hexdigest()[:16],
            context_length=self.args.context_length,
            seed=self.args.seed,
        )

    async def generate(self, request: GenerationRequest) -> Generation:
        started = time.perf_counter()
        self._note({"request_id": request.request_id, "time": time.time()})
        room = self.args.context_length - len(request.prompt_token_ids)
        if room < 1:
            raise RolloutFailure(
                FailureKind.POLICY_REJECTED,
                f"the prompt has {len(request.prompt_token_ids)} tokens and the context holds "
                f"{self.args.context_length}; shorten the prompt or raise context_length",
            )
        draw = self._draw(request.request_id)
        try:
            async with self._slot():
                began = time.perf_counter()
                await asyncio.sleep(self._latency(draw))
        except asyncio.CancelledError:
            self._note({"request_id": request.request_id, "time": time.time(), "aborted": True})
            raise
        if draw < self.args.failure_rate:
            raise RolloutFailure(FailureKind.POLICY_ERROR, "scripted failure")
        tokens, stop_reason = self._tokens(request, room)
        return Generation(
            token_ids=tokens,
            logprobs=self._logprobs(tokens),
            stop_reason=stop_reason,
            version_spans=(VersionSpan(0, 0, len(tokens)),),
            queued_seconds=began - started,
            generation_seconds=time.perf_counter() - began,
        )

    def load(self) -> EngineLoad:
        """It has no cache."""
        return EngineLoad(running=self._running, waiting=self._waiting)

    async def check_health(self) -> None:
        return None

    async def stop(self) -> None:
        if self._log is not None:
            os.close(self._log)
            self._log = None

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Work on a request, once there is a slot for it."""
        self._waiting += 1
        try:
            if self._slots is not None:
                await self._slots.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            if self._slots is not None:
                self._slots.release()

    def _note(self, entry: dict[str, object]) -> None:
        if self._log is not None:
            os.write(self._log, json.dumps(entry).encode() + b"\n")

    def _tokens(self, request: GenerationRequest, room: int) -> tuple[Tokens, StopReason]:
        if isinstance(self._reply, str):
            reply: str | Sequence[int] = self._reply
        else:
            prompt = self._tokenizer.decode(request.prompt_token_ids.tolist())
            reply = self._reply(prompt, request)
        if isinstance(reply, str):
            ids = [*self._tokenizer.encode(reply), *request.stop_token_ids[:1]]
        else:
            ids = list(reply)
        ids = ids[: min(request.sampling.max_output_tokens, room)]
        end = self._end_at_text(ids, request.sampling.stop)
        tokens = np.asarray(ids[:end], dtype=np.int32)
        stopped = len(tokens) > 0 and int(tokens[-1]) in request.stop_token_ids
        return tokens, "stop" if stopped or end is not None else "length"

    def _end_at_text(self, ids: Sequence[int], stop: Sequence[str]) -> int | None:
        """How many tokens there are up to the one that completes a stop text; None without one."""

        def has_text(length: int) -> bool:
            text = self._tokenizer.decode(ids[:length])
            return any(wanted in text for wanted in stop)

        if not stop or not has_text(len(ids)):
            return None
        return bisect.bisect_left(range(len(ids) + 1), True, key=has_text)

    def _logprobs(self, tokens: Tokens) -> Logprobs:
        """Distinct by token and position, so that a shift by one shows; all below 0."""
        position = np.arange(len(tokens))
        mixed = (tokens * 7919 + position * 104729 + self.args.seed) % 1000
        return (-(mixed + 1) / 1000.0).astype(np.float32)

    def _draw(self, request_id: str) -> float:
        digest = hashlib.sha256(f"{self.args.seed}/{request_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    def _latency(self, draw: float) -> float:
        latency = self.args.latency_seconds
        if isinstance(latency, tuple):
            low, high = latency
            return low + (high - low) * draw
        return latency


def load_reply(reply: str) -> str | Reply:
    """Text as it is; an import path as the callable it names.

    Raises:
        ConfigError: the import path does not lead to a callable.
    """
    if not _IMPORT_PATH.fullmatch(reply):
        return reply
    module_name, _, attribute = reply.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:
        raise ConfigError(f"policy.engine_args.reply {reply!r}: {one_line(error)}") from error
    if not callable(found):
        raise ConfigError(f"policy.engine_args.reply {reply!r} is not callable")
    loaded: Reply = found
    return loaded
