"""A scripted policy, for tests and load tests: it samples nothing and needs no model.

It speaks the engine protocol with the byte-level tokenizer: the reply, latency and failures
come from configuration, and are the same every time for the same request. Of the sampling
parameters it honors `max_output_tokens` and `stop`; it draws from no distribution, and so
neither `grammar` nor `structural_tag` changes what it says.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pydantic
from pydantic import ConfigDict, Field

from gym_ray.errors import ConfigError, FailureKind, RolloutFailure, one_line
from gym_ray.policies.engine import EngineLoad, GenerationRequest, PolicyInfo
from gym_ray.policies.engine_arguments import EngineArguments
from gym_ray.policies.weights import Place, WeightsUpdate
from gym_ray.renderers.tokenizers import ByteTokenizer
from gym_ray.turn import Generation, Logprobs, StopReason, Tokens, VersionSpan

#: Called with the decoded prompt and the request; returns text, or the very token IDs.
Reply = Callable[[str, GenerationRequest], str | Sequence[int]]

#: An import path has a dot before its colon, so that replies such as "Answer:four" are text.
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)+:[A-Za-z_]\w*")


class ScriptedArgs(EngineArguments):
    """`policy.engine_args` of the scripted policy."""

    reply: str | tuple[str, ...] = "\\boxed{4}"
    """Text of every reply; texts for the turns of a rollout, the last of them for all that follow;
    or `package.module:function`, a callable of type `Reply`."""
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


class Script(pydantic.BaseModel):
    """`script.json` in a directory: what the scripted policy has for weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reply: str | tuple[str, ...]
    """As `ScriptedArgs.reply`; of generations that begin under these weights."""
    seed: int = 0
    """Varies logprobs, together with the version."""


@dataclasses.dataclass(slots=True)
class _Work:
    """A generation in work: which weights it had from which share of its time on."""

    began: float
    seconds: float
    weights: list[tuple[float, int, int]]
    """(share of its time, version, seed)"""


class ScriptedEngine:
    """The engine protocol without a model, weights that change under way included.

    Tokens come evenly over a generation's latency, so one that an update meets half-way has half
    of its tokens, and their logprobs, of either version.

    Raises:
        ConfigError: an unknown argument, or a reply that cannot be imported.
    """

    def __init__(self, *, model: str, engine_args: dict[str, object]) -> None:
        self.args = ScriptedArgs.parse(engine_args)
        self._model = model
        self._tokenizer = ByteTokenizer()
        self._reply = load_reply(self.args.reply)
        self._log: int | None = None
        self._waiting = 0
        self._slots = None if self.args.slots is None else asyncio.Semaphore(self.args.slots)
        self._version = 0
        self._seed = self.args.seed
        self._work: dict[int, _Work] = {}
        self._idle = asyncio.Event()
        self._open = asyncio.Event()
        self._idle.set()
        self._open.set()

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
        self._note({"request_id": request.call.request_id, "time": time.time()})
        room = self.args.context_length - len(request.prompt_token_ids)
        if room < 1:
            raise RolloutFailure(
                FailureKind.POLICY_REJECTED,
                f"the prompt has {len(request.prompt_token_ids)} tokens and the context holds "
                f"{self.args.context_length}; shorten the prompt or raise context_length",
            )
        draw = self._draw(request.call.request_id)
        try:
            async with self._slot():
                began = time.perf_counter()
                reply = self._reply
                work = self._begin(self._latency(draw))
                try:
                    await asyncio.sleep(work.seconds)
                finally:
                    self._end(work)
        except asyncio.CancelledError:
            self._note(
                {"request_id": request.call.request_id, "time": time.time(), "aborted": True}
            )
            raise
        if draw < self.args.failure_rate:
            raise RolloutFailure(FailureKind.POLICY_ERROR, "scripted failure")
        tokens, stop_reason = self._tokens(reply, request, room)
        logprobs, spans = _sampled(tokens, work)
        return Generation(
            token_ids=tokens,
            logprobs=logprobs,
            stop_reason=stop_reason,
            version_spans=spans,
            queued_seconds=began - started,
            generation_seconds=time.perf_counter() - began,
        )

    async def check_weights(self, update: WeightsUpdate, place: Place) -> None:
        """Refuse a directory without a `script.json`; see `UpdatableEngine.check_weights`."""
        _script(update)

    async def update_weights(
        self, update: WeightsUpdate, place: Place, verify: Callable[[], Awaitable[None]]
    ) -> str:
        """Follow another script; see `UpdatableEngine.update_weights`."""
        if update.mode == "drain":
            self._open.clear()
            await self._idle.wait()
        script = _script(update)
        reply = load_reply(script.reply)
        await verify()
        self._reply = reply
        self._version, self._seed = update.version, script.seed
        for work in self._work.values():
            work.weights.append((self._share(work), self._version, self._seed))
        self._open.set()
        return hashlib.sha256(script.model_dump_json().encode()).hexdigest()[:32]

    def _begin(self, seconds: float) -> _Work:
        began = asyncio.get_running_loop().time()
        work = _Work(began, seconds, [(0.0, self._version, self._seed)])
        self._work[id(work)] = work
        self._idle.clear()
        return work

    def _end(self, work: _Work) -> None:
        del self._work[id(work)]
        if not self._work:
            self._idle.set()

    def _share(self, work: _Work) -> float:
        elapsed = asyncio.get_running_loop().time() - work.began
        return min(1.0, elapsed / work.seconds) if work.seconds else 1.0

    def load(self) -> EngineLoad:
        """It has no cache."""
        return EngineLoad(running=len(self._work), waiting=self._waiting)

    async def check_health(self) -> None:
        return None

    async def stop(self) -> None:
        if self._log is not None:
            os.close(self._log)
            self._log = None

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """Room for a request, once there is a slot and no update that lets what runs end first."""
        self._waiting += 1
        try:
            if self._slots is not None:
                await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            await self._open.wait()
            yield
        finally:
            if self._slots is not None:
                self._slots.release()

    def _note(self, entry: dict[str, object]) -> None:
        if self._log is not None:
            os.write(self._log, json.dumps(entry).encode() + b"\n")

    def _tokens(
        self, script: str | Reply, request: GenerationRequest, room: int
    ) -> tuple[Tokens, StopReason]:
        if isinstance(script, str):
            reply: str | Sequence[int] = script
        else:
            prompt = self._tokenizer.decode(request.prompt_token_ids.tolist())
            reply = script(prompt, request)
        if isinstance(reply, str):
            ids = [*self._tokenizer.encode(reply), *request.call.stop_token_ids[:1]]
        else:
            ids = list(reply)
        ids = ids[: min(request.call.sampling.max_output_tokens, room)]
        end = self._end_at_text(ids, request.call.sampling.stop)
        tokens = np.asarray(ids[:end], dtype=np.int32)
        stopped = len(tokens) > 0 and int(tokens[-1]) in request.call.stop_token_ids
        return tokens, "stop" if stopped or end is not None else "length"

    def _end_at_text(self, ids: Sequence[int], stop: Sequence[str]) -> int | None:
        """How many tokens there are up to the one that completes a stop text; None without one."""

        def has_text(length: int) -> bool:
            text = self._tokenizer.decode(ids[:length])
            return any(wanted in text for wanted in stop)

        if not stop or not has_text(len(ids)):
            return None
        return bisect.bisect_left(range(len(ids) + 1), True, key=has_text)

    def _draw(self, request_id: str) -> float:
        digest = hashlib.sha256(f"{self.args.seed}/{request_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    def _latency(self, draw: float) -> float:
        latency = self.args.latency_seconds
        if isinstance(latency, tuple):
            low, high = latency
            return low + (high - low) * draw
        return latency


def scripted_logprobs(tokens: Tokens, *, seed: int = 0, version: int = 0) -> Logprobs:
    """Distinct by token, position and version, so that a shift by one shows; all below 0.

    Args:
        tokens: int32 [T], a generation from its first token on.
        seed: of the policy, or of the script its weights are.
        version: of its weights.
    """
    position = np.arange(len(tokens))
    mixed = (tokens * 7919 + position * 104729 + version * 611953 + seed) % 1000
    return (-(mixed + 1) / 1000.0).astype(np.float32)


def _sampled(tokens: Tokens, work: _Work) -> tuple[Logprobs, tuple[VersionSpan, ...]]:
    """Every token's logprob under the weights of its time, and which those were."""
    starts = [round(share * len(tokens)) for share, _, _ in work.weights]
    ends = [*starts[1:], len(tokens)]
    logprobs = np.zeros(len(tokens), dtype=np.float32)
    spans = []
    for start, end, (_, version, seed) in zip(starts, ends, work.weights, strict=True):
        if end > start:
            logprobs[start:end] = scripted_logprobs(tokens, seed=seed, version=version)[start:end]
            spans.append(VersionSpan(version, start, end))
    return logprobs, tuple(spans)


def _script(update: WeightsUpdate) -> Script:
    if not isinstance(update.source, str):
        raise ConfigError("the scripted policy takes weights from a directory only")
    path = Path(update.source) / "script.json"
    try:
        return Script.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        reason = one_line(error)
        raise ConfigError(f"{path} is no script of the scripted policy: {reason}") from None


def load_reply(reply: str | Sequence[str], *, section: str = "policy") -> str | Reply:
    """Text as it is; texts of turns, and an import path, as a callable.

    Args:
        reply: as in `ScriptedArgs`.
        section: of the config that it is in, for the message.

    Raises:
        ConfigError: there are no texts, or the import path does not lead to a callable.
    """
    if not isinstance(reply, str):
        if not reply:
            raise ConfigError(f"{section}.engine_args.reply: write a text, or one for each turn")
        return _turns(tuple(reply))
    if not _IMPORT_PATH.fullmatch(reply):
        return reply
    module_name, _, attribute = reply.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:
        raise ConfigError(f"{section}.engine_args.reply {reply!r}: {one_line(error)}") from error
    if not callable(found):
        raise ConfigError(f"{section}.engine_args.reply {reply!r} is not callable")
    loaded: Reply = found
    return loaded


def _turns(texts: tuple[str, ...]) -> Reply:
    """Says one text a turn, the last one again and again."""

    def reply(prompt: str, request: GenerationRequest) -> str:
        number = request.call.request_id.rpartition("/")[2]  # As rollouts number their turns.
        turn = int(number) if number.isdecimal() else 0
        return texts[min(turn, len(texts) - 1)]

    return reply
