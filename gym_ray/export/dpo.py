"""DPO rows: a better and a worse answer to the same prompt, in the shapes trainers read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import pyarrow as pa

from gym_ray.export.conversations import (
    COLUMNS,
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
    plain_text,
    tools_as_text,
    without_ids,
)
from gym_ray.export.counts import ExportCounts
from gym_ray.export.pairs import Candidate, Pairing, pairs_of
from gym_ray.export.recipe import TRAIN, Converted, groups_of
from gym_ray.renderers.messages import Message
from gym_ray.store.columns import Column, schema_of, structs
from gym_ray.store.schema import COLUMNS as STORED

Shape = Literal["messages", "nemo-rl", "text"]

_STORED = {column.name: column for column in STORED}
_ORIGIN = (
    Column("chosen_reward", pa.float64(), "of the chosen rollout"),
    Column("rejected_reward", pa.float64(), "of the rejected one"),
    Column("quality_difference", pa.float64(), "by how much the chosen reward is higher"),
    *(_STORED[name] for name in ("task_id", "run_id", "environment")),
    Column("chosen_rollout_id", pa.string(), "which rollout was chosen"),
    Column("rejected_rollout_id", pa.string(), "which was rejected"),
)
_PROMPT = MESSAGES.renamed("prompt", "messages the policy was given to begin with")
_ANSWER = MESSAGES.renamed("completion", "everything that followed the prompt")

#: Columns of each shape.
SHAPES: dict[Shape, tuple[Column, ...]] = {
    "messages": (
        _PROMPT,
        _ANSWER.renamed("chosen", "everything that followed it, in the better rollout"),
        _ANSWER.renamed("rejected", "the same of the worse one"),
        TOOLS,
        *_ORIGIN,
    ),
    "nemo-rl": (
        _PROMPT.renamed("context", _PROMPT.meaning),
        structs(
            "completions",
            "the two answers",
            Column("rank", pa.int32(), "0 is the chosen one, 1 the rejected"),
            _ANSWER,
        ),
        TOOLS,
        *_ORIGIN,
    ),
    "text": (
        Column("prompt", pa.string(), "text of the one user message"),
        Column("chosen", pa.string(), "text of the better answer"),
        Column("rejected", pa.string(), "text of the worse one"),
        *_ORIGIN,
    ),
}

Pair = tuple[StoredAttempt, StoredConversation, StoredAttempt, StoredConversation]


@dataclasses.dataclass(frozen=True, slots=True)
class DpoRecipe:
    """DPO rows.

    Attributes:
        pairing: which rollouts of a task make pairs.
        margin: by how much the chosen one's reward is higher, at least.
        shape: `messages` (TRL), `nemo-rl` (`context` and ranked `completions`), or `text` (plain
            strings, of prompts and answers that are one message each).
        max_tokens: of prompt and answer together, as the policy counted them.
        reasoning: where the policy's reasoning goes.
    """

    pairing: Pairing = "best-worst"
    margin: float = 0.1
    shape: Shape = "messages"
    max_tokens: int | None = None
    reasoning: Reasoning = "keep"

    @property
    def columns(self) -> tuple[str, ...]:
        return COLUMNS

    @property
    def schema(self) -> pa.Schema:
        return schema_of(SHAPES[self.shape], {"gym_ray.export": "dpo"})

    @property
    def files(self) -> tuple[str, ...]:
        return (TRAIN,)

    def convert(self, table: pa.Table) -> Converted:
        groups = groups_of(table)
        tally = ExportCounts.of_read(table, groups)
        attempts = attempts_of(table)
        pairs: list[Pair] = []
        for group in groups:
            found = self._pairs([attempts[number] for number in group], tally)
            tally.noted["groups without a pair"] += not found
            pairs += found
        tally.rows[TRAIN] += len(pairs)
        note_turns_left_out([one for pair in pairs for one in (pair[0], pair[2])], tally)
        for chosen, _, rejected, _ in pairs:
            tally.lengths.update((chosen.length, rejected.length))
            tally.sampled_tokens += chosen.sampled_tokens + rejected.sampled_tokens
        rows = [{**self._shaped(pair, list, tools_as_text), **_origin(pair)} for pair in pairs]
        lines = ({**self._shaped(pair, as_objects, list), **_origin(pair)} for pair in pairs)
        return Converted(tally, pa.Table.from_pylist(rows, schema=self.schema), {TRAIN: lines})

    def _pairs(self, group: list[StoredAttempt], tally: ExportCounts) -> list[Pair]:
        able: list[tuple[StoredAttempt, StoredConversation]] = []
        for attempt in group:
            if attempt.row["status"] == "failed" or attempt.reward is None:
                tally.dropped["no reward (failed or not verified)"] += 1
            elif self.max_tokens is not None and attempt.length > self.max_tokens:
                tally.dropped["too long"] += 1
            else:
                self._add(attempt, able, tally)
        # An answer that was cut off is nothing to prefer, but may well be the worse one.
        candidates = [
            Candidate(attempt.reward or 0.0, attempt.sampled_tokens, not attempt.truncated)
            for attempt, _ in able
        ]
        pairs: list[Pair] = []
        for i, j in pairs_of(candidates, self.pairing, self.margin):
            (chosen, better), (rejected, worse) = able[i], able[j]
            if better.prompt != worse.prompt or better.tools != worse.tools:
                tally.dropped["pairs whose prompts differ"] += 1
            elif _said(better) == _said(worse):
                tally.dropped["pairs whose answers are the same"] += 1
            else:
                pairs.append((chosen, better, rejected, worse))
        return pairs

    def _add(
        self,
        attempt: StoredAttempt,
        able: list[tuple[StoredAttempt, StoredConversation]],
        tally: ExportCounts,
    ) -> None:
        try:
            conversation = conversation_of(attempt, self.reasoning)
        except NoConversation as error:
            tally.dropped[str(error)] += 1
            return
        if self.shape == "text" and plain_text(conversation) is None:
            tally.dropped["is more than a prompt and an answer in plain text"] += 1
            return
        able.append((attempt, conversation))

    def _shaped(
        self,
        pair: Pair,
        messages: Callable[[list[Message]], list[Message]],
        tools: Callable[[list[dict[str, Any]]], Any],
    ) -> dict[str, Any]:
        _, better, _, worse = pair
        if self.shape == "text":
            (prompt, chosen), (_, rejected) = (
                plain_text(better) or ("", ""),
                plain_text(worse) or ("", ""),
            )
            return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        offered = {"tools": tools(better.tools)} if better.tools else {}
        prompt_messages = messages(better.prompt)
        answers = messages(better.completion), messages(worse.completion)
        if self.shape == "messages":
            return {
                "prompt": prompt_messages, "chosen": answers[0], "rejected": answers[1], **offered,
            }  # fmt: skip
        ranked = [{"rank": rank, "completion": answer} for rank, answer in enumerate(answers)]
        return {"context": prompt_messages, "completions": ranked, **offered}


def _said(conversation: StoredConversation) -> list[dict[str, Any]]:
    return [without_ids(message) for message in conversation.completion]


def _origin(pair: Pair) -> dict[str, Any]:
    chosen, _, rejected, _ = pair
    rewards = chosen.reward or 0.0, rejected.reward or 0.0
    return {
        "chosen_reward": rewards[0],
        "rejected_reward": rewards[1],
        "quality_difference": rewards[0] - rewards[1],
        **{name: chosen.row[name] for name in ("task_id", "run_id", "environment")},
        "chosen_rollout_id": chosen.row["rollout_id"],
        "rejected_rollout_id": rejected.row["rollout_id"],
    }
