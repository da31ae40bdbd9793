"""A rollout: one attempt at a task, as a value. `rows.py` turns it into Parquet and back."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from gym_ray.conversation.items import Message, messages_of_json, text_of_json
from gym_ray.errors import FailureKind
from gym_ray.task import Task
from gym_ray.turn import Logprobs, Tokens, Turn

T = TypeVar("T")

Status = Literal["completed", "truncated", "failed"]
TruncationReason = Literal["length", "max_turns", "context", "deadline"]
LossMask = npt.NDArray[np.int8]

NO_TOKENS: Tokens = np.zeros(0, dtype=np.int32)
NO_MASK: LossMask = np.zeros(0, dtype=np.int8)
NO_LOGPROBS: Logprobs = np.zeros(0, dtype=np.float32)


@dataclasses.dataclass(frozen=True, slots=True)
class Branch:
    """Token sequence of one root-to-leaf path through a rollout's history.

    Attributes:
        token_ids: int32 [T].
        loss_mask: int8 [T], 1 where sampled; a side branch has 0 where another branch of the
            rollout has the same generation already, so that each counts once.
        logprobs: float32 [T], sampling logprob where sampled, 0 elsewhere.
    """

    token_ids: Tokens
    loss_mask: LossMask
    logprobs: Logprobs


@dataclasses.dataclass(frozen=True, slots=True)
class RolloutSpec:
    """One row of the manifest: which attempt at which task, before anything ran.

    Attributes:
        rollout_id, task_id: see `task.rollout_id_of`, `task.task_id_of`.
        task_index: position of the task in the input.
        rollout_index: repeat number within the task.
        environment: name of the environment it is routed to; "" when it could not be routed.
        source_file, source_line: where the task row came from.
        task: the input row's text, unchanged.
        error: why the row is not a legal task, or None.
    """

    rollout_id: str
    task_id: str
    task_index: int
    rollout_index: int
    environment: str
    source_file: str
    source_line: int
    task: str
    error: str | None = None


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Rollout:
    """One finished attempt at a task: a row of the dataset, its columns as attributes.

    Example:
        >>> rollout = read_rollouts("runs/demo")[0]               # doctest: +SKIP
        >>> rollout.show()                                        # doctest: +SKIP
        >>> rollout.messages, rollout.text, rollout.task          # doctest: +SKIP

    Attributes:
        spec: identity, source and input row.
        run_id: the collection run that produced it.
        agent: name of the loop that produced it.
        model: name of the policy that produced it.
        status: `completed`, `truncated` (verified all the same) or `failed` (no reward).
        truncation_reason: set exactly when the loop was cut short: when truncated, or when it was
            and then could not be verified.
        reward: verifier's reward; None unless verified.
        reward_components: weighted parts that sum to the reward, when there are any.
        metrics: unweighted scores.
        turn_rewards: one per turn of the final branch where the verifier judged the process;
            empty where it did not.
        token_ids: int32 [T] final branch, prompts and generations; see `has_tokens`.
        loss_mask: int8 [T], 1 where the policy sampled.
        logprobs: float32 [T], sampling logprob where sampled, 0 elsewhere.
        turns: policy calls by lengths; without tokens, as the policy counts them.
        side_branches: other branches of the history, usually none.
        prompt: JSON of the Responses-API input items.
        response: JSON of the output items.
        left_out: JSON of a list of output items for each side branch: those of its turns that
            `response` does not have. Empty where there are none.
        tools: JSON of the tools offered.
        sampling: JSON of the sampling parameters.
        attempts: attempts this rollout took, from 1.
        error_kind: where it failed and how; None unless failed.
        error: one line about it for a person.
        started_at: UTC.
        seconds: wall time of the last attempt.
        verification_seconds: of them, until the verdict was there. For metrics and traces; rows
            do not keep it.
    """

    spec: RolloutSpec
    run_id: str
    agent: str
    model: str
    status: Status
    truncation_reason: TruncationReason | None = None
    reward: float | None = None
    reward_components: Mapping[str, float] = dataclasses.field(default_factory=dict)
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    turn_rewards: tuple[float, ...] = ()
    token_ids: Tokens = dataclasses.field(default_factory=lambda: NO_TOKENS)
    loss_mask: LossMask = dataclasses.field(default_factory=lambda: NO_MASK)
    logprobs: Logprobs = dataclasses.field(default_factory=lambda: NO_LOGPROBS)
    turns: tuple[Turn, ...] = ()
    side_branches: tuple[Branch, ...] = ()
    prompt: str = "[]"
    response: str = "[]"
    left_out: str = "[]"
    tools: str = "[]"
    sampling: str = "{}"
    attempts: int = 1
    error_kind: FailureKind | None = None
    error: str | None = None
    started_at: datetime.datetime = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC)
    )
    seconds: float = 0.0
    verification_seconds: float = 0.0

    def __post_init__(self) -> None:
        length = len(self.token_ids)
        if len(self.loss_mask) != length or len(self.logprobs) != length:
            raise ValueError(
                f"rollout {self.spec.rollout_id}: {length} tokens, {len(self.loss_mask)} mask "
                f"entries, {len(self.logprobs)} logprobs; the three must be equally long"
            )
        if (self.status == "failed") != (self.error_kind is not None):
            raise ValueError("error_kind is set exactly when status is 'failed'")
        cut_short = self.truncation_reason is not None
        if self.status != "failed" and (self.status == "truncated") != cut_short:
            raise ValueError("truncation_reason is set exactly when status is 'truncated'")
        if self.status == "failed" and self.reward is not None:
            raise ValueError("a failed rollout has no reward")

    @property
    def messages(self) -> list[Message]:
        """The task's conversation as chat messages, from the prompt to the last item, read anew
        each time.

        Each is a dict with `role` (`system`, `user`, `assistant`, `tool`) and `content`, and where
        they apply `reasoning_content`, `tool_calls` (`id`, `function.name`, and
        `function.arguments`, the JSON text as the policy wrote it) and `tool_call_id`. What was
        said in side branches is not among them.

        Raises:
            ValueError: the row holds something else, as rows of other systems may.
        """
        return [*self._read("prompt", messages_of_json), *self._read("response", messages_of_json)]

    @property
    def text(self) -> str:
        """What the policy finally said: its last message without reasoning and tool calls, as
        verifiers see it in `Outcome.text`. Empty where it said nothing.

        Raises:
            ValueError: the row holds something else, as rows of other systems may.
        """
        return self._read("response", text_of_json)

    @property
    def task(self) -> Task:
        """The task with its row parsed: `rollout.task["expected_answer"]`.

        Raises:
            ValueError: the row is no JSON object, which is why the rollout has failed.
        """
        try:
            row = json.loads(self.spec.task)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"rollout {self.spec.rollout_id}: its task row is no JSON object")
        spec = self.spec
        return Task(spec.task_id, row, spec.task_index, spec.source_file, spec.source_line)

    def show(self, *, width: int | None = None, whole: bool = False) -> None:
        """Print the rollout to read: the conversation, tool calls with their results, the verdict
        beside what was expected, tokens.

        Characters that could steer a terminal, or hide, are printed as marks such as `\\x1b`.

        Args:
            width: of a line at most; None for the terminal's.
            whole: print long texts in full.
        """
        from gym_ray.conversation.rollout_text import rollout_text, write

        write(rollout_text(self, width=width, whole=whole))

    def __repr__(self) -> str:
        from gym_ray.conversation.card import title_of

        return f"<{title_of(self)}>"

    def _repr_html_(self) -> str:
        from gym_ray.conversation.rollout_html import rollout_html

        return rollout_html(self)

    @property
    def has_tokens(self) -> bool:
        """Whether the sequence is there.

        It is not where the policy returns no token IDs, nor in a failed rollout, unless only its
        verification failed.
        """
        return len(self.token_ids) > 0

    @property
    def without_token_ids(self) -> bool:
        """Whether turns were taken whose tokens the policy did not tell: for SFT and DPO only."""
        return bool(self.turns) and not self.has_tokens

    @property
    def sampled_tokens(self) -> int:
        """How many tokens the policy sampled on the final branch, as far as it says."""
        return sum(turn.generation_length for turn in self.turns)

    def _read(self, column: str, reader: Callable[[str], T]) -> T:
        try:
            return reader(getattr(self, column))
        except ValueError as error:
            raise ValueError(
                f"rollout {self.spec.rollout_id}: its {column} cannot be read: {error}"
            ) from None

    @property
    def memory_bytes(self) -> int:
        """About how much memory it takes."""
        tokens = len(self.token_ids) + sum(len(side.token_ids) for side in self.side_branches)
        texts = (
            self.spec.task,
            self.prompt,
            self.response,
            self.left_out,
            self.tools,
            self.sampling,
        )
        return 2048 + 9 * tokens + sum(map(len, texts)) + 512 * len(self.turns)


@dataclasses.dataclass(frozen=True, slots=True)
class Producer:
    """What produces the rollouts of a run; fills the columns of those that reached no environment.

    Attributes:
        run_id: the run.
        model: what the rows carry in their `model` column.
        agents: agent of each environment.
    """

    run_id: str
    model: str
    agents: Mapping[str, str]

    def failed(
        self, spec: RolloutSpec, kind: FailureKind, message: str, *, attempts: int = 1
    ) -> Rollout:
        """The row of a rollout that failed before any environment said anything of it."""
        return failed_rollout(
            spec,
            kind,
            message,
            run_id=self.run_id,
            agent=self.agents.get(spec.environment, ""),
            model=self.model,
            attempts=attempts,
        )


def with_spec(rollout: Rollout, spec: RolloutSpec) -> Rollout:
    """`rollout` with another spec.

    As `dataclasses.replace` for less, as every rollout goes through it twice: what was checked
    when the rollout was made is not checked again.
    """
    other = object.__new__(Rollout)
    for name in _FIELDS:
        object.__setattr__(other, name, getattr(rollout, name))
    object.__setattr__(other, "spec", spec)
    return other


def without_task(rollout: Rollout) -> Rollout:
    """`rollout` for a way back to a caller that holds its task, which may be its largest part."""
    return with_spec(rollout, dataclasses.replace(rollout.spec, task=""))


_FIELDS = tuple(field.name for field in dataclasses.fields(Rollout))


def failed_rollout(
    spec: RolloutSpec,
    kind: FailureKind,
    message: str,
    *,
    run_id: str,
    agent: str = "",
    model: str = "",
    attempts: int = 1,
    started_at: datetime.datetime | None = None,
    seconds: float = 0.0,
) -> Rollout:
    """A failure as data: a row with a kind and a message, and no reward."""
    return Rollout(
        spec=spec,
        run_id=run_id,
        agent=agent,
        model=model,
        status="failed",
        attempts=attempts,
        error_kind=kind,
        # A message may quote half of a surrogate pair, which no row can hold.
        error=message.encode("utf-8", "backslashreplace").decode(),
        started_at=started_at or datetime.datetime.now(datetime.UTC),
        seconds=seconds,
    )
