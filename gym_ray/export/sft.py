"""SFT rows: conversations worth imitating, `messages` and `tools`, the policy's message last."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pyarrow as pa

from gym_ray.export import conversations
from gym_ray.export.conversations import (
    MESSAGES,
    TOOLS,
    NoConversation,
    Reasoning,
    StoredAttempt,
    StoredConversation,
    as_objects,
    attempts_of,
    conversation_of,
    note_turns_left_out,
    tools_as_text,
    without_ids,
)
from gym_ray.export.counts import ExportCounts
from gym_ray.export.recipe import TRAIN, Converted, groups_of
from gym_ray.export.repeats import Identity
from gym_ray.store.columns import schema_of
from gym_ray.store.schema import COLUMNS as STORED

_STORED = {column.name: column for column in STORED}

COLUMNS = (
    MESSAGES,
    TOOLS,
    *(_STORED[name] for name in ("reward", "task_id", "rollout_id", "run_id", "environment")),
)
SCHEMA = schema_of(COLUMNS, {"gym_ray.export": "sft"})


@dataclasses.dataclass(frozen=True, slots=True)
class SftRecipe:
    """SFT rows; filters apply in the order of the attributes.

    Attributes:
        include_truncated: keep rollouts that were cut short.
        min_reward: of a rollout; None takes all, also those without a reward.
        max_tokens: of prompt and answer together, as the policy counted them.
        reasoning: where the policy's reasoning goes.
        dedup: of conversations that are the same word for word, keep one: the best of a task, and
            the first of several tasks.
        best_of: keep at most so many of a task, highest reward first, then shortest.
    """

    include_truncated: bool = False
    min_reward: float | None = None
    max_tokens: int | None = None
    reasoning: Reasoning = "keep"
    dedup: bool = True
    best_of: int | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return conversations.COLUMNS

    @property
    def schema(self) -> pa.Schema:
        return SCHEMA

    @property
    def files(self) -> tuple[str, ...]:
        return (TRAIN,)

    def convert(self, table: pa.Table) -> Converted:
        groups = groups_of(table)
        tally = ExportCounts.of_read(table, groups)
        attempts = attempts_of(table)
        chosen: list[_Found] = []
        for group in groups:
            chosen += self._chosen([attempts[number] for number in group], tally)
        tally.rows[TRAIN] += len(chosen)
        note_turns_left_out([found.attempt for found in chosen], tally)
        tally.lengths.update(found.attempt.length for found in chosen)
        tally.sampled_tokens += sum(found.attempt.sampled_tokens for found in chosen)
        rows = [
            {
                "messages": found.conversation.messages,
                "tools": tools_as_text(found.conversation.tools),
                "reward": found.attempt.reward,
                **found.attempt.origin,
            }
            for found in chosen
        ]
        lines = (_line(found) for found in chosen)
        identities = [
            Identity(found.digest, found.attempt.length, found.attempt.sampled_tokens)
            for found in chosen
            if self.dedup
        ]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        return Converted(tally, table, {TRAIN: lines}, identities)

    def _chosen(self, group: list[StoredAttempt], tally: ExportCounts) -> list[_Found]:
        """What is kept of a group, in its order."""
        found: list[_Found] = []
        for attempt in group:
            reason = self._reason_against(attempt)
            if reason is None:
                try:
                    found.append(_Found.of(attempt, conversation_of(attempt, self.reasoning)))
                except NoConversation as error:
                    reason = str(error)
            if reason is not None:
                tally.dropped[reason] += 1
        # Stable: among equals the earlier rollout comes first.
        found.sort(key=lambda one: (-_or_lowest(one.attempt.reward), one.attempt.length))
        if self.dedup:
            found = _without_repeats(found, tally)
        if self.best_of is not None:
            tally.dropped["better ones of its task are kept"] += max(0, len(found) - self.best_of)
            found = found[: self.best_of]
        return sorted(found, key=lambda one: int(one.attempt.row["rollout_index"]))

    def _reason_against(self, attempt: StoredAttempt) -> str | None:
        if attempt.row["status"] == "failed":
            return "failed"
        if attempt.truncated and not self.include_truncated:
            return "truncated"
        if self.min_reward is not None and (
            attempt.reward is None or attempt.reward < self.min_reward
        ):
            return "reward below the minimum"
        if self.max_tokens is not None and attempt.length > self.max_tokens:
            return "too long"
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """A rollout that passed the filters; `digest` is that of what its conversation says."""

    attempt: StoredAttempt
    conversation: StoredConversation
    digest: bytes

    @classmethod
    def of(cls, attempt: StoredAttempt, conversation: StoredConversation) -> _Found:
        said = [[without_ids(m) for m in conversation.messages], conversation.tools]
        text = json.dumps(said, sort_keys=True)
        return cls(attempt, conversation, hashlib.sha256(text.encode()).digest()[:16])


def _or_lowest(reward: float | None) -> float:
    return float("-inf") if reward is None else reward


def _without_repeats(found: list[_Found], tally: ExportCounts) -> list[_Found]:
    kept: dict[bytes, _Found] = {}
    for one in found:
        if kept.setdefault(one.digest, one) is not one:
            tally.dropped["repeats another of its task"] += 1
    return list(kept.values())


def _line(found: _Found) -> dict[str, Any]:
    conversation = found.conversation
    tools = {"tools": conversation.tools} if conversation.tools else {}
    return {
        "messages": as_objects(conversation.messages),
        **tools,
        "reward": found.attempt.reward,
        **found.attempt.origin,
    }
