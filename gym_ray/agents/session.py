"""A session: one rollout whose policy calls come from outside, from an agent nobody here wrote.

Owned here: the calls. Each is kept as a turn, wherever in the history it belongs, so an agent may
edit or compact its history, or hold several conversations at once. The rollout's sampling wins over
what a call asks for (a policy is trained on the distribution it was sampled from): a call may lower
`max_output_tokens`, name stop texts, and guide decoding, no more. `max_turns` and the deadline end
a session the way they end the built-in loops, as truncated. A call that is refused ends nothing: it
has its own error, and the session ends when its agent does.

Not owned here: what becomes of the turns (session_record), who may call (the host's keys), how
calls arrive (gateway), and what drives the agent (external.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from gym_ray.agents.agent import AgentContext, Episode, tokenize
from gym_ray.agents.conversations import question_of
from gym_ray.agents.message_tree import MessageTree, Prompt
from gym_ray.agents.session_record import RecordedTurn, SessionRecord
from gym_ray.agents.sessions import SessionError
from gym_ray.errors import FailureKind, RolloutFailure, one_line
from gym_ray.policies.chat import (
    ChatAnswer,
    ChatRequest,
    as_asked,
    guided_sampling,
    offered_tools,
)
from gym_ray.policies.engine import GenerationRequest
from gym_ray.renderers.items import text_of_items, tools_from_chat
from gym_ray.renderers.messages import AssistantMessage, with_tool_names
from gym_ray.renderers.renderer import RolloutRenderer
from gym_ray.rollout import TruncationReason
from gym_ray.sampling import Sampling
from gym_ray.turn import Generation
from gym_ray.verdict import Verdict

#: Calls of one session at once; more are asked to come back.
MAX_CONCURRENT_CALLS = 64


class Session:
    """Policy calls from outside, recorded as one rollout. Implements `gateway.PolicyBackend`
    but for `info`, which is the deployment's.

    Args:
        attempt: the rollout.
        closable: whether who makes the calls may end the session; False where it ends with the
            program that makes them.

    Attributes:
        renderer: of the policy's model.
        sampling: the rollout's.
        closable, rollout_id: as given.
    """

    renderer: RolloutRenderer
    sampling: Sampling

    def __init__(self, attempt: AgentContext, *, closable: bool) -> None:
        if attempt.renderer is None:
            raise RolloutFailure(
                FailureKind.POLICY_REJECTED,
                "an outside agent's calls can only be recorded from a policy that takes tokens, "
                "and this one takes messages only (policy.engine_args.api: chat)",
            )
        self.renderer = attempt.renderer
        self.sampling = attempt.sampling
        self.closable = closable
        self._sample = attempt.sample
        self.rollout_id = attempt.rollout_id
        self._limits = attempt.limits
        self._conversation = MessageTree(attempt.renderer)
        self._record = SessionRecord(
            attempt.rollout_id,
            self._conversation.transcript,
            question_of(attempt.task),
            attempt.renderer.decode,
        )
        # Prompts are built off the event loop when they are long, from a tree that `add` changes.
        self._history = asyncio.Lock()
        self._running = 0
        self._over = asyncio.Event()
        self._truncation_reason: TruncationReason | None = None
        self._verdict: Verdict | None = None
        self._abandoned = False
        self.last_failure: RolloutFailure | None = None

    @property
    def turns(self) -> int:
        """Policy calls recorded, those of all branches."""
        return len(self._record.turns)

    @property
    def outgrown(self) -> bool:
        """Whether the rollout as it stands ends because its next prompt was too long."""
        return self._record.outgrown()

    @property
    def turns_left_out(self) -> int:
        """Turns that do not belong to the conversation that is the rollout."""
        return self._record.turns_left_out(self._record.last()) if self.turns else 0

    @property
    def over(self) -> bool:
        """Whether it takes no more calls."""
        return self._over.is_set()

    @property
    def deadline(self) -> float:
        """When it ends at the latest, on the running event loop's clock."""
        return self._limits.deadline

    # Calls.

    async def chat(self, request: ChatRequest) -> ChatAnswer:
        """One turn of a conversation; the messages may be any, history included.

        Raises:
            SessionError: `ended` or `busy`.
            RolloutFailure: the turn cannot be sampled; nothing was recorded.
        """
        arrived = time.perf_counter()
        self._require_usual_stops(request.call.stop_token_ids)
        sampling = self._narrowed(guided_sampling(request, self.renderer))
        request = request.with_sampling(sampling)
        stopped = False

        def told(said: AssistantMessage) -> AssistantMessage:
            nonlocal stopped
            said, stopped = as_asked(said, request)
            return said

        with self._call():
            prompt = await self._prompt(request)
            generation = await self._generation(prompt, sampling)
            async with self._history:
                self._require_open()
                seconds = 0.0
                if prompt.continues is not None:
                    before = self._record.turns[prompt.continues]
                    seconds = max(0.0, arrived - before.ended_at)
                said = self._conversation.add(
                    prompt,
                    generation,
                    name=request.call.request_id,
                    tool_seconds=seconds,
                    told=told,
                )
                self._record.add(request.call.request_id, prompt, said, generation, sampling)
        return ChatAnswer(
            message=said,
            stop_reason="stop" if stopped else generation.stop_reason,
            prompt_token_ids=prompt.token_ids,
            generation=generation,
            prompt_tokens=len(prompt.token_ids),
            output_tokens=len(generation.token_ids),
        )

    async def generate(self, request: GenerationRequest) -> Generation:
        """One continuation of a token prompt, which may be any.

        Raises:
            SessionError, RolloutFailure: as `chat`.
        """
        self._require_usual_stops(request.call.stop_token_ids)
        sampling = self._narrowed(request.call.sampling)
        with self._call():
            token_ids = request.prompt_token_ids
            text = await asyncio.to_thread(self.renderer.decode, token_ids)
            prompt = Prompt(token_ids, ({"role": "user", "content": text},), (), continues=None)
            generation = await self._generation(prompt, sampling)
            async with self._history:
                self._require_open()
                name = request.call.request_id
                said = self.renderer.parse(generation.token_ids, token_ids, turn=name)
                self._conversation.transcript.insert(token_ids, generation)
                self._record.add(name, prompt, said, generation, sampling)
        return generation

    def _require_usual_stops(self, stop_token_ids: Sequence[int]) -> None:
        """The row does not say which other tokens ended a turn, so none may."""
        if not set(stop_token_ids) <= set(self.renderer.stop_token_ids):
            raise RolloutFailure(
                FailureKind.POLICY_REJECTED,
                "in a session a turn ends at the model's own stop tokens, "
                f"{list(self.renderer.stop_token_ids)}: leave stop_token_ids out, or use stop",
            )

    def _narrowed(self, asked: Sampling) -> Sampling:
        """The rollout's sampling with what a call may decide."""
        return dataclasses.replace(
            self.sampling,
            max_output_tokens=min(self.sampling.max_output_tokens, asked.max_output_tokens),
            structural_tag=asked.structural_tag or self.sampling.structural_tag,
            stop=asked.stop or self.sampling.stop,
        )

    @contextmanager
    def _call(self) -> Iterator[None]:
        self._require_open()
        if self._running >= MAX_CONCURRENT_CALLS:
            raise SessionError(
                "busy", f"the session has {self._running} calls in work; make fewer at once"
            )
        if self.turns + self._running >= self._limits.max_turns:
            if self._running:
                raise SessionError("busy", "the calls in work are the last max_turns allows")
            self._truncate("max_turns")
            self._require_open()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def _prompt(self, request: ChatRequest) -> Prompt:
        messages = with_tool_names(self._record.with_items(request.messages))
        tools = offered_tools(request)
        async with self._history:
            try:
                ask = self._conversation.prompt
                prompt = await tokenize(messages, lambda: ask(messages, tools))
            except Exception as error:  # templates are programs, and messages any client's
                raise RolloutFailure(
                    FailureKind.POLICY_REJECTED,
                    f"the messages cannot be made a prompt: {one_line(error)}",
                ) from error
        prefix = request.required_prefix_token_ids
        if prefix is None or np.array_equal(prompt.token_ids[: len(prefix)], prefix):
            return prompt
        raise RolloutFailure(
            FailureKind.POLICY_REJECTED,
            "required_prefix_token_ids cannot be kept: a session continues its own tokens, and "
            "the prompt of these messages begins otherwise",
        )

    async def _generation(self, prompt: Prompt, sampling: Sampling) -> Generation:
        try:
            generation = await self._sample(prompt.token_ids, sampling)
        except RolloutFailure as failure:
            self.last_failure = failure
            if failure.is_overflow:
                conversations = self._record.conversations
                conversations.outgrow(prompt.messages, prompt.tools, prompt.follows)
            raise
        self.last_failure = None
        return generation

    # The end.

    def close(self, verdict: Verdict | None = None, answer: str | None = None) -> None:
        """End the session: to be verified, or with a reward given from outside.

        Args:
            verdict: from outside.
            answer: ID of the completion or response that the rollout ends with; None for the
                newest of the task's conversation.

        Raises:
            SessionError: `conflict` when there is nothing to judge yet or no such answer, `ended`
                when it is over.
        """
        if not self.closable:
            raise SessionError("conflict", "this session ends with the agent's own program")
        self._require_open()
        if not self.turns:
            raise SessionError("conflict", "the session has no policy call yet; make one first")
        if answer is not None and not self._record.name(answer):
            raise SessionError("conflict", f"the session has no answer with the ID {answer!r}")
        self._verdict = verdict
        self._over.set()

    def abandon(self) -> None:
        """End the session for nothing: its rollout counts as cancelled.

        Raises:
            SessionError: `conflict` when it is not the caller's to end.
        """
        if not self.closable:
            raise SessionError("conflict", "this session ends with the agent's own program")
        self._abandoned = not self.over
        self._over.set()

    def expire(self) -> None:
        """End the session at its deadline; what there is gets verified."""
        self._truncate("deadline")

    async def until_over(self) -> None:
        """Wait for the end, and see to it that it comes by the deadline."""
        try:
            async with asyncio.timeout_at(self._limits.deadline):
                await self._over.wait()
        except TimeoutError:
            self.expire()

    def episode(self, verdict: Verdict | None = None) -> Episode:
        """What the session leaves behind; no call is recorded any more.

        Args:
            verdict: reward given from outside, instead of the one `close` was called with.

        Raises:
            RolloutFailure: `cancelled` when it was abandoned; without any turn
                `rollout_timeout` when it expired, else `environment_error`.
        """
        self._over.set()
        if self._abandoned:
            raise RolloutFailure(FailureKind.CANCELLED, "the session was abandoned by its client")
        if not self.turns:
            if self._truncation_reason == "deadline":
                raise RolloutFailure(
                    FailureKind.ROLLOUT_TIMEOUT, "the session expired without a policy call"
                )
            raise self.last_failure or RolloutFailure(
                FailureKind.ENVIRONMENT_ERROR,
                "the agent made no policy call; does it call the address in OPENAI_BASE_URL "
                "with the key in OPENAI_API_KEY?",
            )
        record, transcript = self._record, self._conversation.transcript
        last = record.last()
        transcript.end_with(last)
        path = [record.turns[number] for number in transcript.turn_numbers]
        items = record.items(last)
        return Episode(
            transcript=transcript,
            items=items,
            text=text_of_items(items),
            tools=tools_from_chat(path[-1].tools),
            truncation_reason=self._truncation_reason or self._cut(path[-1]),
            verdict=verdict or self._verdict,
            turn_sampling=tuple(turn.sampling for turn in path),
            left_out=tuple(record.items_left_out(last)),
        )

    def _cut(self, last: RecordedTurn) -> TruncationReason | None:
        """Why the last answer is incomplete, or was to be the last; None when it is whole, or as
        short as was asked for.
        """
        if self.outgrown:
            return "context"
        if last.generation.stop_reason != "length":
            return None
        length = len(last.generation.token_ids)
        if length >= self.sampling.max_output_tokens:
            return "length"
        return "context" if length < last.sampling.max_output_tokens else None

    def _truncate(self, reason: TruncationReason) -> None:
        if not self.over:
            self._truncation_reason = reason
            self._over.set()

    def _require_open(self) -> None:
        if self.over:
            reason = self._truncation_reason
            raise SessionError(
                "ended",
                "the session has ended" + (f" (truncated: {reason})" if reason else ""),
            )
