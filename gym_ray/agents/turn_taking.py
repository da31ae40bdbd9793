"""What the agents of ours share: taking turns without ever rendering history anew.

Owned here: the items as they come, and the reasons a loop is cut short: a turn cut by its token
limit (`length`) or by the end of the context (`context`), `max_turns`, and the deadline. Not
owned here: how a turn is taken (dialogue), and what comes between two turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from gym_ray.agents.agent import AgentContext, Episode
from gym_ray.agents.dialogue import PolicyAnswer, dialogue_of
from gym_ray.agents.tool_use import ToolUse
from gym_ray.environment import Step
from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.renderers.items import items_from_message, text_of_items
from gym_ray.renderers.messages import AssistantMessage, Message
from gym_ray.renderers.renderer import BridgeImpossible
from gym_ray.rollout import TruncationReason


class Truncated(Exception):
    """The loop is cut short; what there is gets verified."""

    def __init__(self, reason: TruncationReason) -> None:
        super().__init__(reason)
        self.reason: TruncationReason = reason


class TurnTaking:
    """One rollout's turns.

    Args:
        attempt: what the agent was given.
        tools: definitions offered, Responses-API shape.

    Attributes:
        items: what the policy said and was told after its first turn's prompt, as items. An
            agent adds what the policy is told with `add`.
        steps: what the environment answered, where it is played step by step.
    """

    def __init__(self, attempt: AgentContext, *, tools: list[dict[str, Any]]) -> None:
        self.items: list[dict[str, Any]] = []
        self.steps: list[Step] = []
        self._rollout_id = attempt.rollout_id
        self._limits = attempt.limits
        self._tools = tools
        self._dialogue = dialogue_of(attempt, tools)
        self._clock = asyncio.timeout(None)
        self._watch = attempt.watch

    def add(self, item: dict[str, Any]) -> None:
        """Add an item to those of the rollout."""
        self.items.append(item)
        self._watch(item)

    async def play(self, loop: Awaitable[None]) -> Episode:
        """Run an agent's loop to its end or to the first limit it meets.

        Raises:
            RolloutFailure: a turn could not be sampled, or the loop says so.
        """
        reason: TruncationReason | None = None
        try:
            async with self._clock:
                await loop
        except Truncated as cut:
            reason = cut.reason
        except TimeoutError:
            if not self._clock.expired():
                raise
            reason = "deadline"
        return Episode(
            transcript=self._dialogue.transcript,
            items=self.items,
            text=text_of_items(self.items),
            tools=self._tools,
            truncation_reason=reason,
            steps=tuple(self.steps),
        )

    async def turn(
        self,
        messages: list[Message],
        *,
        tool_seconds: float = 0.0,
        use: ToolUse | None = None,
    ) -> AssistantMessage:
        """Tell the policy `messages` and let it answer.

        Args:
            messages: the whole prompt at first, then only what is new.
            tool_seconds: spent in tools or in the environment since the previous turn.
            use: how tools may be used in this turn; None where none are offered.

        Raises:
            Truncated: a limit was met; before this turn, or by it.
            RolloutFailure: the turn could not be sampled.
        """
        number = len(self._dialogue.transcript.turns)
        if number == self._limits.max_turns:
            raise Truncated("max_turns")
        answer = await self._answer(messages, number, tool_seconds, use)
        if number == 0:  # Before, there is nothing to verify, and the deadline is a failure.
            self._clock.reschedule(self._limits.deadline)
        said = answer.message
        for item in items_from_message(said, item_id_prefix=f"{self._rollout_id}-{number}"):
            self.add(item)
        if answer.stop_reason == "length":
            whole = answer.output_tokens >= self._limits.max_output_tokens
            raise Truncated("length" if whole else "context")
        return said

    async def _answer(
        self, messages: list[Message], number: int, tool_seconds: float, use: ToolUse | None
    ) -> PolicyAnswer:
        try:
            return await self._dialogue.turn(messages, tool_seconds=tool_seconds, use=use)
        except RolloutFailure as failure:
            # The history was accepted a turn ago, so what is refused is its length.
            if failure.kind == FailureKind.POLICY_REJECTED and number > 0:
                raise Truncated("context") from None
            raise
        except BridgeImpossible:
            # What the policy said is no failure of the environment's. A family that can continue
            # nothing is refused before anything starts.
            raise Truncated("context") from None
