"""What a session's policy calls left: turns, and the rollout made of them.

Owned here: which turn the rollout ends with, its items and those of the turns it leaves out. The
items of a rollout are its whole conversation, also where part of that had to be rendered anew (no
bridge, other tools, another system message): what was sampled on another branch stands there
without an ID, as what the policy was told, and counts as a turn on its own branch only.

Not owned here: calls and limits (session), tokens (transcript).
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

from gym_ray.agents.conversations import Conversation, Conversations
from gym_ray.agents.message_tree import Prompt
from gym_ray.errors import FailureKind, RolloutFailure
from gym_ray.policies.chat import ITEM_REFERENCE
from gym_ray.renderers.items import (
    Item,
    items_from_message,
    items_from_told,
    messages_from_items,
)
from gym_ray.renderers.messages import AssistantMessage, Message
from gym_ray.sampling import Sampling
from gym_ray.transcript import Transcript
from gym_ray.turn import Generation, Tokens


@dataclasses.dataclass(frozen=True, slots=True)
class RecordedTurn:
    """One turn: what was asked, what came back, and when.

    Attributes:
        request_id: of the policy call.
        follows, new: of its prompt.
        tools: offered in it.
        said: what the caller was told.
        generation: what was sampled.
        sampling: how.
        ended_at: on the clock of `time.perf_counter`.
    """

    request_id: str
    follows: int | None
    new: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    said: AssistantMessage
    generation: Generation
    sampling: Sampling
    ended_at: float

    def is_answer(self, answer_id: str) -> bool:
        """Whether it is the answer of this ID, or the first choice of it."""
        return answer_id in (self.request_id, self.request_id.removesuffix("/0"))


class SessionRecord:
    """The turns of one session.

    Args:
        rollout_id: names the items.
        transcript: their tokens.
        question: the task's own words.
        decode: tokens to text.

    Attributes:
        turns: in the order they were recorded, which is that of their numbers.
        conversations: which of them belong together.
    """

    def __init__(
        self,
        rollout_id: str,
        transcript: Transcript,
        question: str,
        decode: Callable[[Tokens], str],
    ) -> None:
        self.turns: list[RecordedTurn] = []
        self.conversations = Conversations(question)
        self._rollout_id = rollout_id
        self._transcript = transcript
        self._decode = decode
        self._named: int | None = None

    def add(
        self,
        request_id: str,
        prompt: Prompt,
        said: AssistantMessage,
        generation: Generation,
        sampling: Sampling,
    ) -> None:
        """The transcript's newest turn was taken; see `RecordedTurn`."""
        number, now = len(self.turns), time.perf_counter()
        # Not the prompt: every one holds the whole conversation again.
        new = () if prompt.follows is None else prompt.new
        self.turns.append(
            RecordedTurn(
                request_id, prompt.follows, new, prompt.tools, said, generation, sampling, now
            )
        )
        self.conversations.add(
            number,
            prompt.messages,
            prompt.tools,
            follows=self._before(number),
            calls=bool(said.tool_calls),
        )

    def name(self, answer_id: str) -> bool:
        """Make the rollout end with the answer of this ID; False when there is none."""
        for number, turn in enumerate(self.turns):
            if turn.is_answer(answer_id):
                self._named = number
                return True
        return False

    def last(self) -> int:
        """Number of the turn that the rollout ends with: named, or the newest of the task's
        conversation.
        """
        if self._named is not None:
            return self._named
        conversation = self.conversations.of_task()
        assert conversation is not None, "a rollout has a turn"
        return conversation.turns[-1]

    def outgrown(self) -> bool:
        """Whether the rollout ends because its next prompt left no room in the context."""
        if not self.turns:
            return False
        conversation: Conversation = self.conversations.of_turn(self.last())
        return conversation.outgrown and conversation.turns[-1] == self.last()

    def items(self, last: int) -> list[Item]:
        """What was said and told in the conversation that ends with a turn, after its prompt."""
        numbers, of_branch = self._numbers(last), set(self._transcript.path(last))
        items: list[Item] = []
        for position, number in enumerate(numbers):
            if position:
                items += items_from_told(self._told(numbers[position - 1], number))
            said = self._said(number)
            if number not in of_branch:
                said = [{key: value for key, value in i.items() if key != "id"} for i in said]
            items += said
        return items

    def items_left_out(self, last: int) -> list[list[Item]]:
        """Items of what the conversation that ends with a turn leaves out, for each side branch
        of the transcript: the turns that are that branch's own.
        """
        told = set(self._numbers(last))
        left: list[list[Item]] = []
        for numbers in self._transcript.side_turn_numbers:
            items: list[Item] = []
            for number in numbers:
                if number in told:
                    continue
                before = self._before(number)
                if before is not None:
                    items += items_from_told(self._told(before, number))
                items += self._said(number)
            left.append(items)
        return left

    def with_items(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with those in them that were referred to by the IDs of items.

        Raises:
            RolloutFailure: `policy_rejected`, nothing here has such an ID.
        """
        whole: list[Message] = []
        for is_reference, run in itertools.groupby(messages, lambda one: ITEM_REFERENCE in one):
            if is_reference:
                whole += messages_from_items([self._item(one[ITEM_REFERENCE]) for one in run])
            else:
                whole += run
        return whole

    def _item(self, item_id: str) -> Item:
        for turn in reversed(self.turns):
            prefix = turn.request_id.removesuffix("/0").removeprefix("resp_")
            if prefix in item_id:
                for item in items_from_message(turn.said, item_id_prefix=prefix):
                    if item["id"] == item_id:
                        return item
        raise RolloutFailure(
            FailureKind.POLICY_REJECTED, f"no answer of this session has an item {item_id!r}"
        )

    def turns_left_out(self, last: int) -> int:
        """How many turns the conversation that ends with a turn leaves out."""
        return len(self.turns) - len(self._numbers(last))

    def _numbers(self, last: int) -> list[int]:
        """The turns of the conversation that ends with a turn, in order."""
        numbers = [last]
        while (before := self._before(numbers[-1])) is not None:
            numbers.append(before)
        path = self._transcript.path(last)
        # Messages and tokens part where a turn that looks like another one is rendered anew.
        return numbers[::-1] if set(path) <= set(numbers) else path

    def _before(self, number: int) -> int | None:
        """The turn before another one: in its messages, or else in its tokens."""
        follows = self.turns[number].follows
        if follows is not None:
            return follows
        path = self._transcript.path(number)
        return path[-2] if len(path) > 1 else None

    def _said(self, number: int) -> list[Item]:
        prefix = f"{self._rollout_id}-{number}"
        return items_from_message(self.turns[number].said, item_id_prefix=prefix)

    def _told(self, before: int, number: int) -> Sequence[Message]:
        """What the policy was told between two turns; where tokens were sent, as their text."""
        turn = self.turns[number]
        if turn.follows == before:
            return turn.new
        history = sum(len(part) for part in self._transcript.history(before))
        prompt, _ = self._transcript.history(number)
        return [{"role": "user", "content": self._decode(prompt[history:])}]
